import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A gateway that has just said where it listens."""
    command = [sys.executable, "-m", "infra.gateway", "--end-with-stdin", "--port", "0"]
    command += ["--store", str(tmp_path / "store"), "--traffic", str(tmp_path / "traffic")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        yield process
        process.kill()


def test_gateway_ends_in_order_when_its_standard_input_is_closed(gateway: "subprocess.Popen[str]") -> None:
    assert gateway.stdin is not None
    gateway.stdin.close()
    assert gateway.wait(timeout=30) == 0


def test_gateway_ends_in_order_when_told_to_before_it_serves(gateway: "subprocess.Popen[str]") -> None:
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(timeout=30) == 0
