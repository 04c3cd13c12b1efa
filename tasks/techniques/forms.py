"""Schedules that leave the form of training to a probe, and what the probe's answer makes of them."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from tasks.contracts.device import TrainingForm
from tasks.contracts.value import Value
from tasks.techniques.schedule import Schedule

V = TypeVar("V", bound=Value)

_FORM = set(TrainingForm.model_fields)
_WORTH_IT = 0.95
"""A form that is not the plain one must need less than this share of its time: a probe is short, and noisy."""


def is_open(schedule: Schedule) -> bool:
    """Tell whether a schedule leaves something to a probe."""
    return "auto" in (schedule.precision, schedule.channels_last)


def open_forms(schedule: Schedule, num_axes: int) -> list[TrainingForm]:
    """Return the forms that a schedule allows, the plainest first.

    Args:
        schedule: what it states is kept.
        num_axes: of one row; only images, of three, can be laid out with their channels last.
    """
    precisions = ("float32", "bfloat16") if schedule.precision == "auto" else (schedule.precision,)
    if schedule.channels_last == "auto":
        layouts: tuple[bool, ...] = (False, True) if num_axes == 3 else (False,)
    else:
        layouts = (schedule.channels_last,)
    return [
        TrainingForm(precision=precision, channels_last=channels_last)
        for precision in precisions
        for channels_last in layouts
    ]


def fastest(step_ms: Mapping[TrainingForm, float]) -> TrainingForm:
    """Return the form whose step takes least, or the first where no other is clearly faster.

    Args:
        step_ms: milliseconds of a step in each form, the plainest form first; finite.
    """
    plain = next(iter(step_ms))
    best = min(step_ms, key=lambda form: step_ms[form])
    assert all(map(math.isfinite, step_ms.values()))
    return best if step_ms[best] < _WORTH_IT * step_ms[plain] else plain


def stated_form(spec: Value) -> dict[str, float | int | str]:
    """Return, as a detail of the stage, in which form the network trained, unless that was the plain one."""
    labels = {TrainingForm.model_validate(schedule.model_dump(include=_FORM)).label for schedule in _schedules(spec)}
    special = sorted(labels - {TrainingForm().label})
    return {"trained_in": "; ".join(special)} if special else {}


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
