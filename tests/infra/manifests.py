"""The files of infra/ as values, for the tests that compare them."""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tasks.runtime.settings import Settings

INFRA = Path(__file__).parents[2] / "infra"
ROOT = INFRA.parent
KUBERNETES = INFRA / "k8s"
IMAGES = INFRA / "images"
CUSTOM = {"ExternalSecret", "PrometheusRule", "RayCluster", "SecretStore", "ServiceMonitor"}
"""Kinds that operators define: Kubernetes' own schemas do not know them."""

SETTINGS = {f"STILLHOUSE_{name.upper()}" for name in Settings.model_fields} | {
    "STILLHOUSE_REPLICA",
    "STILLHOUSE_GATEWAY_TOKENS",
    "STILLHOUSE_SAMPLE_INPUTS",
}
"""Variables that our programs read; the last three are the gateway's own."""

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def check_schema(document: Document, version: str = "1.33.0") -> None:
    """Hold a manifest against Kubernetes' own schema of its kind, unknown fields included.

    kubernetes-validate carries the schemas; its own function reads five megabytes of them for each manifest.
    """
    group, _, level = document["apiVersion"].rpartition("/")
    suffix = f"{group.partition('.')[0]}-{level}" if group else level
    schema = _schema(version, f"{document['kind'].lower()}-{suffix}")
    Draft202012Validator(schema, registry=_definitions(version)).validate(document)


@cache
def _schema(version: str, name: str) -> Document:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"
    return json.loads((folder / f"{name}.json").read_text())


@cache
def _definitions(version: str) -> Registry[Any]:
    definitions = _schema(version, "_definitions")
    return (Resource.from_contents(definitions) @ Registry()).crawl()


def is_kustomization(document: Document) -> bool:
    return document["kind"] in ("Kustomization", "Component")


def manifests(folder: str) -> dict[tuple[str, str], Document]:
    """Everything in a folder of infra/k8s by kind and name, patches included where it is an overlay."""
    found: dict[tuple[str, str], Document] = {}
    for path in sorted((KUBERNETES / folder).rglob("*.yaml")):
        for document in documents(path):
            if is_kustomization(document):
                continue
            key = document["kind"], document["metadata"]["name"]
            assert key not in found, f"{path}: there are two of {key}"
            found[key] = document
    return found


def compose() -> Document:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def pool(name: str) -> Document:
    return json.loads((INFRA / "prefect" / f"pool-{name}.json").read_text())


def filled(value: Any, values: Document) -> Any:
    """A job template with its variables put in as Prefect does: a whole-string placeholder takes its value's type."""
    if isinstance(value, dict):
        result = {name: filled(one, values) for name, one in value.items()}
        return {name: one for name, one in result.items() if one is not None}
    if isinstance(value, list):
        return [filled(one, values) for one in value]
    if isinstance(value, str) and (whole := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
        return values.get(whole[1])
    if isinstance(value, str):
        return re.sub(r"\{\{ (\w+) \}\}", lambda match: str(values.get(match[1], "")), value)
    return value


def job(name: str) -> Document:
    """The job that a flow run becomes by the template of a pool, with the defaults of its variables."""
    document = pool(name)
    values = {key: one["default"] for key, one in document["variables"]["properties"].items() if "default" in one}
    values |= {"name": "digits", "command": ["prefect", "flow-run", "execute"], "labels": {"prefect.io/flow-name": "x"}}
    values["env"] = [{"name": "PREFECT__FLOW_RUN_ID", "value": "x"}]
    manifest = filled(document["job_configuration"]["job_manifest"], values)
    # Prefect asks for them in this place, and Kubernetes' API drops them there with a warning
    for field in ("parallelism", "completions"):
        assert manifest["spec"]["template"]["spec"].pop(field) == 1
    return manifest


def pod_template(document: Document) -> Document | None:
    """The template of the pods that a workload makes."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind in ("Deployment", "Job"):
        return spec["template"]
    return spec["jobTemplate"]["spec"]["template"] if kind == "CronJob" else None


def pod_templates(found: dict[tuple[str, str], Document]) -> Iterator[tuple[str, Document]]:
    """Every pod template with a name for messages, those of the Ray cluster and of flow runs among them."""
    for (kind, name), document in found.items():
        template = pod_template(document)
        if template is not None:
            yield f"{kind}/{name}", template
        if kind == "RayCluster":
            groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
            yield from ((f"{kind}/{group.get('groupName', 'head')}", group["template"]) for group in groups)
    for name in ("cpu", "gpu"):
        yield f"flow run/{name}", job(name)["spec"]["template"]


def containers(template: Document) -> list[Document]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def cluster() -> dict[tuple[str, str], Document]:
    """Base and components together."""
    found = manifests("base")
    for component in sorted((KUBERNETES / "components").iterdir()):
        found |= manifests(f"components/{component.name}")
    return found
