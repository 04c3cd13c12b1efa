"""`stillhouse down`: the end of what `stillhouse up` runs."""


def down() -> None:
    """End the services of this home: just those, in reverse order. Doing it twice does nothing."""
    from flows.cli.console import error_console
    from infra.engines.ending import end_services
    from tasks.runtime.settings import current_settings

    end_services(current_settings(), lambda line: error_console().print(line, markup=False, soft_wrap=True))
