"""The command: `python -m infra.supply_chain licences`, or `... vulnerabilities TOOL PINS`.

Exit codes: 0 all is well, 1 a licence or a vulnerability to look at, 2 wrong arguments, 3 nobody could be asked.
"""

import sys
from pathlib import Path

from infra.supply_chain.licences import exceptions, judge
from infra.supply_chain.requirements import delivered
from infra.supply_chain.vulnerabilities import NotAskedError, find


def main(arguments: list[str]) -> int:
    """Do what the arguments say; return the exit code."""
    match arguments:
        case ["licences"]:
            return licences()
        case ["vulnerabilities", tool, pins]:
            return vulnerabilities(Path(tool), Path(pins))
    sys.stderr.write("usage: python -m infra.supply_chain licences | vulnerabilities TOOL PINS\n")
    return 2


def licences() -> int:
    """Print every exception and what is not accepted; fail for the latter."""
    excepted = exceptions()
    found = judge(delivered(), excepted)
    refused = [one for one in found if not one.accepted]
    for one in found:
        if one.exception or not one.accepted:
            told = one.exception or "NOT ACCEPTED: look at it, and enter it in exceptions.yaml with the reason"
            _say(f"{one.name} {one.version} ({one.said}): {told}")
    num_excepted = sum(bool(one.exception) for one in found)
    _say(f"{len(found)} distributions, {num_excepted} exceptions, {len(refused)} not accepted")
    return 1 if refused else 0


def vulnerabilities(tool: Path, pins: Path) -> int:
    """Print what is known of the pins."""
    try:
        number, found = find(tool, pins)
    except NotAskedError as error:
        sys.stderr.write(f"NOT AUDITED: {error}. This says nothing about the pins; try again with a network.\n")
        return 3
    for one in found:
        _say(f"{one.name} {one.version}: {one.advisory}, fixed in {one.fixed_in or 'no version yet'}")
    _say(f"{number} pins, {len(found)} known vulnerabilities")
    return 1 if found else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
