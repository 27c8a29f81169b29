"""Progress bar, messages and tables of a command."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
from pipeline.system.errors import PipelineError, printable, reason_of
from pipeline.system.trackers import Add, Curves, open_curves

console = Console(stderr=True, highlight=False)
"""Messages and bars, on stderr."""

output = Console(highlight=False)
"""Results of a command, such as the tables of `inspect` and `evaluate`, on stdout."""

HEARTBEAT = 30.0
"""Seconds between two lines of progress without a terminal."""

REDRAW = 0.25
"""Smallest number of seconds between two pictures of a bar in a notebook."""


class Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """The rate of a task; empty before the first result."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Bar:
    """A task of a rich progress bar, with the number of images, their rate and a short note.

    Args:
        progress: draws the bar.
        description: text before the bar.
        total: number of images.
        done: number of images that an earlier command has finished.
        add: see `trackers.Add`; None to record no curves.
        lines: print a line every `HEARTBEAT` seconds, as without a terminal.
        redraw: called after every change, to draw the bar in a notebook.
    """

    def __init__(
        self,
        progress: Progress,
        description: str,
        total: int,
        done: int,
        add: Add | None,
        lines: bool,
        redraw: Callable[[], None] = lambda: None,
    ) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, completed=done, note="")
        self._description = description
        self._total = total
        self._images = done
        self._add = add
        self._lines = lines
        self._redraw = redraw
        self._last_line = time.monotonic()

    def advance(self, count: int, note: str | None = None) -> None:
        """Count `count` more images; `note` replaces the text after the bar.

        Raises:
            KeyboardInterrupt: see `interrupts.check`.
        """
        interrupts.check()
        self._images += count
        self._progress.update(self._task, advance=count, **({} if note is None else {"note": note}))
        self._redraw()
        if self._lines and time.monotonic() - self._last_line >= HEARTBEAT:
            self._last_line = time.monotonic()
            log(f"{self._description.strip()}: {self._images} of {self._total}")

    def record(self, values: Mapping[str, float], group: str) -> None:
        """Add a point to the curve of each value at the images counted so far, if curves are recorded."""
        if self._add is not None:
            for name, value in values.items():
                self._add(f"{group}/{name}", value, self._images)


@contextmanager
def bar(description: str, total: int, done: int = 0, curves: Curves | None = None) -> Iterator[Bar]:
    """Progress bar over `total` images in a terminal or notebook, or else lines.

    Args:
        description: text before the bar.
        total: number of images.
        done: number of images that an earlier command has finished.
        curves: tracker that gets the recorded values; None for none.

    Raises:
        PipelineError: the package of the tracker is not installed.
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
    drawn = (terminal or console.is_jupyter) and distributed.is_main() and not console.quiet
    opened = open_curves(curves, done) if curves is not None and distributed.is_main() else nullcontext()
    in_terminal = Progress(*columns, console=console, disable=not drawn or console.is_jupyter)
    with opened as add, in_terminal as progress, drawing(progress, drawn and console.is_jupyter) as redraw:
        yield Bar(progress, description, total, done, add, not terminal and not console.is_jupyter, redraw)


@contextmanager
def drawing(progress: Progress, in_notebook: bool) -> Iterator[Callable[[], None]]:
    """A function that draws the bars in the output of a notebook's cell, where rich itself needs ipywidgets."""
    if not in_notebook:
        yield lambda: None
        return
    from IPython.display import display

    handle, last = None, -REDRAW

    def redraw(always: bool = False) -> None:
        nonlocal handle, last
        if not progress.tasks or (not always and time.monotonic() - last < REDRAW):
            return
        last, table = time.monotonic(), progress.make_tasks_table(progress.tasks)
        if handle is None:
            handle = display(table, display_id=True)
        else:
            handle.update(table)

    try:
        yield redraw
    finally:
        redraw(always=True)


def log(message: str) -> None:
    """Print a message, once for all processes."""
    if distributed.is_main():
        console.print(printable(message, keep="\n\t"), soft_wrap=True, markup=False)


class PlainTable(Table):
    """A table without rich markup, which class names and file names may contain by chance."""

    def __init__(self, *headers: str, title: str = "", show_header: bool = True) -> None:
        super().__init__(
            *headers, title=Text(printable(title, keep="\n\t")) if title else None, show_header=show_header
        )

    def add_column(self, header: Any = "", *rest: Any, **options: Any) -> None:
        """`rich.table.Table`, with plain text that is folded and never cut off."""
        super().add_column(plain(header), *rest, **({"overflow": "fold"} | options))

    def add_row(self, *cells: Any, **options: Any) -> None:
        """`rich.table.Table`, with plain text."""
        super().add_row(*(plain(cell) for cell in cells), **options)


def plain(value: Any) -> Any:
    """A text without markup; any other value unchanged."""
    return Text(printable(value, keep="\n\t")) if isinstance(value, str) else value


def show(table: Table) -> None:
    """Print a table on stdout."""
    with writing_output():
        output.print(table)


@contextmanager
def writing_output() -> Iterator[None]:
    """Turn a full disk behind standard output into one line.

    Raises:
        PipelineError: standard output cannot be written.
        BrokenPipeError: its reader, such as `head`, has closed it.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise PipelineError(f"standard output could not be written ({reason_of(error)}). Check its disk.") from error


def drop_output() -> None:
    """Discard what waits to be printed: Python would try to print it again as it ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
