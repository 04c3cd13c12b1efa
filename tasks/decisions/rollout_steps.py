"""The steps of a rollout: a plain list of percents, or a list of objects in the words of Argo Rollouts.

`[0, 5, 50]` means the same as `[{shadow: {}}, {setWeight: 5}, {setWeight: 50}]`. Between weights may stand
`{pause: {}}`, `{pause: {duration: 10m}}` and `{analysis: {...}}`. Whatever the notation, there is one form
afterwards: weights, each with what has to be waited for before the next one, in order.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tasks.contracts.value import Value

ProvenCheck = Literal["errors", "latency", "accuracy"]

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smh])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smh])")


class Pause(Value):
    """Stay at the weight, judging on: harm rolls back during a pause too."""

    duration_s: float | None = Field(default=None, gt=0.0)
    """Seconds from the first look that finds the weight in force; None: until a person resumes."""


class Analysis(Value):
    """Evidence that the weight must bring before the rollout goes on, beyond what every weight must."""

    proven: tuple[ProvenCheck, ...] = Field(
        default=(), description="Checks that must prove the absence of harm: errors, latency, accuracy."
    )
    min_rows_per_arm: int | None = Field(
        default=None, ge=1, description="Rows of each arm at this weight; the rollout's own minimum if none."
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.proven and self.min_rows_per_arm is None:
            raise ValueError("asks for nothing; name checks in `proven`, or rows in `min_rows_per_arm`")
        return self


class Step(Value):
    """One weight, and what is waited for at it, in order, before the evidence that every weight must bring."""

    weight: float
    """Percent of requests on the challenger; 0 is shadow."""
    waits: tuple[Pause | Analysis, ...] = ()


class SetWeightNotation(Value):
    """`{setWeight: 5}`."""

    setWeight: float = Field(ge=0.0, le=100.0, description="Percent of requests; 0 is shadow.")  # noqa: N815 - Argo's word


class Nothing(Value):
    """`{}`."""


class ShadowNotation(Value):
    """`{shadow: {}}`: the challenger answers unseen beside the champion. The same as `{setWeight: 0}`."""

    shadow: Nothing


class PauseFields(Value):
    """What stands in a pause."""

    duration: float | str | None = Field(default=None, description="Such as 30s, 10m or 1h30m; a number is seconds.")


class PauseNotation(Value):
    """`{pause: {}}` waits for a person, `{pause: {duration: 10m}}` for ten minutes."""

    pause: PauseFields


class AnalysisNotation(Value):
    """`{analysis: {proven: [errors, accuracy], min_rows_per_arm: 2000}}`."""

    analysis: Analysis


def read_steps(given: Any) -> Any:
    """Turn either notation into `Step`s; what is no list is left to pydantic.

    Raises:
        ValueError: an element is no step, or stands where it cannot; each is named with its remedy.
    """
    if not isinstance(given, list | tuple):
        return given
    steps: list[Step] = []
    faults: list[str] = []
    for position, one in enumerate(given):
        try:
            _take(one, steps, given[:position])
        except ValueError as fault:
            faults.append(f"steps[{position}] {_shown(one)}: {fault}")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(steps)


def write_steps(steps: Sequence[Step]) -> list[float | dict[str, Any]]:
    """Return the notation that a user would write: plain percents where nothing is waited for."""
    if not any(step.waits for step in steps):
        return [step.weight for step in steps]
    written: list[float | dict[str, Any]] = []
    for step in steps:
        written.append({"setWeight": step.weight} if step.weight else {"shadow": {}})
        written += [_written_wait(wait) for wait in step.waits]
    return written


Notation = float | SetWeightNotation | ShadowNotation | PauseNotation | AnalysisNotation

Steps = Annotated[
    tuple[Step, ...], BeforeValidator(read_steps, json_schema_input_type=Annotated[list[Notation], Field(min_length=1)])
]
"""A field that takes either notation."""


def seconds_of(duration: float | str) -> float:
    """Return the seconds of Argo's notation: a number of seconds, or numbers with the units s, m and h.

    Raises:
        ValueError: it is no duration, or not above zero.
    """
    text = str(duration).strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text))
    else:
        raise ValueError(f"{duration!r} is no duration; write it as 30s, 10m or 1h30m")
    if seconds <= 0.0:
        raise ValueError(f"a pause of {duration!r} is none; remove it, or leave the duration out to wait for a person")
    return seconds


def shown_duration(seconds: float) -> str:
    """Return the shortest notation of a duration in one unit."""
    unit = next(unit for unit in ("h", "m", "s") if unit == "s" or seconds % _UNIT_SECONDS[unit] == 0.0)
    return f"{seconds / _UNIT_SECONDS[unit]!r}".removesuffix(".0") + unit


def named(weight: float) -> str:
    """Name a weight for people."""
    return "shadow" if weight == 0.0 else f"{weight:g} %"


def _take(one: Any, steps: list[Step], before: Sequence[Any]) -> None:
    """Add one element of the list to `steps`."""
    if isinstance(one, Step):
        steps.append(one)
        return
    if isinstance(one, int | float) and not isinstance(one, bool):
        steps.append(Step(weight=_checked_weight(one)))
        return
    wait = _read(one)
    if isinstance(wait, Step):
        steps.append(wait)
        return
    if not steps:
        raise ValueError("there is no weight yet at which to wait; put {shadow: {}} or {setWeight: ...} before it")
    last = steps[-1]
    if isinstance(wait, Pause) and wait.duration_s is None and last.waits and last.waits[-1] == wait:
        raise ValueError(f"waits for the person that steps[{len(before) - 1}] waits for; remove one of them")
    if isinstance(wait, Analysis) and "latency" in wait.proven and last.weight == 0.0:
        raise ValueError("latency is never judged in shadow, off the callers' path; ask for it at a weight above 0")
    steps[-1] = last.model_copy(update={"waits": (*last.waits, wait)})


def _read(one: Any) -> Step | Pause | Analysis:
    if not isinstance(one, Mapping) or len(one) != 1:
        raise ValueError(f"is no step; write a percent or exactly one of {_FORMS}")
    (word, content), *_ = one.items()
    reader = _READERS.get(word)
    if reader is None:
        near = difflib.get_close_matches(str(word), _READERS, n=1, cutoff=0.5)
        raise ValueError(f"did you mean {near[0]}?" if near else f"is no step of Stillhouse; write one of {_FORMS}")
    try:
        return reader(content)
    except ValidationError as error:
        raise ValueError("; ".join(_fault(fault, word) for fault in error.errors())) from error


def _fault(fault: ErrorDetails, word: str) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = f"unknown key; {word} knows {_KEYS[word]}"
    return f"{place}: {message}" if place else message


def _read_weight(content: Any) -> Step:
    if isinstance(content, bool) or not isinstance(content, int | float):
        raise ValueError("needs a percent, such as {setWeight: 5}")
    return Step(weight=_checked_weight(content))


def _checked_weight(weight: float) -> float:
    if not 0.0 <= weight <= 100.0:
        raise ValueError("must lie between 0 and 100 percent")
    return float(weight)


def _read_shadow(content: Any) -> Step:
    if content:
        raise ValueError("takes nothing; write {shadow: {}}")
    return Step(weight=0.0)


def _read_pause(content: Any) -> Pause:
    fields = PauseFields.model_validate(content or {})
    return Pause() if fields.duration is None else Pause(duration_s=seconds_of(fields.duration))


def _read_analysis(content: Any) -> Analysis:
    return Analysis.model_validate(content or {})


def _written_wait(wait: Pause | Analysis) -> dict[str, Any]:
    if isinstance(wait, Analysis):
        return {"analysis": wait.model_dump(mode="json", exclude_defaults=True)}
    return {"pause": {} if wait.duration_s is None else {"duration": shown_duration(wait.duration_s)}}


def _shown(one: Any) -> str:
    return re.sub(r"['\"]", "", str(one)) if isinstance(one, Mapping) else repr(one)


_READERS: dict[str, Callable[[Any], Step | Pause | Analysis]] = {
    "setWeight": _read_weight,
    "shadow": _read_shadow,
    "pause": _read_pause,
    "analysis": _read_analysis,
}
_FORMS = "{setWeight: PERCENT}, {shadow: {}}, {pause: {}}, {pause: {duration: 10m}}, {analysis: {proven: [errors]}}"
_KEYS = {"pause": "duration", "analysis": "proven and min_rows_per_arm"}
