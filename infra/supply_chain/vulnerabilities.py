"""Known vulnerabilities of the pinned versions, as pip-audit finds them; not being able to ask is no pass."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 900
_SERVICE = "osv"
"""Its database takes PyPI's advisories and others; pip-audit asks api.osv.dev."""


class NotAskedError(Exception):
    """Nobody said whether there are vulnerabilities; the message says why."""


@dataclass(frozen=True)
class Vulnerability:
    """One that is known of a pinned version."""

    name: str
    version: str
    advisory: str
    fixed_in: str
    """Versions, or nothing."""


def find(tool: Path, pins: Path) -> tuple[int, list[Vulnerability]]:
    """Ask of every pin; return how many were asked of, and what is known.

    Args:
        tool: pip-audit.
        pins: lines of `name==version`.

    Raises:
        NotAskedError: the tool is missing, or the service cannot be reached.
    """
    command = [str(tool), "--requirement", str(pins), "--no-deps", "--disable-pip", "--format", "json"]
    command += ["--vulnerability-service", _SERVICE, "--progress-spinner", "off"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except OSError as error:
        raise NotAskedError(f"{tool} cannot be started: {error.strerror}; `make audit` installs it") from None
    except subprocess.TimeoutExpired:
        raise NotAskedError(f"{tool} did not end within {_TIMEOUT_S} s") from None
    return read(asked.stdout, asked.returncode, asked.stderr)


def read(output: str, code: int, messages: str) -> tuple[int, list[Vulnerability]]:
    """Read what pip-audit wrote. It ends with 1 for vulnerabilities and for its own failures alike.

    Raises:
        NotAskedError: it wrote no answer, an empty one, or one that leaves pins out.
    """
    try:
        dependencies: Sequence[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = next((line for line in reversed(messages.splitlines()) if line.strip()), "no message")
        raise NotAskedError(f"pip-audit gave no answer (exit code {code}): {last.strip()}") from None
    skipped = [f"{one['name']} ({one['skip_reason']})" for one in dependencies if "skip_reason" in one]
    if skipped or not dependencies:
        raise NotAskedError(f"pip-audit left out {', '.join(skipped) or 'everything'}")
    return len(dependencies), [
        Vulnerability(one["name"], one["version"], known["id"], ", ".join(known["fix_versions"]))
        for one in dependencies
        for known in one["vulns"]
    ]
