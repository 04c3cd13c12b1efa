"""Model folders of transformers, made here: tiny, with random weights."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.parity import ParityTolerance, measure_parity, require_parity
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network, build
from tasks.models.huggingface import class_names, network_from_folder
from tasks.models.onnx_export import to_onnx

transformers = pytest.importorskip("transformers")

LENGTH, VOCABULARY = 12, 40
NAMES = {0: "off", 1: "on", 2: "dim"}


def save_bert(folder: Path, kind: str = "BertForSequenceClassification") -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=LENGTH, id2label=NAMES, label2id={name: index for index, name in NAMES.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():  # its own initial weights are so small that all outputs are alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, safe_serialization=True)
    return model


def ids(num_rows: int = 5) -> torch.Tensor:
    rows = torch.randint(1, VOCABULARY, (num_rows, LENGTH), generator=torch.Generator().manual_seed(1))
    rows[0] = 0
    rows[1, 5:] = 0
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    return folder


def test_network_from_folder_answers_as_the_model_that_was_saved(folder: Path) -> None:
    original = transformers.BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    rows = ids()

    network = network_from_folder(folder)

    with torch.no_grad():
        expected = original(input_ids=rows, attention_mask=(rows != 0).long()).logits
        assert torch.allclose(network.module(rows), expected, atol=1e-6)
    assert class_names(network.module) == ("off", "on", "dim")


def test_network_from_folder_survives_its_recipe_and_exports(folder: Path) -> None:
    network = network_from_folder(folder)
    rebuilt = Network.from_bytes(network.to_bytes())
    rows = ids(9)

    exported = to_onnx(rebuilt, (LENGTH,), "int64")

    with torch.no_grad():
        original = network.module(rows).numpy()
        assert np.array_equal(rebuilt.module(rows).numpy(), original)
    assert rebuilt.to_bytes() == network.to_bytes()
    require_parity(measure_parity(original, run_rows(make_session(exported), rows.numpy())), ParityTolerance())


def test_network_from_folder_reads_image_classifiers(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_channels=1, num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path, safe_serialization=True)
    network = network_from_folder(tmp_path)
    images = torch.rand(4, 1, 8, 8)

    exported = to_onnx(network, (1, 8, 8), "float32")

    with torch.no_grad():
        original = network.module(images).numpy()
    require_parity(measure_parity(original, run_rows(make_session(exported), images.numpy())), ParityTolerance())
    assert class_names(network.module) == ()


def test_network_from_folder_takes_published_names_of_weights(tmp_path: Path) -> None:
    """Older files name layer norms gamma and beta; transformers translates them, so a plain load would not do."""
    import safetensors.torch

    model = save_bert(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    assert old.keys() != weights.keys()
    safetensors.torch.save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = network_from_folder(tmp_path).module.state_dict()

    assert all(torch.equal(loaded[f"model.{name}"], value) for name, value in model.state_dict().items())


def test_network_from_folder_refuses_pickles(tmp_path: Path) -> None:
    save_bert(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"only pytorch_model\.bin, which are pickles.*safe_serialization=True"):
        network_from_folder(tmp_path)


def test_network_from_folder_refuses_a_body_without_its_head(tmp_path: Path) -> None:
    save_bert(tmp_path, kind="BertModel")
    config = json.loads((tmp_path / "config.json").read_text())

    with pytest.raises(ModelError, match=r"\['BertModel'\]; a classifier is needed"):
        network_from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ModelError, match="no weights for classifier"):
        network_from_folder(tmp_path)


def test_network_from_folder_names_what_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        network_from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        network_from_folder(tmp_path)


def test_from_config_runs_no_code_that_a_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = {
        "model_type": "unheard-of",
        "architectures": ["EvilForSequenceClassification"],
        "auto_map": {"AutoConfig": f"{tmp_path}--evil.Config"},
    }

    with pytest.raises(ModelError, match="cannot build the model 'unheard-of'"):
        build(Architecture(factory="tasks.models.huggingface:from_config", kwargs={"config": config}))


def test_from_config_names_the_extra_when_transformers_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    architecture = Architecture(factory="tasks.models.huggingface:from_config", kwargs={"config": {}})

    with pytest.raises(ModelError, match=r"transformers, which is not installed.*stillhouse\[huggingface\]"):
        build(architecture)
