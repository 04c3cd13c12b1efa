import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from tasks.contracts.data import SpecialTokens
from tasks.contracts.errors import DataError
from tasks.datasets.tokenization import (
    PAD_ID,
    LoadTokenizer,
    TrainTokenizer,
    decode,
    encode,
    load_tokenizer,
    special_tokens,
    train_tokenizer,
    vocabulary_size,
)

TEXTS = ["Play the music", "stop the music", "play  it again, please", "what's the time?"] * 3

WORDS = TrainTokenizer(algorithm="word", vocab_size=64, min_frequency=1, max_length=6)


def tokens(text: str, tokenizer: bytes) -> list[str]:
    return Tokenizer.from_str(tokenizer.decode()).encode(text).tokens


def test_encode_gives_padded_rows_of_fixed_length() -> None:
    tokenizer = train_tokenizer(TEXTS, WORDS)

    rows = encode(["play the music", "", "stop the music again please now and then"], tokenizer)

    assert rows.shape == (3, 6)
    assert rows.dtype == np.int64
    assert (rows[0, 3:] == PAD_ID).all()
    assert (rows[0, :3] != PAD_ID).all()
    assert (rows[1] == PAD_ID).all()
    assert (rows[2] != PAD_ID).all()
    assert rows.max() < vocabulary_size(tokenizer)


def test_encode_of_many_texts_equals_encoding_each_alone() -> None:
    tokenizer = train_tokenizer(TEXTS, TrainTokenizer(vocab_size=40, max_length=12))
    texts = TEXTS * 2000

    rows = encode(texts, tokenizer)

    assert len(rows) == len(texts) > 10_000
    assert np.array_equal(rows[: len(TEXTS)], np.concatenate([encode([text], tokenizer) for text in TEXTS]))
    assert np.array_equal(rows[-len(TEXTS) :], rows[: len(TEXTS)])


def test_train_tokenizer_reads_case_width_and_spaces_alike_and_marks_unknown_words() -> None:
    tokenizer = train_tokenizer(TEXTS, WORDS)

    assert np.array_equal(
        encode(["  PLAY\tthe  \uff4d\uff55\uff53\uff49\uff43 "], tokenizer), encode(["play the music"], tokenizer)
    )
    assert tokens("play zebra!", tokenizer)[:3] == ["▁play", "[UNK]", "[UNK]"]


def test_train_tokenizer_keeps_case_when_asked_to() -> None:
    cased = train_tokenizer(TEXTS, WORDS.model_copy(update={"lower_case": False}))

    assert tokens("Play play", cased)[:2] == ["▁Play", "▁play"]


def test_train_tokenizer_learns_pieces_of_words_when_the_algorithm_is_bpe() -> None:
    tokenizer = train_tokenizer(
        ["low lower lowest", "new newer newest"] * 20, TrainTokenizer(vocab_size=30, max_length=12)
    )

    unseen = [token for token in tokens("slowest renew", tokenizer) if token != "[PAD]"]
    assert "".join(unseen) == "▁slowest▁renew"
    assert 2 < len(unseen) < len("▁slowest▁renew")
    assert vocabulary_size(tokenizer) <= 30


@pytest.mark.parametrize("algorithm", ["bpe", "word"])
def test_train_tokenizer_gives_equal_bytes_in_every_process(algorithm: str) -> None:
    code = (
        "import hashlib, sys; from tasks.datasets.tokenization import *\n"
        "texts = [f'{a}{b} {b}{c}{a} {c}' for a in 'abcdefgh' for b in 'ijklmnop' for c in 'qrst']\n"
        f"spec = TrainTokenizer(algorithm='{algorithm}', vocab_size=120, max_length=8)\n"
        "print(hashlib.sha256(train_tokenizer(texts, spec)).hexdigest())"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "123"
    }
    texts = [f"{a}{b} {b}{c}{a} {c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrst"]
    here = train_tokenizer(texts, TrainTokenizer(algorithm=algorithm, vocab_size=120, max_length=8))

    assert found == {hashlib.sha256(here).hexdigest() + "\n"}


def test_load_tokenizer_pads_with_the_models_own_token(tmp_path: Path) -> None:
    given = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "<unk>": 2, "hello": 3}, unk_token="<unk>"))
    given.save(str(tmp_path / "tokenizer.json"))

    loaded = load_tokenizer(tmp_path / "tokenizer.json", 4)

    assert encode(["hello"], loaded).tolist() == [[3, 1, 1, 1]]
    assert vocabulary_size(loaded) == 4


def test_special_tokens_are_the_padding_and_what_the_tokenizer_marks(tmp_path: Path) -> None:
    assert special_tokens(train_tokenizer(TEXTS, WORDS)) == SpecialTokens(pad=0, others=(1,))
    given = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "<unk>": 2, "hello": 3}, unk_token="<unk>"))
    given.add_special_tokens(["<s>", "</s>"])
    given.add_tokens(["plainly"])
    given.save(str(tmp_path / "tokenizer.json"))

    assert special_tokens(load_tokenizer(tmp_path / "tokenizer.json", 4)) == SpecialTokens(pad=1, others=(0, 4))


def test_load_tokenizer_names_the_file_when_it_is_no_tokenizer_or_cannot_pad(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(json.dumps({"version": "1.0"}))
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "bare.json"))

    with pytest.raises(DataError, match=r"odd\.json cannot be read as a tokenizer"):
        load_tokenizer(tmp_path / "odd.json", 4)
    with pytest.raises(DataError, match=r"nothing\.json cannot be read as a tokenizer"):
        load_tokenizer(tmp_path / "nothing.json", 4)
    with pytest.raises(DataError, match=r"bare\.json has none of the tokens"):
        load_tokenizer(tmp_path / "bare.json", 4)


def test_load_tokenizer_spec_takes_no_training_options() -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        LoadTokenizer.model_validate({"load": "t.json", "vocab_size": 30})


@pytest.mark.parametrize("algorithm", ["bpe", "word"])
def test_decode_gives_back_what_the_tokenizer_kept(algorithm) -> None:
    tokenizer = train_tokenizer(TEXTS, TrainTokenizer(algorithm=algorithm, vocab_size=80, min_frequency=1))
    texts = ["Play  the music", "what's the time?", ""]

    found = decode(encode(texts, tokenizer), tokenizer)

    assert found == ["play the music", "what's the time?", ""]
    np.testing.assert_array_equal(encode(found, tokenizer), encode(texts, tokenizer))
