"""The Kubernetes work pools: every variable has an effect, and defaults agree with nodes and deployments."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.prefect.deploy import template
from tests.infra.manifests import ROOT, cluster, filled, job, pool

POOLS = ("cpu", "gpu")
TYPES = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}


def prefects_own() -> dict[str, Any]:
    """What `work-pool get-default-base-job-template --type kubernetes` shows, of the Prefect that is installed."""
    (package,) = importlib.util.find_spec("prefect").submodule_search_locations
    collected = Path(package) / "server/api/collections_data/views/aggregate-worker-metadata.json"
    return json.loads(collected.read_text())["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]


@pytest.mark.parametrize("name", POOLS)
def test_every_variable_is_used_and_every_placeholder_is_a_variable(name):
    document = pool(name)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(document["job_configuration"])))

    assert used == set(document["variables"]["properties"])


@pytest.mark.parametrize("name", POOLS)
def test_a_default_has_the_type_that_its_variable_declares(name):
    for variable, schema in pool(name)["variables"]["properties"].items():
        assert schema["title"]
        assert schema["description"]
        if "default" in schema:
            assert type(schema["default"]) is TYPES[schema["type"]], variable


def test_the_gpu_pool_asks_for_gpus_on_nodes_that_have_them_and_is_else_the_cpu_pool():
    cpu, gpu = job("cpu"), job("gpu")
    spec = gpu["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert (
        container["resources"]["requests"]["nvidia.com/gpu"] == container["resources"]["limits"]["nvidia.com/gpu"] == 1
    )
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert "nvidia.com/gpu" not in json.dumps(cpu)
    for differs in ("nodeSelector", "tolerations", "containers", "volumes"):
        spec.pop(differs)
        cpu["spec"]["template"]["spec"].pop(differs)
    assert gpu == cpu


@pytest.mark.parametrize("name", POOLS)
def test_a_flow_run_is_tried_once_since_trying_again_is_prefects_to_say(name):
    assert job(name)["spec"]["backoffLimit"] == 0
    assert job(name)["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_deployments_go_to_pools_that_there_are_and_set_variables_that_these_have():
    for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        assert one["work_pool"]["name"] in POOLS
        variables = pool(one["work_pool"]["name"])["variables"]["properties"]
        for name, value in one["work_pool"]["job_variables"].items():
            assert type(value) is TYPES[variables[name]["type"]], name


@pytest.mark.parametrize("name", POOLS)
def test_the_template_has_all_that_prefects_own_has_but_what_is_decided_otherwise(name):
    theirs, ours = prefects_own(), pool(name)
    assert set(theirs["job_configuration"]) - set(ours["job_configuration"]) == {"cluster_config"}, "workers are in it"
    # `memory` is both; processors have no limit, since throttling would spoil latencies
    assert set(theirs["variables"]["properties"]) - set(ours["variables"]["properties"]) == {
        "cluster_config", "cpu_limit", "memory_limit", "memory_request",
    }  # fmt: skip
    for variable in set(theirs["variables"]["properties"]) & set(ours["variables"]["properties"]):
        kinds = [one["variables"]["properties"][variable].get("type") for one in (theirs, ours)]
        assert kinds[0] == kinds[1], variable
    their_spec, our_spec = (one["job_configuration"]["job_manifest"]["spec"] for one in (theirs, ours))
    assert set(their_spec) <= set(our_spec)
    assert set(their_spec["template"]["spec"]) <= set(our_spec["template"]["spec"])


@pytest.mark.parametrize("name", POOLS)
def test_deploy_puts_the_image_that_it_is_given_into_the_template(name):
    assert template(name, None) == pool(name)
    given = template(name, "registry.example/worker@sha256:0")
    assert given["variables"]["properties"]["image"]["default"] == "registry.example/worker@sha256:0"


@pytest.mark.parametrize("name", POOLS)
def test_a_worker_deployment_serves_the_pool(name):
    deployment = cluster()["Deployment", f"stillhouse-worker-{name}"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]

    assert arguments[:3] == ["prefect", "worker", "start"]
    assert arguments[arguments.index("--pool") + 1] == name
    assert arguments[arguments.index("--type") + 1] == "kubernetes"


@pytest.mark.skipif(
    importlib.util.find_spec("prefect_kubernetes") is None,
    reason="prefect-kubernetes is not installed; its image has it",
)
@pytest.mark.parametrize("name", POOLS)
def test_prefects_kubernetes_worker_takes_the_template(name):
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    document = pool(name)
    defaults = {key: one.get("default") for key, one in document["variables"]["properties"].items()}
    values = defaults | {"name": "digits", "labels": {}, "env": {}, "command": "prefect flow-run execute"}
    configuration = KubernetesWorkerJobConfiguration.model_validate(filled(document["job_configuration"], values))

    (container,) = configuration.job_manifest["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"][0] == {"configMapRef": {"name": "stillhouse-settings"}}
