"""Labels of a run to a file or folder that another tool reads."""

from pathlib import Path
from typing import Literal

from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import say
from pipeline.tools.label_formats import ENDINGS, FORMATS, prepare
from pipeline.tools.label_sets import read_label_set
from pipeline.tools.label_studio import LOCAL_FILES

Format = Literal["csv", "parquet", "coco", "label-studio", "fiftyone", "cleanlab", "yolo", "imagefolder"]


def run(
    source: Path, format: Format, out: Path | None, *, copy_images: bool = False, image_prefix: str = LOCAL_FILES
) -> Path:
    """Write labels and scores for another tool, and return where.

    Args:
        source: a run folder (its final labels), a labels file, or epoch_scores.h5 (the classifier's test scores).
        format: one of `pipeline.tools.label_formats.FORMATS`.
        out: file or folder; by default beside the source.
        copy_images: copy the photos into a folder export instead of linking them.
        image_prefix: address that absolute paths are appended to, for Label Studio.

    Raises:
        PipelineError: no labels, no boxes for yolo, or a folder that exists.
    """
    labels = read_label_set(source)
    out = out or labels.path.with_name(f"{labels.path.stem}-{format}{ENDINGS.get(format, '')}")
    export = prepare(labels, copy_images=copy_images, image_prefix=image_prefix)
    if format == "yolo" and export.boxes is None:
        raise PipelineError(
            f"{labels.path.with_name('boxes.h5')} is missing or about other images, and yolo needs boxes."
        )
    FORMATS[format](export, out)
    say(f"{out}: {len(labels.image_ids)} images, {labels.present.sum()} labels as {format}.")
    return out
