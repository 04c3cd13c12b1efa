import json
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.errors import ArtifactMissingError, ModelError
from tasks.contracts.model import Architecture, ModelRef
from tasks.models.architecture import Network
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.caching import stage_key
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.services import Services
from tasks.stages.baselines import BASELINE_TAG, TORCH_DIGEST_TAG, find_baseline, find_start, load_baseline
from tasks.techniques.baseline import TrainSpec, WarmStart


class Registry:
    """One model `digits`: version 1 with a torch digest, version 2 without; alias `champion` on 1."""

    def __init__(self, torch_digest: str) -> None:
        self.tags = {1: {TORCH_DIGEST_TAG: torch_digest}, 2: {}}

    def version(self, name: str, version: int) -> RegisteredVersion:
        if version not in self.tags:
            raise ModelError(f"model {name} has no version {version}")
        return RegisteredVersion(name, version, (), self.tags[version])

    def version_of(self, name: str, alias: str) -> RegisteredVersion | None:
        return self.version(name, 1) if alias == "champion" else None


def network(num_outputs: int = 3) -> bytes:
    kwargs = {"input_shape": [4], "num_outputs": num_outputs, "hidden": [5]}
    return Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=0).to_bytes()


@pytest.fixture
def model() -> bytes:
    return network()


@pytest.fixture
def outside(services: Services, model: bytes) -> Services:
    registry = Registry(services.artifacts.put(model).digest)
    return replace(services, make_registry=lambda: registry)


@pytest.mark.parametrize(
    "place", ["{folder}/model.zip", "sha256:{digest}", "models:/digits@champion", "models:/digits/1"]
)
def test_find_baseline_brings_the_same_model_from_a_file_the_store_and_the_registry(
    outside: Services, model: bytes, tmp_path: Path, place: str
) -> None:
    (tmp_path / "model.zip").write_bytes(model)
    digest = outside.artifacts.put(model).digest

    found = find_baseline(place.format(folder=tmp_path, digest=digest), outside)

    assert found == ModelRef(digest=digest, format="torch", size_bytes=len(model))
    assert outside.artifacts.get(found.digest) == model


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere.zip", r"nowhere\.zip cannot be read \(No such file"),
        ("models:/digits", r"write models:/<name>@<alias>"),
        ("models:/digits@nobody", "has no alias 'nobody'"),
        ("models:/digits/7", "no version 7"),
        ("models:/digits/2", f"no tag {TORCH_DIGEST_TAG}"),
    ],
)
def test_find_baseline_names_place_and_remedy_when_there_is_no_such_model(
    outside: Services, place: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        find_baseline(place, outside)


def test_find_baseline_says_when_the_store_does_not_hold_it(outside: Services) -> None:
    with pytest.raises(ArtifactMissingError):
        find_baseline(f"sha256:{'0' * 64}", outside)


def test_find_start_follows_the_champions_lineage_to_its_baseline(outside: Services, model: bytes) -> None:
    digest = outside.artifacts.put(model).digest
    student = outside.artifacts.put(network(num_outputs=2)).digest
    tags = outside.registry.tags[1]

    tags |= {TORCH_DIGEST_TAG: student, BASELINE_TAG: digest}
    assert find_start(WarmStart(), "digits", outside).digest == digest
    assert find_start(WarmStart(weights=f"sha256:{student}"), "digits", outside).digest == student

    tags |= {BASELINE_TAG: "", TORCH_DIGEST_TAG: digest, "stillhouse.role": "baseline"}
    assert find_start(WarmStart(), "digits", outside).digest == digest, "the first champion is a baseline itself"

    del tags["stillhouse.role"]
    with pytest.raises(ModelError, match=f"a champion without the tag {BASELINE_TAG}.*sha256:<digest>"):
        find_start(WarmStart(), "digits", outside)


def test_the_key_of_a_trained_baseline_moves_with_the_weights_that_it_starts_from() -> None:
    spec = TrainSpec(model=Architecture(factory="tasks.models.mlp:mlp"), warm_start=WarmStart())
    starts = [None, *(ModelRef(digest=digit * 64, format="torch", size_bytes=1) for digit in "ab")]

    assert len({stage_key("train", {"spec": spec, "start": start}, []) for start in starts}) == 3


def zipped(**members: str) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(f"{name}.json", text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"\x80\x04pickled", b"", zipped(other="{}"), zipped(architecture="{"), zipped(architecture='{"factory": "x"}')],
    ids=["no zip", "empty", "no recipe", "no JSON", "no import path"],
)
def test_find_baseline_refuses_a_file_that_is_no_torch_model(outside: Services, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.pt is not a torch model of Stillhouse"):
        find_baseline(str(path), outside)


def test_load_baseline_takes_a_model_that_fits_the_data(outside: Services, model: bytes, store_dataset) -> None:
    data = store_dataset(np.zeros((6, 4), np.float32), np.arange(6) % 3, "classification", ("a", "b", "c"))
    found = find_baseline("models:/digits@champion", outside)

    made = load_baseline(found, data, "key")

    assert (made.kind, made.model, made.stage_key) == ("load", found, "key")


def test_load_baseline_refuses_a_model_with_another_number_of_outputs(outside: Services, store_dataset) -> None:
    data = store_dataset(np.zeros((6, 4), np.float32), np.arange(6) % 2, "classification", ("a", "b"))
    found = find_baseline("models:/digits@champion", outside)

    with pytest.raises(ModelError, match=r"outputs of shape \(2, 3\) for 2 rows; data set 'rows' needs \(2, 2\)"):
        load_baseline(found, data, "key")


def test_recipe_modules_names_factory_and_surgeries_once_and_nothing_for_onnx(services: Services, store_model) -> None:
    recipe = {
        "factory": "my.nets:net",
        "surgeries": [{"function": "my.cuts:cut", "arguments": {}}, {"function": "my.cuts:more", "arguments": {}}],
    }
    torch_model = store_model(zipped(architecture=json.dumps(recipe)), "torch")

    assert recipe_modules(torch_model, store_model(b"onnx"), torch_model) == ["my.cuts", "my.nets"]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1},
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    return folder


