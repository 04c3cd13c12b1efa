"""`stillhouse notify`: people hear of alarms, aborted rollouts and promotions."""

from typing import Annotated

import typer


def notify(
    block: Annotated[
        str,
        typer.Argument(metavar="TYPE/NAME", help="Notification block on the server; `prefect block ls` lists them."),
    ],
    model: Annotated[str | None, typer.Option(help="Only the news of this model. Default: of all.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Send no more through this block.")] = False,
) -> None:
    """Have the Prefect server tell people of alarms, aborted rollouts and promotions.

    Makes automations that send through a notification block: Slack, Teams, e-mail, PagerDuty, a webhook of your own.
    Calling again changes nothing. See docs/monitoring.md for how to save a block.

    Example: `stillhouse notify slack-webhook/oncall --model digits`
    """
    from flows.cli.console import console
    from tasks.adapters.prefect_notifications import notify as start_notifying
    from tasks.adapters.prefect_notifications import stop_notifying
    from tasks.runtime.settings import current_settings

    change, done = (stop_notifying, "removed") if remove else (start_notifying, "on")
    names = change(current_settings(), block, model)
    for name in names:
        console().print(f"{name}: {done}", highlight=False, soft_wrap=True, markup=False)
    if not names:
        console().print(f"nothing was sent through {block}", highlight=False, soft_wrap=True, markup=False)
