import pytest

from tasks.contracts.device import TrainingForm
from tasks.contracts.model import Architecture
from tasks.techniques.baseline import TrainSpec, WarmStart
from tasks.techniques.distillation.distill_response import DistillResponse
from tasks.techniques.forms import fastest, is_open, open_forms, settled, stated_form
from tasks.techniques.schedule import Schedule

PLAIN, LAST = TrainingForm(), TrainingForm(channels_last=True)
HALF, HALF_LAST = TrainingForm(precision="bfloat16"), TrainingForm(precision="bfloat16", channels_last=True)


@pytest.mark.parametrize(
    ("schedule", "num_axes", "forms"),
    [
        (Schedule(), 3, [PLAIN]),
        (Schedule(precision="auto"), 3, [PLAIN, HALF]),
        (Schedule(channels_last="auto"), 3, [PLAIN, LAST]),
        (Schedule(channels_last="auto"), 1, [PLAIN]),
        (Schedule(precision="auto", channels_last="auto"), 3, [PLAIN, LAST, HALF, HALF_LAST]),
        (Schedule(precision="bfloat16", channels_last="auto"), 3, [HALF, HALF_LAST]),
        (Schedule(precision="auto", channels_last=True), 3, [LAST, HALF_LAST]),
    ],
)
def test_open_forms_keeps_what_is_stated_and_begins_with_the_plainest(
    schedule: Schedule, num_axes: int, forms: list[TrainingForm]
) -> None:
    assert open_forms(schedule, num_axes) == forms
    assert is_open(schedule) is ("auto" in (schedule.precision, schedule.channels_last))


def test_fastest_stays_with_the_plain_form_when_another_is_hardly_faster() -> None:
    assert fastest({PLAIN: 10.0, LAST: 9.6}) == PLAIN
    assert fastest({PLAIN: 10.0, LAST: 9.4, HALF: 9.45}) == LAST
    assert fastest({HALF: 10.0}) == HALF


def test_settled_states_the_form_of_every_open_schedule_and_of_no_other() -> None:
    network = Architecture(factory="torch.nn:Linear")
    spec = TrainSpec(
        model=network,
        schedule=Schedule(epochs=7, precision="auto"),
        warm_start=WarmStart(schedule=Schedule(epochs=3, channels_last="auto")),
    )
    asked: list[int] = []

    def choose(schedule: Schedule) -> TrainingForm:
        asked.append(schedule.epochs)
        return HALF_LAST

    found = settled(spec, choose)
    assert asked == [7, 3]
    assert found.schedule == Schedule(epochs=7, precision="bfloat16", channels_last=True)
    assert found.schedule_in_use == Schedule(epochs=3, precision="bfloat16", channels_last=True)
    assert found.model == network


def test_settled_returns_a_spec_that_leaves_nothing_open_itself() -> None:
    spec = DistillResponse(schedule=Schedule(precision="float32"))
    assert settled(spec, lambda _: pytest.fail("there is nothing to choose")) is spec


def test_stated_form_names_what_is_not_plain() -> None:
    assert stated_form(DistillResponse()) == {}
    assert stated_form(Schedule(channels_last=True)) == {"trained_in": "float32, channels last"}
    assert stated_form(DistillResponse(schedule=Schedule(precision="bfloat16"))) == {"trained_in": "bfloat16"}
