"""Reader of tables: a CSV or Parquet file that lists images, with labels and splits."""

import ast
import csv
import io
import json
import os.path
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.predictions import LABEL_SEPARATOR, text_of
from pipeline.datasets.checks import class_index
from pipeline.datasets.dataset import UNKNOWN
from pipeline.datasets.image_names import without_suffix
from pipeline.system.errors import PipelineError, hint, nearest
from pipeline.system.files import regular_file
from pipeline.system.text import nfc

TABLE_SUFFIXES = (".csv", ".parquet")
ID_COLUMNS = ("image_id", "image")
"""Columns that may name an image; if a table has both, the second is its path."""
LABELS, SPLIT = "labels", "split"
ENTRIES = {
    **{"1": 1, "1.0": 1, "true": 1, "yes": 1},
    **{"0": 0, "0.0": 0, "false": 0, "no": 0},
    **{"": UNKNOWN, "-1": UNKNOWN, "nan": UNKNOWN, "none": UNKNOWN},
}
"""Label for each text that a class column may contain, in any case."""

Cells = dict[str, Any]
"""Column to cell of one row."""


@dataclass(frozen=True)
class Row:
    """One image of a table."""

    number: int
    """From 1 on; the header of a CSV file is row 1."""
    name: str
    """Name of the image in the table."""
    path: Path
    """Its path; a relative path starts from the table's folder."""
    place: str
    """The path as the table writes it; may be an address."""
    labels: np.ndarray | None
    """int8 [C]: 1 present, 0 absent, -1 unknown; None for an image that is not labelled."""
    split: str | None
    """train or test; None if the table gives none."""


def read_table(path: Path, class_names: Sequence[str], *, needs_labels: bool = False) -> list[Row]:
    """Rows of a table of images, in its order.

    Args:
        path: a CSV or Parquet file. The column image or image_id is required: a path, absolute or from the table's
            folder, or another name of an image. Optional are labels (names joined by ";", in Parquet also a list, or a
            cell of Label Studio's CSV) or one column per class (1, 0 or empty), and split (train or test). Other
            columns are ignored. A CSV file of one column may have no header.
        class_names: C names.
        needs_labels: whether a table without labels is an error.

    Raises:
        PipelineError: the file cannot be read, lacks a column, or a row does not fit; names table and row.
    """
    header, numbered = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    rows = list(numbered)
    if LABELS not in header and "label" in header:
        header = [*header, LABELS]
        rows = [(number, {**cells, LABELS: cells.get("label")}) for number, cells in rows]
    key = _check_header(header, path, class_names, needs_labels)
    if key is None:
        return []
    place = "image" if "image" in header else key
    for _, cells in rows:
        for column in (key, place):
            cells[column] = _with_slashes(cells.get(column), path)
    if LABELS in header:
        rows = _joined_labels(rows, key, path)
    if needs_labels and not rows:
        raise PipelineError(f"{path} has no rows, expected one per labelled image.")
    columns = [] if LABELS in header else [name for name in class_names if name in header and name not in ID_COLUMNS]
    if columns:
        _refuse_unknown_classes(header, rows, columns, class_names, path)
    result = []
    for number, cells in rows:
        where = f"row {number} of {path}"
        name, file = (_named(cells, column, where) for column in (key, place))
        split = checked_split(cells.get(SPLIT), where)
        if columns:
            labels = _entries(cells, columns, class_names, where)
        else:
            labels = labels_of(cells.get(LABELS), class_names, where)
        result.append(Row(number, Path(name).as_posix(), path.absolute().parent / file, file, labels, split))
    return result


def _with_slashes(name: Any, path: Path) -> Any:
    """A path with slashes instead of the backslashes of Windows, unless a file has this very name."""
    if not isinstance(name, str) or "\\" not in name:
        return name
    # unlike Path.exists, False for a text that cannot be a path
    is_there = os.path.exists(path.absolute().parent / name.strip())  # noqa: PTH110
    return name if is_there else name.replace("\\", "/")


def _joined_labels(rows: Sequence[tuple[int, Cells]], key: str, path: Path) -> list[tuple[int, Cells]]:
    """One row per image; a table may have one row per label instead, but equal images must differ only in the label."""
    first: dict[str, tuple[int, Cells]] = {}
    joined: dict[str, list[str]] = {}
    for number, cells in rows:
        name = str(cells.get(key))
        label = cells.get(LABELS)
        single = label.strip() if isinstance(label, str) else ""
        if name not in first:
            first[name], joined[name] = (number, cells), [single]
            continue
        rest = [{k: v for k, v in each.items() if k in (*ID_COLUMNS, SPLIT)} for each in (cells, first[name][1])]
        if not single or not joined[name][0] or single in joined[name] or rest[0] != rest[1]:
            raise PipelineError(
                f"row {number} of {path} names image {name}, as row {first[name][0]} does; expected one row per image, or "
                "one per label. Remove one."
            )
        joined[name].append(single)
    return [
        (number, {**cells, LABELS: LABEL_SEPARATOR.join(joined[name])} if len(joined[name]) > 1 else cells)
        for name, (number, cells) in first.items()
    ]


