"""What every member of the `Technique` union keeps to. A new technique is tested here without an edit."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import tasks.techniques
from tasks.contracts.data import SplitName
from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord, ModelFormat
from tasks.evaluation.machine import computes_bfloat16, instruction_sets
from tasks.evaluation.onnx_graph import load_graph
from tasks.models.architecture import Network
from tasks.techniques import TECHNIQUES, Technique
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import label_loss
from tasks.techniques.quantization.quantize_aware import QuantizeAware
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Arrays, StageContext, TechniqueSpec
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]
Spec = type[TechniqueSpec]

PACKAGE = Path(tasks.techniques.__file__).parent
each_technique = pytest.mark.parametrize("spec", TECHNIQUES, ids=[spec.__name__ for spec in TECHNIQUES])


def kind_of(spec: Spec) -> str:
    (kind,) = get_args(spec.model_fields["kind"].annotation)
    return str(kind)


def has_schedule(spec: Spec) -> bool:
    """Whether a field of the spec says how long and how fast it trains."""
    return any(field.annotation is Schedule for field in spec.model_fields.values())


def example(spec: Spec, **of_schedule: Any) -> TechniqueSpec:
    """Return the spec of the first `examples` entry of its JSON schema, or of its defaults, trained for one epoch."""
    fields: dict[str, Any] = dict(next(iter(spec.model_json_schema().get("examples", [])), {}))
    for name, field in spec.model_fields.items():
        if field.annotation is Schedule:
            fields[name] = Schedule(epochs=1, batch_size=16, **of_schedule)
    return spec.model_validate(fields)


@pytest.fixture(scope="module")
def train(images: Arrays, make_context: MakeContext) -> Callable[[Architecture], Network]:
    """Return a function that builds a small network and lets it learn the striped images."""

    def learned(architecture: Architecture) -> Network:
        network = Network.create(architecture, seed=0)
        fit(network.module, images, label_loss("classification"), Schedule(epochs=10, batch_size=8), make_context())
        return network

    return learned


@pytest.fixture(scope="module")
def baseline(train: Callable[[Architecture], Network]) -> Network:
    """Return the network that every technique gets that needs no other."""
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1, 1]}
    return train(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs))


@pytest.fixture(scope="module")
def incoming(baseline: Network) -> Callable[[ModelFormat], bytes]:
    """Return a function that gives the baseline in a format; ONNX is exported once."""

    @functools.cache
    def in_format(model_format: ModelFormat) -> bytes:
        if model_format == "torch":
            return baseline.to_bytes()
        from tasks.models.onnx_export import to_onnx

        return to_onnx(baseline, (1, 8, 8), "float32")

    return in_format


def load(model: bytes, model_format: ModelFormat) -> None:
    """Load a model as the next stage or the gateway would, and run it."""
    if model_format == "torch":
        outputs = outputs_of(Network.from_bytes(model).module, torch.zeros(2, 1, 8, 8), 2)
    else:
        from onnxruntime import InferenceSession

        session = InferenceSession(model, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 1, 8, 8), dtype=np.float32)})
    assert tuple(outputs.shape) == (2, 3)


def lasting(details: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a clock says, which differs from time to time."""
    return {name: value for name, value in details.items() if not name.startswith("measured_")}


def test_techniques_have_kinds_of_their_own() -> None:
    kinds = [kind_of(spec) for spec in TECHNIQUES]
    assert len(set(kinds)) == len(kinds)


def test_technique_is_the_union_of_the_listed_specs() -> None:
    union = get_args(Technique)[0]
    assert (get_args(union) or (union,)) == TECHNIQUES


@each_technique
def test_kind_names_the_module_or_lies_in_the_folder_of_its_family(spec: Spec) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", kind_of(spec))
    assert spec.model_fields["kind"].default == kind_of(spec)
    place = spec.__module__.removeprefix("tasks.techniques.").split(".")
    assert place[-1] == kind_of(spec) or (PACKAGE / place[0] / "__init__.py").is_file()


@each_technique
def test_spec_says_what_it_is_takes_and_gives(spec: Spec) -> None:
    assert spec.summary.strip()
    assert "\n" not in spec.summary
    assert spec.takes in get_args(ModelFormat)
    assert spec.gives in get_args(ModelFormat)


@each_technique
def test_every_field_is_described_and_has_a_default_or_an_example(spec: Spec) -> None:
    for name in spec.model_fields.keys() - TechniqueSpec.model_fields.keys():
        assert spec.model_fields[name].description, name
    assert example(spec).kind == kind_of(spec)


