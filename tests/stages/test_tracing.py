import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from recorded_run import Registry, Tracker, whole_dossier

from infra.gateway.records import PredictionRecord, prediction_table
from tasks.adapters.route_store import RouteStore
from tasks.contracts.artifact import artifact_key
from tasks.contracts.errors import InfrastructureError, UserError
from tasks.contracts.registration import CARD_TAG, DIGEST_TAG, RUN_TAG, TRACKING_TAG
from tasks.contracts.route import Arm
from tasks.stages.recording import record_run, register_challenger
from tasks.stages.tracing import trace, trace_flow_run, trace_request

CHOSEN = "student-pruned-int8"


@pytest.fixture
def outside(services):
    tracker, registry = Tracker(), Registry()
    return replace(services, make_tracker=lambda: tracker, make_registry=lambda: registry)


@pytest.fixture
def dossier(outside):
    """A whole run, recorded and registered: version 1 is the baseline and champion, 2 the challenger."""
    dossier = whole_dossier(outside).with_lineage({TRACKING_TAG: "mlflow-1"})
    outside.tracker.runs["mlflow-1"] = {"flow_run": dossier.record.run_id}
    register_challenger(outside, dossier, "parent", "<html>")
    outside.documents.append(f"runs/{dossier.record.run_id}", dossier.canonical_json(), 0)
    return dossier


def links(link, kind):
    return [one for one in link.walk() if one.kind == kind]


def lose(services, digest):
    (services.settings.store_root / artifact_key(digest)).unlink()


def test_trace_leads_from_a_version_to_gate_run_plan_stages_baseline_and_data(outside, dossier):
    version = outside.registry.version("digits", 2)

    link = trace(outside, version.tags[DIGEST_TAG], version)

    assert link.gaps == []
    assert (link.name, link.facts["aliases"]) == ("digits/2", "challenger")
    assert [one.name for one in links(link, "gate report")] == [dossier.candidates[CHOSEN].gate.artifact.digest]
    assert [one.name for one in links(link, "model card")] == [version.tags[CARD_TAG]]
    (run,) = links(link, "run")
    assert run.name == version.tags[RUN_TAG] == dossier.record.run_id
    assert run.facts["code"] == dossier.lineage["stillhouse.code"]
    assert [one.name for one in links(link, "plan")] == [dossier.record.plan.digest]
    made = [stage.model.digest for stage in dossier.candidates[CHOSEN].stages]
    assert [one.name for one in links(link, "stage")] == [*made, dossier.baseline_stage.model.digest]
    assert [one.name for one in links(link, "baseline")] == [dossier.record.baseline.model.digest]
    assert [one.name for one in links(link, "data")] == [dossier.dataset.digest]
    assert [one.name for one in links(link, "DVC revision")] == [dossier.dataset.revision]
    assert [one.facts["name"] for one in links(link, "split")] == ["train", "calibration", "validation", "test"]


def test_trace_of_a_bare_digest_finds_the_version_that_was_made_from_it(outside, dossier):
    outside.registry.names = lambda: ["digits"]
    outside.registry.find_version = lambda name, digest: next(
        (outside.registry.version(name, number) for number in (1, 2)
         if outside.registry.version(name, number).tags[DIGEST_TAG] == digest), None,
    )  # fmt: skip

    assert trace(outside, dossier.record.baseline.model.digest).name == "digits/1"
    assert trace(outside, "0" * 64).gaps == [f"model {'0' * 64}: not in the store, or damaged there"]


def test_trace_of_the_baseline_has_a_ledger_entry_and_no_gate(outside, dossier):
    link = trace(outside, dossier.record.baseline.model.digest, outside.registry.version("digits", 1))

    assert link.gaps == []
    assert [one.name for one in links(link, "ledger entry")] == ["1 (bootstrap)"]
    assert links(link, "gate report") == []
    assert [one.facts["kind"] for one in links(link, "stage")] == ["train"]


