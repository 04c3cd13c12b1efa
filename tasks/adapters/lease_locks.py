"""Locks of several hosts: leases in the ledger's database, renewed by their holder, taken over when it is gone.

A host that is cut off or frozen cannot be told from one that died, so its lock is taken over in the end, and it
may wake up and go on. Exclusion therefore rests on what is written, not on the lock: writes to the same database
under a lock are refused within their own transaction once another holds it (`pin`, `pin_held`).
"""

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from sqlalchemy import Connection

from tasks.adapters.lease_rows import Holder
from tasks.adapters.ledger_database import patiently
from tasks.contracts.errors import LockLostError, LockTakenError, ServiceUnavailableError, StillhouseError

LEASE_S = 10.0
"""A dead holder is followed after so long at most, plus one poll."""
PATIENCE_S = 300.0
"""For so long an outage of the database is waited out where finished work would be lost."""
_LONGEST_POLL_S = 1.0
_OUTAGE_OF_A_WAIT_S = 60.0
_WAITED_LONG_S = 60.0

_held_here: "ContextVar[tuple[Lease, ...]]" = ContextVar("leases that the running code is inside of", default=())
_logger = logging.getLogger(__name__)


class Leases(Protocol):
    """See `tasks.adapters.lease_rows.LeaseRows`."""

    @property
    def length_s(self) -> float:
        """How long a lease lasts after it was taken or renewed."""
        ...

    def take(self, name: str, token: str, holder: str) -> bool:
        """Take the lock if it may be taken."""
        ...

    def renew(self, name: str, token: str) -> bool:
        """Let the lease last a whole length from now; False if it was lost."""
        ...

    def give_back(self, name: str, token: str) -> bool:
        """Free the lock; False if it was lost."""
        ...

    def holder(self, name: str) -> Holder | None:
        """Return who holds the lock, if anybody."""
        ...

    def pin(self, connection: Connection, name: str, token: str) -> bool:
        """Keep everybody from taking over until the transaction ends; False if it was lost."""
        ...


class Lease:
    """See `tasks.runtime.locking.Lock`. A thread renews it at a third of its length until it is given back."""

    def __init__(self, rows: Leases, name: str, token: str, length_s: float, on_end: "Callable[[Lease], None]") -> None:
        self.name = name
        self.token = token
        self._rows = rows
        self._length_s = length_s
        self._on_end = on_end
        self._ended = threading.Event()
        self._lost = False
        threading.Thread(target=self._keep, name=f"lease on {name}", daemon=True).start()

    @property
    def is_lost(self) -> bool:
        """See `Lock.is_lost`."""
        return self._lost

    def guards(self, rows: Leases) -> bool:
        """Tell whether this is a lease in these rows that was not given back."""
        return self._rows is rows and not self._ended.is_set()

    def require(self) -> None:
        """See `Lock.require`. It waits out an outage of the database; only the database knows."""
        if self._lost or not patiently(lambda: self._rows.renew(self.name, self.token), PATIENCE_S):
            self._lost = True
            raise _lost(self.name, self._length_s)

    def release(self) -> None:
        """See `Lock.release`."""
        if not self.give_back():
            _logger.warning("%s", _lost(self.name, self._length_s))

    def give_back(self) -> bool:
        """End it; False if it was lost before. A database that does not answer ends it by itself, a little later."""
        self._ended.set()
        self._on_end(self)
        try:
            return self._rows.give_back(self.name, self.token)
        except StillhouseError as error:
            _logger.warning("the lock %r frees itself within %g s: %s", self.name, self._length_s, error)
            return not self._lost

    def _keep(self) -> None:
        usual_s, soon_s = self._length_s / 3, self._length_s / 15
        pause_s = usual_s
        while not self._ended.wait(pause_s):
            try:
                kept = self._rows.renew(self.name, self.token)
            except StillhouseError as error:
                if pause_s != soon_s:
                    _logger.warning("the lock %r cannot be renewed now, trying on: %s", self.name, error)
                pause_s = soon_s  # another may take the lock over as soon as the lease is over
                continue
            pause_s = usual_s
            if not kept and not self._ended.is_set():
                self._lost = True
                _logger.warning("%s", _lost(self.name, self._length_s))
                return


