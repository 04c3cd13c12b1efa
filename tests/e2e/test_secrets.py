"""Real commands under recognisable secrets: none of them may come out anywhere."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.adapters.signing_keys import make_key_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MARK = "canary"
"""Every secret below holds it, and nothing else does; in the signing key it is a line of the key itself."""

AWAY = {
    "STILLHOUSE_LEDGER_URL": "postgresql+psycopg://ann:canary-ledger%40pw@127.0.0.1:9/db",
    "STILLHOUSE_TRACKING_URL": "http://ann:canary-mlflow%2Fpw@127.0.0.1:9",
    "STILLHOUSE_GATEWAY_URL": "http://ann:canary-proxy@127.0.0.1:9",
    "STILLHOUSE_DVC_REMOTE": "https://ann:canary-dvc@127.0.0.1:9/rows",
    "PREFECT_API_URL": "http://ann:canary-prefect@127.0.0.1:9/api",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""Services that do not answer, with passwords in their addresses."""

SECRETS = {
    "STILLHOUSE_GATEWAY_TOKEN": "canary-gateway-token",
    "STILLHOUSE_WEBHOOK_SECRET": "canary-webhook-secret",
    "PREFECT_API_AUTH_STRING": "admin:canary-prefect-auth",
    "PREFECT_API_KEY": "canary-prefect-key",
    "MLFLOW_TRACKING_USERNAME": "ann",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret",
    "AWS_SESSION_TOKEN": "canary-aws-session",
    "PGPASSWORD": "canary-libpq",
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
}

NETWORK = '''
import os, sys, torch

def network(input_shape: tuple[int, ...], num_outputs: int) -> torch.nn.Module:
    """Tell what a stage's process is given: its environment and its arguments."""
    if os.environ.get("STILLHOUSE_STAGE_SEEN"):
        with open(os.environ["STILLHOUSE_STAGE_SEEN"], "a") as seen:
            for name in sorted(os.environ):
                seen.write(f"{name}={os.environ[name]}\\n")
            seen.write(f"argv={open('/proc/self/cmdline').read()}\\n")
    size = 1
    for length in input_shape:
        size *= length
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, num_outputs))
'''

PLAN: dict[str, Any] = {
    "name": "secretive",
    "dataset": {"source": "digits", "split": {"train": 0.4, "calibration": 0.1, "validation": 0.1, "test": 0.4}},
    "baseline": {"train": {"model": {"factory": "own_network:network"}, "schedule": {"epochs": 2}}},
    "candidates": {
        "int8": [{"kind": "quantize_dynamic", "allow_slower": True}],
        "broken": [{"kind": "distill_response", "student": {"factory": "own_network:missing"}}],
    },
    "constraints": {"max_accuracy_drop": 0.5},
}


@pytest.fixture
def marks(tmp_path: Path) -> list[str]:
    """What must not come out: the mark, and the signing key's own line."""
    make_key_pair(tmp_path / "sign.pem", tmp_path / "sign.pub.pem")
    return [MARK, (tmp_path / "sign.pem").read_text().splitlines()[1][-24:]]


