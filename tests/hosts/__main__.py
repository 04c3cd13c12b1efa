"""Prints the table of faults: `python -m tests.hosts [NAME ...]`, as root."""

import sys
import time
import traceback

from tests.hosts import network
from tests.hosts.faults import FAULTS, Seen, reference, try_fault
from tests.hosts.site import Site
from tests.postgres_server import why_missing


def main(names: list[str]) -> int:
    """Try the named faults, or all; return 1 if one did harm, 2 if there is no such fault or no right."""
    if reason := network.why_missing() or why_missing():
        print(reason)
        return 2
    if unknown := sorted(set(names) - set(FAULTS)):
        print(f"no fault is called {', '.join(unknown)}; there are {', '.join(FAULTS)}")
        return 2
    site, harmed = Site(), False
    try:
        expected = reference(site)
        print("| fault | run | tried again | computed twice | outcome | s |\n| --- | --- | --- | --- | --- | --- |")
        for name in names or FAULTS:
            began = time.monotonic()
            try:
                seen = try_fault(site, FAULTS[name], expected)
            except AssertionError:
                traceback.print_exc()
                print(f"| {FAULTS[name].what} | not tried to its end | | | | {time.monotonic() - began:.0f} |")
                harmed = True
                continue
            print(f"| {FAULTS[name].what} | {row(seen)} |", flush=True)
            harmed |= not seen.is_well
    finally:
        site.stop()
    return int(harmed)


def row(seen: Seen) -> str:
    """Return the cells of what was seen."""
    ended = "completed" if set(seen.codes) == {0} else f"exit code {max(seen.codes)}: {seen.note}"
    again, twice = (", ".join(tasks) or "nothing" for tasks in (seen.retried, seen.computed_twice))
    return f"{ended} | {again} | {twice} | {'the same' if seen.same else 'differs'} | {seen.seconds:.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