@pytest.mark.parametrize("kind", ["model", "gate report", "model card", "stage", "baseline", "split"])
def test_trace_names_the_link_that_is_not_in_the_store(outside, dossier, kind):
    version = outside.registry.version("digits", 2)
    whole = trace(outside, version.tags[DIGEST_TAG], version)
    lost = links(whole, kind)[0].name
    lose(outside, lost)

    gaps = trace(outside, version.tags[DIGEST_TAG], version).gaps

    assert f"{kind} {lost}: not in the store, or damaged there" in gaps
    assert all(lost in gap for gap in gaps)


def test_trace_says_when_the_gate_report_is_about_another_model(outside, dossier):
    version = outside.registry.version("digits", 2)
    other = dossier.candidates["student-int8"].gate.artifact.digest
    tags = dict(version.tags) | {"stillhouse.gate_report": other}

    (gap,) = trace(outside, version.tags[DIGEST_TAG], replace(version, tags=tags)).gaps

    assert gap.startswith(f"gate report {other}: it is about another model")


def test_trace_takes_another_run_that_made_the_same_model_when_the_registering_one_left_no_record(outside, dossier):
    version = outside.registry.version("digits", 2)
    for tags, told in (
        (dict(version.tags) | {RUN_TAG: "killed"}, "of run killed, which registered the version, there is no record"),
        ({name: value for name, value in version.tags.items() if name != RUN_TAG}, "the version names none"),
    ):
        link = trace(outside, version.tags[DIGEST_TAG], replace(version, tags=tags))

        (run,) = links(link, "run")
        assert (run.name, run.facts["found by"]) == (dossier.record.run_id, f"the model's digest: {told}")
        assert link.gaps == []


def test_trace_tells_what_the_tags_know_when_no_run_left_a_record(outside, dossier):
    version = outside.registry.version("digits", 2)
    for path in (outside.settings.store_root / "documents" / "runs").rglob("*.json"):
        path.unlink()

    link = trace(outside, version.tags[DIGEST_TAG], version)

    (run,) = links(link, "run")
    assert run.missing == "the store holds no record of it"
    made = [stage.model.digest for stage in dossier.candidates[CHOSEN].stages]
    assert [one.name for one in links(link, "stage")] == made
    assert links(link, "DVC revision")[0].name == dossier.dataset.revision


def test_trace_refuses_a_record_that_is_damaged(outside, dossier):
    version = outside.registry.version("digits", 2)
    outside.documents.append(f"runs/{dossier.record.run_id}", b'{"record": 1}', 1)

    with pytest.raises(InfrastructureError, match="is not the record of a run"):
        trace(outside, version.tags[DIGEST_TAG], version)


@pytest.fixture
def serve(outside, dossier):
    """Log answers as a gateway does: to the champion's request "r1", with the challenger in shadow."""
    routes = RouteStore(outside.documents, outside.acknowledgements)
    current = routes.current("digits")
    challenger = Arm(digest=outside.registry.version("digits", 2).tags[DIGEST_TAG], version=2)
    route = current.route.model_copy(update={"challenger": challenger, "shadow": True, "rollout_id": "roll-1"})
    routed = routes.publish(route, current.version)

    def log(*answers, version=routed.version):
        records = [
            PredictionRecord(
                route=route, route_version=version, request_id=request_id, at=1_767_268_800_000_000, arm="champion",
                served_by="challenger" if shadow else "champion", shadow=shadow, latency_ms=1.0, error="",
                inputs=np.zeros((3, 1, 8, 8), np.float32), outputs=np.zeros((3, 10), np.float32),
            )
            for request_id, shadow in answers
        ]  # fmt: skip
        folder = outside.settings.traffic_root / "digits" / "predictions" / "2026-01-01-12"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(prediction_table(records), folder / f"g-{len(list(folder.iterdir()))}.parquet")

    return log


def test_trace_request_leads_to_every_model_that_answered_and_to_its_data(outside, dossier, serve):
    serve(("r0", False), ("r1", False), ("r1", True))

    link = trace_request(outside, "r1")

    assert link.gaps == []
    assert [one.name for one in links(link, "version")] == ["digits/1", "digits/2"]
    answers = links(link, "answer")
    assert [one.facts["seen by the caller"] for one in answers] == ["yes", "no, in shadow"]
    assert {one.facts["rows"] for one in answers} == {"3"}
    assert {one.facts["rollout"] for one in answers} == {"roll-1"}
    assert {one.facts["at"] for one in answers} == {"2026-01-01T12:00:00.000+00:00"}
    assert {one.name for one in links(link, "route")} == {"digits version 2"}
    assert {one.name for one in links(link, "data")} == {dossier.dataset.digest}


