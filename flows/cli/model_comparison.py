"""What differs between two models: their files, where they came from, and what their gates measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tasks.contracts.value import Value

if TYPE_CHECKING:
    from flows.cli.model_reference import NamedModel
    from tasks.runtime.services import Services

_FILE, _LINEAGE, _GATE = "file", "lineage", "gate"


class Difference(Value):
    """One thing that two models do not share; None where a model does not have it."""

    about: str
    name: str
    first: str | None
    second: str | None


class Comparison(Value):
    """Two models side by side."""

    first: str
    """Digest of the one."""
    second: str
    differences: tuple[Difference, ...]
    num_shared: int
    """Things that were compared and are equal."""


def compare(services: "Services", first: "NamedModel", second: "NamedModel") -> Comparison:
    """Compare two models by size, format, tags of their versions, and the checks of their gate reports.

    Raises:
        ArtifactMissingError: a model or its gate report is not in the store.
    """
    sides = [_facts(services, model) for model in (first, second)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    differences = [
        Difference(about=about, name=name, first=sides[0].get((about, name)), second=sides[1].get((about, name)))
        for about, name in names
    ]
    found = tuple(one for one in differences if one.first != one.second)
    return Comparison(
        first=first.digest, second=second.digest, differences=found, num_shared=len(differences) - len(found)
    )


def _facts(services: "Services", model: "NamedModel") -> dict[tuple[str, str], str]:
    from tasks.stages.rollout_record import GATE_REPORT_TAG

    data = services.artifacts.get(model.digest)
    tags: Mapping[str, str] = model.registered.tags if model.registered else {}
    facts = {(_FILE, "size in bytes"): f"{len(data):,}", (_FILE, "format"): "torch" if data[:2] == b"PK" else "onnx"}
    facts |= {(_LINEAGE, name): value for name, value in sorted(tags.items())}
    report = tags.get(GATE_REPORT_TAG)
    return facts | (_gate_facts(services.artifacts.get(report)) if report else {})


def _gate_facts(stored: bytes) -> dict[tuple[str, str], str]:
    from tasks.contracts.verdict import GateReport

    report = GateReport.model_validate_json(stored)
    facts = {(_GATE, "verdict"): str(report.verdict), (_GATE, "held against baseline"): report.baseline}
    for check in report.checks:
        estimate = "not measured" if check.estimate is None else f"{check.estimate:.5g}"
        facts[(_GATE, check.name)] = f"{estimate} {check.verdict}"
    return facts
