"""What is asked of locks by name."""

from contextlib import AbstractContextManager
from typing import Protocol


class Lock(Protocol):
    """A lock that this process took."""

    @property
    def is_lost(self) -> bool:
        """Whether this process knows by now that another took it over."""
        ...

    def require(self) -> None:
        """Make sure that it still is this process's.

        Raises:
            LockLostError: another took it over, because its holder could not be reached for too long.
        """
        ...

    def release(self) -> None:
        """Give it back; a lock that was lost is let go in peace."""
        ...


class Locks(Protocol):
    """Mutual exclusion by name; a holder that dies, however it dies, is followed by the next within seconds.

    Locks of several hosts can be lost: a host that is cut off cannot keep the others waiting for ever. What is
    written to the ledger while `hold` lasts, and the record of a stage, are therefore refused once the lock is lost.
    """

    def __hash__(self) -> int:
        """Locks are told apart by identity."""
        ...

    @property
    def dead_after_s(self) -> float:
        """For how long a lock stays taken whose holder died; waiting so long tells a dead holder from a living one."""
        ...

    def acquire(self, name: str, *, timeout_s: float | None = None) -> Lock:
        """Wait for the lock, for ever or for `timeout_s` (0: not at all), and take it.

        Raises:
            LockTakenError: another still holds it; the message says who.
        """
        ...

    def hold(self, name: str, *, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """As `acquire`, for the length of a `with` block.

        Raises:
            LockLostError: at the block's end, where the lock was lost meanwhile.
        """
        ...

    def is_taken(self, name: str) -> bool:
        """Tell whether anybody holds the lock."""
        ...


def stage_lock(stage_key: str) -> str:
    """Return the name of the lock under which a stage is computed and its record written."""
    return f"stage/{stage_key}"