def token_rows() -> tuple[np.ndarray, np.ndarray]:
    """Rows of six tokens; the class is whether the first is below 10."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 20, (64, 6))
    return x, (x[:, 0] < 10).astype(np.int64)


def test_load_baseline_takes_a_hugging_face_folder_that_can_then_be_fine_tuned(
    outside: Services, store_dataset, bert_folder: Path
) -> None:
    import torch

    from tasks.models.architecture import Network
    from tasks.techniques.loss import label_loss
    from tasks.techniques.schedule import Schedule
    from tasks.techniques.technique import Arrays, StageContext
    from tasks.techniques.training import fit

    x, y = token_rows()
    data = store_dataset(x, y, "classification", ("a", "b"))

    made = load_baseline(find_baseline(str(bert_folder), outside), data, "key")

    network = Network.from_bytes(outside.artifacts.get(made.model.digest))
    context = StageContext(
        "classification", (6,), 2, 0, lambda _: Arrays(x, y), lambda: b"", Checkpoints(), report=lambda _: None
    )
    fit(network.module, Arrays(x, y), label_loss("classification"), Schedule(epochs=15, learning_rate=1e-2), context)
    rebuilt = Network.from_bytes(network.to_bytes())
    with torch.no_grad():
        accuracy = float((rebuilt.module(torch.from_numpy(x)).argmax(1).numpy() == y).mean())
    assert accuracy > 0.9
    assert recipe_modules(made.model) == ["tasks.models.huggingface"]


def test_load_baseline_refuses_classes_in_another_order(outside: Services, store_dataset, bert_folder: Path) -> None:
    data = store_dataset(*token_rows(), "classification", ("b", "a"))

    with pytest.raises(ModelError, match=r"the baseline's classes are \['a', 'b'\].*dataset\.class_names"):
        load_baseline(find_baseline(str(bert_folder), outside), data, "key")


def test_load_baseline_refuses_rows_with_tokens_that_the_model_does_not_know(
    outside: Services, store_dataset, bert_folder: Path
) -> None:
    data = store_dataset(np.full((6, 4), 20), np.arange(6) % 2, "classification", ("a", "b"))

    with pytest.raises(ModelError, match=r"cannot run on rows torch\.int64\[4\].*vocabulary"):
        load_baseline(find_baseline(str(bert_folder), outside), data, "key")


class Checkpoints:
    """Keeps nothing."""

    def save(self, data: bytes) -> None:
        del data

    def load(self) -> bytes | None:
        return None
