"""What collecting garbage found and did."""

from pydantic import Field

from tasks.contracts.value import Digest, Value


class Amount(Value):
    """So many files, so many bytes."""

    files: int = 0
    size_bytes: int = 0


class Condemned(Value):
    """Artifacts that nothing named when they were looked for, and when (UTC, ISO 8601) that was first so."""

    since: dict[Digest, str] = Field(default_factory=dict)


class Collection(Value):
    """One run. In a dry one nothing was changed, and the figures say what would be."""

    dry_run: bool
    named: Amount
    """Artifacts that something names."""
    young: Amount
    """Named by nothing, and too young to judge: whoever wrote them may not have named them yet."""
    condemned: Amount
    """Named by nothing; removed by a run that finds them so again, a day from when they were first found so."""
    removed: Amount
    """Artifacts found so a day ago, and again."""
    expired: Amount
    """Records and checkpoints of stages that no run has asked for since."""
