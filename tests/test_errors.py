"""Every failure says what, where and how often; it pickles; it shows no secret."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("zarr", minversion="3.0", reason="byte requests of zarr 3")

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from zfast import errors
from zfast._core.types import Status
from zfast.errors import (
    AccessError,
    ChangedError,
    ConfigurationError,
    ConnectionFailedError,
    CorruptError,
    DeadlineError,
    ListingError,
    MissingKeyError,
    NoMemoryError,
    NotWritableError,
    ResponseError,
    ZfastError,
    error_for,
    redact,
    without_secrets,
)

BUILTINS = {
    MissingKeyError: FileNotFoundError,
    AccessError: PermissionError,
    NotWritableError: PermissionError,
    DeadlineError: TimeoutError,
    ConnectionFailedError: ConnectionError,
    ResponseError: OSError,
    ChangedError: OSError,
    CorruptError: ValueError,
    ListingError: OSError,
    ConfigurationError: ValueError,
    NoMemoryError: MemoryError,
}
CLASSES = [ZfastError, *BUILTINS]

FAILURES = [code for code in Status if code != Status.OK]

SIGNED = "https://ann:s3cret@host/a/zarr.json?X-Amz-Signature=5ignature&e=1#frag"
SECRETS = ("s3cret", "ann", "5ignature", "Signature", "frag", "?")


class OwnConstructorError(ResponseError):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}", url="http://h/", attempts=2)
        self.number = number


def fields(error: ZfastError) -> dict[str, Any]:
    names = ("reason", "url", "key", "byte_range", "status", "attempts", "method")
    return {name: getattr(error, name) for name in names}


def test_every_class_of_the_module_is_tested_here() -> None:
    public = {getattr(errors, name) for name in errors.__all__}
    assert {c for c in public if isinstance(c, type)} == set(CLASSES)


@pytest.mark.parametrize("cls", BUILTINS)
def test_is_also_the_builtin_that_fits(cls: type[ZfastError]) -> None:
    assert issubclass(cls, BUILTINS[cls])
    with pytest.raises(BUILTINS[cls]):
        raise cls("gone wrong")


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_whole(cls: type[ZfastError], protocol: int) -> None:
    error = cls(
        "gone wrong",
        url=SIGNED,
        key="zarr.json",
        byte_range=RangeByteRequest(0, 100),
        status=503,
        attempts=5,
        method="GET",
    )
    error.add_note("a note")
    for twin in (
        pickle.loads(pickle.dumps(error, protocol)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(twin) is cls
        assert fields(twin) == fields(error)
        assert twin.args == error.args
        assert str(twin) == str(error)
        assert repr(twin) == repr(error)
        assert twin.__notes__ == ["a note"]
        if isinstance(error, OSError):
            assert (twin.errno, twin.strerror, twin.filename) == (
                error.errno,
                error.strerror,
                error.filename,
            )
    assert error.byte_range == RangeByteRequest(0, 100)
    assert (error.status, error.attempts, error.key) == (503, 5, "zarr.json")


@pytest.mark.parametrize("cls", CLASSES)
def test_message_alone_is_enough(cls: type[ZfastError]) -> None:
    assert str(cls("gone wrong")) == "gone wrong"
    assert repr(cls("gone wrong")) == f"{cls.__name__}('gone wrong')"
    assert str(pickle.loads(pickle.dumps(cls()))) == ""


def test_a_subclass_with_a_constructor_of_its_own_pickles() -> None:
    twin = pickle.loads(pickle.dumps(OwnConstructorError(7)))
    assert type(twin) is OwnConstructorError
    assert twin.number == 7
    assert str(twin) == "http://h/: number 7 after 2 attempts"


def test_errno_and_filename_are_those_of_the_builtin() -> None:
    error = error_for(Status.MISSING, url=SIGNED)
    assert isinstance(error, FileNotFoundError)
    assert error.errno == errno.ENOENT
    assert error.filename == "https://host/a/zarr.json"
    assert AccessError("no").errno == errno.EACCES
    assert DeadlineError("late").errno == errno.ETIMEDOUT


def test_reads_as_what_where_and_how_often() -> None:
    error = error_for(
        Status.BAD_STATUS,
        url="https://host/a/zarr.json",
        key="zarr.json",
        byte_range=(0, 100),
        status=503,
        attempts=5,
    )
    assert type(error) is ResponseError
    assert str(error) == (
        "GET https://host/a/zarr.json (bytes 0-99): 503 Service Unavailable after 5 attempts"
    )


def test_names_the_key_where_the_url_does_not() -> None:
    assert str(error_for(Status.RESET, url="http://h/a", key="c/0", attempts=1)) == (
        "GET http://h/a (key 'c/0'): the connection was reset after 1 attempt"
    )
    assert str(error_for(Status.RESET, url="http://h/a/%C3%A9%20b", key="é b")) == (
        "GET http://h/a/%C3%A9%20b: the connection was reset"
    )
    assert str(error_for(Status.MISSING, url=None, key="c/0")) == "GET 'c/0': no such key"


@pytest.mark.parametrize(
    ("byte_range", "text"),
    [
        (None, ""),
        ((None, None), ""),
        (RangeByteRequest(5, 10), " (bytes 5-9)"),
        (OffsetByteRequest(5), " (bytes 5-)"),
        (SuffixByteRequest(5), " (bytes -5)"),
        ((5, 10), " (bytes 5-9)"),
        ((None, 10), " (bytes 0-9)"),
        ((5, None), " (bytes 5-)"),
        ((-5, None), " (bytes -5)"),
        ((5, 5), " (byte range 5 to 5)"),
        ((-5, 2), " (byte range -5 to 2)"),
        (("a", "b"), " (byte range 'a' to 'b')"),
        ("nonsense", " (byte range 'nonsense')"),
    ],
)
def test_shows_any_byte_range(byte_range: Any, text: str) -> None:
    error = error_for(Status.RESET, url="http://h/k", byte_range=byte_range)
    assert str(error) == f"GET http://h/k{text}: the connection was reset"
    assert error.byte_range == byte_range


@pytest.mark.parametrize("code", FAILURES)
def test_every_failure_of_the_core_has_its_error(code: Status) -> None:
    error = error_for(code, url="http://h/k", key="k", status=500, attempts=3, detail="as it was")
    assert error.reason.startswith("500 Internal") or "(500 Internal Server Error;" in error.reason
    assert "as it was" in str(error)
    assert str(error).endswith("after 3 attempts")


def test_the_table_names_the_class() -> None:
    expected = {
        MissingKeyError: {Status.MISSING},
        DeadlineError: {
            Status.DEADLINE,
            Status.READ_TIMEOUT,
            Status.FIRST_BYTE_TIMEOUT,
            Status.CONNECT_TIMEOUT,
        },
        ConnectionFailedError: {
            Status.CONNECT_FAILED,
            Status.TLS_FAILED,
            Status.RESET,
            Status.TRUNCATED,
            Status.CLOSED,
        },
        ResponseError: {
            Status.BAD_STATUS,
            Status.PROTOCOL,
            Status.HEAD_TOO_LARGE,
            Status.RANGE_MISMATCH,
            Status.RANGE_UNSUPPORTED,
            Status.ENCODED,
            Status.OVERLONG,
            Status.BUFFER_TOO_SMALL,
            Status.REDIRECT,
        },
        ChangedError: {Status.CHANGED},
        CorruptError: {Status.CORRUPT},
        NoMemoryError: {Status.NO_MEMORY},
        ZfastError: {Status.CANCELLED},
        AccessError: {Status.TUNNEL_REFUSED},
    }
    found: dict[type, set[Status]] = {}
    for code in FAILURES:
        found.setdefault(type(error_for(code, url="http://h/")), set()).add(code)
    assert found == expected


def test_success_is_no_failure() -> None:
    with pytest.raises(ValueError, match="is not a failure"):
        error_for(Status.OK, url="http://h/")


@pytest.mark.parametrize(
    ("method", "status", "cls"),
    [
        ("GET", 401, AccessError),
        ("GET", 403, AccessError),
        ("GET", 407, AccessError),
        ("PUT", 403, AccessError),
        ("GET", 404, ResponseError),
        ("GET", 405, ResponseError),
        ("GET", 501, ResponseError),
        ("PUT", 405, NotWritableError),
        ("DELETE", 405, NotWritableError),
        ("PUT", 501, NotWritableError),
        ("PUT", 503, ResponseError),
        ("GET", 599, ResponseError),
        ("GET", None, ResponseError),
    ],
)
def test_http_status_decides_what_a_bad_status_is(
    method: str, status: int | None, cls: type[ZfastError]
) -> None:
    error = error_for(Status.BAD_STATUS, url="http://h/k", status=status, method=method)
    assert type(error) is cls
    assert error.status == status
    assert str(error).startswith(f"{method} http://h/k: ")


def test_a_refused_read_says_how_403_can_mean_missing() -> None:
    assert "missing_status" in str(error_for(Status.BAD_STATUS, url="http://h/k", status=403))
    write = error_for(Status.BAD_STATUS, url="http://h/k", status=403, method="PUT")
    assert "missing_status" not in str(write)


def test_what_is_put_where_there_is_no_directory_says_whose_it_is_to_make() -> None:
    said = {
        (method, status): str(
            error_for(Status.BAD_STATUS, url="http://h/k", status=status, method=method)
        )
        for method in ("GET", "PUT", "DELETE")
        for status in (404, 409, 500)
    }
    hinted = {case for case, text in said.items() if "directory" in text}
    assert hinted == {("PUT", 404), ("PUT", 409), ("PUT", 500)}


@pytest.mark.parametrize("cls", CLASSES)
def test_shows_no_secret(cls: type[ZfastError]) -> None:
    error = cls(
        f"redirected to {SIGNED}, then to '/other?token=s3cret', then to ({SIGNED})",
        url=SIGNED,
        key="zarr.json",
        attempts=2,
    )
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), error.reason]
    shown.append(str(pickle.dumps(error)))
    shown.append(str(getattr(error, "filename", "")))
    for text in shown:
        assert not [secret for secret in SECRETS if secret in text], text
    assert error.url == "https://host/a/zarr.json"
    assert "redirected to https://host/a/zarr.json" in str(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a", "https://host/a"),
        ("https://host:8443/a/?q", "https://host:8443/a/"),
        ("https://host", "https://host"),
        ("https://host?token=1", "https://host"),
        ("https://host#frag", "https://host"),
        ("https://u:p@host/a", "https://host/a"),
        ("https://u:p@ss@host/a", "https://host/a"),
        ("https://u@host/a@b", "https://host/a@b"),
        ("https://[::1]:80/a", "https://[::1]:80/a"),
        ("https://u:p@[::1]/a", "https://[::1]/a"),
        ("https://u:pa/ss@host/a", "https://..."),
        ("https://u:pa?ss@host/a", "https://..."),
        ("https://u:12?ss@host/a", "https://..."),
        ("https://u:pa#ss@host/a", "https://..."),
        ("/a/b?token=1", "/a/b"),
        ("/a?next=http://h/b", "/a"),
        ("u:p@host/a?b", "host/a"),
        ("http:/u:p@host/a?b", "host/a"),
        ("https//u:p@host/a", "host/a"),
        ("//u:p@host/a", "host/a"),
        ("http:///u:p@host/a", "host/a"),
        ("ht tp://u:pa/s@s@host/a", "host/a"),
        ("http:/u:pa?ss@host/a", "..."),
        ("u@http://[", "http://..."),
        ("https://h/a b\r\n\u2028é", "https://h/a%20b%0D%0A%E2%80%A8é"),
        ("", ""),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_what_stands_around_a_url_stays() -> None:
    text = "said (see https://user:pass@docs/page.html#part)), or [http://h/x?token=1], ok."
    error = ConnectionFailedError(text, url="http://h/k")
    assert "(see https://docs/page.html)), or [http://h/x], ok." in str(error)
    assert "to http://[::1]" in str(ConnectionFailedError("to http://[::1]", url="http://h/k"))


@given(st.text())
def test_redact_is_total_and_printable(url: str) -> None:
    shown = redact(url)
    assert shown.isprintable()
    assert " " not in shown
    assert "?" not in shown
    assert redact(shown) == shown


@given(
    st.text(alphabet="abcXYZ019-._~!$&'()*+,;=:%é ", min_size=1),
    st.text(alphabet="abcXYZ019-._~!$&'()*+,;=:%@é ", min_size=1),
)
def test_redact_drops_any_userinfo_and_query(user: str, token: str) -> None:
    assert redact(f"https://{user}:{token}@host/path?{token}#{token}") == "https://host/path"


@given(
    st.sampled_from(
        ["", "/", "//", "http:", "http:/", "https//", "https;//", "1://", "://", "http:///"]
    ),
    st.text(alphabet="abcXYZ019-._~!$&'()*+,;=:%@/\\é ", min_size=1),
)
def test_redact_drops_what_may_be_a_userinfo_where_the_scheme_is_mistyped(
    slip: str, password: str
) -> None:
    # With two slashes behind it "ann" is a scheme, and no user's name.
    assume(slip or not password.startswith("//"))
    assert redact(f"{slip}ann:{password}@host/path") == "host/path"


def test_redact_of_any_scheme() -> None:
    assert redact("ann://user:secret@host/path") == redact("ann://@host/path") == "ann://host/path"


@pytest.mark.parametrize("text", ["a", "?", "a:", "?a", "://", "x://", "=", "?="])
def test_text_of_any_length_is_looked_through(text: str) -> None:
    """A server chooses it; what took quadratic time would not come to an end here."""
    long = text * 100_000
    assert without_secrets(f"{long} and https://user:pw@host/a?sig=b").endswith("https://host/a")