def _named(cells: Cells, column: str, where: str) -> str:
    """The name or path in a cell."""
    value = cells[column]
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise PipelineError(f"{where} has {column} {value!r}, expected a name or path. Fill it in or delete the row.")
    return value.strip()


def checked_split(cell: Any, where: str) -> str | None:
    """The split in a cell, train or test; None for an empty cell. Raises PipelineError for another text."""
    split = cell.strip() if isinstance(cell, str) else cell
    if split not in ("train", "test", "", None):
        raise PipelineError(f"{where} has split {split!r}, expected train or test. Correct it.")
    return split or None


def label_row(names: Sequence[str], class_names: Sequence[str], where: str) -> np.ndarray:
    """Labels int8 [C]: 1 for these names, else 0. Raises PipelineError for a name that is not a class."""
    labels = np.zeros(len(class_names), np.int8)
    known = [nfc(name) for name in class_names]
    labels[[class_index(name, known, where) for name in names]] = 1
    return labels


def labels_of(
    cell: Any, class_names: Sequence[str], where: str, *, column: str = LABELS, numbered: Sequence[str] = ()
) -> np.ndarray | None:
    """Labels int8 [C] of a cell that contains all classes of an image; None for no cell.

    Args:
        cell: names joined by ";", or by another mark if only that one gives names of classes; a list of names; the
            object {"choices": [...]} of Label Studio's CSV; or numbers.
        class_names: C names.
        where: named in errors.
        column: of the cell, named in errors.
        numbered: names that numbers stand for, from 0 on; empty if numbers are an error.

    Raises:
        PipelineError: the cell has another form, or a name is not one of the classes.
    """
    if cell is None:
        return None
    try:
        names = _names(cell, class_names, numbered)
    except ValueError as error:
        raise PipelineError(f"{where} has {column} {cell!r}, {error}. Correct them.") from error
    return label_row(names, class_names, where)


def _names(cell: Any, class_names: Sequence[str], numbered: Sequence[str]) -> list[str]:
    entries = cell if isinstance(cell, list) else [cell]
    if numbered and all(isinstance(entry, int) for entry in entries):
        if any(not 0 <= entry < len(numbered) for entry in entries):
            raise ValueError(f"expected numbers below {len(numbered)}")
        return [numbered[entry] for entry in entries]
    if isinstance(cell, str) and cell.startswith("{"):
        try:
            cell = json.loads(cell)["choices"]
        except (KeyError, RecursionError, TypeError, ValueError):
            raise ValueError('expected names or {"choices": [...]}') from None
    names = cell.split(LABEL_SEPARATOR) if isinstance(cell, str) else cell
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected class names joined with {LABEL_SEPARATOR!r} or a list of them")
    names = [name.strip() for name in names if name.strip()]
    known = {nfc(name) for name in class_names}
    if not isinstance(cell, str) or all(nfc(name) in known for name in names):
        return names
    if cell.strip().startswith("["):
        try:
            return _names(ast.literal_eval(cell.strip()), class_names, ())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return names
    for mark in ("|", ",", None):
        parts = [part.strip() for part in cell.split(mark) if part.strip()]
        if len(parts) > 1 and all(nfc(part) in known for part in parts):
            return parts
    mark = next((mark for mark in "|," if mark in cell), None)
    if mark and any(nfc(part.strip()) in known for part in cell.split(mark)):
        raise ValueError(
            f"joined by {mark!r}, and not all of them are classes; expected names joined with {LABEL_SEPARATOR!r}"
        )
    return names


def _entries(cells: Cells, columns: Sequence[str], class_names: Sequence[str], where: str) -> np.ndarray:
    """Labels from one cell per class."""
    labels = np.full(len(class_names), UNKNOWN, np.int8)
    for name in columns:
        value = _entry(cells.get(name))
        if value is None:
            raise PipelineError(f"{where} has {cells[name]!r} for {name}, expected 1, 0 or nothing. Correct it.")
        labels[class_names.index(name)] = value
    return labels


def _entry(cell: Any) -> int | None:
    """1, 0 or UNKNOWN; None for another text."""
    return ENTRIES.get("" if cell is None else str(cell).strip().lower())


