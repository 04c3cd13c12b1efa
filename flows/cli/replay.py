"""`stillhouse replay`: real rows to a gateway, as clients would send them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np

    from tasks.adapters.replay import ReplayResult


def replay(
    model: Annotated[str, typer.Argument(help="Name of a served model, as `stillhouse model ls` shows it.")],
    data: Annotated[
        Path, typer.Option(help="npz with arrays `x` and `y`; `stillhouse data export` writes one.", show_default=False)
    ],
    requests: Annotated[
        int | None, typer.Option(min=1, help="How many requests; 1000 unless --for is given.", show_default=False)
    ] = None,
    for_seconds: Annotated[
        float | None, typer.Option("--for", min=0.0, help="Stop after so many seconds.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests a second; as fast as they are answered otherwise.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows in one request.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Connections used at once.")] = 4,
    feedback: Annotated[bool, typer.Option(help="Send the labels after the answers, as users would.")] = True,
    feedback_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of requests with feedback.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Determines the order of the rows.")] = 0,
    url: Annotated[str | None, typer.Option(help="The gateway. Default: STILLHOUSE_GATEWAY_URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")] = False,
) -> None:
    """Send shuffled rows of a file to a gateway and report what came back.

    With labels as feedback this is the traffic that a rollout judges: keep it running while
    `stillhouse rollout start MODEL` ramps. Exit code 1 when a request failed.

    Example: `stillhouse replay digits --data test.npz --for 60 --rate 200`
    """
    import time

    from flows.cli.console import console, print_json
    from tasks.adapters.replay import replay as replay_rows
    from tasks.runtime.settings import current_settings

    x, y = _load(data)
    deadline = None if for_seconds is None else time.monotonic() + for_seconds
    result = replay_rows(
        x,
        y,
        url or current_settings().gateway_url,
        model,
        requests=requests if requests or for_seconds is not None else 1000,
        rows_per_request=rows,
        concurrency=concurrency,
        seed=seed,
        stop=lambda: deadline is not None and time.monotonic() >= deadline,
        feedback_share=feedback_share if feedback else 0.0,
        rate=rate,
        token=current_settings().gateway_token,
    )
    if as_json:
        print_json(result)
    else:
        console().print(_summary(result), markup=False, highlight=False)
    raise typer.Exit(1 if result.failed or result.feedback_failed else 0)


def _load(path: Path) -> "tuple[np.ndarray, np.ndarray]":
    import zipfile

    import numpy as np

    from tasks.contracts.errors import DataError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["x"], arrays["y"]
    except FileNotFoundError:
        raise DataError(
            f"no file {path}; write one with `stillhouse data export NAME --split test --out {path}`"
        ) from None
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an npz with arrays `x` and `y` ({error})") from error


def _summary(result: "ReplayResult") -> str:
    lines = [
        f"{result.sent} requests in {result.seconds:.1f} s ({result.requests_per_s:.0f}/s), {result.failed} failed, "
        f"feedback for {result.feedback_sent - result.feedback_failed}"
    ]
    lines += [f"  failed: {count} with {reason}" for reason, count in result.failures.items()]
    for name, arm in result.arms.items():
        quality = f"accuracy {arm.accuracy:.4f}" if arm.accuracy is not None else f"RMSE {arm.rmse:.4g}"
        fallbacks = f", {arm.fallbacks} answered by the champion instead" if arm.fallbacks else ""
        lines.append(f"  {name}: {arm.requests} requests, {quality}{fallbacks}")
    if result.latency_ms:
        lines.append("  latency ms: " + ", ".join(f"{name} {value:.2f}" for name, value in result.latency_ms.items()))
    return "\n".join(lines)
