"""What every adapter refuses: lists that are missing or no text, images listed twice, ids without a file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.system.errors import PipelineError, hint
from pipeline.system.text import nfc


def read_lines(path: Path, *, strip: bool = True) -> list[str]:
    """Lines of a UTF-8 text file without the empty ones, stripped unless their indentation counts.

    Raises:
        PipelineError: the file is missing or no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}. Complete the dataset.") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    return [line.strip() if strip else line for line in text.splitlines() if line.strip()]


def check_unique(image_ids: Sequence[str], source: Path | str) -> None:
    """Raise PipelineError if an image is listed twice, in one split or in two."""
    image_id, count = Counter(image_ids).most_common(1)[0] if image_ids else ("", 0)
    if count > 1:
        raise PipelineError(
            f"{source} lists image {image_id} {count} times, expected once. Remove the others, or pass them over with --exclude."
        )


def missing_files(image_ids: Sequence[str], paths: Sequence[Path], source: Path, *, skip: bool) -> dict[str, str]:
    """Images without a file, to the reason; a broken file is left to decoding.

    Args:
        image_ids: N ids.
        paths: N paths.
        source: named in an error.
        skip: whether images may be missing; links of old data sets die.

    Raises:
        PipelineError: the list is empty, or an image has no file and may not be missing, or all of them have none.
    """
    if not skip:
        check_files(image_ids, paths, source)
        return {}
    left_out = {
        image_id: "it is missing" for image_id, path in zip(image_ids, paths, strict=True) if not _is_file(path)
    }
    if len(left_out) == len(paths):
        check_files(image_ids, paths, source)
    return left_out


def check_files(image_ids: Sequence[str], paths: Sequence[Path], source: Path) -> None:
    """Raise PipelineError if the list is empty or an image has no file; a broken one is left to decoding."""
    if not paths:
        raise PipelineError(f"{source} lists no image, expected at least one.")
    missing = [index for index, path in enumerate(paths) if not _is_file(path)]
    if missing:
        raise PipelineError(
            f"{source} lists image {image_ids[missing[0]]}, but there is no file {paths[missing[0]]} "
            f"({len(missing)} of {len(paths)} are missing). Complete the images, or go on without them with --skip-missing."
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long or with a null byte, a folder that may not be read
        return False


def check_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes cut to their images.

    Args:
        boxes: float64 [K, 4], xyxy in pixels.
        sizes: float64 [K, 2], width and height of the image of each; 0 where they are unknown.

    Returns:
        float64 [K, 4].

    Raises:
        ValueError: a box is not finite, is turned round, or lies outside of its image.
    """
    if not np.isfinite(boxes).all():
        raise ValueError(f"the box {boxes[~np.isfinite(boxes).all(axis=1)][0].tolist()} is not finite")
    limits = np.where(sizes > 0, sizes, np.inf)
    cut = np.concatenate([np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, 2:], 0, limits)], axis=1)
    empty = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    if empty.any():
        size = "x".join(f"{side:g}" for side in sizes[empty][0])
        raise ValueError(f"the box {boxes[empty][0].tolist()} has no part within its image of {size}")
    return cut


def class_index(name: str, class_names: Sequence[str], source: Path) -> int:
    """Column of a class name.

    Raises:
        PipelineError: it is none of them; names `source`, and the class that may be meant.
    """
    if nfc(name) in class_names:
        return class_names.index(nfc(name))
    raise PipelineError(
        f"{source} names class {name!r}, which is none of the {len(class_names)} classes. {hint(name, class_names)}"
    )
