"""What a gateway tells of itself and of its models: health, metadata, statistics, metrics, and its own document."""

import functools
import importlib.metadata

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope

from infra.gateway.admission import Admission
from infra.gateway.backend import Backend
from infra.gateway.components import Components
from infra.gateway.exposition import Exposition
from infra.gateway.http import JSON, Reply, json_reply
from infra.gateway.routing import ServedRoute, parse_version


class Descriptions:
    """The endpoints that only tell."""

    def __init__(self, components: Components, admission: Admission, exposition: Exposition) -> None:
        self._table = components.table
        self._exposition = exposition
        self._admission = admission

    async def server_metadata(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2`."""
        return json_reply(
            {
                "name": "stillhouse-gateway",
                "version": _package_version(),
                "extensions": ["binary_tensor_data", "statistics", "feedback"],
            }
        )

    async def live(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/health/live`."""
        return json_reply({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/health/ready`, and MLflow's `GET /ping`: every routed model can answer."""
        table = self._table
        ready = table.scanned and not table.waiting and not self._admission.draining
        return _readiness({"ready": ready, "models": table.names()}, ready=ready)

    async def model_metadata(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/models/{model}`, and the same of one version."""
        served = self._table.require(scope["path_params"]["model"])
        _backend_of(served, scope)
        return json_reply(
            {
                "name": served.route.model_name,
                "versions": [str(version) for version in served.versions()],
                "platform": "onnx_onnxv1",
                "inputs": [served.champion.input.describe()],
                "outputs": [spec.describe() for spec in served.champion.outputs],
            }
        )

    async def model_ready(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/models/{model}/ready`: the champion, or the version that is named, takes requests."""
        served = self._table.require(scope["path_params"]["model"])
        ready = _backend_of(served, scope) is not None and not self._admission.draining
        return _readiness({"name": served.route.model_name, "ready": ready}, ready=ready)

    async def model_statistics(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /v2/models/{model}/stats`: what each loaded version has run in this process."""
        served = self._table.require(scope["path_params"]["model"])
        _backend_of(served, scope)
        wanted = scope["path_params"].get("version")
        versions = served.versions() if wanted is None else [parse_version(wanted)]
        loaded = ((version, served.of_version(version)[1]) for version in versions)
        return json_reply(
            {
                "model_stats": [
                    {"name": served.route.model_name, "version": str(version)} | backend.statistics.describe()
                    for version, backend in loaded
                    if backend is not None
                ]
            }
        )

    async def describe(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /openapi.json`."""
        from infra.gateway.openapi.document import openapi_json  # few gateways are ever asked

        return 200, [JSON], openapi_json(_package_version())

    async def expose_metrics(self, scope: Scope, receive: Receive) -> Reply:
        """Answer `GET /metrics`: of this process, or of all workers of its port."""
        return 200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], await self._exposition.page()


def _backend_of(served: ServedRoute, scope: Scope) -> Backend | None:
    """Return the model that the path names: that version's, else the champion's."""
    version = scope["path_params"].get("version")
    return served.champion if version is None else served.of_version(parse_version(version))[1]


def _readiness(document: object, *, ready: bool) -> Reply:
    status, headers, body = json_reply(document, 200 if ready else 503)
    return status, headers if ready else [*headers, (b"retry-after", b"1")], body


@functools.cache
def _package_version() -> str:
    try:
        return importlib.metadata.version("stillhouse")
    except importlib.metadata.PackageNotFoundError:  # run from a plain copy of the source
        return "0"
