import pytest

from tasks.contracts.device import FormCost, TrainingForm
from tasks.contracts.model import Architecture
from tasks.techniques.baseline import TrainSpec, WarmStart
from tasks.techniques.distillation.distill_response import DistillResponse
from tasks.techniques.forms import (
    compiled_forms,
    fastest,
    fitting_sizes,
    halved_forms,
    is_open,
    largest_batch,
    open_forms,
    settled,
    stated_form,
)
from tasks.techniques.quantization.quantize_static import QuantizeStatic
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


def test_open_forms_compiles_all_or_none_and_lets_as_many_rows_run_at_once_as_it_is_told() -> None:
    forms = open_forms(Schedule(precision="auto", compile=True, micro_batch="auto"), 3, micro_batch=16)
    assert [form.compile for form in forms] == [True, True]
    assert [form.micro_batch for form in forms] == [16, 16]
    assert [form.compile for form in open_forms(Schedule(compile="auto"), 3)] == [False]


def test_compiled_forms_adds_the_compiled_form_where_that_is_open() -> None:
    assert compiled_forms(Schedule(compile="auto"), LAST) == [LAST, TrainingForm(channels_last=True, compile=True)]
    assert compiled_forms(Schedule(), LAST) == [LAST]


@pytest.mark.parametrize(
    ("batch_size", "chosen", "rows_at_once"),
    [(64, None, [None, 32, 16]), (64, 8, [8, 4, 2]), (6, None, [None, 3]), (2, None, [None])],
)
def test_halved_forms_halves_the_rows_at_once_twice_at_most(
    batch_size: int, chosen: int | None, rows_at_once: list[int | None]
) -> None:
    schedule = Schedule(batch_size=batch_size, micro_batch="auto")
    forms = halved_forms(schedule, HALF.model_copy(update={"micro_batch": chosen}))
    assert [form.micro_batch for form in forms] == rows_at_once
    assert {form.precision for form in forms} == {"bfloat16"}
    assert halved_forms(Schedule(micro_batch=32), PLAIN) == [PLAIN]


def test_fitting_sizes_halves_the_batch_down_to_two_rows_where_that_is_open() -> None:
    assert list(fitting_sizes(Schedule(batch_size=12, micro_batch="auto"))) == [None, 6, 3]
    assert list(fitting_sizes(Schedule(micro_batch=5))) == [5]
    assert list(fitting_sizes(Schedule())) == [None]


def test_fastest_stays_with_the_plain_form_when_another_is_hardly_faster() -> None:
    plain, last, half = FormCost(step_ms=10.0), FormCost(step_ms=9.4), FormCost(step_ms=9.45)
    assert fastest({PLAIN: plain, LAST: FormCost(step_ms=9.6)}, 100) == PLAIN
    assert fastest({PLAIN: plain, LAST: last, HALF: half}, 100) == LAST
    assert fastest({HALF: plain}, 100) == HALF


@pytest.mark.parametrize(("num_steps", "pays"), [(1_999, False), (2_101, True)])
def test_fastest_compiles_only_where_the_training_is_long_enough_to_pay_for_it(num_steps: int, pays: bool) -> None:
    kernels = TrainingForm(compile=True)
    # 9 n + 1050 < 0.95 * 10 n from n = 2101 on
    costs = {PLAIN: FormCost(step_ms=10.0), kernels: FormCost(step_ms=9.0, setup_ms=1_050.0)}
    assert (fastest(costs, num_steps) == kernels) is pays


def test_largest_batch_looks_at_every_schedule() -> None:
    network = Architecture(factory="torch.nn:Linear")
    warm = WarmStart(schedule=Schedule(batch_size=512))
    assert largest_batch(TrainSpec(model=network, schedule=Schedule(batch_size=128), warm_start=warm)) == 512
    assert largest_batch(QuantizeStatic()) == 0


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
    assert stated_form(Schedule(compile=True, micro_batch=16)) == {"trained_in": "float32, compiled, 16 rows at once"}
