"""A stage's worker on Ray: the one function that Ray runs, whose argument and answer are JSON.

It starts the same stage process that a single machine would, so that a stage is isolated, killed and answered for in
one way everywhere. It refuses a stage whose source or engines differ from those that its cache key was made of, or
whose store is another: its result would be found under that key for ever.
"""

import json
import socket
import threading
import time
from functools import cache
from typing import Any

from tasks.contracts.errors import StillhouseError, WorkerLostError, WorkerMismatchError
from tasks.contracts.value import Digest, Value
from tasks.runtime.crews import crew_environment, free_port
from tasks.runtime.isolation import StageCall, StageProcess
from tasks.runtime.settings import Settings, current_settings
from tasks.runtime.source import engine_versions, source_digest
from tasks.runtime.warm_processes import WarmProcesses

_BEAT_S = 10.0
"""How often a worker says that it is at work on a stage."""
_MET_WITHIN_S, _MEETING_LOOK_S = 300.0, 0.2
"""How long processes that train together wait for their first one, and how often they look."""
_IMPORTED_AHEAD = ("tasks.runtime.isolation", "tasks.stages.making")


class Order(Value):
    """What a worker is told: the call, and what it must be like to make it."""

    call: StageCall
    source: Digest
    engines: dict[str, str]
    store: str

    @classmethod
    def of(cls, call: StageCall, settings: Settings) -> "Order":
        """Write down what this process would execute and where it would store."""
        return cls(
            call=call,
            source=source_digest(call.modules),
            engines=engine_versions(call.modules),
            store=settings.store_address,
        )

    def require_same(self) -> None:
        """Refuse to make the call in a process that would compute something else.

        Raises:
            WorkerMismatchError: names what differs.
        """
        here = Order.of(self.call, current_settings())
        differing = []
        if here.source != self.source:
            differing.append("its source of this stage is another; deploy the same version to flows and workers")
        differing += [
            f"{name} is {here.engines.get(name, 'missing')}, not {version}"
            for name, version in self.engines.items()
            if here.engines.get(name) != version
        ]
        if here.store != self.store:
            differing.append(f"its store is {here.store}, not {self.store}; set STILLHOUSE_STORE alike")
        if differing:
            raise WorkerMismatchError(
                f"the worker on {socket.gethostname()} cannot run {self.call.function}: {'; '.join(differing)}"
            )


def run_on_worker(order: str, board: Any, ticket: str, rank: int, size: int) -> str:
    """Be a worker: make the call in a process of its own, and answer in JSON whatever happens."""
    import ray

    wanted = Order.model_validate_json(order)
    node: str = ray.get_runtime_context().get_node_id()
    done = threading.Event()
    last: list[Any] = []

    def note(progress: Any = None) -> None:
        known = {"host": socket.gethostname(), "node": node}
        if progress is not None and rank == 0:
            known["progress"] = progress
        last[:] = [board.put.remote(ticket, known)]

    def beat() -> None:
        note()  # an early word, and later ones in case that the board was lost with its node meanwhile
        while not done.wait(_BEAT_S):
            note()

    pulse = threading.Thread(target=beat, daemon=True)
    pulse.start()
    try:
        wanted.require_same()
        environment = {} if size == 1 else crew_environment(rank, size, *_meeting(board, ticket, rank))
        warm = _warm_processes() if size == 1 and wanted.call.target is None else None
        message = StageProcess(wanted.call, environment, warm).run(note)
    except StillhouseError as error:
        message = {"error": {"class": type(error).__name__, "message": str(error), "traceback": ""}}
    finally:
        done.set()
        pulse.join()
    ray.get(last)  # all progress is on the board before the answer is out
    return json.dumps({**message, "node": node})


@cache
def _warm_processes() -> WarmProcesses:
    """Return where this worker's stage processes come from.

    Only the frame of a stage is imported ahead: a node has many workers, and each keeps a fork server.
    """
    return WarmProcesses(_IMPORTED_AHEAD)


def _meeting(board: Any, ticket: str, rank: int) -> tuple[str, int]:
    """Return where the crew's first process listens; the first one chooses it.

    Raises:
        WorkerLostError: the first one does not come.
    """
    import ray

    if rank == 0:
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        place = address, free_port(address)
        ray.get(board.meet_at.remote(ticket, *place))
        return place
    deadline = time.monotonic() + _MET_WITHIN_S
    while time.monotonic() < deadline:
        met: tuple[str, int] | None = ray.get(board.meeting.remote(ticket))
        if met is not None:
            return met
        time.sleep(_MEETING_LOOK_S)
    raise WorkerLostError(f"the first of the processes that train together did not come within {_MET_WITHIN_S:.0f} s")
