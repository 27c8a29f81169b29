"""Labels that people made, in a table or a Label Studio export, to the corrections of a run."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts.corrections import Corrections, align_corrections
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.datasets.folder import match_rows
from pipeline.datasets.image_names import ImageNames
from pipeline.datasets.tables import UNKNOWN as UNTOUCHED
from pipeline.datasets.tables import Row, label_row, read_table
from pipeline.exchange.label_studio import corrected_classes
from pipeline.runs.graph import VERSIONS
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file


def read_corrected_rows(path: Path, class_names: Sequence[str]) -> list[Row]:
    """One row per corrected image, with labels 1 present, 0 absent, -1 not corrected.

    Args:
        path: one of
            a Label Studio export as JSON: an annotated image is corrected in every class;
            a table (see `pipeline.datasets.tables.read_table`) with labels: the same;
            a table with one column per class, with 1, 0 or an empty cell.
        class_names: C names.

    Raises:
        PipelineError: the file is none of these, or has an unknown class.
    """
    if path.suffix.lower() != ".json":
        return [row for row in read_table(path, class_names, needs_labels=True) if row.labels is not None]
    try:
        classes_of = corrected_classes(json.loads(regular_file(path).read_text(encoding="utf-8-sig")), class_names)
    except OSError as error:
        raise PipelineError(f"{path} could not be read ({error.strerror}). Check the path.") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read as a JSON export of Label Studio: {error}.") from error
    for image_id, names in classes_of.items():
        if not all(isinstance(name, str) for name in (image_id, *names)):
            raise PipelineError(f"{path} is not a JSON export of Label Studio: {image_id!r} has choices {names!r}.")
    return [
        Row(number, image_id, Path(image_id), image_id, label_row(names, class_names, f"{image_id} in {path}"), None)
        for number, (image_id, names) in enumerate(classes_of.items(), start=1)
    ]


def merge_corrections(
    rows: Sequence[Row], manifest: Manifest, source: Path, before: Corrections | None = None
) -> Corrections:
    """Corrections of the train images, with the rows added.

    Args:
        rows: see `read_corrected_rows`.
        manifest: all images of the run.
        source: file of the rows, for error messages.
        before: earlier corrections; a row replaces them in its classes.

    Raises:
        PipelineError: a row names no image of the run, or an image outside the train split.
    """
    splits = list(manifest.images["split"])
    names = ImageNames(manifest.image_ids, manifest.paths, splits)
    matches = match_rows(rows, names, source, manifest.skipped, ids_win=True)
    if outside := [index for index in matches if splits[index] != "train"]:
        raise PipelineError(
            f"{source} has {len(outside)} images that are not in the train split (first: "
            f"{manifest.image_ids[outside[0]]}, row {matches[outside[0]].number}). You can correct train images only. "
            "Remove these rows."
        )
    train = manifest.split("train")
    labels = aligned_labels(before, train.image_ids, train.class_names)
    row_of = {image_id: row for row, image_id in enumerate(train.image_ids)}
    for index, match in matches.items():
        row = labels[row_of[manifest.image_ids[index]]]
        row[match.labels != UNTOUCHED] = match.labels[match.labels != UNTOUCHED]
    return corrections_of(train, labels, before)


def corrections_of(train: Manifest, labels: np.ndarray, before: Corrections | None) -> Corrections:
    """The artifact with corrections int8 [N, C] of the train images.

    Earlier corrections of photos and classes that the run does not have now are kept for later.
    """
    image_ids, class_names = list(train.image_ids), list(train.class_names)
    if before is not None:
        unmatched = align_corrections(before, image_ids, class_names)
        image_ids += unmatched.unknown_images
        class_names += unmatched.unknown_classes
    whole = aligned_labels(before, image_ids, class_names)
    whole[: labels.shape[0], : labels.shape[1]] = labels
    digest = hashlib.sha256(json.dumps([image_ids, class_names]).encode() + whole.tobytes()).hexdigest()[:16]
    # the corrections alone decide the fingerprint, so that no change of the run puts them out of date
    provenance = Provenance("corrections", VERSIONS["corrections"], {"labels": digest}, {})
    return Corrections(provenance=provenance, image_ids=image_ids, class_names=class_names, labels=whole)


def aligned_labels(corrections: Corrections | None, image_ids: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """The corrections of these N images and C classes, int8 [N, C]; -1 where there are none."""
    if corrections is None:
        return np.full((len(image_ids), len(class_names)), UNTOUCHED, np.int8)
    return align_corrections(corrections, image_ids, class_names).labels
