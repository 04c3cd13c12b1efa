"""What callers send and are sent: the Open Inference Protocol v2, its binary tensors, MLflow's form, and feedback."""

from infra.gateway.protocol.feedback import parse_feedback
from infra.gateway.protocol.framing import parse_json_length
from infra.gateway.protocol.identifiers import check_identifier, new_id
from infra.gateway.protocol.inference import InferenceParser
from infra.gateway.protocol.messages import DATATYPES, Encoded, Feedback, InferRequest, TensorSpec, WantedOutputs
from infra.gateway.protocol.outputs import encode_response

__all__ = [
    "DATATYPES",
    "Encoded",
    "Feedback",
    "InferRequest",
    "InferenceParser",
    "TensorSpec",
    "WantedOutputs",
    "check_identifier",
    "encode_response",
    "new_id",
    "parse_feedback",
    "parse_json_length",
]
