"""Duration of the stages of a run and size of their files, for `status`, `all` and the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.runs.graph import STAGE_NAMES, Stage, find_stage, options_of
from pipeline.runs.settings import Settings
from pipeline.system.files import regular_file, write_json

FILE = "timings.json"

VIEW = ("embed.teacher", "embed.image_size")
INPUT = ("warmup.backbone", "warmup.image_size", "warmup.freeze_backbone")
NETWORKS = {
    "embed": (*VIEW, "embed.second_size", "embed.local"),
    "warmup": INPUT,
    "boxes": (*INPUT, "boxes.image_size"),
    "score-crops": (*VIEW, "score-crops.teacher", "score-crops.view_size"),
    "train": (*INPUT, "train.image_size", "train.freeze_backbone"),
}
"""Options that name the network of a stage and the size of its input; durations with other values are not comparable."""


@dataclass(frozen=True)
class Timing:
    """The last run of a stage that had work."""

    seconds: float
    bytes: int
    """Size of its artifacts."""
    images: int
    """Images in the manifest."""
    networks: str
    """See `networks_of`."""


def read_timings(folder: Path) -> dict[str, Timing]:
    """Stage to its timing, for stages that have one; a damaged file counts as missing, as nothing depends on it."""
    try:
        content = json.loads(regular_file(folder / FILE).read_text(encoding="utf-8"))
        return {
            name: Timing(float(each["seconds"]), int(each["bytes"]), int(each["images"]), str(each.get("networks", "")))
            for name in STAGE_NAMES
            if (each := content.get(name))
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def take_timings(source: Path, folder: Path, stages: Sequence[Stage]) -> None:
    """Give a run the timings of another one for stages whose files it shares, unless it has its own."""
    shared = {stage.name for stage in stages}
    taken = {name: timing for name, timing in read_timings(source).items() if name in shared}
    write_timings(folder, {**taken, **read_timings(folder)})


def networks_of(stage: str, own: Settings) -> str:
    """The values of `NETWORKS` as a text; "" for a stage without a network."""
    names = [name.split(".") for name in NETWORKS.get(stage, ())]
    return " ".join(str(getattr(own.config(of, options_of(find_stage(of)), {}), option)) for of, option in names)


def keep_timing(folder: Path, stage: Stage, own: Settings, seconds: float) -> None:
    """Record the duration of a stage with these settings of its run."""
    size = sum((folder / name).stat().st_size for name in stage.makes if (folder / name).exists())
    timing = Timing(round(seconds, 3), size, count_images(folder), networks_of(stage.name, own))
    write_timings(folder, {**read_timings(folder), stage.name: timing})


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
