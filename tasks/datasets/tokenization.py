"""From texts to rows of token ids: a tokenizer trained on the train split, or one that comes with a model.

A tokenizer travels as the JSON text of the `tokenizers` library, with padding and truncation set, so that
these bytes alone turn a text into exactly the row that the model takes. Dimension legend: N texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from tasks.contracts.data import SpecialTokens
from tasks.contracts.errors import DataError
from tasks.contracts.value import Value

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID = 0
"""Id of the padding in every tokenizer that is trained here."""

_WORD_START = "▁"
_PAD_TOKENS = (PAD, "<pad>", "<|endoftext|>")
_BATCH_ROWS = 10_000  # the library's encodings take a hundred times the memory of their ids


class TrainTokenizer(Value):
    """Train a tokenizer on the texts of the train split; equal texts give an equal tokenizer.

    WordPiece is left out: its trainer gives another vocabulary each time.
    """

    algorithm: Literal["bpe", "word"] = Field(
        default="bpe", description="Byte-pair merges of characters into pieces of words, or whole words."
    )
    vocab_size: int = Field(default=4096, ge=16, le=1_000_000, description="Largest number of tokens.")
    min_frequency: int = Field(default=2, ge=1, description="How often a piece or word must occur to be a token.")
    lower_case: bool = Field(default=True, description="Read A as a.")
    max_length: int = Field(default=64, ge=1, le=65_536, description="Tokens of a row: longer texts are cut.")


class LoadTokenizer(Value):
    """Take the tokenizer that a pre-trained model was trained with."""

    load: str = Field(min_length=1, description="A tokenizer.json, such as the one in a Hugging Face model folder.")
    max_length: int = Field(default=64, ge=1, le=65_536, description="Tokens of a row: longer texts are cut.")


def train_tokenizer(texts: Sequence[str], spec: TrainTokenizer) -> bytes:
    """Train a tokenizer on `texts` and return its JSON; padding has the id `PAD_ID`, unknown pieces the next."""
    from tokenizers import Tokenizer, models, trainers

    limits: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "min_frequency": spec.min_frequency,
        "special_tokens": [PAD, UNKNOWN],
        "show_progress": False,
    }
    if spec.algorithm == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
        trainer: trainers.Trainer = trainers.BpeTrainer(**limits)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        trainer = trainers.WordLevelTrainer(**limits)
    _prepare(tokenizer, spec)
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return _with_fixed_length(tokenizer, spec.max_length, PAD_ID, PAD)


def load_tokenizer(path: Path, max_length: int) -> bytes:
    """Read a tokenizer's JSON file and set its rows to `max_length` tokens.

    Raises:
        DataError: the file is missing, is no tokenizer, or has no token for padding.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"{path} cannot be read as a tokenizer ({error}); dataset.tokenizer.load takes a tokenizer.json as the "
            "tokenizers library writes it"
        ) from error
    found = {token: tokenizer.token_to_id(token) for token in _PAD_TOKENS}
    if tokenizer.padding:
        found = {tokenizer.padding["pad_token"]: tokenizer.padding["pad_id"]}
    pads = [(token, number) for token, number in found.items() if number is not None]
    if not pads:
        raise DataError(
            f"{path} has none of the tokens {list(_PAD_TOKENS)} for padding; add one, and set padding in it"
        )
    return _with_fixed_length(tokenizer, max_length, pads[0][1], pads[0][0])


def encode(texts: Sequence[str], tokenizer: bytes) -> np.ndarray:
    """Turn texts into rows of the model's input, int64 [N, T], padded and cut to the tokenizer's length.

    Args:
        texts: N texts.
        tokenizer: The artifact that `DatasetRef.tokenizer` names; `stillhouse data export` writes it to a file.
    """
    encoder = _read(tokenizer)
    assert encoder.truncation is not None, "tokenizers are stored with a fixed length"
    rows = np.empty((len(texts), encoder.truncation["max_length"]), dtype=np.int64)
    for start in range(0, len(texts), _BATCH_ROWS):
        part = encoder.encode_batch(list(texts[start : start + _BATCH_ROWS]))
        rows[start : start + len(part)] = [encoding.ids for encoding in part]
    return rows


def decode(rows: np.ndarray, tokenizer: bytes) -> list[str]:
    """Turn rows of token ids int64 [N, T] back into texts, without special tokens.

    What the tokenizer dropped stays lost (case, runs of white space, unknown pieces, what was cut off).
    """
    from tokenizers import decoders

    decoder = _read(tokenizer)
    if decoder.decoder is None:
        decoder.decoder = decoders.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    texts: list[str] = decoder.decode_batch(rows.tolist(), skip_special_tokens=True)
    return texts


def vocabulary_size(tokenizer: bytes) -> int:
    """Return the number of token ids, special ones included: every id of `encode` is below it."""
    return 1 + max(_read(tokenizer).get_vocab(with_added_tokens=True).values())


def special_tokens(tokenizer: bytes) -> SpecialTokens:
    """Return the ids that stand for no piece of a text, as the tokenizer marks them."""
    encoder = _read(tokenizer)
    assert encoder.padding is not None, "tokenizers are stored with a fixed length"
    pad = int(encoder.padding["pad_id"])
    marked = {number for number, token in encoder.get_added_tokens_decoder().items() if token.special}
    return SpecialTokens(pad=pad, others=tuple(sorted(marked - {pad})))


def _read(tokenizer: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer.decode())


def _prepare(tokenizer: Tokenizer, spec: TrainTokenizer) -> None:
    """Set how a text is cleaned and cut into words: at white space, which marks the word, and at punctuation."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps: list[Normalizer] = [
        normalizers.NFKC(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()] if spec.lower_case else steps)
    mark_words = pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([mark_words, pre_tokenizers.Punctuation()])


def _with_fixed_length(tokenizer: Tokenizer, max_length: int, pad_id: int, pad_token: str) -> bytes:
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(length=max_length, pad_id=pad_id, pad_token=pad_token)
    return str(tokenizer.to_str()).encode()
