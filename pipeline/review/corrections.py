"""What people said of images, in a table or an export of Label Studio, to corrected labels."""

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
from pipeline.exchange.label_studio import answers
from pipeline.runs.graph import VERSIONS
from pipeline.system.errors import PipelineError


def read_answers(path: Path, class_names: Sequence[str]) -> list[Row]:
    """Rows of images that a person has looked at, with labels 1 present, 0 absent, -1 nothing said.

    Args:
        path: one of
            an export of Label Studio as JSON: an answered image is right in every class;
            a table (see `pipeline.datasets.tables.read_table`) with labels: the same;
            a table with columns called as classes, of 1, 0 and nothing.
        class_names: C names.

    Raises:
        PipelineError: it is none of these, or names an unknown class.
    """
    if path.suffix.lower() != ".json":
        return [row for row in read_table(path, class_names, needs_labels=True) if row.labels is not None]
    try:
        said = answers(json.loads(path.read_text(encoding="utf-8-sig")), class_names)
    except OSError as error:
        raise PipelineError(f"{path} could not be read ({error.strerror}). Check the path.") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read as a JSON export of Label Studio: {error}.") from error
    for image_id, names in said.items():
        if not all(isinstance(name, str) for name in (image_id, *names)):
            raise PipelineError(f"{path} is not a JSON export of Label Studio: {image_id!r} has choices {names!r}.")
    return [
        Row(number, image_id, Path(image_id), image_id, label_row(names, class_names, f"{image_id} in {path}"), None)
        for number, (image_id, names) in enumerate(said.items(), start=1)
    ]


def make_corrections(
    said: Sequence[Row], manifest: Manifest, source: Path, before: Corrections | None = None
) -> Corrections:
    """Corrections of the train images.

    Args:
        said: see `read_answers`.
        manifest: all images of the run.
        source: names the answers in an error.
        before: corrections to keep where nothing new is said.

    Raises:
        PipelineError: a row names none of the images, or one that is not trained on.
    """
    splits = list(manifest.images["split"])
    names = ImageNames(manifest.image_ids, manifest.paths, splits)
    found = match_rows(said, names, source, manifest.skipped, ids_win=True)
    if other := [index for index in found if splits[index] != "train"]:
        raise PipelineError(
            f"{source} has {len(other)} images that are not in the train split (first: "
            f"{manifest.image_ids[other[0]]}, row {found[other[0]].number}); corrections are for what is trained on. "
            "Take them out."
        )
    train = manifest.split("train")
    labels = aligned_labels(before, train.image_ids, train.class_names)
    row_of = {image_id: row for row, image_id in enumerate(train.image_ids)}
    for index, answer in found.items():
        row = labels[row_of[manifest.image_ids[index]]]
        row[answer.labels != UNTOUCHED] = answer.labels[answer.labels != UNTOUCHED]
    return corrections_of(train, labels, before)


def corrections_of(train: Manifest, labels: np.ndarray, before: Corrections | None) -> Corrections:
    """The corrections int8 [N, C] of the train images as they are written.

    What was said before of photos and classes that the run does not have now is kept, and waits for them.
    """
    image_ids, class_names = list(train.image_ids), list(train.class_names)
    if before is not None:
        lost = align_corrections(before, image_ids, class_names)
        image_ids += lost.unknown_images
        class_names += lost.unknown_classes
    whole = aligned_labels(before, image_ids, class_names)
    whole[: labels.shape[0], : labels.shape[1]] = labels
    digest = hashlib.sha256(json.dumps([image_ids, class_names]).encode() + whole.tobytes()).hexdigest()[:16]
    # made from nothing but what was said, so that no change of the run makes it stale
    provenance = Provenance("corrections", VERSIONS["corrections"], {"labels": digest}, {})
    return Corrections(provenance=provenance, image_ids=image_ids, class_names=class_names, labels=whole)


def aligned_labels(before: Corrections | None, image_ids: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """What corrections say of these images and classes, int8 [N, C]; -1 where they do not know them.

    Args:
        before: of a run that may have had other images and classes; None for no corrections.
        image_ids: N ids.
        class_names: C names.
    """
    if before is None:
        return np.full((len(image_ids), len(class_names)), UNTOUCHED, np.int8)
    return align_corrections(before, image_ids, class_names).labels
