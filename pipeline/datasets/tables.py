"""A CSV or Parquet file to the images it lists."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.datasets.listing import LABEL_SEPARATOR, ListedImage, parse_labels
from pipeline.machine.errors import PipelineError

TABLE_SUFFIXES = (".csv", ".parquet")
COLUMNS = ("image", "labels", "split")


def read_table(path: Path) -> list[ListedImage]:
    """Images that a table lists, in its order.

    Args:
        path: a CSV or Parquet file with the column image (a path, absolute or from the table's folder) and as
            wanted labels (class names joined with ";", in Parquet a list too) and split (train or test).
            Other columns are passed over. A CSV file of one column may go without a header.

    Raises:
        PipelineError: the file cannot be read, has no column image, or a row does not fit.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    folder = path.absolute().parent
    return [_listed(row, folder, f"row {number} of {path}") for number, row in rows]


def _listed(row: dict[str, Any], folder: Path, where: str) -> ListedImage:
    image, labels, split = (row.get(column) for column in COLUMNS)
    if not isinstance(image, str) or not image.strip():
        raise PipelineError(f"{where} has image {image!r}, expected a path. Fill it in or delete the row.")
    split = split.strip() if isinstance(split, str) else split
    if split not in ("train", "test", "", None):
        raise PipelineError(f"{where} has split {split!r}, expected train or test. Correct it.")
    try:
        names = None if labels is None else parse_labels(labels)
    except ValueError as error:
        raise PipelineError(f"{where} has labels {labels!r}, {error}. Correct them.") from error
    return ListedImage(Path(image.strip()).as_posix(), folder / image.strip(), names, split or None)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows; the header is row 1."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{path} is no CSV file in UTF-8 ({error}). Save it as such.") from error
    rows = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    header = [name.strip() for name in rows[0][1]] if rows else []
    if "image" not in header and all(len(row) == 1 for _, row in rows):
        header = ["image"]
    else:
        rows = rows[1:]
    _require_image_column(header, path)
    for number, row in rows:
        if len(row) > len(header):
            raise PipelineError(
                f"row {number} of {path} has {len(row)} fields, expected {len(header)}. "
                f"Join labels with {LABEL_SEPARATOR!r}, and quote fields that hold a comma."
            )
        yield number, dict(zip(header, row, strict=False))


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PipelineError(f"{path} needs pyarrow. Install it with `pip install '.[parquet]'`, or use CSV.") from error
    try:
        header = pyarrow.parquet.read_schema(path).names
        _require_image_column(header, path)
        rows = pyarrow.parquet.read_table(path, columns=[name for name in COLUMNS if name in header]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise PipelineError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]} Check it.") from error
    yield from enumerate(rows, start=1)


def _require_image_column(header: list[str], path: Path) -> None:
    if "image" not in header:
        raise PipelineError(f"{path} has the columns {', '.join(header) or 'none'}, expected one named image.")
