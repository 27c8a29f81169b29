"""The command line: one module per group of commands; parses, calls, and turns our errors into one line."""

# In the order in which `ccd --help` lists the groups.
from pipeline.cli import stages, report, review, exchange, deploy, study, runs  # isort: skip
from pipeline.cli.app import app
from pipeline.cli.entry import main

__all__ = ["app", "deploy", "exchange", "main", "report", "review", "runs", "stages", "study"]
