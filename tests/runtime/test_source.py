import sys
from pathlib import Path

import pytest

from tasks.runtime.source import executed_modules, source_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package: `nets.head` imports `nets.block` inside a function; `nets.other` stands apart."""
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "head.py").write_text("def make():\n    from nets.block import width\n    return width\n")
    (folder / "block.py").write_text("width = 3\n")
    (folder / "other.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "nets"]:
        del sys.modules[name]


def test_source_digest_changes_when_a_comment_is_added_to_a_module_imported_inside_a_function(package: Path) -> None:
    before = source_digest(["nets.head"])
    (package / "block.py").write_text("width = 3  # wider soon\n")
    assert source_digest(["nets.head"]) != before


def test_source_digest_stays_when_an_unrelated_module_changes(package: Path) -> None:
    before = source_digest(["nets.head"])
    (package / "other.py").write_text("x = 2\n")
    assert source_digest(["nets.head"]) == before


def test_source_digest_does_not_import_what_it_reads(package: Path) -> None:
    for file in package.iterdir():
        file.write_text("raise RuntimeError('imported')\n" + file.read_text())
    assert executed_modules(["nets.head"]) == ["nets.block", "nets.head"]
    assert "nets" not in sys.modules


def test_executed_modules_of_a_technique_leave_out_other_techniques_and_infrastructure() -> None:
    modules = executed_modules(["tasks.techniques.distillation.distill_response", "tasks.stages.applying"])
    assert "tasks.techniques.training" in modules
    assert "tasks.techniques.pruning.prune_channels" not in modules
    assert not [name for name in modules if name.startswith(("tasks.adapters", "tasks.runtime"))]
