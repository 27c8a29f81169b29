"""The output of `ccd check`, fit to paste into a bug report."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.runs.config import split_teacher
from pipeline.system.devices import pick_device
from pipeline.system.progress import log, output, writing_output
from pipeline.teachers.check_result import REMEDIES
from pipeline.teachers.encoding import precision_of
from pipeline.teachers.self_check import check_teacher, versions
from pipeline.teachers.speed import images_per_second
from pipeline.teachers.teacher import load_teacher


def show_check(spec: str, device: str, precision: str) -> bool:
    """Check a teacher, print the results with what they depend on, and return whether all checks passed."""
    device = pick_device(device)
    teacher = load_teacher(spec, device, precision)
    log(f"checking {spec}.")
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
    for check in result.checks:
        rows.append((check.name, f"{'FAILED' if check.suspect else 'passed'}: {check.figure}"))
        if check.suspect:
            rows.append(("", f"likely wrong: {check.suspect}. {REMEDIES[check.suspect]}"))
    with writing_output():
        for name, text in rows:
            output.print(f"{name:<20} {text}", soft_wrap=True, markup=False)
    return not result.failed


def without_folder(spec: str) -> str:
    """A spec with the name of its file or folder instead of the path, which may be private."""
    prefix, path = split_teacher(spec)
    return prefix + Path(path).name if path else spec


def device_text(device: torch.device) -> str:
    """The device, and the most memory that this process has used on it, if known."""
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"{card.name}, {card.total_memory / 1e9:.0f} GB, of which {peak / 1e9:.1f} GB were used"
    text = f"{device.type}, {torch.get_num_threads()} threads"
    if sys.platform == "linux":
        import resource

        text += f", {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory were used"  # from kB
    return text
