"""How the command line names a model: `NAME`, `NAME@alias`, `NAME/version`, or the digest of an artifact."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.contracts.errors import ModelError, UserError
from tasks.contracts.registration import CHAMPION_ALIAS, DIGEST_TAG
from tasks.contracts.value import Digest

if TYPE_CHECKING:
    from tasks.runtime.bookkeeping import RegisteredVersion, Registry
    from tasks.runtime.services import Services

_DIGEST = re.compile(r"[0-9a-f]{64}")
_REGISTERED = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]{0,62})(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))?")


@dataclass(frozen=True)
class NamedModel:
    """What a reference stands for."""

    digest: Digest
    registered: "RegisteredVersion | None"
    """None when the model was named by its digest."""


def checked_digest(text: str) -> Digest:
    """Return `text` if it is a digest.

    Raises:
        UserError: it is not.
    """
    if not _DIGEST.fullmatch(text):
        raise UserError(f"{text!r} is not a digest; give all 64 hexadecimal digits, in lower case")
    return text


def find_model(services: "Services", reference: str) -> NamedModel:
    """Find what `reference` names; a bare name is its champion, or its newest version if it has none.

    Raises:
        UserError: the reference cannot be read.
        ModelError: there is no such model, alias or version.
    """
    if _DIGEST.fullmatch(reference):
        return NamedModel(reference, None)
    match = _REGISTERED.fullmatch(reference)
    if match is None:
        raise UserError(f"{reference!r} names no model; write NAME, NAME@champion, NAME/3, or a digest of 64 digits")
    version = _find_version(services.registry, match["name"], match["alias"], match["version"])
    digest = version.tags.get(DIGEST_TAG)
    if digest is None:
        raise ModelError(
            f"version {version.version} of {version.name} was not registered by Stillhouse: no {DIGEST_TAG}"
        )
    return NamedModel(digest, version)


def _find_version(registry: "Registry", name: str, alias: str | None, version: str | None) -> "RegisteredVersion":
    if version is not None:
        return registry.version(name, int(version))
    found = registry.version_of(name, alias or CHAMPION_ALIAS)
    if found is not None:
        return found
    versions = registry.versions(name)
    if not versions:
        known = ", ".join(registry.names()) or "none"
        raise ModelError(f"there is no model {name!r} in the registry; there are: {known}")
    if alias is not None:
        aliases = sorted({given for other in versions for given in other.aliases})
        raise ModelError(f"model {name} has no alias {alias!r}; it has: {', '.join(aliases) or 'none'}")
    return versions[-1]
