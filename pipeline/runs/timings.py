"""Duration of the stages of a run and size of their files, for `status`, `all` and the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.runs.graph import STAGE_NAMES, Stage
from pipeline.system.files import regular_file, write_json

FILE = "timings.json"


@dataclass(frozen=True)
class Timing:
    """The last run of a stage that had work."""

    seconds: float
    bytes: int
    """Size of its artifacts."""
    images: int
    """Images in the manifest."""


def read_timings(folder: Path) -> dict[str, Timing]:
    """Stage to its timing, for stages that have one; a damaged file counts as missing, as nothing depends on it."""
    try:
        content = json.loads(regular_file(folder / FILE).read_text(encoding="utf-8"))
        return {
            name: Timing(float(content[name]["seconds"]), int(content[name]["bytes"]), int(content[name]["images"]))
            for name in STAGE_NAMES
            if name in content
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def take_timings(source: Path, folder: Path, stages: Sequence[Stage]) -> None:
    """Give a run the timings of another one for stages whose files it shares, unless it has its own."""
    shared = {stage.name for stage in stages}
    taken = {name: timing for name, timing in read_timings(source).items() if name in shared}
    write_timings(folder, {**taken, **read_timings(folder)})


def keep_timing(folder: Path, stage: Stage, seconds: float) -> None:
    """Record the duration of a stage."""
    size = sum((folder / name).stat().st_size for name in stage.makes if (folder / name).exists())
    timings = {**read_timings(folder), stage.name: Timing(round(seconds, 3), size, count_images(folder))}
    write_timings(folder, timings)


def write_timings(folder: Path, timings: Mapping[str, Timing]) -> None:
    """Write the file of timings."""
    write_json(folder / FILE, {name: asdict(timings[name]) for name in STAGE_NAMES if name in timings})


def count_images(folder: Path) -> int:
    """Number of images in a run's manifest; 0 without a manifest."""
    try:
        with regular_file(folder / "manifest.csv").open("rb") as file:
            return max(sum(1 for _ in file) - 1, 0)
    except OSError:
        return 0
