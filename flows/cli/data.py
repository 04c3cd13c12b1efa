"""`stillhouse data`: get the rows of a split, and the versions of `data/`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.contracts.data import SPLIT_NAMES, SplitName

if TYPE_CHECKING:
    from tasks.adapters.dvc_restore import Transfer
    from tasks.contracts.data import DatasetRef

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]

_YAML = (".yaml", ".yml")


@app.command()
def export(
    name: Annotated[
        str,
        typer.Argument(
            help="A plan's path (its data set as that plan splits it), or the name of a data set (as it was "
            "split last)."
        ),
    ],
    split: Annotated[SplitName, typer.Option(help="Which split.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.", dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Write one split as a NumPy file: `x` is exactly the model's input, `y` the labels or targets.

    Of a text data set the tokenizer is written beside it, as OUT with the suffix `.tokenizer.json`: it turns
    a text into such a row (`tasks.datasets.tokenization.encode`, or the tokenizers library).

    The data set must have been prepared: `stillhouse run PLAN` does so first of all.

    Example: `stillhouse data export digits --split test --out test.npz`
    """
    from flows.cli.console import bytes_text, console, print_json
    from tasks.adapters.local_store import write_atomically
    from tasks.contracts.errors import DataError, UserError
    from tasks.runtime.services import connect

    data = _prepared(name)
    if split not in data.splits:
        known = ", ".join(name for name in SPLIT_NAMES if name in data.splits)
        raise DataError(
            f"data set {data.name} has no split {split!r}; it has {known}. A plan's dataset.split or "
            "dataset.unlabelled makes one"
        )
    chosen = data.splits[split]
    files = {out: chosen.digest}
    beside = out.with_suffix(".tokenizer.json")
    if data.tokenizer is not None:
        files[beside] = data.tokenizer.digest
    try:
        for place, digest in files.items():
            write_atomically(place, connect().artifacts.get(digest))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose another place for --out") from error
    if as_json:
        made: dict[str, Any] = {"dataset": data.name, "revision": data.revision, "split": split, "out": str(out)}
        made |= {} if data.tokenizer is None else {"tokenizer": str(beside)}
        print_json(made | chosen.model_dump())
        return
    console().print(f"{out}: {chosen.num_rows} rows of {data.name}/{split}, {bytes_text(chosen.size_bytes)}")
    if data.tokenizer is not None:
        console().print(f"{beside}: the tokenizer, {data.vocab_size} tokens")


@app.command()
def status(
    remote: Annotated[bool, typer.Option("--remote", help="Also ask the DVC remote for the tracked version.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether `data/` is what `data.dvc` says: equal, modified, missing or untracked."""
    from flows.cli.console import bytes_text, console, print_json
    from tasks.adapters import dvc
    from tasks.runtime.services import connect

    found = dvc.status(connect().settings, ask_remote=remote)
    if as_json:
        print_json(found)
        return
    console().print(f"data/ is [bold]{found.state}[/]: {found.num_files} files, {bytes_text(found.size_bytes)}")
    console().print(f"tracked  {found.tracked or 'nothing'}\npresent  {found.present or 'nothing'}", highlight=False)
    answer = {True: " (has the tracked version)", False: " (lacks the tracked version)", None: ""}[found.remote_has_it]
    console().print(f"remote   {found.remote}{answer}", highlight=False, soft_wrap=True)


@app.command()
def add(as_json: AsJson = False) -> None:
    """Make `data/` as it is now a new version; then commit `data.dvc`, and `stillhouse data push`."""
    from tasks.adapters import dvc
    from tasks.runtime.services import connect

    services = connect()
    _report(dvc.add(services.settings, services.host_locks), as_json)


@app.command()
def push(as_json: AsJson = False) -> None:
    """Copy the tracked version of `data/` to the DVC remote (setting STILLHOUSE_DVC_REMOTE)."""
    from datetime import UTC, datetime

    from tasks.adapters import dvc
    from tasks.runtime.services import connect
    from tasks.stages.announcing import announce_data

    services = connect()
    done = dvc.push(services.settings, services.host_locks)
    announce_data(services, done.revision, done.remote or "", datetime.now(UTC).isoformat(timespec="seconds"))
    _report(done, as_json)


@app.command()
def pull(
    force: Annotated[
        bool, typer.Option("--force", help="Replace a `data/` that was changed; the change is lost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Get the tracked version of `data/`: from the DVC remote, or rebuilt if it is what Stillhouse ships."""
    from tasks.adapters import dvc
    from tasks.datasets import materialise_shipped
    from tasks.runtime.services import connect

    services = connect()
    _report(dvc.pull(services.settings, services.host_locks, materialise_shipped, force=force), as_json)


def _report(done: "Transfer", as_json: bool) -> None:
    from flows.cli.console import console, print_json

    if as_json:
        print_json(done)
        return
    place = f", remote {done.remote}" if done.remote else ""
    verb = "nothing to do" if done.action == "nothing" else done.action
    console().print(f"{verb}: data/ at {done.revision}{place}", highlight=False, soft_wrap=True)


def _prepared(name: str) -> "DatasetRef":
    """Find the prepared data set by the plan's path or by its own name."""
    from tasks.contracts.data import DatasetRef
    from tasks.contracts.errors import DataError
    from tasks.runtime.services import connect

    documents = connect().documents
    document_name = _document_of_plan(Path(name)) if name.endswith(_YAML) else f"datasets/{name}"
    found = documents.latest(document_name)
    if found is None:
        known = sorted({entry.split("/")[1] for entry in documents.names("datasets/")})
        raise DataError(
            f"data set {name!r} has not been prepared in this store; run its plan first (`stillhouse run PLAN`). "
            f"Prepared are: {', '.join(known) or 'none'}"
        )
    return DatasetRef.model_validate_json(found.data)


def _document_of_plan(path: Path) -> str:
    from flows.plan import load_plan
    from tasks.runtime.services import connect
    from tasks.stages.fetching import request_name, source_revision

    plan = load_plan(path)
    return request_name(plan.dataset, source_revision(plan.dataset, connect().settings), plan.seed)
