"""Whether the layers that were quantised really multiply in int8 when onnxruntime runs them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.contracts.errors import TechniqueError

if TYPE_CHECKING:
    from tasks.evaluation.onnx_graph import Int8Coverage


def require_coverage(coverage: "Int8Coverage", kept_float: Sequence[str], min_coverage: float) -> None:
    """Stop a model of which too few layers run in int8 that were to run in int8.

    Args:
        coverage: what onnxruntime makes of the model.
        kept_float: names of the layers that stay float by wish.
        min_coverage: the smallest share of the others.

    Raises:
        TechniqueError: the share is smaller; the message names the float layers.
    """
    num_float = max(0, len(coverage.float_nodes) - len(kept_float))
    share = coverage.num_int8 / max(1, coverage.num_int8 + num_float)
    if share < min_coverage:
        raise TechniqueError(
            f"only {share:.0%} of the layers run in int8 in onnxruntime's optimised graph, {min_coverage:.0%} "
            f"is asked for. In float: {', '.join(coverage.float_nodes)}; kept float by wish: "
            f"{', '.join(kept_float) or 'none'}. The others have an input, weight or output that is "
            "not quantised, or no int8 kernel; name them in keep_float, lower min_coverage or change the network"
        )


def coverage_details(coverage: "Int8Coverage") -> dict[str, float | int | str]:
    """Return the figures as a stage's details."""
    return {
        "int8_coverage": coverage.share,
        "int8_layers": coverage.num_int8,
        "float_layers": len(coverage.float_nodes),
    }
