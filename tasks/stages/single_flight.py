"""One run at a time of those that make a model's next version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tasks.contracts.errors import LockTakenError, ModelBusyError
from tasks.contracts.value import Slug
from tasks.runtime.services import Services


@contextmanager
def single_flight(services: Services, model_name: Slug, *, wait: bool = False) -> Iterator[None]:
    """Keep other runs of the model out while the block runs; a process that dies lets the next one in.

    Args:
        services: Whose locks say who runs.
        model_name: Whose runs exclude one another, whatever flow they are of.
        wait: Wait for one's turn, however long that takes, instead of being refused.

    Raises:
        ModelBusyError: another one is running, and `wait` is not asked for.
    """
    locks = services.locks
    with ExitStack() as held:
        try:
            held.enter_context(locks.hold(f"model/{model_name}", timeout_s=None if wait else locks.dead_after_s))
        except LockTakenError as error:
            raise ModelBusyError(
                f"another run makes the next version of {model_name} now; this one is not needed, or try again when "
                "that has ended"
            ) from error
        yield
