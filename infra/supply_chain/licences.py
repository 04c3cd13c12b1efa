"""Whether everything that Stillhouse needs may be used beside it under Apache-2.0.

A distribution says its licence as an SPDX expression, in classifiers, or in free text; what none of them settles is
an exception that a person has looked at, with the reason.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from importlib.resources import files

import yaml
from packaging.utils import canonicalize_name

PERMISSIVE = frozenset(
    {
        "0BSD", "AFL-2.1", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND",
        "ISC", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unicode-3.0", "Unlicense",
        "Zlib", "ZPL-2.1",
    }
)  # fmt: skip
"""Licences that ask for notices and no more."""

_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
}
"""Classifiers, by their last part."""
_WRITTEN = {
    r"(the )?apache([ -]software)?( license)?,?( version)? ?v?[ -]?2(\.0)?( license)?": "Apache-2.0",
    r"(the )?mit( license)?": "MIT",
    r"((new|modified|revised|3-clause) )?bsd([ -]3)?([ -]clause)?( license)?": "BSD-3-Clause",
    r"bsd[ -]2([ -]clause)?( license)?": "BSD-2-Clause",
    r"isc( license)?": "ISC",
}
"""How people write a licence, as patterns of the whole text."""
_WORDS = re.compile(r"[()]|[^\s()]+")


@dataclass(frozen=True)
class Licence:
    """What one distribution says of its licence."""

    name: str
    version: str
    said: str
    """An SPDX expression where it can be told, else its own words."""
    accepted: bool
    exception: str = ""
    """Why it is accepted all the same."""


def exceptions() -> dict[str, str]:
    """Return the reasons by distribution, from exceptions.yaml beside this module."""
    read: dict[str, str] = yaml.safe_load((files(__package__) / "exceptions.yaml").read_text(encoding="utf-8"))
    return {canonicalize_name(name): reason for name, reason in read.items()}


def judge(distributions: Iterable[Distribution], excepted: Mapping[str, str]) -> list[Licence]:
    """Judge every distribution."""
    found = []
    for one in distributions:
        said = expression_of(one)
        reason = excepted.get(canonicalize_name(one.name), "")
        found.append(Licence(one.name, one.version, said or "nothing", permits(said) or bool(reason), reason))
    return found


def expression_of(one: Distribution) -> str:
    """Return the licence as an SPDX expression where that can be told; else what the distribution says of it."""
    if spdx := _first(one, "License-Expression"):
        return spdx
    classifiers = [str(line) for line in one.metadata.get_all("Classifier") or ()]
    classified = [line.rpartition(" :: ")[2] for line in classifiers if "License ::" in line]
    named = [line for line in classified if line != "OSI Approved"]
    if named:
        return " AND ".join(_CLASSIFIED.get(line, line) for line in named)
    written = _first(one, "License").strip()
    known = (spdx for pattern, spdx in _WRITTEN.items() if re.fullmatch(rf"\W*{pattern}\W*", written, re.IGNORECASE))
    return next(known, written.partition("\n")[0])


def _first(one: Distribution, field: str) -> str:
    return next((str(value) for value in one.metadata.get_all(field) or ()), "")


def permits(expression: str) -> bool:
    """Tell whether an SPDX expression leaves a choice of which all parts are permissive; free text does not."""
    words = [word.upper() if word.upper() in ("AND", "OR", "WITH") else word for word in _WORDS.findall(expression)]
    if not words:
        return False
    try:
        accepted, rest = _either(words)
    except (IndexError, ValueError):
        return False
    return accepted and not rest


def _either(words: list[str]) -> tuple[bool, list[str]]:
    accepted, rest = _all(words)
    while rest and rest[0] == "OR":
        another, rest = _all(rest[1:])
        accepted = accepted or another
    return accepted, rest


def _all(words: list[str]) -> tuple[bool, list[str]]:
    accepted, rest = _one(words)
    while rest and rest[0] in ("AND", "WITH"):  # an exception to a licence must be known too
        another, rest = _one(rest[1:])
        accepted = accepted and another
    return accepted, rest


def _one(words: list[str]) -> tuple[bool, list[str]]:
    if words[0] != "(":
        return words[0] in PERMISSIVE, words[1:]
    accepted, rest = _either(words[1:])
    if rest[0] != ")":
        raise ValueError(f"no ) where there is {rest[0]}")
    return accepted, rest[1:]
