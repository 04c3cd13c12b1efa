"""The `stillhouse` command."""


def main() -> None:
    """Run the command line; the entry point that `pyproject.toml` names."""
    from flows.cli.root import run_command_line

    run_command_line()
