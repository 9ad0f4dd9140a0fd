"""Reads over bad networks: slow and lossy ones give the same bytes, dead ones an error in time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
import urllib3
from servers.netns import Network, why_no_networks
from servers.nginx import Nginx, find_nginx
from servers.script import in_child
from servers.scripted import ScriptedServer, Wait, ok

pytest.importorskip("zarr", minversion="3.0", reason="zarr 3 over FastStore")

import zarr
from arrays import ZARRS_OWN

import zfast

LAYOUTS: dict[str, dict[str, Any]] = {
    "raw": {"chunks": (128, 128), "compressors": None},
    "zstd": {"chunks": (128, 128), "compressors": zarr.codecs.ZstdCodec()},
    "sharded": {"chunks": (32, 32), "shards": (128, 128), "compressors": None},
}
VALUES = np.random.default_rng(0).standard_normal((512, 512), np.float32)

# Not one of its bytes is zero.
BODY = os.urandom(1 << 16).replace(b"\0", b"\1") * 64
# There is time to see that it has begun: the whole of it takes most of a second.
RATE = 5_000_000

PATIENCE = 30.0


@pytest.fixture(scope="module", autouse=True)
def _networks() -> None:
    if why := why_no_networks():
        pytest.skip(why)


@pytest.fixture(scope="module", params=["http", "https"])
def ca(request: pytest.FixtureRequest, tls_ca: trustme.CA) -> trustme.CA | None:
    return tls_ca if request.param == "https" else None


@pytest.fixture(scope="module", params=[0.03, 0.1], ids=["30ms", "100ms"])
def lossy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ca: trustme.CA | None
) -> Iterator[Nginx]:
    """nginx over the arrays, at a distance, behind a link that loses one packet of a hundred."""
    root = tmp_path_factory.mktemp("arrays")
    with zarr.config.set(ZARRS_OWN):
        for name, layout in LAYOUTS.items():
            zarr.create_array(root / name, data=VALUES, **layout)
    with Network(request.param, loss=0.01) as network, _nginx(root, network, ca) as server:
        yield server


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(rate=RATE) as network:
        yield network


@pytest.fixture
def server(tmp_path: Path, network: Network, ca: trustme.CA | None) -> Iterator[Nginx]:
    """nginx with one large body, behind a link of a limited rate."""
    (tmp_path / "body").write_bytes(BODY)
    with _nginx(tmp_path, network, ca) as server:
        yield server


def _nginx(root: Path, network: Network, ca: trustme.CA | None) -> Nginx:
    if find_nginx() is None:
        pytest.skip("nginx is not installed")
    server = Nginx(root, ca=ca).within(network)
    server.shared = True
    return server


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# -------------------------------------------------------------------------------- slow and lossy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays(lossy: Nginx, layout: str, tls_ca_file: str) -> None:
    with zfast.FastStore(f"{lossy.url}/{layout}", ca_certs=tls_ca_file, deadline=60) as store:
        array = zarr.open_array(store, mode="r")
        np.testing.assert_array_equal(array[...], VALUES)
        np.testing.assert_array_equal(array[100:200, 3:400], VALUES[100:200, 3:400])
        assert store.stats()["fallback_chunks"] == 0


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a near host"])
def test_connections_open_at_once_however_far(
    tmp_path: Path, scripted: Callable[..., ScriptedServer], beside: bool
) -> None:
    """Not a few of them each round trip: as many threads open them as are waited for."""
    keys = [str(at) for at in range(64)]
    for key in keys:
        (tmp_path / key).write_bytes(key.encode())
    near = scripted(lambda request: ok(b"near").closing())
    ended = threading.Event()

    def read_near() -> None:
        while not ended.is_set():
            assert zfast.Client(near.url).get("key") == b"near"

    with Network(0.1) as network, _nginx(tmp_path, network, None) as server:

        def read() -> int:
            reader = threading.Thread(target=read_near)
            if beside:
                reader.start()
            with zfast.Client(server.url) as client:
                assert client.get_many([(key, None) for key in keys]) == [k.encode() for k in keys]
            ended.set()
            if beside:
                reader.join()
            return sum(each.name.startswith("zfast-dial-") for each in threading.enumerate())

        assert in_child(read) > 32


# ------------------------------------------------------------------------------- down in mid-body


def _begun(client: zfast.Client, network: Network) -> tuple[bytearray, Future[int]]:
    """A read of the body that has begun when the link goes down."""
    into = bytearray(len(BODY))
    pool = ThreadPoolExecutor(1)
    future = pool.submit(client.read_into, "body", None, into)
    pool.shutdown(wait=False)
    _until(lambda: into[0] or future.done())
    network.down()
    assert not into[-1], "the body was here before the link went down"
    return into, future


def test_a_read_timeout(server: Nginx, network: Network, tls_ca_file: str) -> None:
    timeout = urllib3.Timeout(connect=PATIENCE, read=0.3)
    with zfast.Client(server.url, ca_certs=tls_ca_file, timeout=timeout, retries=0) as client:
        _, future = _begun(client, network)
        with pytest.raises(zfast.DeadlineError, match="within read_timeout"):
            future.result(PATIENCE)


def test_a_deadline(server: Nginx, network: Network, tls_ca_file: str) -> None:
    timeout = urllib3.Timeout(connect=PATIENCE, read=PATIENCE)
    with zfast.Client(server.url, ca_certs=tls_ca_file, timeout=timeout, deadline=1) as client:
        _, future = _begun(client, network)
        with pytest.raises(zfast.DeadlineError, match="deadline"):
            future.result(PATIENCE)


def test_an_array_whose_connections_went_dead(
    server: Nginx, network: Network, tls_ca_file: str
) -> None:
    with zarr.config.set(ZARRS_OWN):
        zarr.create_array(server.root / "array", data=VALUES, **LAYOUTS["raw"])
    url = f"{server.url}/array"
    with zfast.FastStore(url, ca_certs=tls_ca_file, deadline=1, timeout=PATIENCE) as store:
        array = zarr.open_array(store, mode="r")
        network.down()
        with pytest.raises(zfast.DeadlineError, match="deadline"):
            array[...]
        network.up()
    with zfast.FastStore(url, ca_certs=tls_ca_file, deadline=PATIENCE) as store:
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], VALUES)


def test_up_again_before_a_timeout(server: Nginx, network: Network, tls_ca_file: str) -> None:
    with zfast.Client(server.url, ca_certs=tls_ca_file, deadline=PATIENCE) as client:
        into, future = _begun(client, network)
        network.up()
        assert future.result() == len(BODY)
        assert into == BODY
        assert client.stats()["retries"] == 0


def test_up_again_after_a_timeout(server: Nginx, network: Network, tls_ca_file: str) -> None:
    """A connection that the network forgot is left for another, by as many attempts as it takes."""
    options: dict[str, Any] = {"timeout": 0.3, "retries": urllib3.Retry(100, backoff_factor=0)}
    with zfast.Client(server.url, ca_certs=tls_ca_file, deadline=60, **options) as client:
        into, future = _begun(client, network)
        _until(lambda: client.stats()["retries"])
        network.up()
        assert future.result() == len(BODY)
        assert into == BODY


def test_what_nobody_acknowledges_goes_over_another_connection(
    server: Nginx, network: Network, tls_ca_file: str, scripted: Callable[..., ScriptedServer]
) -> None:
    """Long before first_byte_timeout, and as no attempt: nobody has got it.

    By an I/O thread that has nothing else to do: the other one waits for a server that hangs.
    """
    (server.root / "small").write_bytes(b"value")
    gate = threading.Event()
    busy = zfast.Client(scripted(lambda request: [Wait(gate), ok(b"late")]).url)
    with zfast.Client(server.url, ca_certs=tls_ca_file, retries=99, deadline=60) as client:
        assert client.get("small") == b"value"
        with ThreadPoolExecutor(2) as pool:
            late = pool.submit(busy.get, "key")
            _until(lambda: busy.stats()["in_flight"])
            network.down()
            read = pool.submit(client.get, "small")
            _until(lambda: client.stats()["stale_retries"])
            network.up()
            assert read.result() == b"value"
            gate.set()
            assert late.result() == b"late"
        assert client.stats()["requests"] == 3


# ------------------------------------------------------------------------------- the link itself


def test_the_round_trip(tmp_path: Path) -> None:
    with Network(0.1) as network, _nginx(tmp_path, network, None) as server:
        begun = time.monotonic()
        server.connect().close()
        assert time.monotonic() - begun >= 0.1


def test_the_loss() -> None:
    """Of many packets one in a hundred is lost, more or less; or none."""
    assert 25 < _lost(0.01) < 75
    assert _lost(0) <= 0


def _lost(loss: float, count: int = 5000) -> int:
    """How many of so many packets are lost, less what the kernel sends by itself meanwhile."""
    with Network(loss=loss) as network, socket.socket(type=socket.SOCK_DGRAM) as sock:
        before = _received(network)
        for _ in range(count):
            sock.sendto(b"", (network.host, 9))
        # It is up; but it does not say so before it has carried what came earlier.
        network.up()
        return before + count - _received(network)


def _received(network: Network) -> int:
    """How many packets have come out of the link."""
    command = network.inside(["cat", "/proc/net/dev"])
    devices = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (device,) = (line for line in devices.splitlines() if "zfast" in line)
    return int(device.split()[2])


def test_networks_at_once(tmp_path: Path) -> None:
    with Network() as one, Network() as other:
        assert len({one.here, one.host, other.here, other.host}) == 4
        (tmp_path / "key").write_bytes(b"value")
        with _nginx(tmp_path, one, None) as first, _nginx(tmp_path, other, None) as second:
            urls = [f"{server.url}/key" for server in (first, second)]
            assert zfast.cat_ranges(urls) == [b"value", b"value"]
            other.down()
            assert zfast.cat_ranges(urls[:1]) == [b"value"]


def test_nothing_is_left_of_a_process_that_was_killed() -> None:
    program = """
        import os, signal
        from servers.netns import Network

        with Network() as network:
            print(network.here, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    here = child.stdout.strip()
    assert here, child.stderr
    _until(lambda: not _is_ours(here))


def _is_ours(address: str) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
        return True
