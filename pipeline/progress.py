"""What a person sees while a stage runs: one bar, and lines that say what happened."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(stderr=True, highlight=False)
"""Messages and bars; standard output is kept for what a command was asked to print."""

output = Console(highlight=False)
"""What a command was asked to print: tables of `inspect` and `evaluate`."""


class Bar:
    """One task of a rich progress bar; counts images, shows a rate and a short note."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="")

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more images; `note` stands behind the bar."""
        self._progress.update(self._task, advance=count, note=note)


@contextmanager
def bar(description: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Progress bar over `total` images, `done` of which are there already; silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = Bar(progress, description, total)
        task.advance(done)
        yield task


def say(message: str) -> None:
    """Print one line about what a stage did."""
    console.print(message, soft_wrap=True, markup=False)


def show(table: Table) -> None:
    """Print a table that a command was asked for."""
    output.print(table)
