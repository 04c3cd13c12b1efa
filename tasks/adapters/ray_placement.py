"""Places stages on a Ray cluster, each on a worker that offers what its technique declares.

Ray's tasks here are one module-level function whose argument and answer are JSON: the worker starts the same stage
process that a single machine would, so that a stage is isolated, killed and answered for in one way everywhere. The
process of the flow holds the stage's lock and, when the cluster loses the task, retries it; Ray itself retries nothing.

A worker refuses a stage whose source or engines differ from those that its cache key was made of, or whose store is
another: its result would be found under that key for ever.
"""

import json
import logging
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tasks.contracts.errors import (
    OutOfMemoryError,
    ServiceUnavailableError,
    StillhouseError,
    WorkerLostError,
    WorkerMismatchError,
)
from tasks.contracts.value import Digest, Value
from tasks.runtime.crews import crew_environment, free_port
from tasks.runtime.isolation import Message, StageCall, StageProcess, require_run_goes_on
from tasks.runtime.settings import Settings, current_settings
from tasks.runtime.source import engine_versions, source_digest
from tasks.runtime.warm_processes import WarmProcesses

_LOOK_S = 1.0
"""How often a waiting flow asks how its stages are getting on."""
_BEAT_S = 10.0
"""How often a worker says that it is at work on a stage."""
_MET_WITHIN_S, _MEETING_LOOK_S = 300.0, 0.2
"""How long processes that train together wait for their first one, and how often they look."""
_LAST_WORDS_S = 5.0
"""How long the failure of one process of a crew is waited for when another says that it lost its peers."""
_IMPORTED_AHEAD = ("tasks.runtime.isolation", "tasks.stages.making")
_GRACE_S = 120.0
"""What a stage may take beyond its limit until its worker's answer, or Ray's word of the worker's loss, is here."""

_logger = logging.getLogger(__name__)


