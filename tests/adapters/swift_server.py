"""OpenStack Swift with its S3 interface, one copy of everything below one folder.

`python -m tests.adapters.swift_server` runs one until it is interrupted, and says how to reach it. Debian's
`swift-proxy swift-account swift-container swift-object memcached` are what it needs.
"""

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.adapters.server_processes import free_ports, run_until_interrupted, running, wait_for_answer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing"}
_KINDS = ("object", "container", "account")
_PROGRAMS = ("swift-ring-builder", "memcached", *(f"swift-{kind}-server" for kind in (*_KINDS, "proxy")))
_PROXY_PIPELINE = (
    "catch_errors gatekeeper cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink "
    "proxy-server"
)


def missing() -> str:
    """Say which programs are not installed, empty if all are."""
    return ", ".join(name for name in _PROGRAMS if shutil.which(name) is None)


@contextmanager
def swift(folder: Path) -> Iterator[str]:
    """Run one, and give its address."""
    ports = dict(zip((*_KINDS, "proxy", "memcached"), free_ports(5), strict=True))
    for kind in _KINDS:
        (folder / "devices" / "sdb1").mkdir(parents=True, exist_ok=True)
        _make_ring(folder, kind, ports[kind])
        (folder / f"{kind}-server.conf").write_text(_storage_config(folder, kind, ports[kind]))
    (folder / "proxy-server.conf").write_text(_proxy_config(folder, ports["proxy"], ports["memcached"]))
    processes = {}
    with ExitStack() as stack:
        memcached = ["memcached", "-l", "127.0.0.1", "-p", str(ports["memcached"]), "-U", "0", "-u", getpass.getuser()]
        stack.enter_context(running(memcached, folder / "memcached.log"))
        for kind in (*_KINDS, "proxy"):
            command = [f"swift-{kind}-server", str(folder / f"{kind}-server.conf")]
            processes[kind] = stack.enter_context(running(command, folder / f"{kind}.log"))
        for kind, process in processes.items():
            wait_for_answer(f"http://127.0.0.1:{ports[kind]}", process)
        yield f"http://127.0.0.1:{ports['proxy']}"


def _make_ring(folder: Path, kind: str, port: int) -> None:
    builder = f"{kind}.builder"
    for step in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/sdb1", "1"], ["rebalance"]):
        subprocess.run(["swift-ring-builder", builder, *step], cwd=folder, check=True, capture_output=True)


def _server_config(folder: Path, port: int) -> str:
    return (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 1\nuser = {getpass.getuser()}\n"
        f"swift_dir = {folder}\n"
    )


def _storage_config(folder: Path, kind: str, port: int) -> str:
    return (
        f"{_server_config(folder, port)}devices = {folder / 'devices'}\nmount_check = false\n"
        "fallocate_reserve = 0\n"
        f"[pipeline:main]\npipeline = {kind}-server\n"
        f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
    )


def _proxy_config(folder: Path, port: int, memcached_port: int) -> str:
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{name}\n"
        for name in ("catch_errors", "gatekeeper", "listing_formats", "bulk", "copy", "slo", "dlo", "symlink")
    )
    return (
        f"{_server_config(folder, port)}[pipeline:main]\npipeline = {_PROXY_PIPELINE}\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{memcached_port}\n"
        "[filter:s3api]\nuse = egg:swift#s3api\nlocation = us-east-1\n"
        "[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = testing .admin\n"
        "[filter:versioned_writes]\nuse = egg:swift#versioned_writes\nallow_object_versioning = true\n"
        f"{filters}"
    )


if __name__ == "__main__":
    run_until_interrupted("Swift", swift, missing, CREDENTIALS)
