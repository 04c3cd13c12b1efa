"""Shared weights after quantisation: stored as codebooks of integers again."""

from onnx import ModelProto

from tasks.contracts.errors import TechniqueError
from tasks.models.onnx_codebook import pack_codebooks, packed_weights

Details = dict[str, float | int | str]


def repacked(quantised: ModelProto, given: ModelProto) -> tuple[ModelProto, Details]:
    """Store weights as codebooks again if `given`, the graph that `quantised` was made from, did.

    Rounding maps equal values of a channel to equal integers, so that a channel never takes more
    values than before. A whole layer takes no more either if its channels' scales are proportional to
    those of the quantisation, or if it has one scale; otherwise each channel may have values of its own.

    Args:
        quantised: the graph with integer weights, decoded ones folded in.
        given: the float graph.

    Returns:
        The graph, and what is worth showing: nothing if there were no codebooks.

    Raises:
        TechniqueError: no weight has a short form any more.
    """
    before = packed_weights(given)
    if not before:
        return quantised, {}
    result = pack_codebooks(quantised, [weight.codebook for weight in before])
    after = packed_weights(result)
    num_before, num_after = (sum(weight.codebook.values_GK.size for weight in each) for each in (before, after))
    details: Details = {"layers_in_codebooks": len(after), "codebook_values": num_after}
    cause = (
        f"of {len(before)} layers with shared weights {len(after)} have a codebook after quantisation, with "
        f"{num_after} values instead of {num_before}, because each channel was rounded by a scale of its own. Share "
        "with per_channel_scale: true and quantise with per_channel: true, or set both to false"
    )
    if not after:
        raise TechniqueError(cause)
    if len(after) < len(before) or num_after > num_before:
        details["warning"] = cause
    return result, details
