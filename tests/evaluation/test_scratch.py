import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.contracts.errors import ran_out_of_disk
from tasks.evaluation.onnx_graph import optimised_graph
from tasks.evaluation.scratch import scratch_folder
from tasks.techniques.quantization.preparation import prepared

_MIB = 2**20


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Say how many bytes a disk has left."""
    left = {"bytes": 0}
    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, left["bytes"]))
    return left


def test_a_scratch_folder_has_the_room_that_is_asked_for_and_goes_with_the_block(free: dict[str, int]) -> None:
    free["bytes"] = 5 * _MIB + _MIB
    with scratch_folder("graph", 5 * _MIB) as folder:
        (folder / "graph.onnx").write_bytes(b"graph")
    assert not folder.exists()


def test_a_scratch_folder_is_refused_where_there_is_no_room(free: dict[str, int]) -> None:
    free["bytes"] = 5 * _MIB
    room = scratch_folder("graph", 5 * _MIB)
    with pytest.raises(OSError, match=r"No space left on device: '.*stillhouse-graph-") as raised, room:
        pass
    assert raised.value.errno == errno.ENOSPC
    assert ran_out_of_disk(raised.value)
    assert not Path(raised.value.filename).exists()


def float_model(width: int) -> bytes:
    """One matrix product, of 4 width^2 bytes."""
    weight = numpy_helper.from_array(np.ones((width, width), np.float32), "w")
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [inputs], [outputs], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert isinstance(model, onnx.ModelProto)
    return model.SerializeToString()


@pytest.mark.parametrize("work", [optimised_graph, lambda model: prepared(model, "int8")])
def test_work_with_files_of_onnxruntime_asks_for_room_by_the_size_of_the_model(
    work: Callable[[bytes], Any], free: dict[str, int]
) -> None:
    free["bytes"] = 4 * _MIB
    work(float_model(64))
    with pytest.raises(OSError, match="No space left on device"):
        work(float_model(1024))
