"""What a person sees while a stage runs: one bar, and lines that say what happened."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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

from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError

console = Console(stderr=True, highlight=False)
"""Messages and bars; standard output is kept for what a command was asked to print."""

output = Console(highlight=False)
"""What a command was asked to print: tables of `inspect` and `evaluate`."""


class Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """The rate of one bar; nothing until there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Bar:
    """One task of a rich progress bar; counts images, shows a rate and a short note."""

    def __init__(self, progress: Progress, description: str, total: int, done: int, writer: Any) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, completed=done, note="")
        self._images = done
        self._writer = writer

    def advance(self, count: int, note: str | None = None) -> None:
        """Count `count` more images; `note` stands behind the bar until there is another."""
        self._images += count
        self._progress.update(self._task, advance=count, **({} if note is None else {"note": note}))

    def record(self, values: Mapping[str, float], group: str) -> None:
        """Add a point, at the images counted so far, to the curve of each value; only where a log is kept."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, self._images)


@contextmanager
def bar(description: str, total: int, done: int = 0, log: Path | None = None) -> Iterator[Bar]:
    """Progress bar over `total` images, `done` of which are there already; silent where stderr is no terminal.

    Args:
        description: stands before the bar.
        total: images.
        done: of them, those of an earlier, interrupted run.
        log: folder that gets what is recorded, for TensorBoard; None for no log.

    Raises:
        PipelineError: a log is wanted and TensorBoard is not installed.
    """
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    quiet = not (sys.stderr.isatty() and distributed.is_main())
    with open_log(log, done) as writer, Progress(*columns, console=console, disable=quiet) as progress:
        yield Bar(progress, description, total, done, writer)


@contextmanager
def open_log(folder: Path | None, done: int) -> Iterator[Any]:
    """TensorBoard's writer into a folder, from which points beyond `done` images vanish; None without a folder."""
    if folder is None or not distributed.is_main():
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PipelineError(
            "--tensorboard needs the package tensorboard; install it with `pip install tensorboard`."
        ) from None
    with SummaryWriter(str(folder), purge_step=done) as writer:
        yield writer


def say(message: str) -> None:
    """Print one line about what a stage did, once for all processes."""
    if distributed.is_main():
        console.print(message, soft_wrap=True, markup=False)


def show(table: Table) -> None:
    """Print a table that a command was asked for."""
    output.print(table)
