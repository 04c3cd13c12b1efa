"""Progress of a run on the terminal: a bar per training stage, a line per step of the process."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flows.cli.console import error_console
from tasks.contracts.model import EpochRecord


@contextmanager
def shown_progress(title: str) -> Iterator[None]:
    """Show what the process does, and a bar for every stage that trains, while the block runs."""
    from tasks.runtime.progress import listen, listen_to_announcements

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console()) as bars:
        overall = bars.add_task(title, total=None, note="starting")
        stages: dict[str, TaskID] = {}

        def on_epoch(label: str, record: EpochRecord, planned: int) -> None:
            if label not in stages:
                stages[label] = bars.add_task(f"  {label}", total=planned, note="")
            note = ", ".join(f"{name} {value:.3g}" for name, value in record.metrics.items() if name != "learning_rate")
            bars.update(stages[label], completed=record.step, note=note)
            if not bars.console.is_terminal and record.step == planned:
                bars.console.print(f"{label}: {planned} epochs, {note}", soft_wrap=True)

        def on_announcement(text: str) -> None:
            bars.update(overall, note=text)
            if not bars.console.is_terminal:
                bars.console.print(text, soft_wrap=True)

        endings = [listen(on_epoch), listen_to_announcements(on_announcement)]
        try:
            yield
        finally:
            for end in endings:
                end()
            bars.update(overall, total=1, completed=1)
