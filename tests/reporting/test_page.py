"""The page holds every figure of a run, stands alone, and renders whatever is missing."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from dossiers import CHAINS, FAIL, INCONCLUSIVE, PASS, Chain, Made, digest, make_dossier

from tasks.reporting.page import render_page

VOID = {"meta", "br", "wbr", "link", "img", "hr"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects text, ids and attributes."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.ids, self.attributes = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts).replace("\u2212", "-"))


def read(page):
    return Reader(page)


@pytest.fixture(scope="module")
def page():
    return render_page(make_dossier())


def test_render_page_tells_the_verdict_in_one_sentence(page):
    size_and_speed = "It is 45\u00d7 smaller and 8.3\u00d7 faster than the baseline; "
    assert f"{size_and_speed}test accuracy changed by -0.37 points (-1.61 points at worst)." in read(page).text
    assert "<h1>student-pruned-int8 passed the gate</h1>" in page


@pytest.mark.parametrize(
    "figure",
    [
        "98.95 %", "98.31 %", "-0.64 points", "97.68 %",  # accuracy on validation
        "98.46 %", "97.82 %", "97.19 %", "Quality on 540 test rows", "Quality on 251 validation rows",
        "2.78 MB", "61.5 kB", "41.2 kB", "53.5 kB", "45\u00d7 smaller", "68\u00d7 smaller",  # sizes
        "0.386 ms", "0.046 ms", "0.056 ms", "0.073 ms", "0.245 ms", "1.17 ms", "8.3\u00d7", "25\u00d7",  # latency
        "90,700 rows/s", "9.58 MB", "4.76 ms", "15,385", "554 kFLOP", "92.3 %", "0.01230", "2.0 %",  # the rest
        "needs 1,237", "1,237 rows would settle it", "98.33 %", "\u2265 -2.00 points", "\u2264 139 kB",  # gate
        "0.7266", "10 checks of single classes: 7 PASS, 3 INCONCLUSIVE",
        "from cache (took 1 min 08 s on worker-1)", "36 s",  # stages
        "77,834", "raise rounds", "training diverged in epoch 3",
        "898", "108", "251", "540", "2.00 points", "5.0 % of the baseline", "label_weight 0.5",  # what was asked
        "shadow", "25 %", "roll" , "21 Nov 12:33:00", "8,400", "959", "wanted 300 of each",  # rollout
        "AMD EPYC 7B13", "8.21 GB", "1.31.0", "not measurable here", "4 min 25 s", digest("code"),  # machine, lineage
        digest("gate student-int8"), digest("baseline onnx"), "version 3 of digits (champion)", "since it was pinned",
        "40 epochs", "36 epochs", "in epoch 55",  # training
    ],
)  # fmt: skip
def test_render_page_shows_every_figure(page, figure):
    assert figure in read(page).text


def test_render_page_needs_nothing_outside_itself(page):
    assert not re.search(r"\s(?:src|href|action|poster|srcset)\s*=\s*[\"']?[^#\"']", page)
    assert not re.search(r"url\(|@import|https?://|<script|<link", page)
    assert "default-src 'none'" in page


def test_render_page_has_one_heading_and_links_that_lead_somewhere(page):
    reader = read(page)
    assert page.count("<h1>") == 1
    assert len(reader.ids) == len(set(reader.ids))
    targets = {value for tag, name, value in reader.attributes if (tag, name) == ("a", "href")}
    assert targets == {f"#{one}" for one in reader.ids if not one.endswith("-title")}


def test_render_page_names_every_table_and_picture(page):
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) >= 9
    for table in tables:
        assert "<caption" in table
        assert all("scope=" in head for head in re.findall(r"<th[ >][^>]*", table))
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) > 30
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root[0].tag == "title"


def test_render_page_escapes_hostile_texts():
    hostile = "<script>alert('x')</script>\"&"
    chain = Chain("c", CHAINS[0].stages, failure=f"boom {hostile}", verdict=FAIL)
    named = make_dossier(plan_name=hostile, class_names=("<b>one", "two"), chains=(*CHAINS[:2], chain))
    page = render_page(named)
    assert "<script" not in page
    assert "<b>one" not in page
    assert "&lt;script&gt;" in page
    assert hostile in read(page).text


def test_render_page_says_so_when_no_candidate_passed():
    chains = (Chain("a", CHAINS[0].stages, verdict=INCONCLUSIVE, needed=99), Chain("b", CHAINS[1].stages, verdict=FAIL))
    text = read(render_page(make_dossier(chains=chains, chosen=None))).text
    assert "No candidate passed the gate" in text
    assert "Of 2 candidates: 1 failed the gate, 1 could not be settled." in text
    assert "99 rows would settle it" in text
    assert "no rollout in this run: no candidate passed the gate" in text
    assert "No candidate was chosen; this is b" in text


def test_render_page_renders_a_run_in_which_nothing_finished():
    text = read(render_page(make_dossier(chains=CHAINS[2:], chosen=None, rollout=None, baseline_moved=None))).text
    assert "Of 1 candidate: 1 did not finish." in text
    assert "only the baseline is shown" in text
    assert "No stage finished." in text
    assert "nothing to compare" in text


def test_render_page_renders_a_chain_that_ended_halfway():
    halfway = Chain("half", CHAINS[1].stages[:2], verdict=FAIL, failure="TechniqueError: no", pareto=False)
    text = read(render_page(make_dossier(chains=(CHAINS[1], halfway)))).text
    assert "half did not finish. TechniqueError: no" in text
    assert "The chain ended here. TechniqueError: no" in text


def test_render_page_renders_a_regression():
    chains = (Chain("a", (Made("quantize_static", 2.503, 735_000, 0.16),)),)
    text = read(render_page(make_dossier(task="regression", chains=chains, chosen="a"))).text
    assert "test RMSE changed by +1.13 % (+1.84 % at worst)" in text
    assert "A regression has no classes." in text
    assert "rows a quartile of the target" in text
    assert "2.481" in text
    assert "calibration error" not in text


def test_render_page_shows_the_worst_twenty_of_many_classes():
    names = tuple(f"class-{position:03d}" for position in range(100))
    page = render_page(make_dossier(class_names=names))
    table = re.search(r'<section id="classes".*?</section>', page, re.DOTALL).group()
    shown = re.findall(r"class-\d{3}", table)
    recall = make_dossier(class_names=names).record
    before, after = recall.baseline.evaluation.per_class, recall.candidates[1].stages[-1].evaluation.per_class
    assert shown == sorted(names, key=lambda name: (after[name] - before[name], after[name], name))[:20]
    assert "80 more classes are not shown" in table


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        ("promote", "The rollout promoted it to champion."),
        ("roll_back", "gave all traffic back"),
        ("hold", "not settled yet"),
        ("unchanged", "It is the champion already"),
        (None, "There was no rollout in this run."),
    ],
)
def test_render_page_tells_how_the_rollout_ended(verdict, told):
    assert told in read(render_page(make_dossier(rollout=verdict))).text


def test_render_page_renders_before_the_model_is_registered():
    text = read(render_page(make_dossier(registered=False, rollout=None, energy_mj=1.234))).text
    assert "It is not registered yet." in text
    assert "1.23 mJ a row" in text


def test_render_page_says_slower_when_a_candidate_is_slower():
    slow = Chain("slow", (Made("quantize_static", 0.98, 721_000, 0.477),), verdict=PASS)
    text = read(render_page(make_dossier(chains=(slow,), chosen="slow"))).text
    assert "3.9\u00d7 smaller and 1.2\u00d7 slower" in text
