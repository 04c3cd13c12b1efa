"""Schedules that leave the form of training to a probe, and what the probe's answer makes of them."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from tasks.contracts.device import FormCost, TrainingForm
from tasks.contracts.value import Value
from tasks.techniques.schedule import Schedule

V = TypeVar("V", bound=Value)

_FORM = set(TrainingForm.model_fields)
_WORTH_IT = 0.95
"""A form that is not the plain one must need less than this share of its time: a probe is short, and noisy."""
_HALVINGS = 2
"""How often the rows at once are halved in search of a faster step; smaller ones only pay for more calls."""


def is_open(schedule: Schedule) -> bool:
    """Tell whether a schedule leaves something to a probe."""
    return "auto" in (schedule.precision, schedule.channels_last, schedule.compile, schedule.micro_batch)


def open_forms(schedule: Schedule, num_axes: int, micro_batch: int | None = None) -> list[TrainingForm]:
    """Return the number formats and orders of memory that a schedule allows, the plainest first.

    Args:
        schedule: what it states is kept; whether to compile is `compiled_forms`' question.
        num_axes: of one row; only images, of three, can be laid out with their channels last.
        micro_batch: of all of them.
    """
    precisions = ("float32", "bfloat16") if schedule.precision == "auto" else (schedule.precision,)
    if schedule.channels_last == "auto":
        layouts: tuple[bool, ...] = (False, True) if num_axes == 3 else (False,)
    else:
        layouts = (schedule.channels_last,)
    return [
        TrainingForm(
            precision=precision,
            channels_last=channels_last,
            compile=schedule.compile is True,
            micro_batch=micro_batch,
        )
        for precision in precisions
        for channels_last in layouts
    ]


def compiled_forms(schedule: Schedule, chosen: TrainingForm) -> list[TrainingForm]:
    """Return the form that was chosen and, where the schedule leaves that open, the same one compiled."""
    return [chosen, chosen.model_copy(update={"compile": True})] if schedule.compile == "auto" else [chosen]


def halved_forms(schedule: Schedule, chosen: TrainingForm) -> list[TrainingForm]:
    """Return the form that was chosen and, where the schedule leaves that open, the same with fewer rows at once."""
    forms = [chosen]
    rows = chosen.micro_batch or schedule.batch_size
    while schedule.micro_batch == "auto" and len(forms) <= _HALVINGS and (rows := rows // 2) >= 2:
        forms.append(chosen.model_copy(update={"micro_batch": rows}))
    return forms


def fitting_sizes(schedule: Schedule) -> Iterator[int | None]:
    """Give the rows at once to be tried until they fit in memory: what is stated, or the whole batch and its halves."""
    if schedule.micro_batch != "auto":
        yield schedule.micro_batch
        return
    yield None
    rows = schedule.batch_size
    while (rows := rows // 2) >= 2:
        yield rows


def fastest(costs: Mapping[TrainingForm, FormCost], num_steps: int) -> TrainingForm:
    """Return the form in which a training takes least, or the first where no other is clearly faster.

    Args:
        costs: of each form, the plainest form first; finite.
        num_steps: optimizer steps of the training.
    """
    milliseconds = {form: cost.ms_of(num_steps) for form, cost in costs.items()}
    assert all(map(math.isfinite, milliseconds.values()))
    plain = next(iter(milliseconds))
    best = min(milliseconds, key=lambda form: milliseconds[form])
    return best if milliseconds[best] < _WORTH_IT * milliseconds[plain] else plain


def stated_form(spec: Value) -> dict[str, float | int | str]:
    """Return, as a detail of the stage, in which form the network trained, unless that was the plain one."""
    labels = {TrainingForm.model_validate(schedule.model_dump(include=_FORM)).label for schedule in _schedules(spec)}
    special = sorted(labels - {TrainingForm().label})
    return {"trained_in": "; ".join(special)} if special else {}


def largest_batch(spec: Value) -> int:
    """Return the rows of the largest batch that a spec trains with; 0 where nothing trains."""
    return max((schedule.batch_size for schedule in _schedules(spec)), default=0)


def _schedules(spec: Value) -> Iterator[Schedule]:
    if isinstance(spec, Schedule):
        yield spec
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Value):
            yield from _schedules(value)


def settled(spec: V, choose: Callable[[Schedule], TrainingForm]) -> V:
    """Return `spec` with every open schedule in it, however deep, in the form that `choose` gives."""
    changes: dict[str, Value] = {}
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Schedule):
            if is_open(value):
                changes[name] = value.model_copy(update=choose(value).model_dump())
        elif isinstance(value, Value):
            inner = settled(value, choose)
            if inner is not value:
                changes[name] = inner
    return spec.model_copy(update=changes) if changes else spec
