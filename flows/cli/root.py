"""The command tree, and what an error means to the shell."""

import logging
import sys
import traceback
from typing import NoReturn

import typer

from flows.cli import data, ledger, model, plan, rollout, runs, store, traffic, webhooks
from flows.cli.console import error_console
from flows.cli.doctor import doctor
from flows.cli.down import down
from flows.cli.gate import gate
from flows.cli.model_changing import promote
from flows.cli.notify import notify
from flows.cli.publish import publish
from flows.cli.replay import replay
from flows.cli.report import report
from flows.cli.retrain import retrain
from flows.cli.run import run
from flows.cli.search import search
from flows.cli.serve import serve
from flows.cli.techniques import techniques
from flows.cli.up import up
from flows.cli.watch import watch
from tasks.contracts.errors import InfrastructureError, StillhouseError, UserError
from tasks.runtime.embedded import use_embedded_engines

EXIT_GATE = 1
EXIT_USER = 2
EXIT_INFRASTRUCTURE = 3

_DEFECT = "This is a defect in Stillhouse; please report it with the lines above."

app = typer.Typer(
    name="stillhouse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make big networks small, fast and trusted: compress, judge, register, roll out.\n\n"
    "Start with `stillhouse run plans/digits.yaml`. Exit codes: 0 passed, 1 gate failed or inconclusive, "
    "2 bad input, 3 infrastructure.",
)
app.command()(run)
app.command()(search)
app.add_typer(plan.app, name="plan", help="Validate, show and suggest plans.")
app.add_typer(data.app, name="data", help="Data sets and their versions.")
data.app.command()(publish)
app.command()(techniques)
app.add_typer(runs.app, name="runs", help="Past runs.")
app.add_typer(model.app, name="model", help="Registered models and artifacts.")
app.command()(gate)
app.command()(promote)
app.add_typer(rollout.app, name="rollout", help="Move traffic to a challenger, and back.")
app.add_typer(traffic.app, name="traffic", help="The log of predictions and feedback.")
app.add_typer(store.app, name="store", help="The store of artifacts, routes and records.")
app.add_typer(ledger.app, name="ledger", help="The database that says who is champion.")
app.command()(serve)
app.add_typer(webhooks.app, name="webhooks", help="Events from MLflow.")
app.command()(replay)
app.command()(watch)
app.command()(notify)
app.command()(retrain)
app.command()(report)
app.command()(up)
app.command()(down)
app.command()(doctor)


def run_command_line() -> NoReturn:
    """Run the command; a foreseen error becomes one message and an exit code, never a traceback.

    A defect shows its traceback and exits as infrastructure does: exit code 1 is the gate's alone.
    """
    try:
        use_embedded_engines()
        _show_warnings()
        app()
    except UserError as error:
        _fail(str(error), EXIT_USER)
    except InfrastructureError as error:
        _fail(str(error), EXIT_INFRASTRUCTURE)
    except OSError as error:
        _fail(f"{error}; check that the place exists, has room and may be written", EXIT_INFRASTRUCTURE)
    except StillhouseError as error:
        _fail(f"{error}\n{_DEFECT}", EXIT_INFRASTRUCTURE)
    except Exception as error:  # noqa: BLE001 - shown with its traceback, and told from a failed gate
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}\n{_DEFECT}", EXIT_INFRASTRUCTURE)
    sys.exit(0)


def _show_warnings() -> None:
    """Show the warnings of our own modules on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("flows", "tasks", "infra"):
        own = logging.getLogger(name)
        own.setLevel(logging.WARNING)
        own.handlers = [handler]


def _fail(message: str, code: int) -> NoReturn:
    error_console().print(f"[bold red]error:[/] {_escaped(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _escaped(message: str) -> str:
    from rich.markup import escape

    return escape(message)
