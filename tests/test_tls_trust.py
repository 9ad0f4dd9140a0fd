"""What urllib3 can be told of TLS holds, and not one byte of a request goes out before trust."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from servers.apache import Apache
from servers.caddy import Caddy
from servers.lighttpd import Lighttpd
from servers.nginx import Nginx
from servers.processes import ChildServer
from servers.pythonhttp import PythonHTTP
from servers.scripted import Action, Fin, Request, ScriptedServer, ok

import zfast
from zfast import Client

Start = Callable[..., ScriptedServer]


def echo(request: Request) -> Iterable[Action]:
    return [ok(request.key.encode())]


def closing(request: Request) -> Iterable[Action]:
    return [ok(request.key.encode()).closing()]


# ------------------------------------------------------------------------------------ handshakes


def served(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("fault", ["unknown authority", "wrong host"])
@pytest.mark.parametrize("count", [1, 30])
def test_a_certificate_that_is_not_accepted(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str, fault: str, count: int
) -> None:
    unknown = fault == "unknown authority"
    context = served(
        trustme.CA() if unknown else tls_ca, "127.0.0.1" if unknown else "other.example"
    )
    server = scripted(echo, tls=context)
    # Patient with anything else.
    client = Client(server.url, ca_certs=tls_ca_file, retries=10)
    errors = client.get_many([(str(i), None) for i in range(count)], "return")
    for error in errors:
        assert type(error) is zfast.ConnectionFailedError
        assert "certificate verify failed" in str(error).lower()
        assert error.attempts == 1
    # Before one byte of a request, credentials among them.
    assert server.requests == []
    server.wait_closed()
    assert {connection.ending for connection in server.connections} <= {"tls", "peer"}
    assert client.stats()["retries"] == client.stats()["requests"] == 0


def test_the_systems_trust_store_knows_nothing_of_the_tests(
    scripted: Start, tls_context: ssl.SSLContext
) -> None:
    server = scripted(echo, tls=tls_context)
    with pytest.raises(zfast.ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
        Client(server.url).get("key")
    assert server.requests == []


def test_ca_certs_of_two_clients_do_not_mix(
    scripted: Start, tls_context: ssl.SSLContext, tls_ca_file: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    server = scripted(echo, tls=tls_context)
    assert Client(server.url, ca_certs=tls_ca_file).get("key") == b"key"
    with pytest.raises(zfast.ConnectionFailedError):
        Client(server.url, ca_certs=str(other)).get("key")
    assert len(server.requests) == 1


def test_a_bundle_is_read_once_for_all_connections(
    scripted: Start, tls_ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(context: ssl.SSLContext, *arguments: Any, **named: Any) -> None:
        loaded.append(context)
        real(context, *arguments, **named)

    loaded: list[ssl.SSLContext] = []
    real = ssl.SSLContext.load_verify_locations
    server = scripted(echo, tls=served(tls_ca, "127.0.0.1"))
    bundle = tmp_path / "bundle.pem"
    tls_ca.cert_pem.write_to_path(str(bundle))
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", load)
    client = Client(server.url, ca_certs=str(bundle))
    keys = [str(number) for number in range(100)]
    assert client.get_many([(key, None) for key in keys]) == [key.encode() for key in keys]
    server.wait_for(lambda: len(server.connections) > 1)
    assert Client(server.url, ca_certs=bundle).get("key") == b"key"
    assert len(loaded) == 1


def test_ca_certs_that_holds_no_certificate(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("nothing")
    for _ in range(2):
        with pytest.raises(zfast.ConfigurationError, match=r"bundle.pem', where no certificate"):
            Client("https://localhost", ca_certs=str(bundle))


def test_ca_certs_that_is_no_file() -> None:
    with pytest.raises(zfast.ConfigurationError, match=r"'/not-there.pem', where there is no file"):
        Client("https://localhost", ca_certs="/not-there.pem")


def test_a_client_certificate(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str, tmp_path: Path
) -> None:
    context = served(tls_ca, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    tls_ca.configure_trust(context)
    server = scripted(echo, tls=context)
    own = tmp_path / "own.pem"
    tls_ca.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(own))
    manager = urllib3.PoolManager(ca_certs=tls_ca_file, cert_file=str(own))
    assert Client(server.url, pool_manager=manager).get("key") == b"key"
    with pytest.raises(zfast.ConnectionFailedError):
        Client(server.url, ca_certs=tls_ca_file, retries=0).get("key")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("tls_path")
@pytest.mark.parametrize(
    ("version", "says"),
    [
        (ssl.TLSVersion.TLSv1_2, "HANDSHAKE_FAILURE"),
        # In TLS 1.3 the server says so after the handshake, in answer to the request.
        (ssl.TLSVersion.TLSv1_3, "certificate required"),
    ],
)
def test_a_client_certificate_that_is_asked_for_and_not_there(
    scripted: Start,
    tls_ca: trustme.CA,
    tls_ca_file: str,
    version: ssl.TLSVersion,
    says: str,
) -> None:
    context = served(tls_ca, "127.0.0.1")
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    tls_ca.configure_trust(context)
    server = scripted(echo, tls=context)
    client = Client(server.url, ca_certs=tls_ca_file, retries=10)
    with pytest.raises(zfast.ConnectionFailedError, match=says) as raised:
        client.get("key")
    assert raised.value.attempts == 1
    assert server.requests == []


def refused(server: ScriptedServer, manager: urllib3.PoolManager, says: str) -> None:
    """Nothing is sent to `server`, nothing tried twice, and the error says why."""
    client = Client(server.url, pool_manager=manager, retries=10)
    with pytest.raises(zfast.ConnectionFailedError, match=says) as raised:
        client.get("key", (0, 1))
    assert raised.value.attempts == 1
    assert server.requests == []


def accepted(server: ScriptedServer, manager: urllib3.PoolManager) -> None:
    """A read natively, over the session that urllib3 opened as it was told to."""
    client = Client(server.url, pool_manager=manager)
    assert client.get("key") == b"key"
    assert client.stats()["fallback_reads"] == 0


def test_ca_cert_dir(scripted: Start, tls_ca: trustme.CA, tmp_path: Path) -> None:
    server = scripted(echo, tls=served(tls_ca, "127.0.0.1"))
    refused(server, urllib3.PoolManager(ca_cert_dir=str(tmp_path)), "certificate verify failed")
    for authority in (trustme.CA(), tls_ca):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        # Files in such a folder have names by the hash of the subject, which OpenSSL knows.
        done = subprocess.run(
            ["openssl", "x509", "-noout", "-subject_hash"],
            input=authority.cert_pem.bytes(),
            capture_output=True,
            check=True,
        )
        authority.cert_pem.write_to_path(str(tmp_path / f"{done.stdout.decode().strip()}.0"))
    accepted(server, urllib3.PoolManager(ca_cert_dir=str(tmp_path)))


def test_an_ssl_context(scripted: Start, tls_ca: trustme.CA) -> None:
    server = scripted(echo, tls=served(tls_ca, "127.0.0.1"))
    context = ssl.create_default_context()
    refused(server, urllib3.PoolManager(ssl_context=context), "certificate verify failed")
    tls_ca.configure_trust(context)
    accepted(server, urllib3.PoolManager(ssl_context=context))


def test_a_certificate_that_has_expired(
    scripted: Start, tls_ca: trustme.CA, tls_ca_file: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime(2001, 1, 1, tzinfo=UTC)
    expired = tls_ca.issue_cert("127.0.0.1", not_before=past, not_after=past + timedelta(days=1))
    expired.configure_cert(context)
    server = scripted(echo, tls=context)
    refused(server, urllib3.PoolManager(ca_certs=tls_ca_file), "expired")


def test_assert_hostname(scripted: Start, tls_ca: trustme.CA, tls_ca_file: str) -> None:
    server = scripted(echo, tls=served(tls_ca, "other.example"))
    trusted = {"ca_certs": tls_ca_file}
    refused(server, urllib3.PoolManager(**trusted), "IP address mismatch")
    refused(server, urllib3.PoolManager(**trusted, assert_hostname="a.example"), "doesn't match")
    accepted(server, urllib3.PoolManager(**trusted, assert_hostname="other.example"))


def test_server_hostname(scripted: Start, tls_ca: trustme.CA, tls_ca_file: str) -> None:
    asked: list[str | None] = []
    context = served(tls_ca, "other.example")
    context.sni_callback = lambda _, name, __: asked.append(name)
    server = scripted(echo, tls=context)
    accepted(server, urllib3.PoolManager(ca_certs=tls_ca_file, server_hostname="other.example"))
    assert asked == ["other.example"]


def test_assert_fingerprint(scripted: Start, tls_ca: trustme.CA, tls_ca_file: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf = tls_ca.issue_cert("127.0.0.1")
    leaf.configure_cert(context)
    server = scripted(echo, tls=context)
    pem = leaf.cert_chain_pems[0].bytes().decode()
    print_ = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    other = hashlib.sha256(b"").hexdigest()
    trusted = {"ca_certs": tls_ca_file}
    missed = "Fingerprints did not match"
    refused(server, urllib3.PoolManager(**trusted, assert_fingerprint=other), missed)
    accepted(server, urllib3.PoolManager(**trusted, assert_fingerprint=print_))


def test_minimum_versions(scripted: Start, tls_ca: trustme.CA, tls_ca_file: str) -> None:
    context = served(tls_ca, "127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = scripted(echo, tls=context)
    newer = urllib3.PoolManager(ca_certs=tls_ca_file, ssl_minimum_version=ssl.TLSVersion.TLSv1_3)
    client = Client(server.url, pool_manager=newer, retries=0)
    with pytest.raises(zfast.ConnectionFailedError, match="alert protocol version"):
        client.get("key")
    assert server.requests == []
    accepted(server, urllib3.PoolManager(ca_certs=tls_ca_file))


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


def test_a_handshake_that_stalls_is_a_connect_timeout(silent: str, tls_ca_file: str) -> None:
    timeout = urllib3.Timeout(connect=0.3, read=60)
    client = Client(silent, ca_certs=tls_ca_file, timeout=timeout, retries=0)
    began = time.monotonic()
    with pytest.raises(zfast.DeadlineError, match="connect_timeout") as raised:
        client.get("key")
    assert 0.25 < time.monotonic() - began < 2
    assert raised.value.attempts == 1


def test_a_deadline_passes_within_a_handshake(silent: str, tls_ca_file: str) -> None:
    client = Client(silent, ca_certs=tls_ca_file, timeout=1, retries=0, deadline=0.1)
    began = time.monotonic()
    with pytest.raises(zfast.DeadlineError, match="deadline"):
        client.get("key")
    assert time.monotonic() - began < 0.9


def test_a_server_without_tls(scripted: Start, tls_ca_file: str) -> None:
    server = scripted([], on_accept=lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n", Fin()])
    client = Client(server.url.replace("http:", "https:"), ca_certs=tls_ca_file, retries=10)
    with pytest.raises(zfast.ConnectionFailedError, match="does not speak TLS") as raised:
        client.get("key")
    assert raised.value.attempts == 1
    assert server.requests == []


@pytest.mark.parametrize("kind", [Nginx, Apache, Caddy, Lighttpd, PythonHTTP])
def test_https_on_a_port_of_plain_http(
    start: Callable[..., Any], kind: type[ChildServer], tls_ca_file: str
) -> None:
    # One of its own: what it logs of this is not JSON.
    url = start(kind).url.replace("http:", "https:")
    with pytest.raises(zfast.ConnectionFailedError, match="does not speak TLS") as raised:
        Client(url, ca_certs=tls_ca_file, retries=10).get("key")
    assert raised.value.attempts == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nginx_that_wants_more_than_it_gets(
    start: Callable[..., Any], tmp_path: Path, tls_ca: trustme.CA, tls_ca_file: str, scheme: str
) -> None:
    """It says so in a page alone; its status is 400 for http, and for want of a certificate."""
    wants = f"ssl_verify_client on; ssl_client_certificate {tls_ca_file};"
    server = start(Nginx, tmp_path, ca=tls_ca, access_log=False, extra=wants)
    client = Client(f"{scheme}{server.url.removeprefix('https')}", ca_certs=tls_ca_file)
    with pytest.raises(zfast.ResponseError, match="perhaps https is wanted, or a client cert"):
        client.get("key")


def test_a_bundle_that_was_renewed(scripted: Start, tls_ca: trustme.CA, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    server = scripted(echo, tls=served(tls_ca, "127.0.0.1"), strict=False)
    with pytest.raises(zfast.ConnectionFailedError):
        Client(server.url, ca_certs=str(bundle), retries=0).get("key")
    renewed = tmp_path / "renewed.pem"
    tls_ca.cert_pem.write_to_path(str(renewed))
    renewed.replace(bundle)
    assert Client(server.url, ca_certs=str(bundle), retries=0).get("key") == b"key"


@pytest.mark.parametrize("trusted", ["bundle", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_server_moves_to_another_authority(
    scripted: Start, tmp_path: Path, environment: Callable[..., None], trusted: str
) -> None:
    old, new = trustme.CA(), trustme.CA()
    bundle = tmp_path / "bundle.pem"
    environment(SSL_CERT_FILE="/not-there", SSL_CERT_DIR="/not-there")
    options = {"ca_certs": bundle} if trusted == "bundle" else {}
    if trusted == "SSL_CERT_FILE":
        environment(SSL_CERT_FILE=str(bundle))
    elif trusted == "SSL_CERT_DIR":
        environment(SSL_CERT_DIR=f"/not-there:{tmp_path / 'certificates'}")

    def trust(authority: trustme.CA) -> None:
        # Not in place: a bundle that is half written is none.
        renewed = tmp_path / "renewed"
        authority.cert_pem.write_to_path(str(renewed))
        renewed.replace(bundle)
        if trusted == "SSL_CERT_DIR":
            hashed = subprocess.check_output(
                ["openssl", "x509", "-noout", "-hash", "-in", bundle], text=True
            )
            (tmp_path / "certificates").mkdir(exist_ok=True)
            bundle.replace(tmp_path / "certificates" / f"{hashed.strip()}.0")

    trust(old)
    with ScriptedServer(closing, tls=served(old, "127.0.0.1")) as before:
        living = Client(before.url, retries=0, **options)
        assert living.get("key") == b"key"
    after = scripted(closing, tls=served(new, "127.0.0.1"), strict=False, port=before.port)
    with pytest.raises(zfast.ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
        living.get("key")
    trust(new)
    assert Client(after.url, retries=0, **options).get("key") == b"key"
    # All that are being opened at once.
    keys = [str(number) for number in range(20)]
    assert living.get_many([(key, None) for key in keys]) == [key.encode() for key in keys]


def test_a_renewed_bundle_that_is_none_changes_nothing(
    scripted: Start, tls_ca: trustme.CA, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    server = scripted(echo, tls=served(tls_ca, "127.0.0.1"), strict=False)
    client = Client(server.url, ca_certs=bundle, retries=0)
    bundle.write_text("nothing")
    with pytest.raises(zfast.ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get("key")
    bundle.unlink()
    with pytest.raises(zfast.ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get("key")
    tls_ca.cert_pem.write_to_path(str(bundle))
    assert client.get("key") == b"key"
