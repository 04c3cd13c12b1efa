"""`python -m flows.cli` is the `stillhouse` command."""

from flows.cli import main

main()