def test_trace_request_says_when_the_store_is_not_the_one_that_routed(outside, dossier, serve):
    serve(("r1", False), version=9)

    assert trace_request(outside, "r1").gaps == [
        "route digits version 9: the store's newest route of the model is version 2"
    ]


def test_trace_request_says_when_the_registry_knows_another_model_under_the_version(outside, dossier, serve):
    serve(("r1", False))
    made = outside.registry.made[0]
    made["tags"] = made["tags"] | {DIGEST_TAG: "0" * 64}

    (gap,) = trace_request(outside, "r1").gaps

    assert f"the gateway served {dossier.record.baseline.model.digest}, the registry says {'0' * 64}" in gap


def test_trace_request_refuses_a_request_that_was_not_logged(outside, dossier, serve):
    with pytest.raises(UserError, match="STILLHOUSE_TRAFFIC"):
        trace_request(outside, "r1")
    serve(("r1", False))
    with pytest.raises(UserError, match="'r2'"):
        trace_request(outside, "r2")


def test_any_of_the_names_leads_to_all_others(outside, dossier, serve):
    serve(("r1", False), ("r1", True))
    run_id, (old, new) = dossier.record.run_id, outside.registry.versions("digits")
    expected = {
        "flow_runs": (run_id,),
        "tracking_runs": ("mlflow-1",),
        "models": (old.tags[DIGEST_TAG], new.tags[DIGEST_TAG]),
        "versions": ("digits/1", "digits/2"),
        "gate_reports": (dossier.candidates[CHOSEN].gate.artifact.digest,),
        "ledger_entries": ("digits 1 (bootstrap)",),
        "routes": ("digits version 2",),
    }

    for link in (trace_flow_run(outside, run_id), trace_flow_run(outside, "mlflow-1"), trace_request(outside, "r1")):
        names = link.identities().model_dump(exclude={"requests"})
        assert names == expected
    assert trace_request(outside, "r1").identities().requests == ("r1",)
    one = trace(outside, new.tags[DIGEST_TAG], new).identities()
    assert (one.flow_runs, one.tracking_runs, one.models) == ((run_id,), ("mlflow-1",), (new.tags[DIGEST_TAG],))


def test_the_flow_run_stands_on_ledger_entry_route_and_stage_runs(outside, dossier, serve):
    run_id = dossier.record.run_id

    assert outside.ledger.champion("digits").run_id == run_id
    assert RouteStore(outside.documents, outside.acknowledgements).current("digits").route.champion.run_id == run_id
    record_run(outside, dossier)
    stages = [one for one in outside.tracker.runs.values() if one.get("parent")]
    assert stages
    assert {one["tags"][RUN_TAG] for one in stages} == {run_id}


def test_trace_of_a_model_on_the_way_leads_to_the_run_that_made_it(outside, dossier):
    outside.registry.names = lambda: []
    (first, *_) = dossier.candidates[CHOSEN].stages

    link = trace(outside, first.model.digest)

    assert link.gaps == []
    assert link.identities().flow_runs == (dossier.record.run_id,)
    assert first.model.digest in [one.name for one in links(link, "stage")]


def test_trace_flow_run_of_a_run_that_chose_nothing_tells_of_the_run_itself(outside, dossier):
    outside.registry.made.clear()

    (run,) = trace_flow_run(outside, dossier.record.run_id).rests_on

    assert (run.kind, run.name) == ("run", dossier.record.run_id)


def test_trace_flow_run_says_who_does_not_know_it(outside, dossier):
    outside.tracker.runs["mlflow-2"] = {"flow_run": "gone"}

    with pytest.raises(UserError, match=r"run x: MLflow has no such run, and the store .* holds no record"):
        trace_flow_run(outside, "x")
    with pytest.raises(UserError, match="run mlflow-2: MLflow names flow run gone, of which the store"):
        trace_flow_run(outside, "mlflow-2")