@pytest.fixture
def secretive(stillhouse: Any, marks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", (tmp_path / "sign.pem").read_text())
    return stillhouse


def leaks(text: str, marks: list[str]) -> list[str]:
    return [line for line in text.splitlines() if any(mark in line for mark in marks)]


def leaks_in(folder: Path, marks: list[str]) -> list[str]:
    """Look into every file, databases and logs included; logs of our own compressed parts are not secrets' places."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path.relative_to(folder)}: {mark}" for mark in marks if mark.encode() in data]
    return found


def output_of(stillhouse: Any, *arguments: str) -> str:
    with stillhouse.start(*arguments) as process:
        try:
            output, _ = process.communicate(timeout=800)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return str(output)


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("doctor", "--json"),
        ("ledger", "migrate"),
        ("ledger", "copy", "--from", "postgresql+psycopg://ann:canary-source@127.0.0.1:9/db"),
        ("model", "ls"),
        ("model", "history", "digits"),
        ("data", "status", "--remote"),
        ("data", "push"),
        ("notify", "slack-webhook/oncall"),
        ("webhooks", "serve", "--port", "99999"),
        ("run", "plans/none.yaml"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_a_command_whose_services_are_away_shows_no_secret(
    secretive: Any, marks: list[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)

    output = output_of(secretive, *arguments)

    assert output.strip()
    assert leaks(output, marks) == []
    assert leaks_in(secretive.home.parent / "home", marks) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STILLHOUSE_EXECUTION", "canary-not-a-choice"),
        ("STILLHOUSE_TRAFFIC", "s3://canary"),
        ("STILLHOUSE_LEDGER_URL", "canary"),
        ("STILLHOUSE_LEDGER_URL", "postgresql://ann:canary:pw@127.0.0.1:canary/db"),
        ("STILLHOUSE_LEDGER_URL", "postgresql://ann:pw@canary@127.0.0.1:9/db"),
        ("STILLHOUSE_LEDGER_URL", "postgresql://127.0.0.1:9/db?user=ann&password=canary"),
        ("STILLHOUSE_SIGNING_KEY", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"),
        ("STILLHOUSE_WEBHOOK_SECRET", "canary"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_not_shown(
    secretive: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    command = {"STILLHOUSE_WEBHOOK_SECRET": ("webhooks", "serve"), "STILLHOUSE_SIGNING_KEY": ("doctor",)}

    output = output_of(secretive, *command.get(name, ("ledger", "migrate")))

    assert name in output
    assert "Traceback" not in output
    assert leaks(output, [MARK]) == []


def test_wrong_credentials_of_s3_are_not_shown(secretive: Any, marks: list[str], s3: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("STILLHOUSE_STORE_URL", "s3://models/store")
    monkeypatch.setenv("STILLHOUSE_S3_ENDPOINT", s3)

    output = output_of(secretive, "doctor")

    assert "s3://models/store" in re.sub(r"\s", "", output)
    assert leaks(output, marks) == []


def test_a_run_leaves_no_secret_anywhere_and_gives_its_stages_none(
    secretive: Any, marks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secretive.project / "own_network.py").write_text(NETWORK)
    plan = secretive.project / "secretive.yaml"
    plan.write_text(yaml.safe_dump(PLAN | {"candidates": {"int8": PLAN["candidates"]["int8"]}}))
    seen = tmp_path / "seen.txt"
    monkeypatch.setenv("STILLHOUSE_STAGE_SEEN", str(seen))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(secretive.project), os.environ.get("PYTHONPATH", "")]))
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):  # the run's own server asks for none
        monkeypatch.delenv(name)

    output = output_of(secretive, "run", str(plan), "--no-rollout")

    record = next(secretive.home.rglob("documents/runs/*/*.json"))
    assert json.loads(record.read_text())["record"]["chosen"] == "int8", output
    assert leaks(output, marks) == []
    assert leaks_in(secretive.home, marks) == []
    assert leaks_in(secretive.project, marks) == []
    environment = seen.read_text()
    assert "OMP_NUM_THREADS" in environment
    named = {line.partition("=")[0] for line in leaks(environment, marks)}
    # data, the store and a baseline in MLflow's registry may need theirs
    assert named <= {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"}


@pytest.fixture
def s3() -> Iterator[str]:
    """An S3 server that checks signatures, and knows another secret."""
    script = (
        "import sys; from moto.server import ThreadedMotoServer; import time\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); server.start()\n"
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.communicate()


def test_a_gateway_logs_no_token_and_no_key(secretive: Any, marks: list[str], tmp_path: Path) -> None:
    import hashlib

    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"admin": [hashlib.sha256(b"canary-admin-token").hexdigest()]}))
    process = secretive.start("serve", "--port", "0", "--tokens", str(tokens), "--access-log")
    try:
        url = process.stdout.readline().strip()
        for _ in range(20):
            if url.startswith("http"):
                break
            url = process.stdout.readline().strip()
        for token in ("canary-wrong-token", "canary-admin-token"):
            reply = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10)
            assert leaks(reply.text + str(reply.headers), marks) == []
        assert reply.status_code == httpx.codes.OK
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert "/metrics" in output
    assert leaks(output, marks) == []


def test_the_file_of_tokens_is_not_repeated_when_it_holds_tokens(
    stillhouse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"infer": ["canary-token"]}))

    output = output_of(replace(stillhouse), "serve", "--port", "0", "--tokens", str(tokens))

    assert "SHA-256" in output
    assert leaks(output, [MARK]) == []
