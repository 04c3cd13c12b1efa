"""`stillhouse data publish`: labelled rows from traffic, or from a file, as a version of a model's data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.data import AsJson

if TYPE_CHECKING:
    from tasks.stages.publishing import Batch


def publish(
    model: Annotated[str, typer.Argument(help="Name of a registered model, as `stillhouse model ls` shows it.")],
    plan: Annotated[
        Path | None, typer.Option(help="Its plan. Default: that of the run which registered the champion.")
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", help="An .npz with labelled rows `x` and `y`, as the model takes them, instead of the traffic's."
        ),
    ] = None,
    min_rows: Annotated[
        int | None, typer.Option(min=1, help="Fewest new rows. Default: the plan's retraining.min_new_rows.")
    ] = None,
    commit: Annotated[bool, typer.Option("--commit", help="Also commit data.dvc with Git.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add labelled rows to the data set of a model's plan, as a new version of `data/`.

    The rows are the sampled inputs of the gateways that got a label (`stillhouse serve --sample-inputs`). Rows that
    the data set has are left out; new ones are dealt to the splits, and old ones keep theirs. The whole must pass the
    data set's expectations and the leakage check; otherwise nothing changes.

    Example: `stillhouse data publish digits --commit`
    """
    from flows.cli.console import console, print_json
    from flows.plan import load_plan
    from flows.publication import plan_of_champion, publish_data, require_plan_of

    loaded = plan_of_champion(model) if plan is None else load_plan(plan)
    require_plan_of(loaded, model, plan or Path("of the champion"))
    batch = None if from_file is None else _batch(from_file)
    published = publish_data(loaded, batch, min_rows, commit=commit)
    if as_json:
        print_json(published)
        return
    shares = ", ".join(f"{name} {count}" for name, count in published.num_new.items())
    console().print(f"{sum(published.num_new.values())} new rows ({shares}) make {published.num_rows}", highlight=False)
    console().print(f"data/ at {published.data_revision}", highlight=False)
    for reason, count in published.left_out.items():
        if count:
            console().print(f"left out, {reason}: {count}", highlight=False)


def _batch(path: Path) -> "Batch":
    import zipfile

    import numpy as np

    from tasks.contracts.errors import DataError
    from tasks.stages.publishing import Batch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as rows ({error}); write it with numpy.savez(x=, y=)") from error
    if len(x) != len(y) or y.ndim != 1 or not np.issubdtype(y.dtype, np.number):
        raise DataError(f"{path} holds x of shape {x.shape} and y of shape {y.shape}; give one number for every row")
    return Batch(x, y.astype(np.float64))
