"""Who succeeded whom: the champions that still stand, from the rows of the ledger."""

from collections.abc import Sequence

from tasks.contracts.verdict import LedgerEntry


def champions_in_effect(history: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Return the champions that were not rolled back, oldest first; the last one serves.

    A promotion pushes and a rollback pops, so a champion that failed is never a place to return to.
    New evidence for the present champion takes its place and does not make it its own predecessor.

    Args:
        history: All ledger entries of one model, oldest first.
    """
    stack: list[LedgerEntry] = []
    for entry in history:
        if entry.action == "rollback":
            while stack and stack[-1].candidate != entry.candidate:
                stack.pop()
            if stack:
                continue
        elif stack and stack[-1].candidate == entry.candidate:
            stack.pop()
        stack.append(entry)
    return stack
