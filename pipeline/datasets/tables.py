"""A CSV or Parquet file to the images that it lists and what it says of them."""

import ast
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.predictions import LABEL_SEPARATOR, text_of
from pipeline.datasets.dataset import UNKNOWN
from pipeline.datasets.image_names import without_suffix
from pipeline.datasets.listing import ListedImage, parse_labels
from pipeline.system.errors import PipelineError, hint, nearest
from pipeline.system.text import nfc

TABLE_SUFFIXES = (".csv", ".parquet")
ID_COLUMNS = ("image_id", "image")
"""Columns that may name an image; where a table has both, the second is its path."""
LABELS, SPLIT = "labels", "split"
ENTRIES = {
    **{"1": 1, "1.0": 1, "true": 1, "yes": 1},
    **{"0": 0, "0.0": 0, "false": 0, "no": 0},
    **{"": UNKNOWN, "-1": UNKNOWN, "nan": UNKNOWN, "none": UNKNOWN},
}
"""What the cell of a class may hold, in any case, and what it means."""


@dataclass(frozen=True)
class Row:
    """One image of a table."""

    number: int
    """From 1 on; the header of a CSV file is row 1."""
    name: str
    """What the table calls the image."""
    path: Path
    """Its path, relative ones counted from the table's folder."""
    place: str
    """What stands for the path in the table; may be an address."""
    labels: np.ndarray | None
    """int8 [C]: 1 present, 0 absent, -1 nothing said; None for an image that is not labelled."""
    split: str | None
    """train or test; None for no wish."""


def read_table(path: Path, class_names: Sequence[str], *, needs_labels: bool = False) -> list[Row]:
    """Rows of a table of images, in its order.

    Args:
        path: a CSV or Parquet file with the column image or image_id (a path, absolute or from the table's folder, or
            whatever else names an image) and, where wanted, labels (names joined by ";", in Parquet a list too, or a
            cell of Label Studio's CSV) or a column for each class (1, 0 or nothing), and split (train or test). Other
            columns are passed over. A CSV file of one column may go without a header.
        class_names: C names.
        needs_labels: whether a table without labels is an error.

    Raises:
        PipelineError: the file cannot be read, has not the columns, or a row does not fit; names table and row.
    """
    header, rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    if LABELS not in header and "label" in header:
        header = [LABELS if name == "label" else name for name in header]
        rows = (
            (number, {LABELS if name == "label" else name: cell for name, cell in row.items()}) for number, row in rows
        )
    key = _check_header(header, path, class_names, needs_labels)
    if key is None:
        return []
    rows = [_with_slashes(row, (key, "image"), path) for row in rows]
    if LABELS in header:
        rows = _joined_labels(rows, key, path)
    if needs_labels and not rows:
        raise PipelineError(f"{path} has no rows, expected one per labelled image.")
    columns = [] if LABELS in header else [name for name in class_names if name in header and name not in ID_COLUMNS]
    if columns:
        _refuse_unknown_classes(header, rows, columns, class_names, path)
    folder = path.absolute().parent
    place = "image" if "image" in header else key
    return [_row(number, row, (key, place), columns, class_names, folder, path) for number, row in rows]


def _with_slashes(row: tuple[int, dict[str, Any]], columns: Sequence[str], path: Path) -> tuple[int, dict[str, Any]]:
    """A row whose paths have slashes where Windows wrote backslashes."""
    number, cells = row
    for column in columns:
        name = cells.get(column)
        if isinstance(name, str) and "\\" in name and not is_there(path.absolute().parent / name.strip()):
            cells[column] = name.replace("\\", "/")
    return number, cells


