import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from tasks.evaluation.machine import (
    computes_bfloat16,
    current_machine,
    instruction_sets,
    multiplies_int8_exactly,
    processor_model,
    usable_cpus,
)


def test_current_machine_has_the_same_digest_in_every_process_and_imports_no_engine():
    code = (
        "import sys; from tasks.evaluation.machine import current_machine; print(current_machine().value_digest()); "
        "assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == current_machine().value_digest()


def test_current_machine_names_what_runs_the_models():
    machine = current_machine()
    assert machine.versions["onnxruntime"] == version("onnxruntime")
    assert machine.provider == "CPUExecutionProvider"
    assert machine.memory_bytes > 2**28
    assert machine.processor


def test_processor_model_reads_what_the_kernel_says_and_falls_back_when_it_says_nothing(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Imaginary CPU @ 3 GHz\n\nmodel name\t: another\n")
    assert processor_model(cpuinfo) == "Imaginary CPU @ 3 GHz"
    cpuinfo.write_text("processor\t: 0\n")
    assert processor_model(cpuinfo)
    assert processor_model(tmp_path / "missing") == processor_model(cpuinfo)


@pytest.mark.parametrize(("quota", "limit"), [("max 100000", 10**6), ("50000 100000", 1), ("150000 100000", 2)])
def test_usable_cpus_is_limited_by_the_containers_quota(tmp_path, quota, limit):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    allowed = usable_cpus(tmp_path / "missing")
    assert usable_cpus(tmp_path / "cpu.max") == min(allowed, limit)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its CPUs")
def test_usable_cpus_counts_only_those_that_the_process_may_use(tmp_path):
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        assert usable_cpus(tmp_path / "missing") == 1
    finally:
        os.sched_setaffinity(0, cpus)


@pytest.mark.parametrize(
    ("line", "known", "bfloat16"),
    [
        (
            "flags\t\t: fpu avx2 avx512bw avx512_vnni avx512_bf16",
            ("avx2", "avx512bw", "avx512_vnni", "avx512_bf16"),
            True,
        ),
        ("flags\t\t: fpu sse2 avx2 bf16x", ("avx2",), False),
        ("Features\t: fp asimd i8mm bf16", ("asimd", "i8mm", "bf16"), True),
        ("processor\t: 0", (), None),
    ],
)
def test_instruction_sets_are_those_that_the_kernel_lists(tmp_path, line, known, bfloat16):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: avx512bw\n{line}\n")
    assert instruction_sets(cpuinfo) == known
    assert computes_bfloat16(known) is bfloat16


def test_instruction_sets_are_not_known_when_the_kernel_has_no_such_file(tmp_path):
    assert instruction_sets(tmp_path / "missing") == ()


@pytest.mark.parametrize(
    ("instructions", "exactly"),
    [(("avx2",), False), (("avx2", "avx512bw"), False), (("avx2", "avx_vnni"), True), (("asimd",), True), ((), True)],
)
def test_multiplies_int8_exactly_unless_x86_lacks_vnni(instructions, exactly):
    assert multiplies_int8_exactly(instructions) is exactly
