"""The process beside the gateways of one machine that speaks S3 for them.

It keeps their folder like the store, and takes acknowledgements and log to the bucket. Gateways stay as they are: they
read and write folders, need no credentials and import no client.
"""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from tasks.adapters.locks import FileLocks
from tasks.adapters.s3_bucket import Bucket
from tasks.adapters.s3_connection import Patience, S3Options
from tasks.adapters.store_mirror import StoreMirror
from tasks.adapters.traffic_shipping import TrafficShipper
from tasks.contracts.errors import InfrastructureError, LockTakenError, UserError
from tasks.contracts.shipping import ShippingState
from tasks.runtime.settings import Settings, environment_of_services

_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_CHECK_S = 0.1
_REFUSED = 2
"""Exit code for a wrong setting."""
_STANDBY_S = 1.0

logger = logging.getLogger(__name__)


def has_companion(settings: Settings) -> bool:
    """Tell whether gateways of this machine need one: store or log lie in S3."""
    return settings.store_place is not None or settings.traffic_place is not None


def keep_company(
    settings: Settings,
    stop: threading.Event,
    *,
    poll_s: float = 1.0,
    ship_s: float = 30.0,
    max_waiting_bytes: int = 4 * 2**30,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Mirror the store and ship the log until told to stop; beside another companion of this folder, wait for its end.

    Args:
        settings: where everything is.
        stop: ends it, after the log that is finished has been shipped.
        poll_s: pause between two looks for new routes, seconds.
        ship_s: pause between two shipments, seconds.
        max_waiting_bytes: of log segments that may wait here.
        on_ready: called when the folder is like the store for the first time, or another companion keeps it.

    Raises:
        UserError: neither store nor log lie in S3, or the bucket or the permission is missing.
    """
    shipper = _shipper(settings, max_waiting_bytes)
    mirror = _mirror(settings)
    if shipper is None and mirror is None:
        raise UserError("neither STILLHOUSE_STORE_URL nor STILLHOUSE_TRAFFIC_URL names a place in S3: nothing to do")
    with ExitStack() as held:
        while not stop.is_set():
            try:
                held.enter_context(_sole(settings))
            except LockTakenError:
                on_ready()
                stop.wait(_STANDBY_S)
            else:
                break
        if stop.is_set():
            return
        shipping = threading.Thread(target=shipper.run, args=(stop, ship_s), name="shipper") if shipper else None
        if shipping:
            shipping.start()
        try:
            if mirror is not None:
                _first_look(mirror)
            on_ready()
            if mirror is not None:
                mirror.run(stop, poll_s)
            stop.wait()
        finally:
            stop.set()
            if shipping:
                shipping.join()


def ship_once(settings: Settings, max_waiting_bytes: int) -> ShippingState:
    """Ship what this machine has finished of the log.

    Raises:
        UserError: the log does not lie in S3, or a companion of this folder runs.
        InfrastructureError: S3 does not answer or refuses.
    """
    shipper = _shipper(settings, max_waiting_bytes)
    if shipper is None:
        raise UserError("STILLHOUSE_TRAFFIC_URL names no place in S3: there is nothing to ship")
    try:
        with _sole(settings):
            return shipper.ship()
    except LockTakenError:
        raise UserError(f"a companion of the gateways runs, and ships {settings.traffic_root} itself") from None


def shipping_state(settings: Settings) -> ShippingState | None:
    """Return what was shipped from this machine and what waits, or None if the log does not lie in S3."""
    shipper = _shipper(settings, 0)
    return None if shipper is None else shipper.state()


def _sole(settings: Settings) -> AbstractContextManager[None]:
    """Hold what one process at a time holds; raises LockTakenError where another does."""
    return FileLocks(settings.store_root / "locks").hold("gateway-companion", timeout_s=0)


def _shipper(settings: Settings, max_waiting_bytes: int) -> TrafficShipper | None:
    place = settings.traffic_place
    if place is None:
        return None
    bucket = Bucket(place, S3Options.of(settings), "STILLHOUSE_TRAFFIC_URL")
    return TrafficShipper(bucket, settings.traffic_root, max_waiting_bytes=max_waiting_bytes)


@contextmanager
def companion(settings: Settings, ship_s: float = 30.0, log_path: Path | None = None) -> Iterator[None]:
    """Run a companion beside this process for the block, and another when it dies; none where nothing lies in S3.

    The block begins when the folder is like the store, or after a minute with what the folder holds. The companion
    also ends, in order, when this process is killed: its standard input is then closed.

    Args:
        settings: where everything is.
        ship_s: pause between two shipments of the log, seconds.
        log_path: where its messages go; to standard error if None.

    Raises:
        UserError: the companion refused its settings.
    """
    if not has_companion(settings):
        yield
        return
    process = _Process(settings, ship_s, log_path)
    process.start()
    try:
        process.wait_until_ready()
        yield
    finally:
        process.stop()


class _Process:
    """The companion as a process that is kept running; each that dies is followed by another, after longer pauses."""

    def __init__(self, settings: Settings, ship_s: float, log_path: Path | None) -> None:
        self._log_path = log_path
        self._command = [
            sys.executable, "-m", "flows.cli", "store", "mirror", "--end-with-stdin", "--ship-seconds", str(ship_s)
        ]  # fmt: skip
        folders = {"STILLHOUSE_STORE": str(settings.store_root), "STILLHOUSE_TRAFFIC": str(settings.traffic_root)}
        self._environment = environment_of_services() | folders
        self._ready, self._done = threading.Event(), threading.Event()
        self._refused = False
        self._thread = threading.Thread(target=self._tend, name="companion")

    def start(self) -> None:
        """Begin to keep one running."""
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Wait until it says so, or a minute.

        Raises:
            UserError: it refused its settings.
        """
        if not self._ready.wait(_READY_WITHIN_S):
            logger.warning("the store has not been read yet; gateways serve what their folder holds")
        if self._refused:
            raise UserError(
                f"the gateway's companion refused its settings; see {self._log_path or 'its message above'}"
            )

    def stop(self) -> None:
        """End it in order, with what it still has to ship."""
        self._done.set()
        self._thread.join()

    def _tend(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._done.is_set():
            code = self._run()
            if self._done.is_set():
                return
            if code == _REFUSED and not self._ready.is_set():
                self._refused = True
                self._ready.set()
                return
            logger.error("the companion ended with code %d; another starts in %g s", code, pause_s)
            self._done.wait(pause_s)
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)

    def _run(self) -> int:
        """Run one until it ends or is to end; return its exit code."""
        pipe = subprocess.PIPE
        # a session of its own, so that Ctrl-C reaches this process alone and the companion ends in order
        with (
            nullcontext() if self._log_path is None else self._log_path.open("ab") as log,
            subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                text=True,
                start_new_session=True,
            ) as process,
        ):
            threading.Thread(target=self._hear, args=(process,), daemon=True).start()
            while process.poll() is None and not self._done.wait(_CHECK_S):
                continue
            if process.poll() is None:
                _end(process)
            return process.returncode

    def _hear(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        if process.stdout.readline():
            self._ready.set()


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        logger.error("the companion did not end in time and is killed; what it had not shipped waits")
        process.kill()
        process.wait()


def _mirror(settings: Settings) -> StoreMirror | None:
    place = settings.store_place
    if place is None:
        return None
    # its loop tries again by itself, and must not keep acknowledgements waiting for one object that cannot be had
    options = replace(S3Options.of(settings), patience=Patience(sdk_attempts=2, total_s=5.0))
    return StoreMirror(Bucket(place, options, "STILLHOUSE_STORE_URL"), settings.store_root)


def _first_look(mirror: StoreMirror) -> None:
    try:
        mirror.follow()
    except InfrastructureError as error:
        logger.error("the store is not followed yet: %s", error)
