import re

import pytest
from dossiers import Chain, Made, make_dossier
from markdown_it import MarkdownIt

from tasks.reporting.model_card import make_model_card
from tasks.reporting.model_card_text import card_markdown, summary_of

CHOSEN = "student-pruned-int8"


@pytest.fixture
def card():
    return make_model_card(make_dossier(), "digits", CHOSEN)


def sections(text):
    return dict(re.findall(r"^## (.+?)\n\n(.*?)(?=\n\n## |\Z)", text, re.MULTILINE | re.DOTALL))


def test_card_markdown_has_a_section_for_everything_that_a_reader_asks(card):
    found = sections(card_markdown(card))

    assert list(found) == [
        "Intended use", "Limits", "Quality", "Gate", "Classes", "Size and speed", "How it was made", "Data", "Lineage",
    ]  # fmt: skip
    assert all(found.values())


def test_card_markdown_shows_the_measured_figures_with_their_unit(card):
    found = sections(card_markdown(card))

    assert "| accuracy | 97.82\u00a0% | 98.46\u00a0% |" in found["Quality"]
    assert "| size at rest | 61.5\u00a0kB | 2.78\u00a0MB |" in found["Size and speed"]
    assert "| accuracy | PASS | \u22120.37\u00a0points | \u22121.61\u00a0points |" in found["Gate"]
    assert "prune\\_channels: criterion bn\\_scale, ratio 0.5, rounds 3" in found["How it was made"]
    assert "AMD EPYC 7B13, 2 CPUs" in found["Size and speed"]


def test_card_markdown_says_that_a_licence_is_not_recorded_instead_of_inventing_one(card):
    assert "not recorded; set" in sections(card_markdown(card))["Data"]


def test_card_markdown_of_the_baseline_says_that_no_gate_judged_it():
    text = card_markdown(make_model_card(make_dossier(), "digits", None))

    assert sections(text)["Gate"] == "Not judged: the baseline is what candidates are held against."
    assert "No gate judged it." in text


def test_card_markdown_of_a_regression_says_that_there_are_no_classes():
    chains = (Chain("small", (Made("quantize_static", 2.6, 41_250, 0.04),)),)
    dossier = make_dossier(chains=chains, chosen="small", task="regression")

    found = sections(card_markdown(make_model_card(dossier, "prices", "small")))

    assert found["Classes"] == "There are none: the model gives a number."
    assert "expected calibration error | not measured" in found["Quality"]
    assert "estimate one number" in found["Intended use"]


def test_card_markdown_leaves_out_all_but_twenty_classes_and_says_so():
    names = tuple(f"class {number}" for number in range(150))
    text = card_markdown(make_model_card(make_dossier(class_names=names), "intents", CHOSEN))

    found = sections(text)["Classes"]
    assert len(re.findall(r"^\| class \d", found, re.MULTILINE)) == 20
    assert "130 more classes changed by" in found


def test_card_markdown_escapes_what_users_named():
    hostile = ("<script>alert(1)</script>", "a|b", "**bold**", "[x](javascript:y)", "line\nbreak")
    text = card_markdown(make_model_card(make_dossier(class_names=hostile), "digits", CHOSEN))

    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script>" not in html
    assert "<a " not in html
    assert html.count("<table>") == 6
    assert "<td>a|b</td>" in html
    assert "<td>**bold**</td>" in html
    assert "<td>line break</td>" in html


def test_summary_of_is_one_line_that_a_registry_can_show(card):
    summary = summary_of(card)

    assert "\n" not in summary
    assert "accuracy 97.82\u00a0% on 540 test rows (baseline accuracy 98.46\u00a0%)" in summary
    assert summary.endswith("The gate says PASS.")
    assert len(summary) < 5_000