def is_there(path: Path) -> bool:
    """Whether a path exists; False for a text that cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _joined_labels(
    rows: Sequence[tuple[int, dict[str, Any]]], key: str, path: Path
) -> list[tuple[int, dict[str, Any]]]:
    """Rows of which each image has one: a table may have a row per label instead.

    Raises:
        PipelineError: two rows of an image say different things of anything but one label each.
    """
    first: dict[str, tuple[int, dict[str, Any]]] = {}
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


def listed_images(path: Path, class_names: Sequence[str]) -> list[ListedImage]:
    """The rows of a table as images to work on."""
    return [ListedImage(row.name, row.path, row.labels, row.split) for row in read_table(path, class_names)]


def label_row(names: Sequence[str], class_names: Sequence[str], where: str) -> np.ndarray:
    """int8 [C] of an image of which every class is known: 1 for these names, else 0.

    Raises:
        PipelineError: a name is none of the classes; begins with `where`.
    """
    names, class_names = ([nfc(name) for name in each] for each in (names, class_names))
    for name in names:
        if name not in class_names:
            raise PipelineError(
                f"{where} names class {name!r}, which is none of the {len(class_names)} classes. "
                f"{hint(name, class_names)}"
            )
    return np.isin(np.asarray(class_names, dtype=object), np.asarray(names, dtype=object)).astype(np.int8)


def _row(
    number: int,
    row: dict[str, Any],
    keys: tuple[str, str],
    columns: Sequence[str],
    class_names: Sequence[str],
    folder: Path,
    path: Path,
) -> Row:
    where = f"row {number} of {path}"
    key, place = keys
    name, file = (row.get(column) for column in keys)
    for column, value in ((key, name), (place, file)):
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise PipelineError(
                f"{where} has {column} {value!r}, expected a name or path. Fill it in or delete the row."
            )
    split = row.get(SPLIT)
    split = split.strip() if isinstance(split, str) else split
    if split not in ("train", "test", "", None):
        raise PipelineError(f"{where} has split {split!r}, expected train or test. Correct it.")
    labels = _entries(row, columns, class_names, where) if columns else _names(row.get(LABELS), class_names, where)
    return Row(number, Path(name.strip()).as_posix(), folder / file.strip(), file.strip(), labels, split or None)


def _names(cell: Any, class_names: Sequence[str], where: str) -> np.ndarray | None:
    """Labels of a cell of names, None for no cell."""
    if cell is None:
        return None
    try:
        return label_row(separated_names(_choices(cell), class_names), class_names, where)
    except ValueError as error:
        raise PipelineError(f"{where} has labels {cell!r}, {error}. Correct them.") from error


def separated_names(cell: Any, class_names: Sequence[str]) -> list[str]:
    """Class names of a cell; joined by ";", or by another mark where only that one gives names of classes.

    Raises:
        ValueError: as `parse_labels`; or another mark joins the names, and one of them is not a class.
    """
    names = parse_labels(cell)
    known = {nfc(name) for name in class_names}
    if not isinstance(cell, str) or all(nfc(name) in known for name in names):
        return names
    if cell.strip().startswith("["):
        try:
            return parse_labels(ast.literal_eval(cell.strip()))
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


def _choices(cell: Any) -> Any:
    """The list in {"choices": [...]}, as Label Studio's CSV writes more than one name; else the cell as it is."""
    if not isinstance(cell, str) or not cell.startswith("{"):
        return cell
    try:
        return json.loads(cell)["choices"]
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ValueError('expected names or {"choices": [...]}') from None


def _entries(row: dict[str, Any], columns: Sequence[str], class_names: Sequence[str], where: str) -> np.ndarray:
    """Labels from a cell per class."""
    labels = np.full(len(class_names), UNKNOWN, np.int8)
    for name in columns:
        value = _entry(row.get(name))
        if value is None:
            raise PipelineError(f"{where} has {row[name]!r} for {name}, expected 1, 0 or nothing.")
        labels[class_names.index(name)] = value
    return labels


def _entry(cell: Any) -> int | None:
    """1, 0 or UNKNOWN; None for what is none of them."""
    return ENTRIES.get("" if cell is None else str(cell).strip().lower())


def _check_header(header: Sequence[str], path: Path, class_names: Sequence[str], needs_labels: bool) -> str | None:
    """The column that names the images; None for a table without anything.

    Raises:
        PipelineError: it has none, or has not the labels that are needed; a column occurs twice.
    """
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
            f"{path} has no labels: its columns are {columns}; expected labels, or one called as each class. "
            + (f"Did you mean {LABELS!r} by {near!r}?" if near else "Add them.")
        )
    return key


def _refuse_unknown_classes(
    header: Sequence[str],
    rows: Sequence[tuple[int, dict[str, Any]]],
    columns: Sequence[str],
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Raise for a column of 1, 0 and nothing that is none of the classes: a misspelt name would be lost silently."""
    for name in header:
        if name in columns or name in (*ID_COLUMNS, SPLIT) or _is_index(name):
            continue
        said = {_entry(row.get(name)) for _, row in rows}
        if None not in said and said != {UNKNOWN}:
            raise PipelineError(
                f"{path} has a column {name!r} of 1 and 0, which is none of the {len(class_names)} classes. "
                f"{hint(name, class_names)} Rename or remove it."
            )


def _is_index(column: str) -> bool:
    """Whether a column is the row numbers that pandas writes."""
    return column in ("", "index", "__index_level_0__") or column.startswith("Unnamed:")


def _csv_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """Header, and numbered rows; the header is row 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = []
        for line in lines:
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
    """Whether lines are rows of a table with another mark than the comma: by its header, or a photo before each mark."""
    first = [line.split(mark)[0].strip() for line in lines if mark in line]
    headed = bool(lines) and bool({name.strip() for name in lines[0].split(mark)[:-1]} & set(ID_COLUMNS))
    return headed or (bool(first) and len(first) == len(lines) and all(without_suffix(name) != name for name in first))


def _numbered(header: list[str], rows: list[tuple[int, list[str]]], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in rows:
        if len(row) > len(header):
            raise PipelineError(
                f"row {number} of {path} has {len(row)} fields, expected {len(header)}. "
                f"Join labels with {LABEL_SEPARATOR!r}, and quote fields that hold a comma."
            )
        yield number, dict(zip(header, row, strict=False))


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    pyarrow = import_pyarrow(path)
    try:
        table = pyarrow.parquet.read_table(path)
        table = table.rename_columns([nfc(name) for name in table.column_names])
        return table.column_names, iter(list(enumerate(table.to_pylist(), start=1)))
    except (OSError, pyarrow.ArrowException) as error:
        raise PipelineError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]} Check it.") from error


def import_pyarrow(path: Path) -> Any:
    """The package pyarrow with its module for Parquet.

    Raises:
        PipelineError: it is not installed; names the file that needs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PipelineError(f"{path} needs pyarrow. Install it with `pip install '.[parquet]'`.") from error
    return pyarrow
