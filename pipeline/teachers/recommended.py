"""The CLIP teacher that labels better than the embedded one, for the device of a run."""

from pathlib import Path

from pipeline.runs.graph import run_argument
from pipeline.runs.options import EmbedConfig
from pipeline.system.devices import pick_device
from pipeline.system.progress import log
from pipeline.teachers.catalog import CATALOG, Entry


def recommended(device: str) -> Entry:
    """The teacher of the catalog for a torch device."""
    use = "a CPU" if device == "cpu" else "a GPU"
    return next(entry for entry in CATALOG if entry.use == use)


def use_better_teacher(folder: Path, device: str) -> str:
    """The command that trains a run with the recommended CLIP teacher, in backticks."""
    return f"`ccd all {run_argument(folder)} --teacher {recommended(pick_device(device)).spec}`"


def log_better_teacher(folder: Path, config: EmbedConfig, device: str) -> None:
    """Log, before the first embeddings of a run, that a CLIP teacher labels better than the embedded one."""
    if config.teacher.partition(":")[0] != "conse" or config.precomputed or (folder / "embeddings.h5").exists():
        return
    better = recommended(pick_device(device))
    cost = "already downloaded" if better.is_here else f"{better.megabytes:,} MB to download, once"
    log(
        f"A CLIP teacher labels better than conse: {use_better_teacher(folder, device)} "
        f"({cost}); `ccd teachers` lists more."
    )
