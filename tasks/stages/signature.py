"""What a model for a data set takes and gives, as its route says."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.route import ModelSignature


def signature_of(data: DatasetRef) -> ModelSignature:
    """Return what a model for this data set takes and gives."""
    return ModelSignature(
        task=data.task,
        input_shape=data.input_shape,
        input_dtype=data.input_dtype,
        class_names=data.class_names,
        vocab_size=data.vocab_size,
    )
