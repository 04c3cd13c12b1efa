"""Which distributions a user gets: Stillhouse's requirements with all extras but the developers', and theirs."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("gpu", "huggingface", "production", "ray", "tracing")


def delivered(root: str = "stillhouse", extras: tuple[str, ...] = EXTRAS) -> list[Distribution]:
    """Return what `root` needs and is installed, without itself, by name.

    What is not installed here is not looked at: an extra that this environment lacks, or a package of another system.

    Raises:
        PackageNotFoundError: `root` itself is not installed.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        key = canonicalize_name(name)
        if (key, extra) in seen:
            continue
        seen.add((key, extra))
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            if name == root:
                raise
            continue
        for line in found[key].requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                waiting += [(wanted.name, asked) for asked in ("", *wanted.extras)]
    del found[canonicalize_name(root)]
    return [found[key] for key in sorted(found)]
