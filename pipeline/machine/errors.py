"""The one error type that a user sees as one line."""


class PipelineError(Exception):
    """Something a user can mend: says what was found, what was expected and what to do.

    Modules raise it; only `pipeline.cli` turns it into one line on stderr and exit code 1.
    """


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
