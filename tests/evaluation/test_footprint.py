import subprocess
import sys

import numpy as np
import pytest

from tasks.evaluation import footprint


def test_footprint_imports_neither_torch_nor_onnx_when_it_is_imported():
    code = (
        "import sys, tasks.evaluation.footprint; "
        "print([name for name in ('torch', 'onnx', 'pydantic', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_peak_memory_bytes_grows_when_memory_is_touched():
    # in a process of its own: here the block may lie where earlier tests left memory that is resident still
    code = (
        "import numpy as np; from tasks.evaluation import footprint; footprint.settle_memory(); "
        "before = footprint.peak_memory_bytes(); block = np.ones(16 * 2**20, np.uint8); "
        "print((footprint.peak_memory_bytes() - before) / block.nbytes)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 < float(result.stdout) < 1.5


def test_peak_memory_bytes_falls_back_to_the_systems_accounting_when_there_is_no_proc(monkeypatch):
    from_proc = footprint.peak_memory_bytes()
    monkeypatch.setattr(footprint.Path, "read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError))
    accounted = footprint.peak_memory_bytes()
    assert from_proc > 2**20
    assert accounted == pytest.approx(from_proc, rel=0.02)  # the kernel adds its per-thread counts up lazily


def test_footprint_ends_without_an_answer_when_nobody_waits_any_more(tmp_path):
    import onnx

    text = '<ir_version: 10, opset_import: ["" : 21]> m (float[n, 1] x) => (float[n, 1] y) { y = Identity (x) }'
    (tmp_path / "model").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    np.save(tmp_path / "rows.npy", np.zeros((1, 1), np.float32))
    files = [str(tmp_path / name) for name in ("model", "model", "rows.npy")]
    command = [sys.executable, "-m", "tasks.evaluation.footprint", "onnx", *files]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert result.stdout == "ready\n"
