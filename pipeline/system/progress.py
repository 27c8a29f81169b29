"""What a person sees while a stage runs: one bar, and lines that say what happened."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.system import distributed, interrupts
from pipeline.system.errors import printable
from pipeline.system.trackers import Add, Curves, open_curves

console = Console(stderr=True, highlight=False)
"""Messages and bars; standard output is kept for what a command was asked to print."""

output = Console(highlight=False)
"""What a command was asked to print: tables of `inspect` and `evaluate`."""

HEARTBEAT = 30.0
"""Seconds between two lines of progress where there is no terminal to draw a bar in."""


class Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """The rate of one bar; nothing until there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Bar:
    """One task of a rich progress bar; counts images, shows a rate and a short note.

    Args:
        progress: draws the bar.
        description: stands before it.
        total: images.
        done: of them, those that are there already.
        add: see `trackers.Add`, or None.
        lines: say how far it is every now and then, for want of a terminal.
    """

    def __init__(
        self, progress: Progress, description: str, total: int, done: int, add: Add | None, lines: bool
    ) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, completed=done, note="")
        self._description = description
        self._total = total
        self._images = done
        self._add = add
        self._lines = lines
        self._said = time.monotonic()

    def advance(self, count: int, note: str | None = None) -> None:
        """Count `count` more images; `note` stands behind the bar until there is another.

        Raises:
            KeyboardInterrupt: there was one before, which got lost.
        """
        interrupts.check()
        self._images += count
        self._progress.update(self._task, advance=count, **({} if note is None else {"note": note}))
        if self._lines and time.monotonic() - self._said >= HEARTBEAT:
            self._said = time.monotonic()
            log(f"{self._description.strip()}: {self._images} of {self._total}")

    def record(self, values: Mapping[str, float], group: str) -> None:
        """Add a point, at the images counted so far, to the curve of each value; only where a log is kept."""
        if self._add is not None:
            for name, value in values.items():
                self._add(f"{group}/{name}", value, self._images)


@contextmanager
def bar(description: str, total: int, done: int = 0, curves: Curves | None = None) -> Iterator[Bar]:
    """Progress bar over `total` images, `done` of which are there already; a line now and then without a terminal.

    Args:
        description: stands before the bar.
        total: images.
        done: of them, those of an earlier, interrupted run.
        curves: where what is recorded goes; None for nowhere.

    Raises:
        PipelineError: the package that curves need is not installed.
    """
    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    terminal = sys.stderr.isatty()
    quiet = not terminal or not distributed.is_main() or console.quiet
    opened = open_curves(curves, done) if curves is not None and distributed.is_main() else nullcontext()
    with opened as add, Progress(*columns, console=console, disable=quiet) as progress:
        yield Bar(progress, description, total, done, add, lines=not terminal)


def log(message: str) -> None:
    """Print one line about what a stage did, once for all processes."""
    if distributed.is_main():
        console.print(printable(message, keep="\n\t"), soft_wrap=True, markup=False)


class PlainTable(Table):
    """A table whose texts are shown as they are: class names and file names may hold what is markup to rich."""

    def __init__(self, *headers: str, title: str = "", show_header: bool = True) -> None:
        super().__init__(
            *headers, title=Text(printable(title, keep="\n\t")) if title else None, show_header=show_header
        )

    def add_column(self, header: Any = "", *rest: Any, **options: Any) -> None:
        """As of rich, of plain text."""
        super().add_column(plain(header), *rest, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """As of rich, of plain text."""
        super().add_row(*(plain(cell) for cell in cells), **options)


def plain(value: Any) -> Any:
    """A text that is not markup; anything else as it is."""
    return Text(printable(value, keep="\n\t")) if isinstance(value, str) else value


def show(table: Table) -> None:
    """Print a table that a command was asked for."""
    output.print(table)
