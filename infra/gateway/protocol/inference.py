"""Requests for inference: the Open Inference Protocol v2 in JSON and with binary tensors."""

import hashlib

import orjson

from infra.gateway.errors import RequestError
from infra.gateway.protocol.documents import flag, load_object, may_hold_booleans, parameters_of
from infra.gateway.protocol.framing import divide
from infra.gateway.protocol.identifiers import new_id, request_id_of
from infra.gateway.protocol.invocations import parse_invocation
from infra.gateway.protocol.messages import InferRequest, WantedOutputs
from infra.gateway.protocol.outputs import wanted_outputs
from infra.gateway.protocol.tensors import TensorReader
from tasks.contracts.route import ModelSignature


class InferenceParser:
    """Parses the bodies that are meant for one model."""

    def __init__(
        self, signature: ModelSignature, input_name: str, output_names: frozenset[str], max_batch_rows: int
    ) -> None:
        self._reader = TensorReader(signature, input_name, max_batch_rows)
        self._output_names = output_names
        told = [signature.model_dump(mode="json"), input_name, sorted(output_names), max_batch_rows]
        self.identity = hashlib.sha256(orjson.dumps(told)).digest()
        """The same for parsers that read every body alike, such as those of two routes of one model."""

    def parse(self, body: bytes, json_bytes: int | None = None) -> InferRequest:
        """Parse and check one body.

        Args:
            body: JSON, or JSON and then the values of the input.
            json_bytes: what Inference-Header-Content-Length says; None without that header.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        if json_bytes == 0:
            return InferRequest(new_id(), self._reader.bare(body), WantedOutputs(binary=self._output_names))
        text, values = (body, None) if json_bytes is None else divide(body, json_bytes)
        document = load_object(text)
        request_id = request_id_of(document)
        parameters = parameters_of(document)
        inputs = document.get("inputs")
        if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
            raise RequestError(400, f"'inputs' must be a list of one tensor object, named '{self._reader.input_name}'")
        tensor = self._reader.tensor(inputs[0], values, may_hold_booleans=may_hold_booleans(text))
        binary = flag(parameters, "binary_data_output")
        wanted = wanted_outputs(document.get("outputs"), self._output_names, binary=binary)
        return InferRequest(request_id, tensor, wanted, is_named=document.get("id") is not None)

    def parse_invocation(self, body: bytes) -> InferRequest:
        """Parse what MLflow's scoring servers take.

        Raises:
            RequestError: 400, with what is wrong and what is expected.
        """
        return parse_invocation(body, self._reader)
