"""Settings resolve in one order, and nonsense is named before it does harm."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from servers.script import run

import zfast
from zfast.config import SETTINGS, config, setting, source
from zfast.errors import ConfigurationError
from zfast.options import ClientOptions


def _core_count() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


DEFAULTS = {
    "max_concurrency": 64,
    "io_threads": 2,
    "decode_threads": _core_count(),
    "dial_threads": 64,
    "max_attempts": 5,
    "connect_timeout": 10.0,
    "first_byte_timeout": 60.0,
    "read_timeout": 60.0,
    "deadline": None,
    "backoff_factor": 0.1,
    "backoff_max": 20.0,
    "backoff_jitter": 0.1,
    "hedge_budget": 0.05,
    "hedge_floor": 0.005,
    "max_redirects": 10,
    "idle_timeout": 5.0,
    "trust_env": True,
    "tls": "auto",
    "max_head_size": 65536,
    "missing_status": (404, 410),
    "pipeline": True,
    "index_cache_size": 16 * 2**20,
    "coalesce_gap": 32 * 2**10,
    "coalesce_size": 2**20,
    "split_threshold": 8 * 2**20,
    "split_size": 4 * 2**20,
    "suffix_ranges": True,
}


@pytest.fixture(autouse=True)
def _pristine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("ZFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(config, "paths", [])
    config.refresh()
    yield
    monkeypatch.undo()
    config.refresh()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        config.refresh()

    return set_variables


def test_defaults() -> None:
    assert {name: setting(name) for name in SETTINGS} == DEFAULTS
    assert {source(name) for name in SETTINGS} == {"default"}


def test_every_setting_is_declared_whole() -> None:
    for name, declared in SETTINGS.items():
        assert declared.name == name
        assert declared.environment == f"ZFAST_{name.upper()}"
        assert declared.meaning
        assert declared.allowed
        assert declared.unit or isinstance(declared.default, bool | str)
        # The default is in the setting's own type, so that it is never converted twice.
        checked = declared.check(declared.default)
        assert checked == declared.default
        assert type(checked) is type(declared.default)


def test_argument_beats_with_block_beats_environment_beats_default(environment: Any) -> None:
    assert setting("io_threads") == 2
    environment(ZFAST_IO_THREADS="3")
    assert setting("io_threads") == 3
    assert source("io_threads") == "ZFAST_IO_THREADS"
    with config.set(io_threads=4):
        assert setting("io_threads") == 4
        assert source("io_threads") == "config"
        assert setting("io_threads", 5) == 5
        with config.set({"io-threads": 6}):
            assert setting("io_threads") == 6
        assert setting("io_threads") == 4
    assert setting("io_threads") == 3


def test_set_without_a_block_stays_until_reset() -> None:
    config.set(max_attempts=1)
    assert setting("max_attempts") == 1
    config.reset()
    assert setting("max_attempts") == 5


def test_a_configuration_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zfast.yaml").write_text("io-threads: 7\n")
    monkeypatch.setattr(config, "paths", [str(tmp_path)])
    config.refresh()
    assert setting("io_threads") == 7
    assert source("io_threads") == "config"
    (tmp_path / "zfast.yaml").write_text("io_thread: 7\n")
    config.refresh()
    with pytest.raises(ConfigurationError, match=r"'io_thread' is not .*mean io_threads"):
        setting("deadline")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_concurrency", "1", 1),
        ("deadline", "1.5", 1.5),
        ("deadline", "2", 2.0),
        ("deadline", "None", None),
        ("read_timeout", "none", None),
        ("backoff_factor", "0", 0.0),
        ("missing_status", "[404, 410, 403]", (403, 404, 410)),
        ("missing_status", "403,404", (403, 404)),
        ("missing_status", "404", (404,)),
        ("missing_status", "[]", ()),
        ("pipeline", "0", False),
        ("pipeline", "1", True),
        ("pipeline", "false", False),
        ("pipeline", "True", True),
        ("pipeline", "off", False),
        ("pipeline", "Yes", True),
        ("tls", "python", "python"),
        ("tls", "Auto", "auto"),
    ],
)
def test_environment_is_read_in_its_own_type(
    environment: Any, name: str, text: str, value: Any
) -> None:
    variable = SETTINGS[name].environment
    environment(**{variable: text})
    assert setting(name) == value
    assert type(setting(name)) is type(value)
    assert source(name) == variable


def test_arguments_are_taken_from_numpy_too() -> None:
    count = setting("max_concurrency", np.int64(7))
    assert (count, type(count)) == (7, int)
    seconds = setting("deadline", np.float32(0.5))
    assert (seconds, type(seconds)) == (0.5, float)
    assert setting("missing_status", np.array([410, 404])) == (404, 410)
    assert setting("missing_status", {403}) == (403,)


NONSENSE = [
    ("max_concurrency", 0),
    ("max_concurrency", -1),
    ("max_concurrency", 1.5),
    ("max_concurrency", "many"),
    ("max_concurrency", True),
    ("max_concurrency", 10**9),
    ("max_concurrency", [64]),
    ("io_threads", 0),
    ("max_attempts", 0),
    ("connect_timeout", 0),
    ("connect_timeout", -1),
    ("read_timeout", float("nan")),
    ("read_timeout", float("inf")),
    ("read_timeout", "soon"),
    ("deadline", True),
    ("deadline", 10**400),
    ("backoff_factor", -0.1),
    ("idle_timeout", "5 s"),
    ("max_head_size", 10),
    ("missing_status", [200]),
    ("missing_status", [500]),
    ("missing_status", [404, 416]),
    ("missing_status", "not found"),
    ("missing_status", [True]),
    ("missing_status", [None]),
    ("pipeline", "maybe"),
    ("pipeline", 2),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_nonsense_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        setting(name, value)
    message = str(caught.value)
    assert message.startswith(f"{name} is {value!r} (from argument), but has to be ")
    # As an argument None stands for the setting.
    assert message.endswith(SETTINGS[name].allowed.removesuffix(", or None for no limit"))


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_nonsense_is_refused_where_it_is_set(name: str, value: Any) -> None:
    before = setting(name)
    with pytest.raises(ConfigurationError, match=f"^{name} is .*from config.set"):
        config.set({"dial_threads": 3, name: value})
    assert setting(name) == before
    assert setting("dial_threads") == 64


def test_nonsense_in_the_environment_names_the_variable(environment: Any) -> None:
    environment(ZFAST_IO_THREADS="a few", ZFAST_READ_TIMEOUT="")
    with pytest.raises(ConfigurationError, match=r"^read_timeout is '' .from ZFAST_READ_TIMEOUT"):
        setting("read_timeout")
    with pytest.raises(ConfigurationError, match=r"^io_threads is 'a few' .from ZFAST_IO_THREADS"):
        setting("io_threads")
    assert setting("io_threads", 3) == 3
    assert setting("dial_threads") == 64


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ZFAST_IO_THREAD", "did you mean ZFAST_IO_THREADS"),
        ("ZFAST_NOTHING_LIKE_IT", "settings: max_concurrency"),
        ("ZFAST_IO_THREADS__DEEP", "did you mean ZFAST_IO_THREADS"),
        ("ZFAST_DEADLINE__DEEP", "did you mean ZFAST_DEADLINE"),
    ],
)
def test_unknown_variable_is_named(environment: Any, variable: str, hint: str) -> None:
    environment(**{variable: "1"})
    with pytest.raises(ConfigurationError, match=f"{variable} is not a setting.*{hint}"):
        setting("max_attempts")


def test_variables_of_the_build_and_of_donfig_are_no_settings(
    environment: Any, tmp_path: Path
) -> None:
    environment(ZFAST_BUILD="debug", ZFAST_CONFIG=str(tmp_path), ZFAST_ROOT_CONFIG=str(tmp_path))
    assert {name: setting(name) for name in SETTINGS} == DEFAULTS


@pytest.mark.parametrize("name", ["io_thread", "nothing", "io_threads.deep", ""])
def test_unknown_names_are_refused(name: str) -> None:
    for attempt in (
        lambda: setting(name),
        lambda: setting(name, 1),
        lambda: source(name),
        lambda: config.set({name: 1}),
    ):
        with pytest.raises(ConfigurationError, match=f"'{name}' is not a setting"):
            attempt()
    assert set(config.config) == set(SETTINGS)


def test_unknown_keyword_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'io_threads\.deep' is not a setting"):
        config.set(io_threads__deep=1)


def test_the_error_is_a_value_error_and_pickles() -> None:
    with pytest.raises(ValueError) as caught:
        setting("io_threads", 0)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# Only the read of a setting fails: whoever only imports is not stopped.
READ = """
    from zfast.config import setting

    try:
        setting("io_threads")
    except ValueError as error:
        print(error)
