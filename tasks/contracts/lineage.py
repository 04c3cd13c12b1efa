"""Where something came from: a tree of links, each checked."""

from collections.abc import Iterator

from pydantic import Field

from tasks.contracts.value import Value


class Link(Value):
    """One thing that another rests on."""

    kind: str
    """`request`, `answer`, `version`, `model`, `gate report`, `run`, `plan`, `stage`, `baseline`, `data`, …"""
    name: str
    """A digest, or what else identifies it."""
    facts: dict[str, str] = Field(default_factory=dict)
    missing: str = ""
    """Why it, or what it rests on, cannot be found or is not what it is said to be; empty if all is well."""
    rests_on: tuple["Link", ...] = ()

    def walk(self) -> Iterator["Link"]:
        """Yield this link and all below it, from the top."""
        yield self
        for link in self.rests_on:
            yield from link.walk()

    @property
    def gaps(self) -> list[str]:
        """What is missing, anywhere below, a line each."""
        return [f"{link.kind} {link.name}: {link.missing}" for link in self.walk() if link.missing]
