"""The command line: one module per group of commands; parses, calls, and turns our errors into one line."""

# The order of the commands within a panel of `ccd --help`.
from pipeline.cli import stages, deploy, report, review, exchange, teachers, study, runs  # isort: skip
from pipeline.cli.app import app
from pipeline.cli.entry import main

__all__ = ["app", "deploy", "exchange", "main", "report", "review", "runs", "stages", "study", "teachers"]
