"""Exports a torch network to ONNX and proves that the copy answers as the original does."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import ModelRef, StageResult
from tasks.evaluation.parity import ParityTolerance, measure_parity, require_parity
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.runtime.services import connect
from tasks.stages.making import make_model
from tasks.techniques.technique import Applied, StageContext

_BATCH_SIZE = 256


def export_model(model: ModelRef, data: DatasetRef, stage_key: str) -> StageResult:
    """Export a torch model to one ONNX file that agrees with it."""
    return make_model(
        lambda context: export_network(connect().artifacts.get(model.digest), context),
        "export",
        "onnx",
        data,
        stage_key,
    )


def export_network(model: bytes, context: StageContext) -> Applied:
    """Export a torch artifact and hold it against the network on the whole calibration split.

    Args:
        model: A torch artifact (`architecture.json` and `weights.safetensors` in a zip).
        context: Gives the calibration split, whose type becomes the type of the ONNX input.

    Raises:
        ModelError: the network cannot be exported, or its ONNX form answers otherwise.
    """
    import torch

    from tasks.models.architecture import Network
    from tasks.models.onnx_export import to_onnx
    from tasks.techniques.inference import outputs_of

    network = Network.from_bytes(model)
    x = context.load_split("calibration").x
    exported = to_onnx(network, context.input_shape, str(x.dtype))
    original = outputs_of(network.module, torch.from_numpy(x), _BATCH_SIZE).numpy()
    parity = measure_parity(original, run_rows(make_session(exported), x, batch_size=_BATCH_SIZE))
    require_parity(parity, ParityTolerance())
    return Applied(exported, {"input_dtype": str(x.dtype), **parity.details()})
