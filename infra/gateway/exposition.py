"""The page that Prometheus reads: of one gateway, or of all workers that share its port.

The kernel gives a scrape to any of the workers, and the next one to another: counters would jump from one process's to
another's. So whichever is asked answers for all. It gets the others' pages over unix sockets in the supervisor's own
folder, and tells the series apart by the label `worker`. A worker that does not answer is left out of the page, which
Prometheus takes for an end of its series.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

_ANSWERED_WITHIN_S = 1.0

logger = logging.getLogger(__name__)


class Exposition:
    """Gives the page of this process, joined with those of the other workers where there are any."""

    def __init__(self, registry: CollectorRegistry, worker: str, folder: Path | None) -> None:
        """Prepare the page.

        Args:
            registry: the series of this process.
            worker: its name.
            folder: where the workers of this port have their sockets; None for a gateway on a port of its own.
        """
        self._registry, self._worker, self._folder = registry, worker, folder
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the other workers from now on."""
        if self._folder is not None:
            self._server = await asyncio.start_unix_server(self._give, self._own_socket(self._folder))

    async def close(self) -> None:
        """Answer no more."""
        if self._folder is not None and self._server is not None:
            self._server.close()
            self._own_socket(self._folder).unlink(missing_ok=True)

    async def page(self) -> bytes:
        """Return the series in Prometheus's text format."""
        if self._folder is None:
            return generate_latest(self._registry)
        own = self._own_socket(self._folder)
        others = [path for path in sorted(self._folder.glob("*.sock")) if path != own]
        answers = await asyncio.gather(*map(_ask, others))
        pages = [(self._worker, generate_latest(self._registry).decode()), *filter(None, answers)]
        return generate_latest(_Joined(pages))  # it asks for no more than `collect`

    async def _give(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{self._worker}\n".encode() + generate_latest(self._registry))
        with contextlib.suppress(ConnectionError):  # who asked has gone
            await writer.drain()
        writer.close()

    @staticmethod
    def _own_socket(folder: Path) -> Path:
        return folder / f"{os.getpid()}.sock"


async def _ask(path: Path) -> tuple[str, str] | None:
    """Return a worker's name and its page, or None where it does not answer."""
    try:
        async with asyncio.timeout(_ANSWERED_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                worker, _, page = (await reader.read()).decode().partition("\n")
            finally:
                writer.close()
    except (ConnectionRefusedError, FileNotFoundError):  # it has ended; killed, it left its socket
        path.unlink(missing_ok=True)
        return None
    except (TimeoutError, OSError) as error:
        logger.warning(
            "the worker at %s does not say what it counted: %s", path.name, str(error) or "no answer in time"
        )
        return None
    return worker, page


class _Joined:
    """The families of several pages, each once, with every sample under its worker's label."""

    def __init__(self, pages: Iterable[tuple[str, str]]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        """Give the joined families."""
        families: dict[str, Metric] = {}
        for worker, page in self._pages:
            for family in text_string_to_metric_families(page):
                joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                joined.samples += [
                    sample._replace(labels=sample.labels | {"worker": worker}) for sample in family.samples
                ]
        yield from families.values()
