import json

import pytest
from dossiers import CHAINS, digest, make_dossier

from tasks.contracts.verdict import Verdict
from tasks.reporting.model_card import ModelCard, make_model_card

CHOSEN = "student-pruned-int8"


@pytest.fixture
def dossier():
    return make_dossier()


def test_make_model_card_takes_every_figure_from_the_dossier(dossier):
    card = make_model_card(dossier, "reader", CHOSEN)

    summary = dossier.record.candidates[1]
    gate = dossier.candidates[CHOSEN].gate
    assert (card.model_name, card.digest) == ("reader", summary.stages[-1].model.digest)
    assert card.evaluation == summary.stages[-1].evaluation
    assert card.evaluation.split == "test"
    assert (card.baseline, card.baseline_evaluation) == (digest("baseline onnx"), dossier.record.baseline.evaluation)
    assert (card.gate_report, card.verdict, card.checks) == (gate.artifact.digest, Verdict.PASS, gate.report.checks)
    assert card.machine == dossier.machine
    assert card.data.splits == {"train": 898, "calibration": 108, "validation": 251, "test": 540}
    assert card.data.revision == "d41d8cd98f00b204e9800998ecf8427e.dir"


def test_make_model_card_shows_the_chain_as_the_plan_set_it_and_what_each_stage_made(dossier):
    card = make_model_card(dossier, "digits", CHOSEN)

    assert [stage.kind for stage in card.stages] == ["train", "distill_response", "prune_channels", "quantize_static"]
    pruned = card.stages[2]
    assert pruned.settings == {"criterion": "bn_scale", "ratio": 0.5, "rounds": 3}
    assert pruned.details["parameters_after"] == 28_112
    assert [stage.model for stage in card.stages[1:]] == [
        stage.model.digest for stage in dossier.candidates[CHOSEN].stages
    ]


def test_make_model_card_shows_the_export_that_a_chain_of_torch_techniques_ends_in(dossier):
    plan = dossier.plan_document
    shorter = {**plan, "candidates": {**plan["candidates"], CHOSEN: plan["candidates"][CHOSEN][:-1]}}
    card = make_model_card(dossier.model_copy(update={"plan_document": shorter}), "digits", CHOSEN)

    assert [stage.settings == {} for stage in card.stages[1:]] == [False, False, True]
    assert card.stages[-1].model == dossier.candidates[CHOSEN].stages[-1].model.digest


def test_make_model_card_puts_the_class_first_that_lost_most(dossier):
    card = make_model_card(dossier, "digits", CHOSEN)

    changes = [one.model - one.baseline for one in card.classes]
    assert changes == sorted(changes)
    assert {one.name for one in card.classes} == set(dossier.dataset.class_names)
    assert {one.num_rows for one in card.classes} == {54}
    assert {one.name: one.verdict for one in card.classes}["0"] is Verdict.INCONCLUSIVE


def test_make_model_card_of_the_baseline_has_no_gate_and_no_other_model(dossier):
    card = make_model_card(dossier, "digits", None)

    assert (card.candidate, card.gate_report, card.verdict, card.checks) == (None, None, None, ())
    assert card.digest == card.baseline
    assert [stage.kind for stage in card.stages] == ["train"]
    assert "No gate judged this model: it is the baseline of its run." in card.limits


def test_make_model_card_of_a_regression_has_no_classes():
    card = make_model_card(make_dossier(task="regression"), "prices", CHOSEN)

    assert (card.classes, card.data.class_names) == ((), ())
    assert "Calibration was not measured." in card.limits


@pytest.mark.parametrize(("given", "expected"), [({"license": "CC-BY-4.0"}, "CC-BY-4.0"), ({}, ""), (None, "")])
def test_make_model_card_takes_the_licence_from_the_plan(dossier, given, expected):
    plan = dossier.plan_document | ({"dataset": given} if given is not None else {})

    assert make_model_card(dossier.model_copy(update={"plan_document": plan}), "a", CHOSEN).data.license == expected


def test_a_model_card_survives_json_and_is_the_same_every_time(dossier):
    card = make_model_card(dossier, "digits", CHOSEN)
    stored = card.canonical_json()

    assert ModelCard.model_validate_json(stored) == card
    assert make_model_card(make_dossier(), "digits", CHOSEN).canonical_json() == stored
    assert json.loads(stored)["schema"] == "stillhouse.model-card/1"
    assert "stillhouse.stages.student-int8" not in card.lineage  # another chain's


def test_every_finished_candidate_has_a_card(dossier):
    for chain in CHAINS:
        if chain.failure is None:
            assert make_model_card(dossier, "digits", chain.name).verdict is chain.verdict
