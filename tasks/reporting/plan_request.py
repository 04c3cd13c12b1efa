"""What a run was asked for: limits, chains of techniques, and the data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tasks.contracts.data import SPLIT_NAMES
from tasks.contracts.run import RunDossier
from tasks.reporting import figures

_MOST_CLASSES = 20
_NOT_ABOUT_THE_MODEL = frozenset({"kind", "resources", "num_threads"})
_CHOICES = {
    "smallest": "the smallest candidate that passes",
    "fastest": "the fastest candidate that passes",
    "most_accurate": "the most accurate candidate that passes",
}


@dataclass(frozen=True)
class Chain:
    """A candidate as it was asked for."""

    name: str
    techniques: tuple["Settings", ...]


@dataclass(frozen=True)
class Settings:
    """One technique of a chain and its settings, each as `name value`."""

    kind: str
    plain: tuple[str, ...]
    nested: tuple[str, ...]
    """Settings of parts, such as a schedule, by their path."""


@dataclass(frozen=True)
class Composition:
    """Rows of every class, or of every quartile of the target, in every split."""

    splits: tuple[str, ...]
    sizes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Empty where there are too many classes to list."""
    summary: str
    """What can be said of classes that are not listed."""


@dataclass(frozen=True)
class Request:
    """What was asked."""

    limits: tuple[tuple[str, str], ...]
    chains: tuple[Chain, ...]
    composition: Composition


def make_request(dossier: RunDossier) -> Request:
    """Return what the plan of a run asks for."""
    return Request(_limits(dossier), _chains(dossier.plan_document), _composition(dossier))


def _limits(dossier: RunDossier) -> tuple[tuple[str, str], ...]:
    """Return the limits that apply, as text; settings that a plan leaves open are left out."""
    plan = dossier.plan_document
    constraints, gate = plan.get("constraints", {}), plan.get("gate", {})
    is_classes = dossier.dataset.task == "classification"
    quality = "max_accuracy_drop" if is_classes else "max_rmse_increase"
    words: list[tuple[str, Any, Callable[[float], str]]] = [
        (
            "largest drop of accuracy" if is_classes else "largest rise of RMSE",
            constraints.get(quality),
            _loss(is_classes),
        ),
        ("largest size", constraints.get("max_size_ratio"), lambda value: f"{figures.share(value)} of the baseline"),
        ("largest size at rest", constraints.get("max_size_bytes"), figures.bytes_text),
        ("largest latency", constraints.get("max_latency_ratio"), lambda value: f"{figures.times(value)} the baseline"),
        ("largest peak memory", constraints.get("max_memory_bytes"), figures.bytes_text),
        ("chance that a bad candidate passes", gate.get("alpha"), figures.share),
        ("chosen", plan.get("choose"), lambda value: _CHOICES.get(str(value), str(value))),
        ("seed", plan.get("seed"), str),
    ]
    return tuple((name, write(value)) for name, value, write in words if value is not None)


def _loss(is_classes: bool) -> Callable[[float], str]:
    write = figures.points if is_classes else figures.signed_percent
    return lambda value: write(value).lstrip("+")


def _chains(plan: dict[str, Any]) -> tuple[Chain, ...]:
    return tuple(
        Chain(name, tuple(_technique(spec) for spec in specs)) for name, specs in plan.get("candidates", {}).items()
    )


def _technique(spec: dict[str, Any]) -> Settings:
    settings = dict(_settings({name: value for name, value in spec.items() if name not in _NOT_ABOUT_THE_MODEL}))
    plain = tuple(f"{name} {value}" for name, value in settings.items() if "." not in name)
    nested = tuple(f"{name} {value}" for name, value in settings.items() if "." in name)
    return Settings(str(spec.get("kind", "?")), plain, nested)


def _settings(spec: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting that has a value; those of parts by their path."""
    for name, value in spec.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")
        elif value not in (None, []):
            yield f"{prefix}{name}", value


def _composition(dossier: RunDossier) -> Composition:
    splits = [(name, dossier.dataset.splits[name]) for name in SPLIT_NAMES if name in dossier.dataset.splits]
    classes = list(dict.fromkeys(name for _, split in splits for name in split.composition))
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    summary = ""
    if len(classes) <= _MOST_CLASSES:
        rows = tuple(
            (name, tuple(figures.count(split.composition.get(name)) for _, split in splits)) for name in classes
        )
    else:
        counts = [sum(split.composition.get(name, 0) for _, split in splits) for name in classes]
        summary = (
            f"{len(classes)} classes; in all splits together the smallest has {figures.count(min(counts))} rows "
            f"and the largest {figures.count(max(counts))}"
        )
    return Composition(
        tuple(name for name, _ in splits), tuple(figures.count(split.num_rows) for _, split in splits), rows, summary
    )
