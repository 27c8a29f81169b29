"""The CLIP teachers that label better than the embedded one, by the device that runs them."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.runs.graph import run_argument
from pipeline.runs.options import EmbedConfig
from pipeline.system.devices import pick_device
from pipeline.system.progress import log


@dataclass(frozen=True)
class Recommended:
    """A teacher of open_clip."""

    spec: str
    download: str
    """Size of its weights."""


ON_CPU = Recommended("open_clip:ViT-B-32/datacomp_xl_s13b_b90k", "605 MB")
ON_GPU = Recommended("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "1.7 GB")


def log_better_teacher(folder: Path, config: EmbedConfig, device: str) -> None:
    """Log, before the first embeddings of a run, that a CLIP teacher labels better than the embedded one."""
    if config.teacher.partition(":")[0] != "conse" or config.precomputed or (folder / "embeddings.h5").exists():
        return
    better = ON_CPU if pick_device(device) == "cpu" else ON_GPU
    log(
        f"A CLIP teacher labels better than the embedded one: `ccd all {run_argument(folder)} --teacher {better.spec}` "
        f"({better.download} to download, once)."
    )