class LeaseLocks:
    """See `tasks.runtime.locking.Locks`."""

    def __init__(self, rows: Leases) -> None:
        """Prepare to lock by the leases in `rows`."""
        self._rows = rows
        self._held: dict[str, Lease] = {}
        self._guard = threading.Lock()

    @property
    def dead_after_s(self) -> float:
        """See `Locks.dead_after_s`."""
        return self._rows.length_s + 2 * _LONGEST_POLL_S

    def acquire(self, name: str, *, timeout_s: float | None = None) -> Lease:
        """See `Locks.acquire`."""
        token = uuid.uuid4().hex
        waiting = _Waiting(self._rows, name, timeout_s)
        try:
            while not waiting.try_to_take(token):
                waiting.pause()
        except BaseException:
            # the answer may have been lost on its way, and the lock be ours
            with _only_logging(name):
                self._rows.give_back(name, token)
            raise
        lease = Lease(self._rows, name, token, self._rows.length_s, self._forget)
        with self._guard:
            self._held[name] = lease
        return lease

    def hold(self, name: str, *, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """See `Locks.hold`.

        Raises:
            LockLostError: at the block's end, if the lock was lost meanwhile: what was done under it besides
                the ledger may have met another's doing, and is to be done again.
        """
        return self._hold(name, timeout_s)

    @contextmanager
    def _hold(self, name: str, timeout_s: float | None) -> Iterator[None]:
        lease = self.acquire(name, timeout_s=timeout_s)
        before = _held_here.set((*_held_here.get(), lease))
        try:
            yield
        except BaseException:
            lease.release()
            raise
        else:
            if not lease.give_back():
                raise _lost(name, self._rows.length_s)
        finally:
            _held_here.reset(before)

    def is_taken(self, name: str) -> bool:
        """See `Locks.is_taken`."""
        return self._rows.holder(name) is not None

    def pin_held(self, connection: Connection) -> None:
        """Keep everybody from taking over the locks that the calling code is inside of, until the transaction ends.

        Raises:
            LockLostError: one was taken over.
        """
        for lease in _held_here.get():
            if lease.guards(self._rows):
                self.pin(connection, lease.name, lease.token)

    def token(self, name: str) -> str:
        """Return the token under which this process holds the lock.

        Raises:
            LockLostError: it does not hold it.
        """
        with self._guard:
            lease = self._held.get(name)
        if lease is None:
            raise LockLostError(f"the lock {name!r} is not held by this process; what it guards is not written")
        return lease.token

    def pin(self, connection: Connection, name: str, token: str) -> None:
        """Keep everybody from taking the lock over until the transaction ends.

        Raises:
            LockLostError: somebody has.
        """
        if not self._rows.pin(connection, name, token):
            raise _lost(name, self._rows.length_s)

    def _forget(self, lease: Lease) -> None:
        with self._guard:
            if self._held.get(lease.name) is lease:
                del self._held[lease.name]


class _Waiting:
    """One process's wait for one lock: polls with jitter, bears a short outage, and says whom it waits for."""

    def __init__(self, rows: Leases, name: str, timeout_s: float | None) -> None:
        self._rows = rows
        self._name = name
        self._timeout_s = timeout_s
        self._begun = time.monotonic()
        self._poll_s = 0.05
        self._answered: float | None = None
        """When the database last answered."""
        self._told = False

    def try_to_take(self, token: str) -> bool:
        """Try once; an outage counts as a no, if the database answered before and lately enough."""
        try:
            taken = self._rows.take(self._name, token, f"{socket.gethostname()}:{os.getpid()}")
        except ServiceUnavailableError:
            if self._answered is None or time.monotonic() - self._answered > _OUTAGE_OF_A_WAIT_S:
                raise
            return False
        self._answered = time.monotonic()
        return taken

    def pause(self) -> None:
        """Wait a little.

        Raises:
            LockTakenError: that was long enough.
        """
        waited_s = time.monotonic() - self._begun
        left_s = float("inf") if self._timeout_s is None else self._timeout_s - waited_s
        if left_s <= 0:
            raise LockTakenError(
                f"the lock {self._name!r} is held by {self._holder()}, and {self._timeout_s:g} s of waiting did not "
                "end that; try again, or end that process"
            )
        if waited_s > _WAITED_LONG_S and not self._told:
            self._told = True
            _logger.warning("waiting for the lock %r, which is held by %s", self._name, self._holder())
        time.sleep(min(left_s, self._poll_s * random.uniform(0.5, 1.5)))  # noqa: S311 - spreads load, guards nothing
        self._poll_s = min(_LONGEST_POLL_S, 1.5 * self._poll_s)

    def _holder(self) -> str:
        with _only_logging(self._name):
            holder = self._rows.holder(self._name)
            return "nobody by now" if holder is None else f"{holder.process} for {holder.held_s} s"
        return "an unknown process"


def _lost(name: str, length_s: float) -> LockLostError:
    return LockLostError(
        f"the lock {name!r} was taken over by another: this process did not reach the database of "
        f"STILLHOUSE_LEDGER_URL for more than {length_s:g} s, or stood still for so long. What it would have written "
        "under the lock was not written; trying again finds what the other has made."
    )


@contextmanager
def _only_logging(name: str) -> Iterator[None]:
    """Log that the database is away; for what is not worth a failure."""
    try:
        yield
    except StillhouseError as error:
        _logger.warning("of the lock %r: %s", name, error)
