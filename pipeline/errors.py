"""The one error type that a user sees as one line."""


class PipelineError(Exception):
    """Something a user can mend: says what was found, what was expected and what to do.

    Modules raise it; only `pipeline.cli` turns it into one line on stderr and exit code 1.
    """
