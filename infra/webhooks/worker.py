"""Models that wait to be reconciled, and the thread that does it, one at a time."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class ReconcileWorker:
    """A bounded queue of model names in which each stands once, however many events there were about it."""

    def __init__(self, reconcile: Callable[[str], object], limit: int) -> None:
        """Take models to reconcile.

        Args:
            reconcile: Makes one model's aliases and route equal the ledger; may be called again at any time.
            limit: Models that may wait.
        """
        self._reconcile, self._limit = reconcile, limit
        self._waiting: dict[str, None] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="webhooks-reconcile", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Finish the model that is being reconciled and forget the others: the schedule finds them."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def submit(self, model_name: str) -> bool:
        """Have a model reconciled after now; return False if too many wait already.

        One that waits already is not added: its turn comes after this call too. One that is being reconciled is.
        """
        with self._changed:
            if model_name in self._waiting:
                return True
            if len(self._waiting) >= self._limit:
                return False
            self._waiting[model_name] = None
            self._changed.notify()
            return True

    @property
    def num_waiting(self) -> int:
        """Models that wait."""
        with self._changed:
            return len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                model_name = next(iter(self._waiting))
                del self._waiting[model_name]
            try:
                self._reconcile(model_name)
            except Exception:  # the next event or the schedule tries again; the receiver goes on
                logger.exception("%s could not be reconciled", model_name)
