import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tasks.contracts.errors import TechniqueError
from tasks.evaluation.onnx_graph import load_graph, read_graph_facts
from tasks.evaluation.parity import measure_parity
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.onnx_codebook import packed_weights, unpack_codebooks
from tasks.models.onnx_export import to_onnx
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.sharing.int8_weights import Int8Weight, clustered, int8_weights
from tasks.techniques.sharing.share_int8_weights import ShareInt8Weights

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def quantised(trained, load_split, make_context) -> bytes:
    return (
        QuantizeStatic(allow_slower=True)
        .apply(to_onnx(trained, SHAPE, "float32"), make_context(load_split=load_split))
        .model
    )


@pytest.mark.parametrize("num_centroids", [16, 5])
def test_apply_stores_few_integers_in_four_bits(quantised, context, num_centroids):
    applied = ShareInt8Weights(num_centroids=num_centroids).apply(quantised, context)
    packed = packed_weights(load_graph(applied.model))
    assert [weight.codebook.values_GK.shape for weight in packed] == [(1, num_centroids)] * 5
    assert applied.details["layers_shared"] == 5
    assert len(applied.model) < 0.65 * len(quantised)
    before, after = (read_graph_facts(each, SHAPE) for each in (quantised, applied.model))
    assert (after.num_parameters, after.flops) == (before.num_parameters, before.flops)


def test_apply_keeps_int8_coverage_operators_and_answers(quantised, context, tmp_path):
    applied = ShareInt8Weights().apply(quantised, context)
    operators = []
    for model in (quantised, applied.model):
        make_session(model, optimized_model=tmp_path / "optimised.onnx")
        operators.append([node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node])
    assert operators[0] == operators[1]
    assert operators[0].count("QLinearConv") == 6
    assert applied.details["int8_coverage"] == 1.0
    x = context.load_split("validation").x
    parity = measure_parity(*(run_rows(make_session(each), x) for each in (quantised, applied.model)))
    assert parity.agreement > 0.97


def test_apply_gives_the_same_model_twice_and_reads_no_rows(quantised, make_context):
    def load_split(name):
        pytest.fail(f"it read the {name} split")

    first, second = (ShareInt8Weights().apply(quantised, make_context(load_split=load_split)) for _ in range(2))
    assert first == second


def test_apply_leaves_zero_weights_zero(quantised, context):
    pruned = load_graph(quantised)
    for tensor in pruned.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4:
            values = numpy_helper.to_array(tensor).copy()
            values[np.random.default_rng(0).random(values.shape) < 0.6] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    applied = ShareInt8Weights(num_centroids=4).apply(pruned.SerializeToString(), context)
    for before, after in zip(
        int8_weights(pruned), int8_weights(unpack_codebooks(load_graph(applied.model))), strict=True
    ):
        assert (after.values[before.values == 0] == 0).all()


def test_apply_again_changes_nothing(quantised, context):
    once = ShareInt8Weights().apply(quantised, context)
    twice = ShareInt8Weights().apply(once.model, context)
    assert twice.model == once.model
    assert twice.details["relative_error_of_clustering"] == 0


def test_apply_refuses_a_float_model(trained, context):
    with pytest.raises(TechniqueError, match="put quantize_static before it"):
        ShareInt8Weights().apply(to_onnx(trained, SHAPE, "float32"), context)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ("nothing",)}, "'nothing' matches no int8 layer; the layers are stem.conv"),
        ({"ignore": ("nothing",)}, "ignore: the glob 'nothing'"),
        ({"ignore": ("*",)}, "leave no layer to share among stem.conv 144"),
        ({"min_weights": 10**6}, "min_weights=1000000"),
        ({"targets": ("stem.conv",), "min_weights": 2, "ignore": ()}, "no weight becomes smaller"),
    ],
)
def test_apply_says_what_is_wrong_with_the_choice_of_layers(quantised, context, fields, message):
    with pytest.raises(TechniqueError, match=message):
        ShareInt8Weights(**fields).apply(quantised, context)


def test_targets_choose_the_layers_by_name(quantised, context):
    applied = ShareInt8Weights(targets=("stages.1.*",)).apply(quantised, context)
    assert applied.details["layers_shared"] == 3


def test_clustered_minds_the_channels_with_large_scales():
    values = np.array([[10, 11, 50, 51], [10, 11, 50, 51]], np.int8)
    weight = Int8Weight("w", "layer", values, np.array([[0.001], [1.0]], np.float32))
    mixed = Int8Weight("w", "layer", np.array([[10, 20], [40, 44]], np.int8), weight.scales)
    # with three integers the two of the large channel stay apart, those of the small one merge
    assert clustered(mixed, 3).tolist() == [[15, 15], [40, 44]]
    assert clustered(weight, 4).tolist() == values.tolist()
