from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.adapters import seaweedfs_server
from tests.adapters.s3_server import CREDENTIALS, FaultyProxy, World

KEEPS_DATA = pytest.param("seaweedfs", marks=pytest.mark.slow)
"""A server that people keep data in, run beside the tests."""


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[str, FaultyProxy]]]:
    """Start the server of a name when it is first asked for: moto in this process, or SeaweedFS beside it."""
    with ExitStack() as stack:

        @cache
        def start(kind: str) -> tuple[str, FaultyProxy]:
            url = _moto(stack) if kind == "moto" else _seaweedfs(stack, tmp_path_factory)
            host, port = url.removeprefix("http://").split(":")
            proxy = FaultyProxy(host, int(port), one_at_a_time=kind == "moto")
            stack.callback(proxy.stop)
            return url, proxy

        yield start


def _moto(stack: ExitStack) -> str:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    stack.callback(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def _seaweedfs(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    if lacks := seaweedfs_server.missing():
        pytest.skip(f"SeaweedFS is not installed: {lacks}")
    return stack.enter_context(seaweedfs_server.seaweedfs(tmp_path_factory.mktemp("seaweedfs")))


@pytest.fixture
def s3_world(
    s3_servers: Callable[[str], tuple[str, FaultyProxy]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], World]]:
    """Make a bucket of this test alone on the server of a name."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def make(kind: str) -> World:
            url, proxy = s3_servers(kind)
            stack.callback(proxy.behave)
            proxy.behave()
            return World(url, proxy, kind)

        yield make


@pytest.fixture(params=["moto", KEEPS_DATA])
def s3(request: pytest.FixtureRequest, s3_world: Callable[[str], World]) -> World:
    """A bucket of this test alone."""
    return s3_world(request.param)
