"""Places stages on a Ray cluster, each on a worker that offers what its technique declares.

The process of the flow holds the stage's lock and, when the cluster loses the task, retries it, on another node than
the one that failed where there is one; Ray itself retries nothing.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.adapters.ray_board import LOOK_S, Board, Notes
from tasks.adapters.ray_failures import FailedNodes, may_be_of_the_node
from tasks.adapters.ray_resources import Patience, placed
from tasks.adapters.ray_worker import Order, run_on_worker
from tasks.contracts.errors import InfrastructureError, OutOfMemoryError, ServiceUnavailableError, WorkerLostError
from tasks.runtime.isolation import Message, StageCall, require_run_goes_on
from tasks.runtime.settings import Settings

_LAST_WORDS_S = 5.0
"""How long the failure of one process of a crew is waited for when another says that it lost its peers."""


class RayPlacement:
    """See `tasks.runtime.placement.Placement`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guard = threading.Lock()
        self._notes: Notes | None = None
        self._failed = FailedNodes()

    def run(self, call: StageCall, on_progress: Callable[[Any], None]) -> Message:
        """Make the call on a worker, one where it has not failed before if there is one; see `Placement.run`.

        Raises:
            RunStoppedError: the run was told to stop.
            ServiceUnavailableError: the cluster cannot be reached.
            OutOfMemoryError: Ray ended the stage because its node ran short of memory.
            WorkerLostError: no worker took the stage in time, or the one that did was lost.
        """
        require_run_goes_on(call.function)
        ray, notes = self._connected()
        patience = Patience(call, self._settings.placement_timeout_s)
        try:
            with _named_errors(ray, call):
                message = self._placed(ray, notes, call, patience, on_progress)
        except InfrastructureError:
            self._failed.add(call, patience.nodes)
            raise
        if "error" in message and may_be_of_the_node(message):
            self._failed.add(call, [message["node"]])
        else:
            self._failed.forget(call)
        return message

    def _placed(
        self, ray: Any, notes: "Notes", call: StageCall, patience: Patience, on_progress: Callable[[Any], None]
    ) -> Message:
        """Place the call, and wait for how it ends."""
        ticket = notes.new_ticket()
        order = Order.of(call, self._settings).model_dump_json()
        with placed(ray, call, self._failed.avoided(call, ray.nodes)) as places:
            task = ray.remote(run_on_worker)
            answers = [
                task.options(**place).remote(order, notes.board, ticket, rank, len(places))
                for rank, place in enumerate(places)
            ]
            try:
                return self._wait(ray, notes, ticket, answers, call, patience, on_progress)
            finally:
                for answer in answers:
                    ray.cancel(answer, force=True)  # does nothing to one that is done
                notes.forget(ticket)

    def _connected(self) -> tuple[Any, "Notes"]:
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
                board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
                self._notes = Notes(ray, board)
            return ray, self._notes

    def _wait(
        self,
        ray: Any,
        notes: "Notes",
        ticket: str,
        answers: list[Any],
        call: StageCall,
        patience: Patience,
        on_progress: Callable[[Any], None],
    ) -> Message:
        """Wait until all have answered, or one has failed; pass progress on meanwhile."""
        pending = answers
        while True:
            done, pending = ray.wait(pending, timeout=LOOK_S)
            for note in notes.take(ticket, at_once=bool(done)):
                patience.note(note)
                if "progress" in note:
                    on_progress(note["progress"])
            messages: list[Message] = [json.loads(ray.get(answer)) for answer in done]
            if pending and any(_is_lost(message) for message in messages):  # because a peer failed: which says why?
                late, _ = ray.wait(pending, num_returns=len(pending), timeout=_LAST_WORDS_S)
                messages += [json.loads(ray.get(answer)) for answer in late]
                messages.sort(key=_is_lost)
            for message in messages:
                if "error" in message:
                    return message
            if not pending:
                answered: Message = json.loads(ray.get(answers[0]))
                return answered
            require_run_goes_on(call.function)
            patience.check(lambda: ray.cluster_resources())


def _is_lost(message: Message) -> bool:
    return bool(message.get("error", {}).get("class") == WorkerLostError.__name__)


@contextmanager
def _named_errors(ray: Any, call: StageCall) -> Iterator[None]:
    """Turn Ray's errors into ours, which say whether a retry helps."""
    try:
        yield
    except ray.exceptions.OutOfMemoryError as error:
        raise OutOfMemoryError(f"Ray ended {call.function}: {error}") from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise WorkerLostError(f"the worker of {call.function} was lost: {error}") from error