"""


def test_import_survives_a_wrong_environment(tmp_path: Path) -> None:
    ended = run(tmp_path, READ, ZFAST_IO_THREADS__X="1", ZFAST_DEADLINE="soon")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("the environment variable ZFAST_IO_THREADS__X is not a setting")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- 1", "a list"),
        ("1: 2", "1 is no name of a setting"),
        ("deadline:\n  1: 2", "1 is no name of a setting"),
        ("io_threads: [", "expected the node content"),
        ("a: &a {b: *a}", "recursion"),
        ("\x00", "unacceptable character"),
    ],
)
def test_import_survives_a_malformed_file(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "good.yaml").write_text("io_threads: 3")
    (tmp_path / "wrong.yaml").write_text(text)
    ended = run(tmp_path, READ, ZFAST_CONFIG=str(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"the file '{tmp_path}/wrong.yaml' is no configuration of zfast: ")
    assert why in ended.out
    assert ended.out.count("\n") == 1


def test_the_order_of_files_and_environment(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("io_threads: 7\ndial_threads: 7\nmax-attempts: 7\n")
    (tmp_path / "b.json").write_text('{"io-threads": 8, "dial-threads": 8}')
    monkeypatch.setattr(config, "paths", [str(tmp_path), str(tmp_path / "absent")])
    environment(ZFAST_IO_THREADS="9")
    assert [setting(name) for name in ("io_threads", "dial_threads", "max_attempts")] == [9, 8, 7]
    assert source("dial_threads") == "config"
    (tmp_path / "b.json").write_text("[]")
    config.refresh()
    assert setting("io_threads", 3) == 3
    with pytest.raises(ConfigurationError, match=r"b\.json' is no configuration"):
        setting("io_threads")
    (tmp_path / "b.json").unlink()
    config.refresh()
    assert setting("dial_threads") == 7


def test_an_empty_mapping_is_no_value(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zfast.yaml").write_text("dial_threads: {}")
    monkeypatch.setattr(config, "paths", [str(tmp_path)])
    environment(ZFAST_IO_THREADS="{}")
    with pytest.raises(ConfigurationError, match=r"^io_threads is {} .from ZFAST_IO_THREADS"):
        setting("io_threads")
    with pytest.raises(ConfigurationError, match=r"^dial_threads is {} .from config"):
        setting("dial_threads")


@pytest.mark.parametrize(
    ("argument", "value", "told"),
    [
        ("headers", 5, "headers is a int, but has to be a mapping of names to values"),
        ("headers", "Bearer s3cret", "headers is a str, but has to be a mapping of names"),
        ("headers", {"X-A": 1}, "header 'X-A' cannot be sent: name and value have to be str"),
        ("headers", {1: "a"}, "header 1 cannot be sent: name and value have to be str"),
        ("retries", 10**12, "retries has total=1000000000000, but has to have an integer"),
        ("retries", urllib3.Retry(read=2**31), "retries has read=2147483648, but has to have"),
        ("retries", urllib3.Retry(status="x"), "retries has status='x', but has to have"),
        ("retries", urllib3.Retry(backoff_factor="a"), "retries has what is no number: .*'a'"),
        ("retries", urllib3.Retry(status_forcelist=["a"]), "retries has 'a' in status_forcelist"),
        ("retries", urllib3.Retry(status_forcelist=[99999]), "retries has 99999 in status_force"),
        ("retries", "3", "retries='3': pass a urllib3.Retry, a number of retries, or None"),
        ("timeout", 0, "^timeout is 0 .* a number from 0.001 to 1000000, or a urllib3.Timeout$"),
        ("deadline", -1, "^deadline is -1 .* a number from 0.001 to 1000000$"),
        ("pool_manager", 5, "pool_manager is a int, but has to be a urllib3.PoolManager"),
        ("ca_certs", 5, "ca_certs is a int, but has to be the path of a file"),
        ("missing_status", "404", "missing_status is '404' .from argument., but has to be HTTP"),
        ("missing_status", [404, "410"], "missing_status is .*, but has to be HTTP statuses"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(argument: str, value: Any, told: str) -> None:
    for make in (
        lambda **options: zfast.Client("http://user:word@localhost:1/", **options),
        lambda **options: zfast.cat_ranges(["http://localhost:1/a"], **options),
    ):
        with pytest.raises(ConfigurationError, match=told) as caught:
            make(**{argument: value})
        assert "s3cret" not in str(caught.value)


def test_a_number_of_numpy_is_one() -> None:
    client = zfast.Client("http://localhost:1/", retries=np.int64(3), timeout=np.float32(2))
    assert client == zfast.Client("http://localhost:1/", retries=3, timeout=np.float32(2))


@pytest.mark.parametrize(
    ("url", "headers"),
    [("http://u:s3cret\ud83d@localhost/", {}), ("http://localhost/", {"X-A": "s3cret\u20ac"})],
)
def test_no_error_has_a_secret_in_its_context(url: str, headers: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        zfast.Client(url, headers=headers)
    assert caught.value.__context__ is caught.value.__cause__ is None


@pytest.mark.parametrize("statuses", [404, (404,), [404], {404}, iter([404])])
def test_one_missing_status_needs_no_tuple(statuses: Any) -> None:
    client = zfast.Client("http://localhost:1/", missing_status=statuses)
    assert client == zfast.Client("http://localhost:1/", missing_status=(404,))
    assert client != zfast.Client("http://localhost:1/")


def test_an_option_that_nobody_has_says_where_it_belongs() -> None:
    pytest.importorskip("zarr")
    with pytest.raises(TypeError, match=r"FastStore takes no option 'mode'$"):
        zfast.FastStore("http://localhost/", mode="r")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"zfast\.config\.set\(max_attempts=\.\.\.\)"):
        zfast.FastStore("http://localhost/", max_attempts=1)  # type: ignore[call-arg]
    arguments = set(inspect.signature(zfast.Client.__init__).parameters) - {"self", "url"}
    assert set(ClientOptions.__annotations__) == arguments


def test_a_number_that_is_none_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFAST_DEADLINE", "1" + 400 * "0")
    zfast.config.refresh()
    try:
        with pytest.raises(ConfigurationError, match="ZFAST_DEADLINE"):
            zfast.Client("http://host")
    finally:
        monkeypatch.undo()
        zfast.config.refresh()
