"""`stillhouse store`: the artifact and document store."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def store() -> None:
    """The store of artifacts, routes and records."""


@app.command()
def mirror(
    once: Annotated[bool, typer.Option("--once", help="Ship the log that waits here, and end.")] = False,
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Pause between two looks for new routes.")] = 1.0,
    ship_seconds: Annotated[float, typer.Option(min=0.1, help="Pause between two shipments of the log.")] = 30.0,
    max_waiting_gb: Annotated[
        float, typer.Option(min=0.01, help="Log that may wait here; beyond it the oldest is lost, and counted.")
    ] = 4.0,
    end_with_stdin: Annotated[
        bool, typer.Option("--end-with-stdin", help="Stop when standard input is closed.")
    ] = False,
) -> None:
    """Keep this machine's gateways supplied from S3, and take their log there, until Ctrl-C or SIGTERM.

    Routes, models and signatures come from STILLHOUSE_STORE_URL into the folder STILLHOUSE_STORE, acknowledgements go
    back; log segments go from the folder STILLHOUSE_TRAFFIC to STILLHOUSE_TRAFFIC_URL, each row once. `stillhouse
    serve` runs one itself; run it beside gateways that are started otherwise, as in a pod.
    """
    import logging
    import os
    import signal
    import sys
    import threading

    from flows.cli.console import print_json
    from tasks.adapters.gateway_companion import keep_company, ship_once
    from tasks.runtime.settings import current_settings

    max_waiting_bytes = round(max_waiting_gb * 2**30)
    if once:
        print_json(ship_once(current_settings(), max_waiting_bytes))
        return
    logging.getLogger("tasks").setLevel(logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if end_with_stdin:

        def end() -> None:
            os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock a daemon thread would hold at exit
            stop.set()

        threading.Thread(target=end, daemon=True).start()
    told = threading.Event()

    def ready() -> None:
        if not told.is_set():
            told.set()
            typer.echo("ready")

    keep_company(
        current_settings(),
        stop,
        poll_s=poll_seconds,
        ship_s=ship_seconds,
        max_waiting_bytes=max_waiting_bytes,
        on_ready=ready,
    )


@app.command()
def url(
    digest: Annotated[str, typer.Argument(help="SHA-256 of an artifact, as `stillhouse model inspect` names it.")],
    minutes: Annotated[int, typer.Option(min=1, max=7 * 24 * 60, help="How long the URL may be used.")] = 60,
) -> None:
    """Sign a URL by which a machine without credentials may fetch an artifact for a while.

    Who fetches it has to check its SHA-256, and to unpack it where STILLHOUSE_STORE_COMPRESSION says so.

    Example: `curl -o model.onnx "$(stillhouse store url DIGEST --minutes 10)"`
    """
    from flows.cli.model_reference import checked_digest
    from tasks.adapters.s3_store import S3Artifacts
    from tasks.contracts.errors import UserError
    from tasks.runtime.services import connect

    artifacts = connect().artifacts
    if not isinstance(artifacts, S3Artifacts):
        raise UserError(
            "the store is a folder, and only one in S3 gives URLs; `stillhouse model pull` copies a model's file"
        )
    typer.echo(artifacts.signed_url(checked_digest(digest), minutes * 60))


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without it, only say what would be done.")] = False,
    keep_days: Annotated[
        float, typer.Option(help="How long runs and the cache keep what they name; at least 2.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False,
) -> None:
    """Remove artifacts that nothing names: no ledger row, registered version, route, document, baseline or young cache.

    Two runs with --delete, a day apart, must find an artifact unnamed before it goes: the first condemns it. Run it
    daily. Removing is final, unless the bucket keeps versions.

    Example: `stillhouse store gc`, and if that is as it should be, `stillhouse store gc --delete`
    """
    from datetime import UTC, datetime

    from flows.cli.console import bytes_text, console, print_json
    from tasks.runtime.services import connect
    from tasks.stages.collecting import collect_garbage

    done = collect_garbage(connect(), keep_days, datetime.now(UTC), dry_run=not delete)
    if as_json:
        print_json(done)
        return
    would = "would be " if done.dry_run else ""
    for words, amount in (
        ("artifacts named", done.named),
        ("artifacts too young to judge", done.young),
        (f"artifacts {would}condemned, to be removed by a run a day later", done.condemned),
        (f"artifacts {would}removed", done.removed),
        (f"records and checkpoints of the cache {would}removed", done.expired),
    ):
        console().print(f"{amount.files:>8} {words}, {bytes_text(amount.size_bytes)}", highlight=False, soft_wrap=True)
    if done.dry_run:
        console().print("nothing was changed; --delete does it")
