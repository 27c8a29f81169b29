"""The label formats that ccd writes: one module per format, listed here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Format:
    """A label format as the command line sees it; naming its module as text imports nothing."""

    module: str
    """In this folder; its `write(export, out)` writes the format."""
    suffix: str = ""
    """Of the one file that it is; empty for a folder."""
    boxes: bool = False
    """Whether it has a place for boxes."""
    photos: bool = False
    """Whether it contains the photos, as links or copies."""

    @property
    def write(self) -> Callable:
        """The function that writes an `Export` to a path."""
        return import_module(f"{__name__}.{self.module}").write


FORMATS = {
    "csv": Format("tables", ".csv"),
    "parquet": Format("tables", ".parquet"),
    "coco": Format("coco", ".json", boxes=True),
    "label-studio": Format("label_studio_tasks", ".json", boxes=True),
    "fiftyone": Format("fiftyone", boxes=True),
    "cleanlab": Format("cleanlab", ".json"),
    "yolo": Format("yolo", boxes=True, photos=True),
    "huggingface": Format("huggingface", photos=True),
    "cvat": Format("cvat", ".xml", boxes=True),
}
"""Name on the command line to format."""