def _check_header(header: Sequence[str], path: Path, class_names: Sequence[str], needs_labels: bool) -> str | None:
    """The column that names the images; None for an empty table. Raises if a column is missing or occurs twice."""
    if not header and not needs_labels:
        return None
    twice = [name for name, count in Counter(name for name in header if name).items() if count > 1]
    if twice:
        raise PipelineError(f"{path} has the column {twice[0]!r} twice. Remove or rename one.")
    key = next((name for name in ID_COLUMNS if name in header), None)
    labelled = LABELS in header or any(name in header for name in class_names)
    if key is None or (needs_labels and not labelled):
        separator = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
        if separator:
            raise PipelineError(
                f"row 1 of {path} is {header[0][:80]!r}, expected columns separated by commas. "
                f"Save the table as CSV with commas; {LABEL_SEPARATOR!r} joins the labels of one image."
            )
        columns = ", ".join(map(str, header))[:200] or "none"
        if key is None:
            raise PipelineError(
                f"{path} has the columns {columns}; expected one named image or image_id. Rename the column."
            )
        near = next((name for name in header if LABELS in nearest(name, [LABELS])), None)
        raise PipelineError(
            f"{path} has no labels: its columns are {columns}; expected labels, or one column per class. "
            + (f"Did you mean {LABELS!r} by {near!r}?" if near else "Add them.")
        )
    return key


def _refuse_unknown_classes(
    header: Sequence[str],
    rows: Sequence[tuple[int, Cells]],
    columns: Sequence[str],
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Raise for a column of 1, 0 and empty cells that is not a class: a misspelt name would be lost silently."""
    for name in header:
        if name in columns or name in (*ID_COLUMNS, SPLIT) or _is_index(name):
            continue
        values = {_entry(cells.get(name)) for _, cells in rows}
        if None not in values and values != {UNKNOWN}:
            raise PipelineError(
                f"{path} has a column {name!r} of 1 and 0, which is none of the {len(class_names)} classes. "
                f"{hint(name, class_names)} Rename or remove it."
            )


def _is_index(column: str) -> bool:
    """Whether a column is the row numbers that pandas writes."""
    return column in ("", "index", "__index_level_0__") or column.startswith("Unnamed:")


def _csv_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, Cells]]]:
    """Header, and numbered rows; the header is row 1."""
    try:
        text = regular_file(path).read_text(encoding="utf-8-sig")
        rows = []
        for line in csv.reader(io.StringIO(text, newline=""), strict=True):
            rows.append([text_of(cell) for cell in line])
    except OSError as error:
        raise PipelineError(f"{path} could not be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        raise PipelineError(
            f"{path}, row {row}: it is not UTF-8 text ({error.reason}). Save the file as UTF-8."
        ) from error
    except csv.Error as error:
        raise PipelineError(f"{path}, row {len(rows) + 1}: it is not CSV ({error}). Check its quotes.") from error
    numbered = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    header = [nfc(name.strip()) for name in numbered[0][1]] if numbered else []
    if not set(header) & set(ID_COLUMNS) and all(len(row) == 1 for _, row in numbered):
        if any(_joined_by(mark, [row[0] for _, row in numbered]) for mark in ";\t|"):
            return header, iter(())
        return (["image"] if header else []), ((number, {"image": row[0]}) for number, row in numbered)
    return header, _numbered(header, numbered[1:], path)


def _joined_by(mark: str, lines: list[str]) -> bool:
    """Whether a mark other than the comma separates the columns: in the header, or after a photo in each line."""
    first = [line.split(mark)[0].strip() for line in lines if mark in line]
    headed = bool(lines) and bool({name.strip() for name in lines[0].split(mark)[:-1]} & set(ID_COLUMNS))
    return headed or (bool(first) and len(first) == len(lines) and all(without_suffix(name) != name for name in first))


def _numbered(header: list[str], rows: list[tuple[int, list[str]]], path: Path) -> Iterator[tuple[int, Cells]]:
    for number, row in rows:
        if len(row) > len(header):
            raise PipelineError(
                f"row {number} of {path} has {len(row)} fields, expected {len(header)}. "
                f"Join labels with {LABEL_SEPARATOR!r}, and quote fields that contain a comma."
            )
        yield number, dict(zip(header, row, strict=False))


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, Cells]]]:
    pyarrow = import_pyarrow(path)
    try:
        table = pyarrow.parquet.read_table(regular_file(path))
        table = table.rename_columns([nfc(name) for name in table.column_names])
        return table.column_names, iter(list(enumerate(table.to_pylist(), start=1)))
    except (OSError, pyarrow.ArrowException) as error:
        raise PipelineError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]} Check it.") from error


def import_pyarrow(path: Path) -> Any:
    """The package pyarrow with its module for Parquet; raises PipelineError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PipelineError(f"{path} needs pyarrow. Install it with `pip install '.[parquet]'`.") from error
    return pyarrow
