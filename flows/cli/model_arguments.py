"""Arguments and options that several commands of `stillhouse model` take."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="NAME (its champion), NAME@alias, NAME/version, or the 64 digits of an artifact's digest.",
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name in the registry.")]