class RayPlacement:
    """See `tasks.runtime.placement.Placement`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guard = threading.Lock()
        self._notes: _Notes | None = None

    def run(self, call: StageCall, on_progress: Callable[[Any], None]) -> Message:
        """Make the call on a worker; see `Placement.run`.

        Raises:
            RunStoppedError: the run was told to stop.
            ServiceUnavailableError: the cluster cannot be reached.
            OutOfMemoryError: Ray ended the stage because its node ran short of memory.
            WorkerLostError: no worker took the stage in time, or the one that did was lost.
        """
        require_run_goes_on(call.function)
        ray, notes = self._connected()
        ticket = notes.new_ticket()
        order = _Order.of(call, self._settings).model_dump_json()
        with _named_errors(ray, call), _placed(ray, call) as places:
            task = ray.remote(_run_on_worker)
            answers = [
                task.options(**place).remote(order, notes.board, ticket, rank, len(places))
                for rank, place in enumerate(places)
            ]
            try:
                return self._wait(ray, notes, ticket, answers, call, on_progress)
            finally:
                for answer in answers:
                    ray.cancel(answer, force=True)  # does nothing to one that is done
                notes.forget(ticket)

    def _connected(self) -> tuple[Any, "_Notes"]:
        """Return Ray and the notes of this process; connect where that is not done, or was undone by a lost cluster."""
        import ray

        with self._guard:
            if self._notes is None or not ray.is_initialized():
                address = self._settings.ray_address
                try:
                    ray.init(address, namespace="stillhouse", log_to_driver=False, ignore_reinit_error=True)
                except (ConnectionError, RuntimeError, TimeoutError) as error:
                    raise ServiceUnavailableError(
                        f"no Ray cluster answers at {address} (STILLHOUSE_RAY_ADDRESS): {error}"
                    ) from error
                board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
                self._notes = _Notes(ray, board)
            return ray, self._notes

    def _wait(
        self,
        ray: Any,
        notes: "_Notes",
        ticket: str,
        answers: list[Any],
        call: StageCall,
        on_progress: Callable[[Any], None],
    ) -> Message:
        """Wait until all have answered, or one has failed; pass progress on meanwhile."""
        patience = _Patience(call, self._settings.placement_timeout_s)
        pending = answers
        while True:
            done, pending = ray.wait(pending, timeout=_LOOK_S)
            messages: list[Message] = [json.loads(ray.get(answer)) for answer in done]
            if pending and any(_is_lost(message) for message in messages):  # because a peer failed: which says why?
                late, _ = ray.wait(pending, num_returns=len(pending), timeout=_LAST_WORDS_S)
                messages += [json.loads(ray.get(answer)) for answer in late]
                messages.sort(key=_is_lost)
            for note in notes.take(ticket, at_once=bool(done)):
                patience.note(note)
                if "progress" in note:
                    on_progress(note["progress"])
            for message in messages:
                if "error" in message:
                    return message
            if not pending:
                answered: Message = json.loads(ray.get(answers[0]))
                return answered
            require_run_goes_on(call.function)
            patience.check(lambda: ray.cluster_resources())


class _Notes:
    """What workers noted about the running stages of this process, fetched from its board for all of them together."""

    def __init__(self, ray: Any, board: Any) -> None:
        self.board = board
        self._ray = ray
        self._guard = threading.Lock()
        self._by_ticket: dict[str, list[dict[str, Any]]] = {}
        self._fetched = time.monotonic()

    def new_ticket(self) -> str:
        """Return the name under which a stage is noted from now on."""
        ticket = uuid.uuid4().hex
        with self._guard:
            self._by_ticket[ticket] = []
        return ticket

    def take(self, ticket: str, *, at_once: bool) -> list[dict[str, Any]]:
        """Hand the notes of a stage over; those of the last second may be missing, unless they are wanted at once."""
        with self._guard:
            if at_once or time.monotonic() - self._fetched >= _LOOK_S:
                for noted, notes in self._ray.get(self.board.take.remote()).items():
                    if noted in self._by_ticket:  # else they came too late
                        self._by_ticket[noted] += notes
                self._fetched = time.monotonic()
            taken, self._by_ticket[ticket] = self._by_ticket[ticket], []
            return taken

    def forget(self, ticket: str) -> None:
        """Drop what comes too late."""
        with self._guard:
            self._by_ticket.pop(ticket, None)
        self.board.forget.remote(ticket)


def _is_lost(message: Message) -> bool:
    return bool(message.get("error", {}).get("class") == WorkerLostError.__name__)


@contextmanager
def _placed(ray: Any, call: StageCall) -> Iterator[list[dict[str, Any]]]:
    """Give the options of every process of the call; those that train together are placed together or not at all."""
    options = options_of(call)
    size = crew_size(call, ray.cluster_resources())
    if size == 1:
        yield [options]
        return
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([_wanted(call)] * size, strategy="PACK")
    try:
        yield [
            options
            | {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)}
            for rank in range(size)
        ]
    finally:
        remove_placement_group(group)


def crew_size(call: StageCall, cluster: dict[str, float]) -> int:
    """Return how many processes train together: all that the call asks for, or what the cluster has room for by now.

    A cluster that has room for none yet may grow, and is asked for all.
    """
    wanted = _wanted(call)
    room = min(int(cluster.get(name, 0.0) // amount) for name, amount in wanted.items())
    return min(call.resources.num_workers, room or call.resources.num_workers)


def options_of(call: StageCall) -> dict[str, Any]:
    """Return the options under which Ray places a call.

    A call that measures takes one `target-<name>` and no CPU: nodes for measuring offer that and no CPUs, so that
    nothing else lands on them.
    """
    wanted = call.resources
    custom = dict(wanted.custom)
    if call.target is not None:
        custom[target_resource(call.target)] = 1.0
    return {
        "num_cpus": 0 if call.target is not None else call.num_threads,
        "num_gpus": wanted.num_gpus,
        "memory": int(wanted.memory_gib * 2**30) or None,
        "resources": custom,
        "max_retries": 0,
        "name": call.function,
    }


def target_resource(target: str) -> str:
    """Name the custom resource of the nodes that stand for a plan's target."""
    return f"target-{target}"


