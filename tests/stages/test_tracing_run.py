import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from recorded_run import whole_dossier

from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.stages.tracing_run import trace_run, trace_tags

CHOSEN = "student-pruned-int8"


@pytest.fixture
def dossier(services):
    return whole_dossier(services)


def names(link, kind):
    return [one.name for one in link.walk() if one.kind == kind]


def test_trace_run_shows_the_stages_of_one_candidate_and_those_of_the_baseline(services, dossier):
    link = trace_run(services, dossier, CHOSEN)

    made = [stage.model.digest for stage in dossier.candidates[CHOSEN].stages]
    assert link.gaps == []
    assert names(link, "stage") == [*made, dossier.baseline_stage.model.digest]
    assert names(trace_run(services, dossier, None), "stage") == [dossier.baseline_stage.model.digest]
    assert link.facts["started"] == dossier.started_at


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"plan_document": {"seed": 1}}, "plan"),
        ({"dataset": {"revision": "0.dir"}}, "data"),
    ],
)
def test_trace_run_says_when_the_record_is_not_what_its_digests_name(services, dossier, change, kind):
    ((field, values),) = change.items()
    kept = getattr(dossier, field)
    changed = kept | values if isinstance(kept, dict) else kept.model_copy(update=values)

    (gap,) = trace_run(services, dossier.model_copy(update={field: changed}), CHOSEN).gaps

    assert gap.startswith(f"{kind} ")
    assert "digest" in gap


def test_trace_tags_reads_stages_in_their_order_and_says_what_only_the_record_knew(services):
    kept = services.artifacts.put(b"a stage").digest
    tags = {f"stillhouse.stage_digest.{position}": f"{position:064x}" for position in range(11)}
    tags |= {"stillhouse.stage_digest.3": kept, "stillhouse.plan": "e" * 64, "stillhouse.data_revision": "1.dir"}

    link = trace_tags(services, RegisteredVersion("digits", 1, (), tags), None)

    stages = [f"{position:064x}" for position in range(11)]
    stages[3] = kept
    assert names(link, "stage") == stages
    assert f"stage {kept}" not in "".join(link.gaps)
    assert f"plan {'e' * 64}: its content was in the run's record" in link.gaps
    assert names(link, "DVC revision") == ["1.dir"]
    assert link.missing == "the version does not name it, and no record names it"
