"""A client of one gateway: Open Inference Protocol v2 over HTTP, plus feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import orjson
from pydantic import SecretStr

from tasks.contracts.addresses import apart
from tasks.contracts.errors import DataError, ModelError, ServiceUnavailableError, UserError


@dataclass(frozen=True)
class InferenceReply:
    """One answer: the model's first output, and who gave it."""

    outputs: np.ndarray
    """[N, K] as the model gives them: logits, or values for regression."""
    request_id: str
    arm: str
    """The arm that the request was assigned to."""
    served_by: str
    """The arm that answered; the champion after a fallback."""
    model_digest: str
    model_version: int
    route_version: int
    run_id: str = ""
    """Flow run that registered the model; empty where the route does not say."""


class GatewayClient:
    """Calls one gateway; close it, or use it in a `with` block."""

    def __init__(
        self,
        url: str,
        *,
        token: SecretStr | None = None,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url, credentials = apart(url.rstrip("/"))
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._http = httpx.Client(
            base_url=self._url,
            headers=headers,
            auth=credentials,
            timeout=timeout_s,
            transport=transport,
            trust_env=False,
        )
        self._input_names: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self, model_name: str | None = None) -> bool:
        """Tell whether the gateway, or the one model, can answer; False too when nothing listens there."""
        path = f"/v2/models/{model_name}/ready" if model_name else "/v2/health/ready"
        try:
            return self._http.get(path).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def metadata(self, model_name: str) -> dict[str, Any]:
        """Return the model's metadata: its name, versions, inputs and outputs.

        Raises:
            ModelError: the gateway serves no model of that name.
            UserError: the gateway asks for a token.
            ServiceUnavailableError: the gateway does not answer.
        """
        return self._call("GET", f"/v2/models/{model_name}").json()  # type: ignore[no-any-return]

    def infer(
        self, model_name: str, rows: np.ndarray, *, request_id: str | None = None, key: str | None = None
    ) -> InferenceReply:
        """Send rows [N, *input_shape] and return the answer.

        Args:
            model_name: Which model.
            rows: float32 or int64.
            request_id: Names the request, for feedback; made up by the gateway if None.
            key: What the split goes by, such as a user; the request id if None.

        Raises:
            ModelError: the gateway serves no model of that name.
            UserError: the gateway asks for a token.
            DataError: the gateway refuses the request.
            ServiceUnavailableError: the gateway does not answer, or its model failed.
        """
        body = infer_body(self._input_name(model_name), rows, request_id)
        headers = {} if key is None else {"X-Stillhouse-Key": key}
        reply = self._call("POST", f"/v2/models/{model_name}/infer", body, headers)
        output = reply.json()["outputs"][0]
        head = reply.headers
        return InferenceReply(
            outputs=np.asarray(output["data"]).reshape(output["shape"]),
            request_id=head["x-stillhouse-request-id"],
            arm=head["x-stillhouse-arm"],
            served_by=head["x-stillhouse-served-by"],
            model_digest=head["x-stillhouse-model-digest"],
            model_version=int(head["x-stillhouse-model-version"]),
            route_version=int(head["x-stillhouse-route-version"]),
            run_id=head.get("x-stillhouse-run-id", ""),
        )

    def feedback(self, model_name: str, request_id: str, labels: Sequence[float | int | None]) -> None:
        """Send the labels of an earlier request, one for each row, None where it is not known.

        Raises:
            ModelError: the gateway serves no model of that name.
            UserError: the gateway asks for a token.
            DataError: the gateway refuses the labels.
            ServiceUnavailableError: the gateway does not answer.
        """
        body = orjson.dumps({"id": request_id, "labels": list(labels)}, option=orjson.OPT_SERIALIZE_NUMPY)
        self._call("POST", f"/v2/models/{model_name}/feedback", body)

    def _input_name(self, model_name: str) -> str:
        """Ask once for each model."""
        if model_name not in self._input_names:
            self._input_names[model_name] = str(self.metadata(model_name)["inputs"][0]["name"])
        return self._input_names[model_name]

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            reply = self._http.request(method, path, content=body, headers=headers)
        except httpx.TransportError as error:
            raise ServiceUnavailableError(
                f"no gateway answers at {self._url} ({error or type(error).__name__}); start one with "
                "`stillhouse serve`, or set STILLHOUSE_GATEWAY_URL to where it runs"
            ) from error
        if reply.is_success:
            return reply
        raise _refusal(reply, self._url)


def infer_body(input_name: str, rows: np.ndarray, request_id: str | None) -> bytes:
    """Return the protocol's request for rows [N, *input_shape], int64 or else sent as float32."""
    data = np.ascontiguousarray(rows, dtype=np.int64 if rows.dtype == np.int64 else np.float32)
    datatype = "INT64" if data.dtype == np.int64 else "FP32"
    tensor = {"name": input_name, "datatype": datatype, "shape": data.shape, "data": data.ravel()}
    document = {"inputs": [tensor]} if request_id is None else {"id": request_id, "inputs": [tensor]}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _refusal(reply: httpx.Response, url: str) -> UserError | ServiceUnavailableError:
    try:
        message = str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {reply.status_code}"
    if reply.status_code == httpx.codes.NOT_FOUND:
        return ModelError(f"the gateway at {url} does not serve {reply.url.path.split('/')[3]!r}: {message}")
    if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return UserError(
            f"the gateway at {url} asks for a token: {message}; set STILLHOUSE_GATEWAY_TOKEN to one with that role"
        )
    if reply.is_client_error and reply.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return DataError(f"the gateway at {url} refuses the request: {message}")
    return ServiceUnavailableError(
        f"the gateway at {url} answers HTTP {reply.status_code}: {message}; look at its log, or set "
        "STILLHOUSE_GATEWAY_URL to another gateway"
    )