class _Patience:
    """How long a flow waits: for a worker to take the stage, and then for the stage."""

    def __init__(self, call: StageCall, placement_timeout_s: float) -> None:
        self._call = call
        self._placement_timeout_s = placement_timeout_s
        self._asked = time.monotonic()
        self._begun: float | None = None
        self._place = ""

    def note(self, note: dict[str, Any]) -> None:
        """Learn that the stage is at work."""
        if self._begun is None:
            self._begun = time.monotonic()
            self._place = str(note.get("host", "a worker"))
            _logger.info("%s began on %s", self._call.function, self._place)

    def check(self, cluster: Callable[[], dict[str, float]]) -> None:
        """Give up what takes too long.

        Raises:
            WorkerLostError: it did; the message says what was waited for.
        """
        now = time.monotonic()
        limit_s = self._call.resources.timeout_s
        if self._begun is not None and now - self._begun > limit_s + _GRACE_S:
            raise WorkerLostError(
                f"{self._call.function} on {self._place} is {_GRACE_S:.0f} s over its limit of {limit_s:.0f} s, and "
                "its worker says nothing"
            )
        if self._begun is None and now - self._asked > self._placement_timeout_s:
            raise WorkerLostError(
                f"no worker took {self._call.function} within {self._placement_timeout_s:.0f} s "
                f"(STILLHOUSE_PLACEMENT_TIMEOUT_S). It asks for {_listed(_wanted(self._call))}; the cluster has "
                f"{_listed(cluster())} in all. {_remedy(self._call)}"
            )


def _wanted(call: StageCall) -> dict[str, float]:
    options = options_of(call)
    named = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options["memory"]}
    return {name: value for name, value in (named | options["resources"]).items() if value}


def _listed(resources: dict[str, float]) -> str:
    shown = sorted((name, value) for name, value in resources.items() if not name.startswith("node:"))
    return ", ".join(
        f"{value / 2**30:.1f} GiB of memory" if name == "memory" else f"{value:g} {name}"
        for name, value in shown
        if name != "object_store_memory"
    )


def _remedy(call: StageCall) -> str:
    if call.target is None:
        return "Add a worker that offers it, or lower what the technique's `resources` ask for."
    return (
        "Start a node for measuring, which nothing else uses: "
        f"ray start --address=... --num-cpus=0 --resources='{{\"{target_resource(call.target)}\": 1}}'"
    )


@contextmanager
def _named_errors(ray: Any, call: StageCall) -> Iterator[None]:
    """Turn Ray's errors into ours, which say whether a retry helps."""
    try:
        yield
    except ray.exceptions.OutOfMemoryError as error:
        raise OutOfMemoryError(f"Ray ended {call.function}: {error}") from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise WorkerLostError(f"the worker of {call.function} was lost: {error}") from error


class _Order(Value):
    """What a worker is told: the call, and what it must be like to make it."""

    call: StageCall
    source: Digest
    engines: dict[str, str]
    store: str

    @classmethod
    def of(cls, call: StageCall, settings: Settings) -> "_Order":
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
        here = _Order.of(self.call, current_settings())
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


class _Board:
    """An actor that keeps what workers note about running stages until their flow takes it.

    Processes that train together also find one another by it.
    """

    def __init__(self) -> None:
        self._notes: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._meetings: dict[str, tuple[str, int]] = {}

    def meet_at(self, ticket: str, address: str, port: int) -> None:
        """Keep where the first process of a crew listens."""
        self._meetings[ticket] = address, port

    def meeting(self, ticket: str) -> tuple[str, int] | None:
        """Tell where that is, once it is known."""
        return self._meetings.get(ticket)

    def put(self, ticket: str, note: dict[str, Any]) -> None:
        """Keep a note."""
        self._notes[ticket].append(note)

    def take(self) -> dict[str, list[dict[str, Any]]]:
        """Hand all notes over, by stage."""
        taken, self._notes = dict(self._notes), defaultdict(list)
        return taken

    def forget(self, ticket: str) -> None:
        """Drop what came too late."""
        self._notes.pop(ticket, None)
        self._meetings.pop(ticket, None)


def _run_on_worker(order: str, board: Any, ticket: str, rank: int, size: int) -> str:
    """Be a worker: make the call in a process of its own, and answer in JSON whatever happens."""
    import ray

    wanted = _Order.model_validate_json(order)
    done = threading.Event()
    last: list[Any] = []

    def note(progress: Any = None) -> None:
        known = {"host": socket.gethostname()} | ({} if progress is None or rank > 0 else {"progress": progress})
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
    return json.dumps(message)


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
