import sys
from pathlib import Path

import pytest

from flows.baselines import describe_move, keep_baseline, pin_path, read_pin
from tasks.contracts.errors import UserError
from tasks.contracts.run import RunDossier
from tasks.runtime.services import connect

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))
from dossiers import make_dossier  # the dossiers that the report's tests use


@pytest.fixture
def pinned() -> RunDossier:
    dossier = make_dossier()
    keep_baseline(dossier, pin=True)
    return dossier


def test_describe_move_says_nothing_when_nothing_is_pinned_or_nothing_moved(pinned: RunDossier) -> None:
    model, data = pinned.baseline_stage.model.digest, pinned.dataset.digest

    assert describe_move("another", model, data) is None
    assert describe_move("digits", model, data) is None


def test_describe_move_names_what_moved_and_how_good_the_pinned_one_was(pinned: RunDossier) -> None:
    model, data = pinned.baseline_stage.model.digest, pinned.dataset.digest

    moved = describe_move("digits", "f" * 64, data)
    assert moved is not None
    assert f"model {model[:12]} -> {'f' * 12} (pinned: accuracy 0.98" in moved
    both = describe_move("digits", "f" * 64, "e" * 64)
    assert both is not None
    assert f"data {data[:12]} -> {'e' * 12}" in both


def test_keep_baseline_pins_only_when_asked_and_keeps_one_version_per_content() -> None:
    dossier = make_dossier()
    keep_baseline(dossier, pin=False)
    keep_baseline(dossier, pin=False)

    assert read_pin(pin_path("digits")) is None
    assert connect().documents.latest("baselines/digits").version == 1


def test_read_pin_explains_a_file_that_is_no_baseline(pinned: RunDossier) -> None:
    pin_path("digits").write_text("{}")

    with pytest.raises(UserError, match="stillhouse run --pin-baseline"):
        describe_move("digits", "f" * 64, "e" * 64)
