"""What people said of images, in a table or an export of Label Studio, to corrected labels."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.datasets.listing import LABEL_SEPARATOR
from pipeline.machine.errors import PipelineError
from pipeline.runs.artifacts import Corrections, Provenance
from pipeline.runs.graph import VERSIONS
from pipeline.runs.manifest import Manifest
from pipeline.tools.label_studio import CHOICES, answers

UNTOUCHED = -1
ID_COLUMNS = ("image_id", "image")
VALUES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "": UNTOUCHED}


def read_answers(path: Path, class_names: list[str]) -> dict[str, np.ndarray]:
    """Image id to int8 [C]: 1 present, 0 absent, -1 nothing said.

    Args:
        path: one of
            an export of Label Studio as JSON: an answered image is right in every class;
            a CSV with the columns image_id and labels (names joined by ";", or a cell of Label Studio's CSV): the same;
            a CSV with the column image_id and columns called as classes, of 1, 0 and nothing.
        class_names: C names.

    Raises:
        PipelineError: it is none of these, or names an unknown class.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(
            f"{path} could not be read ({error}); give a CSV, or a JSON export of Label Studio."
        ) from None
    if path.suffix.lower() == ".json":
        try:
            said = answers(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise PipelineError(f"{path} is no JSON export of Label Studio: {error}.") from None
        return {image_id: whole_row(names, class_names, f"{image_id} in {path}") for image_id, names in said.items()}
    return read_table(text, path, class_names)


def read_table(text: str, path: Path, class_names: list[str]) -> dict[str, np.ndarray]:
    """`read_answers` of a CSV file with this text."""
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, na_filter=False)
    except ValueError as error:
        raise PipelineError(f"{path} is no CSV file ({error}).") from None
    key = next((name for name in ID_COLUMNS if name in table), None)
    known = [name for name in class_names if name in table]
    if key is None or not (CHOICES in table or known):
        raise PipelineError(
            f"{path} has the columns {', '.join(table.columns)}; expected image_id, and labels or names of classes."
        )
    found = {}
    for number, row in enumerate(table.to_dict("records"), start=2):
        where = f"row {number} of {path}"
        if row[key] in found:
            raise PipelineError(f"{where} is the second of image {row[key]}; keep one.")
        if CHOICES in table:
            found[row[key]] = whole_row(cell_names(row[CHOICES], where), class_names, where)
        else:
            found[row[key]] = single_entries({name: row[name] for name in known}, class_names, where)
    return found


def cell_names(text: str, where: str) -> list[str]:
    """Class names of a table's cell: joined by ";", or {"choices": [...]} as Label Studio writes more than one."""
    if text.startswith("{"):
        try:
            return list(json.loads(text)["choices"])
        except (ValueError, KeyError, TypeError):
            raise PipelineError(f'{where} has labels {text!r}, expected names or {{"choices": [...]}}.') from None
    return [name.strip() for name in text.split(LABEL_SEPARATOR) if name.strip()]


def whole_row(names: list[str], class_names: list[str], where: str) -> np.ndarray:
    """int8 [C] of an image of which every class is known: 1 for these names, else 0."""
    unknown = [name for name in names if name not in class_names]
    if unknown:
        raise PipelineError(f"{where} has the class {unknown[0]!r}, expected one of {', '.join(class_names)}.")
    return np.isin(class_names, names).astype(np.int8)


def single_entries(cells: Mapping[str, str], class_names: list[str], where: str) -> np.ndarray:
    """int8 [C] from a cell a class; -1 for a class without one."""
    row = np.full(len(class_names), UNTOUCHED, np.int8)
    for name, text in cells.items():
        if text.strip().lower() not in VALUES:
            raise PipelineError(f"{where} has {text!r} for {name}, expected 1, 0 or nothing.")
        row[class_names.index(name)] = VALUES[text.strip().lower()]
    return row


def make_corrections(
    said: Mapping[str, np.ndarray], train: Manifest, source: Path, before: Corrections | None = None
) -> Corrections:
    """Corrections of the train images.

    Args:
        said: image id to int8 [C], see `read_answers`.
        train: the train images.
        source: names the answers in an error.
        before: corrections to keep where nothing new is said.

    Raises:
        PipelineError: an image is not one of these.
    """
    rows = {image_id: row for row, image_id in enumerate(train.image_ids)}
    unknown = [image_id for image_id in said if image_id not in rows]
    if unknown:
        raise PipelineError(
            f"{source} has {len(unknown)} images that are not in the train split (first: {unknown[0]}); "
            "corrections are for what is trained on. Take them out."
        )
    labels = (
        np.full((len(rows), len(train.class_names)), UNTOUCHED, np.int8) if before is None else before.labels.copy()
    )
    for image_id, values in said.items():
        row = labels[rows[image_id]]
        row[values != UNTOUCHED] = values[values != UNTOUCHED]
    digest = hashlib.sha256(labels.tobytes()).hexdigest()[:16]
    provenance = Provenance(
        "corrections", VERSIONS["corrections"], {"labels": digest}, {"manifest.csv": train.provenance.fingerprint}
    )
    return Corrections(provenance=provenance, image_ids=train.image_ids, class_names=train.class_names, labels=labels)
