from collections.abc import Iterator

import pytest

from tests.adapters import seaweedfs_server
from tests.adapters.s3_server import CREDENTIALS, FaultyProxy, World


@pytest.fixture(scope="session", params=["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server: moto in this process, or SeaweedFS beside it, which keeps what it is given."""
    if request.param == "seaweedfs":
        if lacks := seaweedfs_server.missing():
            pytest.skip(f"SeaweedFS is not installed: {lacks}")
        with seaweedfs_server.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as url:
            yield url
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_proxy(s3_server: str) -> Iterator[FaultyProxy]:
    host, port = s3_server.removeprefix("http://").split(":")
    proxy = FaultyProxy(host, int(port))
    yield proxy
    proxy.stop()


@pytest.fixture
def s3(
    request: pytest.FixtureRequest, s3_server: str, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A bucket of this test alone."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    s3_proxy.seen.clear()
    yield World(s3_server, s3_proxy, request.node.callspec.params["s3_server"])
    s3_proxy.fault = lambda method, path: None
