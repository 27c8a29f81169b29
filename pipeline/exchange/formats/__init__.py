"""The label formats of `ccd export-labels`: one module per format, listed here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Format:
    """A label format; its module is a text, so that the list imports nothing."""

    module: str
    """Module of this folder with `write(export, out)`."""
    suffix: str = ""
    """Suffix of the file; empty for a folder."""
    boxes: bool = False
    """Whether it can contain boxes."""
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
"""Format by name on the command line."""
