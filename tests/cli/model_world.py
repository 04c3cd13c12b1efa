"""A registry with three versions of model `digits`, and hands to look at it from the command line."""

import io
import json

import numpy as np
import typer
from onnx import TensorProto, helper

from flows.cli import model as model_cli
from flows.cli.model_changing import promote
from tasks.contracts.registration import SIGNATURE_TAG
from tasks.contracts.route import ModelSignature
from tasks.contracts.value import sha256_hex
from tasks.contracts.verdict import Check, GateReport, Verdict

app = typer.Typer()
app.add_typer(model_cli.app, name="model")
app.command()(promote)

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))
NOW = "2026-01-01T00:00:00+00:00"


def linear_model(weight):
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.full(12, weight, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [matrix],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def register(services, parent, weight):
    model = linear_model(weight)
    example = io.BytesIO()
    np.savez(example, x=np.ones((2, 4), np.float32))
    digest = services.artifacts.put(model).digest
    tags = {SIGNATURE_TAG: SIGNATURE.model_dump_json()}
    services.registry.register("digits", digest, model, example.getvalue(), tags, {}, parent)


def digest_of(version):
    return sha256_hex(linear_model(float(version)))


def gate_report(services, version, verdict=Verdict.PASS):
    check = Check(name="accuracy", verdict=verdict, estimate=0.0, bound=0.0, margin=0.01, num_rows=100)
    report = GateReport(
        model_name="digits", candidate_name="small", candidate=digest_of(version), baseline="b" * 64, dataset="d" * 64,
        plan="e" * 64, verdict=verdict, checks=(check,), alpha=0.05, created_at=NOW,
    )  # fmt: skip
    return services.artifacts.put(report.canonical_json()).digest


def run_json(run, *arguments):
    code, output = run(*arguments, "--json")
    assert code == 0
    return json.loads(output)
