"""Export of a run's labels to a file or folder that another tool reads."""

from pathlib import Path

from pipeline.artifacts.photo_facts import check_photos
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.formats.export import prepare
from pipeline.exchange.label_sets import Part, read_label_set, waiting_corrections
from pipeline.exchange.label_studio import LOCAL_FILES, interface_path
from pipeline.runs.folders import check_free
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


def run(
    source: Path,
    format: str,
    out: Path | None,
    *,
    part: Part | None = None,
    boxes: bool = False,
    copy_images: bool = False,
    image_prefix: str | None = None,
    force: bool = False,
) -> Path:
    """Write labels and scores for another tool, and return the path.

    Args:
        source: a run folder, a labels file, or epoch_scores.h5 (the classifier's test scores).
        format: one of `pipeline.exchange.formats.FORMATS`.
        out: file or folder; by default next to the source.
        part: see `read_label_set`.
        boxes: also export the run's boxes, which show where the classifier looked and not the extent of objects.
        copy_images: copy the photos into a folder export instead of linking them.
        image_prefix: address before absolute paths, for Label Studio.
        force: replace a file, or a folder if ccd wrote all files in it.

    Raises:
        PipelineError: the labels are missing or out of date, photos have changed, the format does not use an option, or
            the output exists or has the suffix of another format.
    """
    kind = FORMATS[format]
    if boxes and not kind.boxes:
        raise PipelineError(
            f"{format} cannot contain boxes; leave out --boxes, or choose {', '.join(name for name, each in FORMATS.items() if each.boxes)}."
        )
    if copy_images and not kind.photos:
        raise PipelineError(
            f"{format} does not contain photos; leave out --copy, or choose {', '.join(name for name, each in FORMATS.items() if each.photos)}."
        )
    if image_prefix is not None and format != "label-studio":
        raise PipelineError(f"--image-prefix is only for label-studio; leave it out for {format}.")
    labels = read_label_set(source, part)
    name = labels.path.stem if part != "both" else "labels"
    ending = kind.suffix if kind.suffix == f".{format}" else f"-{format}{kind.suffix}"
    out = out or labels.path.with_name(f"{name}{ending}")
    outs = [out, interface_path(out)] if format == "label-studio" else [out]
    check_free(*outs, force=force, folder=not kind.suffix)
    if kind.suffix and out.suffix.lower() != kind.suffix:
        raise PipelineError(
            f"{format} writes a {kind.suffix} file, not {out.name}. Name a {kind.suffix} file with --out, or choose another --format."
        )
    check_photos(labels.path.parent, labels.manifest, remember=False)
    export = prepare(labels, boxes=boxes, copy_images=copy_images, image_prefix=image_prefix or LOCAL_FILES)
    kind.write(export, out)
    waiting = waiting_corrections(labels.path)
    if waiting:
        log(waiting)
    note = f" {export.note}" if kind.boxes else ""
    log(f"{out}: {len(labels.image_ids)} images, {labels.present.sum()} labels as {format}.{note}")
    return out
