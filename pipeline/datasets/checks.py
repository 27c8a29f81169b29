"""Checks that all adapters share: lists are readable, images are listed once and have files."""

import os.path
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import regular_file
from pipeline.system.text import check_text, nfc


def read_lines(path: Path, *, strip: bool = True) -> list[str]:
    """Lines of a UTF-8 text file without the empty ones; `strip` removes white space at both ends of each.

    Raises:
        PipelineError: the file is missing or is not UTF-8 text.
    """
    try:
        text = regular_file(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}. Complete the dataset.") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    return [line.strip() if strip else line for line in text.splitlines() if line.strip()]


def first_folder(folders: Sequence[Path], missing: str) -> Path:
    """The first of these folders that exists; raises PipelineError with the text `missing` if none does."""
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise PipelineError(missing)
    return folder


def check_unique(image_ids: Sequence[str], source: Path | str) -> None:
    """Raise PipelineError if an image is listed twice, in one split or in two, or its id is not text."""
    for image_id in image_ids:
        check_text(image_id, str(source))
    image_id, count = Counter(image_ids).most_common(1)[0] if image_ids else ("", 0)
    if count > 1:
        raise PipelineError(
            f"{source} lists image {image_id} {count} times, expected once. Remove the repeated entries, or skip them with --exclude."
        )


def missing_files(
    image_ids: Sequence[str], paths: Sequence[Path], source: Path, *, skip: bool = False
) -> dict[str, str]:
    """Ids of images without a file, with the reason; decoding finds broken files later.

    Args:
        image_ids: N ids.
        paths: N paths.
        source: of the list, named in errors.
        skip: whether some files may be missing.

    Raises:
        PipelineError: the list is empty, all files are missing, or one is and `skip` is False.
    """
    if not paths:
        raise PipelineError(f"{source} lists no image, expected at least one.")
    # unlike Path.is_file, False for a name that is too long and for a folder without permission
    missing = [index for index, path in enumerate(paths) if not os.path.isfile(path)]  # noqa: PTH113
    if missing and (not skip or len(missing) == len(paths)):
        raise PipelineError(
            f"{source} lists image {image_ids[missing[0]]}, but there is no file {paths[missing[0]]} "
            f"({len(missing)} of {len(paths)} are missing). Complete the images, or skip missing ones with --skip-missing."
        )
    return {image_ids[index]: "it is missing" for index in missing}


def class_index(name: str, class_names: Sequence[str], where: Path | str) -> int:
    """Column of a class name; raises PipelineError, beginning with `where`, for a name that is not a class."""
    if nfc(name) in class_names:
        return class_names.index(nfc(name))
    raise PipelineError(
        f"{where} names class {name!r}, which is none of the {len(class_names)} classes. {hint(name, class_names)}"
    )