@each_technique
def test_spec_survives_json_and_is_told_apart_by_its_kind(spec: Spec) -> None:
    original = example(spec)
    restored = TypeAdapter(Technique).validate_json(original.model_dump_json())
    assert type(restored) is spec
    assert restored == original
    assert restored.value_digest() == original.value_digest()


@each_technique
def test_union_makes_a_json_schema_that_knows_the_kind(spec: Spec) -> None:
    assert f'"const": "{kind_of(spec)}"' in json.dumps(TypeAdapter(Technique).json_schema())


@each_technique
def test_spec_names_the_field_when_it_is_unknown(spec: Spec) -> None:
    fields = example(spec).model_dump() | {"no_such_field": 1}
    with pytest.raises(ValidationError, match="no_such_field"):
        TypeAdapter(Technique).validate_python(fields)


@each_technique
def test_spec_is_frozen(spec: Spec) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        example(spec).num_threads = 2


def test_import_of_the_union_loads_no_tensor_library() -> None:
    code = "import sys, tasks.techniques; print(*sorted({'torch', 'onnxruntime', 'onnx'} & sys.modules.keys()))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == ""


@pytest.fixture
def apply_once(
    incoming: Callable[[ModelFormat], bytes],
    train: Callable[[Architecture], Network],
    make_context: MakeContext,
    draw_images: Callable[[int, int], Arrays],
) -> Callable[..., Applied]:
    """Return a function that applies a technique to what it takes, after the stages that it needs before it."""

    def load_split(name: SplitName) -> Arrays:
        return draw_images({"train": 48, "calibration": 120, "validation": 30}[name], len(name))

    def apply(
        technique: TechniqueSpec, *, before: tuple[dict[str, Any], ...] | None = None, **of_context: Any
    ) -> Applied:
        given = technique.example_before if before is None else before
        stages = [TypeAdapter(Technique).validate_python(fields) for fields in given]
        takes = stages[0].takes if stages else technique.takes
        model = incoming(takes) if technique.example_model is None else train(technique.example_model).to_bytes()
        members = {"load_split": load_split, "load_baseline": lambda: incoming("torch")}
        for stage in stages:
            model = stage.apply(model, make_context(**members)).model
        return technique.apply(model, make_context(**members | of_context))

    return apply


@each_technique
def test_apply_gives_the_same_loadable_model_twice_and_never_reads_the_test_split(
    spec: Spec, apply_once: Callable[..., Applied]
) -> None:
    technique = example(spec)
    records: list[EpochRecord] = []
    first = apply_once(technique, report=records.append)  # a context has no split `test`: to ask for it is an error
    assert len(records) == technique.planned_epochs
    second = apply_once(technique)
    assert first.model == second.model
    assert lasting(first.details) == lasting(second.details)
    load(first.model, spec.gives)


@pytest.mark.parametrize("spec", [spec for spec in TECHNIQUES if has_schedule(spec)], ids=lambda spec: spec.__name__)
def test_apply_trains_in_bfloat16_or_the_spec_refuses_it(spec: Spec, apply_once: Callable[..., Applied]) -> None:
    if spec is QuantizeAware:
        with pytest.raises(ValidationError, match="precision is bfloat16"):
            example(spec, precision="bfloat16")
        return
    if computes_bfloat16(instruction_sets()) is False:
        with pytest.raises(TechniqueError, match="precision bfloat16 needs"):
            apply_once(example(spec, precision="bfloat16"))
        return
    found = apply_once(example(spec, precision="bfloat16")).model
    load(found, spec.gives)
    assert found != apply_once(example(spec)).model


@pytest.mark.parametrize("spec", [spec for spec in TECHNIQUES if spec.takes == "onnx"], ids=lambda spec: spec.__name__)
def test_apply_takes_the_weights_that_the_spec_says(spec: Spec, apply_once: Callable[..., Applied]) -> None:
    if spec.takes_weights == "int8":
        with pytest.raises(TechniqueError, match="needs a model with int8 weights"):
            apply_once(example(spec), before=())
    else:
        static = {"kind": "quantize_static", "allow_slower": True}
        with pytest.raises(TechniqueError, match="takes a float model, this one is quantised already"):
            apply_once(example(spec), before=(static,))


@each_technique
def test_model_computes_in_int8_where_the_spec_says_so(spec: Spec, apply_once: Callable[..., Applied]) -> None:
    if spec.gives == "torch":
        assert not spec.gives_int8
        return
    model = apply_once(example(spec)).model
    found = {node.op_type for node in load_graph(model).graph.node}
    assert spec.gives_int8 == bool(found & {"QuantizeLinear", "DynamicQuantizeLinear"})
