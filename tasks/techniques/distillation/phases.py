"""A stage that goes through phases, each of which starts from what the one before it made."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.contracts.model import EpochRecord
from tasks.techniques.rounds import Round, RoundCheckpoints, last_round
from tasks.techniques.technique import StageContext

Phase = Callable[[bytes, StageContext, int], bytes]
"""From what the phase before made, the context to train in, and the `first_step` of its training, to what it makes."""


def run_phases(phases: Sequence[Phase], initial: bytes, context: StageContext) -> bytes:
    """Run all phases, or those that an interrupted stage has left, and return what the last one makes.

    What a phase made is saved as soon as it is made; a phase that trains goes on from its training's last
    checkpoint.

    Args:
        phases: each must depend on its arguments alone.
        initial: what the first phase starts from.
        context: the stage's own.
    """
    current = last_round(context.checkpoints)
    records = list(current.records) if current else []
    for record in records:
        context.report(record)

    def report(record: EpochRecord) -> None:
        records.append(record)
        context.report(record)

    first = current.number if current else 1
    made = current.network if current else initial
    for number, phase in enumerate(phases[first - 1 :], start=first):
        begun = Round(number, made, tuple(records))
        checkpoints = RoundCheckpoints(context.checkpoints, begun)
        if number > 1 and (current is None or current.number != number):
            checkpoints.save(b"")
        made = phase(made, replace(context, checkpoints=checkpoints, report=report), len(records) + 1)
    return made
