"""A search in MLflow and among the documents."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tasks.contracts.search import Excess, SearchRecord
from tasks.contracts.value import digests_in
from tasks.runtime.services import Services
from tasks.stages.recording_search import record_search
from tests.searched import FAILED, searched, tried

sys.path.insert(0, str(Path(__file__).parent))
from recorded_run import Tracker  # a module beside this one


@pytest.fixture
def outside(services: Services) -> Services:
    tracker = Tracker()
    return replace(services, make_tracker=lambda: tracker)


RECORD = searched(tried(0), tried(1, Excess(tuned=0.02, held=-0.01, size=0.0)), FAILED, finalists=(0,))


def test_a_search_is_a_run_with_a_run_for_every_trial(outside: Services) -> None:
    parent = record_search(outside, RECORD, "name: digits  # found\n")
    runs = outside.tracker.runs
    trials = {run["name"]: run for run in runs.values() if run["parent"] == parent}
    assert list(trials) == ["student-0", "student-1", "pruned-2"]
    assert trials["student-0"]["params"] == {"candidate": "student", "0.temperature": "6.5"}
    assert trials["student-0"]["metrics"]["held.accuracy"] == 0.972
    assert trials["student-1"]["metrics"]["excess.tuned"] == 0.02
    assert trials["pruned-2"]["metrics"] == {"seconds": 0.0}
    assert trials["pruned-2"]["tags"]["stillhouse.failure"] == FAILED.failure
    assert [one["tags"]["stillhouse.finalist"] for one in trials.values()] == ["true", "false", "false"]
    assert runs[parent]["metrics"]["trials_within_limits"] == 1.0
    assert runs[parent]["tags"] == {"stillhouse.finalists": "student-0"}
    assert yaml.safe_load(runs[parent]["files"]["plan.yaml"]) == {"name": "digits"}


def test_recording_again_makes_nothing_twice(outside: Services) -> None:
    assert record_search(outside, RECORD, None) == record_search(outside, RECORD, None)
    assert len(outside.tracker.runs) == 4
    document = outside.documents.latest("searches/run-1")
    assert document is not None
    assert document.version == 1
    assert SearchRecord.model_validate_json(document.data) == RECORD


def test_the_record_keeps_no_artifact_of_a_trial_alive(outside: Services) -> None:
    record_search(outside, RECORD, None)
    document = outside.documents.latest("searches/run-1")
    assert document is not None
    assert digests_in(document.data) == {RECORD.plan.digest}


def test_a_search_that_found_nothing_has_no_plan(outside: Services) -> None:
    parent = record_search(outside, searched(FAILED), None)
    assert list(outside.tracker.runs[parent]["files"]) == ["search.json"]
    assert outside.tracker.runs[parent]["tags"] == {"stillhouse.finalists": "none"}
