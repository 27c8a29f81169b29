"""The outputs of `ccd check`, fit to paste into a bug report, and of `ccd teachers`."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from textwrap import indent, wrap
from typing import TYPE_CHECKING

from pipeline.runs.config import split_teacher
from pipeline.system.devices import pick_device
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log, output, writing_output
from pipeline.teachers.catalog import CATALOG, Entry

if TYPE_CHECKING:
    import torch

WIDTH, INDENT = 80, 21
"""Columns of the output, and of the names in it."""

WIDTHS = (6, 7, 7, 6, 6, 6)
HEADINGS = ("MB", "params", "GFLOPs", "VOC07", "cells")

NOTES = """
MB: download, about. params: millions of parameters. GFLOPs: of the image tower,
per view of the size given. VOC07: published zero-shot accuracy on cropped
objects of VOC 2007, not measured with ccd. cells: local evidence from the same
pass. `ccd check --teacher SPEC` downloads and checks a teacher."""


def show_teachers(measure: bool, device: str) -> None:
    """Print the catalog in 80 columns; with `measure` also the images per second of the teachers that need no download."""
    lines = [line("teacher", *HEADINGS, *(["img/s"] if measure else []))]
    for entry in CATALOG:
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.3f}"
        figures = [entry.megabytes or "-", f"{entry.parameters:.0f}", f"{entry.gigaflops:.0f}", accuracy]
        figures += ["yes" if entry.cells else "no", *([speed_text(entry, device)] if measure else [])]
        lines += [line(entry.spec, *figures), f"    {describe(entry)}"]
    with writing_output():
        output.print("\n".join([*lines, NOTES]), soft_wrap=True, markup=False)


def line(first: str, *figures: object) -> str:
    """A line of the catalog."""
    return f"{first:<40}" + "".join(f"{figure:>{width}}" for figure, width in zip(figures, WIDTHS, strict=False))


def describe(entry: Entry) -> str:
    """Size of the views, licence, whether the weights are here, and the recommendation."""
    here = ["ships with ccd" if entry.ships else "downloaded"] if entry.is_here else []
    use = [f"for {entry.use}"] if entry.use else []
    return ", ".join([f"{entry.size} px", entry.licence, *here, *use])


def speed_text(entry: Entry, device: str) -> str:
    """Images per second of a teacher whose weights are here."""
    if not entry.is_here:
        return "-"
    from pipeline.teachers.speed import images_per_second
    from pipeline.teachers.teacher import load_teacher

    device = pick_device(device)
    try:
        return f"{images_per_second(load_teacher(entry.spec, device), device)[0]:.1f}"
    except PipelineError as error:
        log(f"{entry.spec}: {error}")
        return "failed"


def show_check(spec: str, device: str, precision: str) -> bool:
    """Check a teacher, print the results with what they depend on, and return whether all checks passed."""
    import torch

    from pipeline.teachers.check_result import REMEDIES
    from pipeline.teachers.encoding import precision_of
    from pipeline.teachers.self_check import check_teacher, versions
    from pipeline.teachers.speed import images_per_second
    from pipeline.teachers.teacher import load_teacher

    device = pick_device(device)
    teacher = load_teacher(spec, device, precision)
    log(f"checking {without_folder(spec)}.")
    result = check_teacher(teacher)
    rate, batch_size = images_per_second(teacher, device)
    side = teacher.input_size
    cells = teacher.encode_views(torch.zeros(1, 3, side, side, dtype=torch.uint8)).cells
    grid = "no cells" if cells is None else f"{cells.shape[1]} x {cells.shape[2]} cells"
    rows = [
        ("ccd", f"{version('ccd-pipeline')}, Python {platform.python_version()}, {platform.platform(terse=True)}"),
        ("packages", ", ".join(f"{name} {number}" for name, number in versions().items())),
        ("teacher", f"{without_folder(spec)}, {side} px, {grid}"),
        ("weights", teacher.fingerprint[:16]),
        ("device", device_text(torch.device(device))),
        ("precision", precision_of(teacher)),
        ("speed", f"{rate:.1f} images per second, in batches of {batch_size}"),
    ]
    rows += [(check.name, f"{'FAILED' if check.suspect else 'passed'}: {check.figure}") for check in result.checks]
    rows += [("likely wrong", f"{check.suspect}. {REMEDIES[check.suspect]}") for check in result.failed[:1]]
    with writing_output():
        for name, text in rows:
            block = "\n".join(wrap(text, WIDTH - INDENT, break_on_hyphens=False))
            output.print(f"{name:<{INDENT}}" + indent(block, " " * INDENT).lstrip(), soft_wrap=True, markup=False)
    return not result.failed


def without_folder(spec: str) -> str:
    """A spec with the name of its file or folder instead of the path, which may be private."""
    prefix, path = split_teacher(spec)
    return prefix + Path(path).name if path else spec


def device_text(device: "torch.device") -> str:
    """The device, and the most memory that this process has used on it, if known."""
    import torch

    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"{card.name}, {card.total_memory / 1e9:.0f} GB, of which {peak / 1e9:.1f} GB were used"
    text = f"{device.type}, {torch.get_num_threads()} threads"
    if sys.platform == "linux":
        import resource

        text += f", {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory were used"  # from kB
    return text
