"""The manifests are valid by Kubernetes' own schemas, allow nothing that the strictest profile refuses, and agree."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.gateway.__main__ import _parser
from infra.gateway.access import Access
from infra.gateway.admission import Admission
from infra.gateway.app import create_app
from infra.gateway.config import GatewayConfig
from infra.webhooks.app import ReceiverLimits
from infra.webhooks.app import create_app as create_receiver
from tasks.contracts.value import sha256_hex
from tests.infra.manifests import (
    CUSTOM,
    INFRA,
    KUBERNETES,
    ROOT,
    SETTINGS,
    check_schema,
    cluster,
    compose,
    containers,
    documents,
    is_kustomization,
    job,
    manifests,
    pod_template,
    pod_templates,
)

CLUSTER = cluster()
AWS = {
    (one["kind"], one["metadata"]["name"]): one
    for path in sorted((KUBERNETES / "overlays" / "aws").glob("*.yaml"))
    for one in documents(path)
    if not is_kustomization(one)
}
TEMPLATES = dict(pod_templates(CLUSTER))
NOT_OURS = {"KUBERNETES", "POD", "PATH", "HOME"}


def identifier(key: tuple[str, str]) -> str:
    return "/".join(key)


@pytest.mark.parametrize("key", [key for key in CLUSTER if key[0] not in CUSTOM], ids=identifier)
def test_a_manifest_is_valid_by_the_schema_of_its_kind(key):
    check_schema(CLUSTER[key])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_pod_is_valid_by_the_schema_of_pods(name):
    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": TEMPLATES[name]}
    check_schema(template)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_flow_run_is_a_valid_job(name):
    check_schema(job(name))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_pod_passes_the_restricted_profile_and_writes_nowhere_but_in_its_volumes(name):
    spec = TEMPLATES[name]["spec"]
    security = spec["securityContext"]

    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {
        "emptyDir",
        "secret",
        "configMap",
    }
    for container in containers(TEMPLATES[name]):
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_container_says_what_it_needs_and_bounds_its_memory(name):
    for container in containers(TEMPLATES[name]):
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert "memory" in resources["limits"]
        assert "cpu" not in resources["limits"]  # throttling would spoil every latency
        gpus = resources["requests"].get("nvidia.com/gpu")
        assert gpus == resources["limits"].get("nvidia.com/gpu")


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_pod_refers_to_exists(name):
    spec = TEMPLATES[name]["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    text = json.dumps(spec)

    assert (
        "ServiceAccount",
        spec.get("serviceAccountName", "default"),
    ) in CLUSTER or name == "Job/stillhouse-databases"
    for container in containers(TEMPLATES[name]):
        mounts = container.get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} <= volumes
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
    for kind, secret in re.findall(r'"(secretRef|secretKeyRef)": \{"name": "([\w-]+)"', text):
        assert ("ExternalSecret", secret) in AWS, f"{kind} {secret}"
    for secret in re.findall(r'"secretName": "([\w-]+)"', text):
        assert ("ExternalSecret", secret) in AWS or secret == "stillhouse-gateway-tls"
    for kind, config in re.findall(r'"(configMapRef|configMap)": \{"name": "([\w-]+)"', text):
        assert ("ConfigMap", config) in CLUSTER, f"{kind} {config}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_what_talks_to_kubernetes_has_a_token_of_it(name):
    spec = TEMPLATES[name]["spec"]
    talks = name.startswith("Deployment/stillhouse-worker-") or name == "RayCluster/head"
    assert spec.get("automountServiceAccountToken", True) is talks


def images(value) -> set[str]:
    return set(re.findall(r'"image": "([^"]+)"', json.dumps(value)))


def test_images_are_those_of_the_compose_file_at_the_version_of_the_package():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    ours = {image for image in images([*TEMPLATES.values()]) if image.startswith("stillhouse/")}
    composed = {service["image"].partition(":")[0] for service in compose()["services"].values()}

    assert {image.partition(":")[0] for image in ours} == {one for one in composed if one.startswith("stillhouse/")}
    assert {image.partition(":")[2] for image in ours} == {version}
    others = images([*TEMPLATES.values()]) - ours
    assert others == {compose()["services"]["postgres"]["image"]}


def test_jobs_of_flow_runs_have_the_images_that_the_config_map_names():
    named = CLUSTER["ConfigMap", "stillhouse-images"]["data"]
    for name in ("cpu", "gpu"):
        assert images(job(name)) == {named[f"{name.upper()}_IMAGE"]}


def test_the_overlays_images_are_the_same_for_flow_runs_as_for_the_rest():
    (kustomization,) = documents(KUBERNETES / "overlays" / "aws" / "kustomization.yaml")
    named = AWS["ConfigMap", "stillhouse-images"]["data"]
    full = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in kustomization["images"]}

    assert set(full) == {
        image.partition(":")[0] for image in images([*TEMPLATES.values()]) if image.startswith("stillhouse/")
    }
    assert named == {"CPU_IMAGE": full["stillhouse/worker-cpu"], "GPU_IMAGE": full["stillhouse/worker-cuda"]}


@pytest.mark.parametrize("overlaid", [False, True], ids=["base", "aws"])
def test_settings_are_those_that_our_programs_read(overlaid):
    found = AWS if overlaid else CLUSTER
    named = set(re.findall(r"STILLHOUSE_[A-Z0-9_]*[A-Z0-9]", json.dumps([*found.values()])))
    assert named <= SETTINGS


def gateway_routes(tmp_path: Path) -> set[str]:
    config = GatewayConfig(store=tmp_path, traffic=tmp_path)
    admission = Admission(**config.model_dump(include={"num_threads", "max_queue", "max_uploads", "deadline_s"}))
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"admin: [{sha256_hex(b'token')}]\n")
    return {route.path for route in create_app(config, admission, Access(tokens)).routes}


def test_probes_ask_routes_that_there_are_on_ports_that_there_are(tmp_path):
    from pydantic import SecretStr

    receiver = create_receiver(SecretStr("x" * 32), lambda name: None, ReceiverLimits())
    routes = {
        "gateway": gateway_routes(tmp_path),
        "webhooks": {route.path for route in receiver.routes},
        "prefect": {"/api/health", "/api/ready"},
        "mlflow": {"/health"},
        "worker": {"/health"},
    }
    asked = 0
    for template in TEMPLATES.values():
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if http := container.get(probe, {}).get("httpGet"):
                    asked += 1
                    assert http["path"] in routes[container["name"]]
                    assert http["port"] in ports
    assert asked >= 14


def test_every_server_is_probed():
    for (kind, name), document in CLUSTER.items():
        if kind == "Deployment":
            for container in pod_template(document)["spec"]["containers"]:
                assert {"startupProbe", "livenessProbe"} <= container.keys(), name
                assert "readinessProbe" in container or container["name"] == "worker"


def gateway_settings(tmp_path: Path) -> GatewayConfig:
    (container,) = pod_template(CLUSTER["Deployment", "stillhouse-gateway"])["spec"]["containers"]
    file = tmp_path / "config.yaml"
    file.write_text(CLUSTER["ConfigMap", "stillhouse-gateway"]["data"]["config.yaml"])
    given = vars(_parser().parse_args(container["args"]))
    for name in ("end_with_stdin", "log_format", "workers", "config"):
        given.pop(name)
    return GatewayConfig.from_environment(file=file, **given)


def test_the_gateway_starts_with_what_it_is_told_and_has_time_to_stop(tmp_path):
    config = gateway_settings(tmp_path)
    template = pod_template(CLUSTER["Deployment", "stillhouse-gateway"])
    (container,) = template["spec"]["containers"]
    readiness = container["readinessProbe"]

    assert config.tokens is not None
    assert config.tls_cert is not None
    assert [config.port] == [port["containerPort"] for port in container["ports"]]
    # balancers hear of it before the gateway stops answering, and the log is written before it is killed
    assert config.drain_grace_s > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert template["spec"]["terminationGracePeriodSeconds"] > config.drain_grace_s + config.drain_s + 15
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"


def test_the_gateway_and_its_mirror_share_their_folders_and_the_gateway_has_no_credentials():
    spec = pod_template(CLUSTER["Deployment", "stillhouse-gateway"])["spec"]
    (mirror,), (gateway,) = spec["initContainers"], spec["containers"]
    folders = [
        {
            one["name"]: one["value"]
            for one in container["env"]
            if one["name"] in ("STILLHOUSE_STORE", "STILLHOUSE_TRAFFIC")
        }
        for container in (mirror, gateway)
    ]

    assert folders[0] == folders[1]
    assert mirror["restartPolicy"] == "Always"  # a sidecar: it starts before the gateway and ends after it
    assert "envFrom" not in gateway
    assert "secretRef" not in json.dumps(mirror)


def selected(labels: dict[str, str], selector: dict) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))


PODS = {name: template["metadata"]["labels"] for name, template in TEMPLATES.items()}
POLICIES = {name: one["spec"] for (kind, name), one in CLUSTER.items() if kind == "NetworkPolicy"}


def may(source: str, target: str, port: int) -> tuple[bool, bool]:
    """Whether policies let a pod open a connection, and another pod take it."""
    out = any(
        selected(PODS[source], policy["podSelector"])
        and any(
            (
                "to" not in rule
                or any(
                    selected(PODS[target], one.get("podSelector", {})) and "namespaceSelector" not in one
                    for one in rule["to"]
                )
            )
            and ("ports" not in rule or port in [one["port"] for one in rule["ports"]])
            for rule in policy.get("egress", [])
        )
        for policy in POLICIES.values()
    )
    into = any(
        selected(PODS[target], policy["podSelector"])
        and any(
            any(
                selected(PODS[source], one.get("podSelector", {})) and "namespaceSelector" not in one
                for one in rule["from"]
            )
            and ("ports" not in rule or port in [one["port"] for one in rule["ports"]])
            for rule in policy.get("ingress", [])
        )
        for policy in POLICIES.values()
    )
    return out, into


FLOWS = ["flow run/cpu", "flow run/gpu", "CronJob/stillhouse-reconcile", "Deployment/stillhouse-webhooks"]
HOUSEKEEPING = "CronJob/stillhouse-housekeeping"
PREFECT, MLFLOW = "Deployment/stillhouse-prefect", "Deployment/stillhouse-mlflow"
GATEWAY, WEBHOOKS = "Deployment/stillhouse-gateway", "Deployment/stillhouse-webhooks"


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *((flow, PREFECT, 4200) for flow in FLOWS),
        *((flow, MLFLOW, 5000) for flow in FLOWS),
        ("Job/stillhouse-deployments", PREFECT, 4200),
        ("Deployment/stillhouse-worker-cpu", PREFECT, 4200),
        ("Deployment/stillhouse-worker-gpu", PREFECT, 4200),
        ("RayCluster/gpu", PREFECT, 4200),
        ("RayCluster/cpu", MLFLOW, 5000),
        ("RayCluster/cpu", "RayCluster/head", 6379),
        ("flow run/cpu", "RayCluster/head", 10001),
        ("flow run/cpu", GATEWAY, 8080),
        (MLFLOW, WEBHOOKS, 8090),
        (HOUSEKEEPING, MLFLOW, 5000),
    ],
)
def test_who_needs_another_may_reach_it(source, target, port):
    assert may(source, target, port) == (True, True)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (GATEWAY, PREFECT, 4200),
        (GATEWAY, MLFLOW, 5000),
        (GATEWAY, "RayCluster/head", 10001),
        (MLFLOW, PREFECT, 4200),
        (PREFECT, MLFLOW, 5000),
        (WEBHOOKS, "RayCluster/head", 10001),
        ("Deployment/stillhouse-worker-cpu", MLFLOW, 5000),
        ("flow run/cpu", WEBHOOKS, 8090),
        ("flow run/cpu", "RayCluster/head", 8265),
    ],
)
def test_who_does_not_need_another_is_not_let_in(source, target, port):
    assert may(source, target, port)[1] is False


def test_everything_is_refused_that_no_policy_allows():
    assert POLICIES["stillhouse-default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, labels in PODS.items():
        assert any(selected(labels, one["podSelector"]) and one["podSelector"] for one in POLICIES.values()), name


def test_the_gateway_is_not_given_the_databases_port():
    egress = list(POLICIES["stillhouse-gateway"]["egress"])
    assert [one["port"] for rule in egress for one in rule["ports"]] == [443]


def test_services_lead_to_ports_of_the_pods_that_they_select():
    for (kind, name), service in CLUSTER.items():
        if kind != "Service" or service["spec"].get("type") == "ExternalName":
            continue
        (target,) = [
            pod for pod, labels in PODS.items() if selected(labels, {"matchLabels": service["spec"]["selector"]})
        ]
        ports = {
            port["name"]: port["containerPort"]
            for one in containers(TEMPLATES[target])
            for port in one.get("ports", [])
        }
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"], name


def test_addresses_in_settings_name_services_and_their_ports():
    text = json.dumps([*CLUSTER.values()])
    ports = {
        name: {port["port"] for port in service["spec"].get("ports", [{"port": 5432}])}
        for (kind, name), service in CLUSTER.items()
        if kind == "Service"
    }
    for host, port in re.findall(r"(?:://|@)(stillhouse-[\w-]+):(\d+)", text):
        assert int(port) in ports[host]


def test_autoscaler_and_budgets_are_about_pods_that_there_are():
    scaler = CLUSTER["HorizontalPodAutoscaler", "stillhouse-gateway"]["spec"]
    template = pod_template(CLUSTER[scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]])
    (metric,) = scaler["metrics"]

    assert metric["containerResource"]["container"] in {one["name"] for one in template["spec"]["containers"]}
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in CLUSTER["Deployment", "stillhouse-gateway"]["spec"]
    for (kind, name), budget in CLUSTER.items():
        if kind == "PodDisruptionBudget":
            assert any(selected(labels, budget["spec"]["selector"]) for labels in PODS.values()), name


def test_a_deployment_selects_its_own_pods_and_no_others():
    for (kind, name), document in CLUSTER.items():
        if kind == "Deployment":
            selector = document["spec"]["selector"]
            assert [pod for pod, labels in PODS.items() if selected(labels, selector)] == [f"Deployment/{name}"]


def test_prometheus_asks_the_gateways_service_under_the_job_that_the_rules_name():
    monitor = CLUSTER["ServiceMonitor", "stillhouse-gateway"]["spec"]
    service = CLUSTER["Service", "stillhouse-gateway"]
    (endpoint,) = monitor["endpoints"]
    (job_name,) = [
        one["job_name"] for one in yaml.safe_load((INFRA / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    ]

    assert selected(service["metadata"]["labels"], monitor["selector"])
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["metadata"]["name"] == job_name
    assert ("ExternalSecret", endpoint["authorization"]["credentials"]["name"]) in AWS


def test_the_operators_rules_are_the_rules_of_the_file():
    rules = yaml.safe_load((INFRA / "monitoring" / "gateway-rules.yaml").read_text())
    assert CLUSTER["PrometheusRule", "stillhouse-gateway"]["spec"] == rules


def test_the_ray_cluster_runs_the_ray_that_is_pinned():
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert CLUSTER["RayCluster", "stillhouse"]["spec"]["rayVersion"] == pinned


@pytest.mark.parametrize(
    "folder", ["base", *(f"components/{one.name}" for one in sorted((KUBERNETES / "components").iterdir()))]
)
def test_a_kustomization_lists_every_file_beside_it(folder):
    (kustomization,) = documents(KUBERNETES / folder / "kustomization.yaml")
    beside = {path.name for path in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
    listed = set(kustomization["resources"])

    assert {one for one in listed if "/" not in one} == beside
    assert all((KUBERNETES / folder / one).is_dir() for one in listed if "/" in one)


def test_the_overlay_changes_only_what_is_there():
    folder = KUBERNETES / "overlays" / "aws"
    (kustomization,) = documents(folder / "kustomization.yaml")
    for patch in kustomization["patches"]:
        for document in documents(folder / patch["path"]):
            base = CLUSTER[document["kind"], document["metadata"]["name"]]
            for name in document.get("data", {}):
                assert name in base["data"], name
            changed = (pod_template(document) or {}).get("spec", {}).get("containers", [])
            there = {one["name"]: one for one in containers(pod_template(base))} if changed else {}
            for container in changed:
                names = {env["name"] for env in there[container["name"]]["env"]}
                assert {env["name"] for env in container["env"]} <= names


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH; it renders kustomizations offline")
@pytest.mark.parametrize("folder", ["base", "overlays/aws"])
def test_kustomize_renders(folder):
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rendered = [one for one in yaml.safe_load_all(done.stdout) if one]
    text = json.dumps(rendered)

    for document in rendered:
        if document["kind"] not in CUSTOM:
            check_schema(document)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "stillhouse"
    if folder == "overlays/aws":
        assert not re.search(r'"image": "stillhouse/', text)
        assert "database.invalid" not in text
        assert "s3://stillhouse/" not in text
        assert "us-east-1" not in text


def test_base_stands_without_components():
    base = manifests("base")
    assert {kind for kind, _ in base} & CUSTOM == set()
