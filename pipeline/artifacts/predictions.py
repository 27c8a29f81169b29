"""Scores and thresholds to a table: one row per image with its labels and the score of every class."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.artifacts.manifest import write_csv
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing
from pipeline.system.progress import writing_output

LABEL_SEPARATOR = ";"
"""Separates the class names of an image in a table's cell."""

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""The start of a text that a spreadsheet would compute, or that `plain_text` has already marked."""

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")


def present_classes(scores: np.ndarray, thresholds: Sequence[float], class_names: Sequence[str]) -> list[list[str]]:
    """Names of the classes whose score [N, C] reaches its threshold [C], one list per image."""
    present = scores >= np.asarray(thresholds)
    names = np.array(class_names, dtype=object)
    return [list(names[row]) for row in present]


def prediction_frame(
    images: Sequence[str], scores: np.ndarray, thresholds: Sequence[float], class_names: Sequence[str], key: str
) -> pd.DataFrame:
    """Frame with the columns `key`, labels (a list of names per image), and one column of scores per class.

    A class with the name of one of the first two columns gets the suffix " score".

    Args:
        images: N names.
        scores: float32 [N, C].
        thresholds: smallest score of a present class, C numbers.
        class_names: C unique names.
        key: name of the first column.
    """
    columns = [f"{name} score" if name in (key, "labels") else name for name in class_names]
    frame = pd.DataFrame(scores, columns=columns)
    frame.insert(0, key, list(images))
    frame.insert(1, "labels", pd.Series(present_classes(scores, thresholds, class_names), dtype=object))
    return frame


def write_predictions(path: Path, frame: pd.DataFrame) -> None:
    """Write a `prediction_frame` atomically, in the format of the file's suffix.

    CSV joins the labels by ";". JSON lines and Parquet keep them as a list, and JSON lines the scores as an object.

    Raises:
        PipelineError: another suffix, a full disk, or no pyarrow for Parquet.
    """
    check_suffix(path)
    match path.suffix.lower():
        case ".csv":
            write_csv(path, joined_labels(frame))
        case ".jsonl":
            with replacing(path) as partial:
                nested_scores(frame).to_json(partial, orient="records", lines=True, force_ascii=False)
        case ".parquet":
            with replacing(path) as partial:
                frame.to_parquet(partial, index=False)


def print_predictions(frame: pd.DataFrame) -> None:
    """Write a `prediction_frame` to standard output as CSV."""
    with writing_output():
        joined_labels(frame).to_csv(sys.stdout, index=False, lineterminator="\n")


def check_suffix(path: Path) -> None:
    """Raise unless `write_predictions` can write to such a file here."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise PipelineError(f"{path} ends in {path.suffix or 'nothing'}, expected {', '.join(TABLE_SUFFIXES)}.")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401 - pandas needs it
        except ImportError as error:
            raise PipelineError(
                f"{path} needs pyarrow. Install it with `pip install '.[parquet]'`, or use CSV."
            ) from error


def joined_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame for a CSV file: labels as one text per image, and no text that a spreadsheet would compute."""
    joined = frame.assign(labels=[LABEL_SEPARATOR.join(names) for names in frame["labels"]])
    texts = [name for name in joined.columns if not pd.api.types.is_numeric_dtype(joined[name])]
    joined = joined.assign(**{name: [plain_text(str(cell)) for cell in joined[name]] for name in texts})
    return joined.set_axis([plain_text(name) for name in joined.columns], axis=1)


def plain_text(text: str) -> str:
    """A cell of a CSV file, with a "'" before a text that a spreadsheet would read as a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def text_of(cell: str) -> str:
    """The inverse of `plain_text`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def nested_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the score columns as one column of objects, class name to score."""
    return frame.iloc[:, :2].assign(scores=frame.iloc[:, 2:].to_dict("records"))
