"""Where a flow's stages on Ray are noted: the board that workers write to, and the flow's reading of it."""

import threading
import time
import uuid
from collections import defaultdict
from typing import Any

LOOK_S = 1.0
"""How often a waiting flow asks how its stages are getting on."""


class Board:
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


class Notes:
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
            if at_once or time.monotonic() - self._fetched >= LOOK_S:
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
