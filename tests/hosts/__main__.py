"""Tries faults, or a plan, on hosts in network namespaces; as root.

`python -m tests.hosts [FAULT ...]` prints a table of faults and of what was seen of each.
`python -m tests.hosts PLAN.yaml` runs a plan on one host and across hosts, and compares what came of it.
"""

import sys
import time
import traceback
from pathlib import Path

import yaml

from tests.hosts import network
from tests.hosts.faults import FAULTS, Seen, reference, try_fault
from tests.hosts.plans import outcome, stages
from tests.hosts.site import Site
from tests.postgres_server import why_missing

_LONGEST_PLAN_S = 7200.0


def main(arguments: list[str]) -> int:
    """Return 1 if a fault did harm or outcomes differ, 2 if nothing can be tried."""
    plans = [name for name in arguments if name.endswith(".yaml")]
    unknown = sorted(set(arguments) - set(plans) - set(FAULTS))
    if reason := network.why_missing() or why_missing() or (unknown and f"no fault is called {', '.join(unknown)}"):
        print(reason)
        print(f"faults: {', '.join(FAULTS)}")
        return 2
    site = Site()
    try:
        harmed = [not compare(site, Path(plan)) for plan in plans]
        if not plans or set(arguments) - set(plans):
            harmed.append(not table(site, [name for name in arguments if name in FAULTS] or list(FAULTS)))
    finally:
        site.stop()
    return int(any(harmed))


def compare(site: Site, path: Path) -> bool:
    """Run a plan on one host with embedded engines, and across hosts; say where, and whether the outcomes are equal."""
    plan = yaml.safe_load(path.read_text())
    alone = site.run_plan(plan, "flow-2", "--no-rollout", **Site.EMBEDDED).finish(_LONGEST_PLAN_S)
    across = site.run_plan(plan).finish(_LONGEST_PLAN_S)
    print("| stage | on | s | digest on one host | across hosts |\n| --- | --- | --- | --- | --- |")
    for one, other in zip(stages(alone), stages(across), strict=True):
        digests = f"{one['model']['digest'][:12]} | {other['model']['digest'][:12]}"
        print(f"| {other['kind']} | {other['host']} | {other['seconds']:.0f} | {digests} |")
    equal = outcome(alone) == outcome(across)
    print(f"outcomes {'are equal' if equal else 'differ'}; rollout: {across['rollout']['verdict']}", flush=True)
    return equal


def table(site: Site, names: list[str]) -> bool:
    """Try faults one after the other; return whether none did harm."""
    expected, harmless = reference(site), True
    print("| fault | run | tried again | computed twice | outcome | s |\n| --- | --- | --- | --- | --- | --- |")
    for name in names:
        began = time.monotonic()
        try:
            seen = try_fault(site, FAULTS[name], expected)
        except AssertionError:
            traceback.print_exc()
            print(f"| {FAULTS[name].what} | not tried to its end | | | | {time.monotonic() - began:.0f} |", flush=True)
            harmless = False
            continue
        print(f"| {FAULTS[name].what} | {row(seen)} |", flush=True)
        harmless &= seen.is_well
    return harmless


def row(seen: Seen) -> str:
    """Return the cells of what was seen."""
    ended = "completed" if set(seen.codes) == {0} else f"exit code {max(seen.codes)}: {seen.note}"
    again, twice = (", ".join(tasks) or "nothing" for tasks in (seen.retried, seen.computed_twice))
    return f"{ended} | {again} | {twice} | {'the same' if seen.same else 'differs'} | {seen.seconds:.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
