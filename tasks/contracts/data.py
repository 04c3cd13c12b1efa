"""Identity of a data set: its splits, where they came from and what is in them."""

from typing import Literal

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.value import Digest, Slug, Value

LabelledSplitName = Literal["train", "calibration", "validation", "test"]
LABELLED_SPLIT_NAMES: tuple[LabelledSplitName, ...] = ("train", "calibration", "validation", "test")
"""The splits that every data set has."""

SplitName = Literal[LabelledSplitName, "unlabelled"]
SPLIT_NAMES: tuple[SplitName, ...] = (*LABELLED_SPLIT_NAMES, "unlabelled")
"""All splits that a data set may have: `unlabelled` holds rows of the same domain that a student may learn from."""

Task = Literal["classification", "regression"]


class SplitRef(Value):
    """One split: an uncompressed npz artifact with arrays `x` and `y`.

    `x` has shape [N, *input_shape] and is exactly the model's input; `y` is int64 [N] (class
    indices) for classification and float32 [N] for regression. In the split `unlabelled` every `y` is
    -1, or NaN for regression.
    """

    digest: Digest
    size_bytes: int
    num_rows: int
    composition: dict[str, int]
    """Rows per class name; rows per target quartile (`q1` … `q4` of all rows) for regression; empty for
    the split `unlabelled`."""


class SpecialTokens(Value):
    """Token ids that stand for no piece of a text."""

    pad: int
    """Fills a row up to its length."""
    others: tuple[int, ...] = ()
    """Unknown pieces, and what a pre-trained model wants before, between and after texts; rising."""


class DatasetRef(Value):
    """A validated, split data set."""

    name: Slug
    task: Task
    revision: str
    """Version of the source as DVC knows it (`<md5>.dir` or `<md5>`)."""
    input_shape: tuple[int, ...]
    """Shape of one row of `x`, without the batch axis."""
    input_dtype: Literal["float32", "int64"] = "float32"
    tokenizer: ArtifactRef | None = None
    """What turned texts into the rows of `x`, for `tasks.datasets.tokenization.encode`; None for other data."""
    vocab_size: int | None = None
    """Token ids in `x` lie in [0, vocab_size); None for other data."""
    special_tokens: SpecialTokens | None = None
    """None for data that are no texts."""
    class_names: tuple[str, ...]
    """Empty for regression."""
    splits: dict[SplitName, SplitRef]

    @property
    def digest(self) -> Digest:
        """SHA-256 over everything above: equal digests mean equal rows in equal splits."""
        return self.value_digest()

    @property
    def num_outputs(self) -> int:
        """Width of the model's output: number of classes, or 1 for regression."""
        return len(self.class_names) if self.task == "classification" else 1
