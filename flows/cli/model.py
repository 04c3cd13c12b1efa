"""`stillhouse model`: what is registered, what serves, and why."""

import typer

from flows.cli.model_artifacts import card, pull, verify
from flows.cli.model_changing import reconcile, rollback
from flows.cli.model_lineage import lineage
from flows.cli.model_looking import diff, history, inspect, list_models
from flows.cli.model_signing import keygen, sign

app = typer.Typer(no_args_is_help=True)
app.command("ls")(list_models)
for _command in (inspect, history, card, lineage, diff, verify, pull, reconcile, rollback, keygen, sign):
    app.command()(_command)
