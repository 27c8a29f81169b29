"""The images of a run to the gallery of its page: small JPEGs and what every stage said of each."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import bar
from pipeline.method.thresholds import PRESENT
from pipeline.photos.images import load_image, squash
from pipeline.photos.prefetch import Prefetch
from pipeline.runs.artifacts import Boxes
from pipeline.tools.report.content import thresholds
from pipeline.tools.review import change, spread_choice, uncertainty, wrong
from pipeline.tools.run_files import RunFiles

JPEG_QUALITY = 72
TOP_CLASSES = 5
"""Classes that an entry lists whatever their scores are."""

TEST_SHARE = 0.25
"""Most of the gallery that test images take where there are too many train images."""

BOX_SCALE = 1000
"""Boxes are in thousandths of the sides."""


def gallery(run: RunFiles, limit: int, side: int, seed: int) -> dict[str, Any]:
    """Entries of at most `limit` images, train before test.

    Args:
        run: the run.
        limit: most images.
        side: longest side of a thumbnail in pixels.
        seed: of the choice where there are more.

    Returns:
        total: number of images of the run. columns: what the numbers of an entry's labels mean, after the class.
        cam_size: rows and columns of the CAMs, None without. entries: see `entry`.
    """
    views = {split: split_view(run, split) for split in ("train", "test")}
    counts = {split: len(view["ids"]) for split, view in views.items()}
    room = {"test": min(counts["test"], max(int(limit * TEST_SHARE), limit - counts["train"]))}
    room["train"] = min(counts["train"], limit - room["test"])
    jobs = []
    for split, view in views.items():
        if room[split]:
            rows = spread_choice([view["changed"], view["unsure"], view["wrong"].sum(1)], room[split], seed)
            jobs += [(split, int(row)) for row in rows]
    paths = [views[split]["paths"][row] for split, row in jobs]
    entries = []
    with bar("report", len(jobs)) as progress:
        for (split, row), thumb in zip(
            jobs, Prefetch(lambda path: thumbnail(path, side), paths, ahead=32), strict=True
        ):
            entries.append(entry(views[split], split, row) | {"thumb": thumb})
            progress.advance(1)
    return {
        "total": sum(counts.values()),
        "columns": {split: list(view["columns"]) for split, view in views.items()},
        "cam_size": None if run.boxes is None or run.boxes.cam is None else run.boxes.cam.shape[1:],
        "entries": entries,
    }


def thumbnail(path: str, side: int) -> str:
    """A photo as base64 of a small JPEG; empty if it can no longer be read."""
    try:
        image = load_image(Path(path), (2 * side, 2 * side))
    except PipelineError:
        return ""  # the labels can still be looked at
    height, width = image.shape[1:]
    scale = min(1.0, side / max(height, width))
    small = squash(image, (max(1, round(height * scale)), max(1, round(width * scale))))
    buffer = io.BytesIO()
    Image.fromarray(small.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def split_view(run: RunFiles, split: str) -> dict[str, Any]:
    """What is known of the images of a split, in columns.

    Returns:
        ids, paths, sizes [N, 2]. columns: title to float [N, C]. present: bool [N, C], the last decision.
        truth: int8 [N, C] or None. changed, unsure: float [N]. wrong: bool [N, C]. boxes, crops: of the train images.
    """
    part = run.manifest.split(split)
    shape = (len(part.image_ids), len(part.class_names))
    columns: dict[str, np.ndarray] = {}
    if run.embeddings is not None:
        columns["teacher"] = run.embeddings.probabilities[run.embeddings.is_train == (split == "train")]
    present, changed, unsure = np.zeros(shape, bool), np.zeros(shape[0]), np.zeros(shape[0])
    if split == "train":
        for name, labels in (("initial", run.initial), ("final", run.final)):
            if labels is not None:
                columns[name] = labels.labels
                present, unsure = labels.labels >= PRESENT, uncertainty(labels.labels)
        if run.local is not None:
            columns["crops"] = run.local
        if run.initial is not None and run.final is not None:
            changed = change(run.initial.labels, run.final.labels)
    elif run.epoch_scores is not None:
        columns["classifier"] = run.epoch_scores.chosen
        present, unsure = run.epoch_scores.chosen >= thresholds(run), uncertainty(run.epoch_scores.chosen)
    truth = None if run.truth is None else run.truth.rows_of(part.image_ids)
    order = [name for name in ("teacher", "initial", "crops", "final", "classifier") if name in columns]
    return {
        "ids": part.image_ids,
        "paths": part.paths,
        "sizes": part.sizes,
        "columns": {name: columns[name] for name in order},
        "present": present,
        "truth": truth,
        "changed": changed,
        "unsure": unsure,
        "wrong": np.zeros(shape, bool) if truth is None else wrong(present, truth),
        "boxes": run.boxes if split == "train" else None,
        "crops": run.crops if split == "train" else None,
    }


def entry(view: dict[str, Any], split: str, row: int) -> dict[str, Any]:
    """One image for the page.

    Returns:
        id, split, size (W, H of the photo). labels: [class, score in per cent by column ..., present, truth or None] of
        the classes that anything says are there and of the likeliest others. changed, unsure, wrong: the keys to sort
        and filter by. boxes: [class or -1, x1, y1, x2, y2 in thousandths, [[class, per cent] of the crop ...], base64 of
        the CAM's bytes where there is one].
    """
    columns = [values[row] for values in view["columns"].values()]
    height, width = (int(side) for side in view["sizes"][row])
    kept = view["present"][row].copy()
    truth = None if view["truth"] is None else view["truth"][row]
    if truth is not None:
        kept |= truth == 1
    for values in columns:
        kept[np.argsort(-values, kind="stable")[:TOP_CLASSES]] = True
    leading = columns[-1] if columns else np.zeros(len(kept))
    classes = sorted(np.flatnonzero(kept), key=lambda c: -leading[c])
    return {
        "id": view["ids"][row],
        "split": split,
        "size": [width, height],
        "labels": [
            [
                int(c),
                *(round(100 * float(values[c])) for values in columns),
                int(view["present"][row, c]),
                None if truth is None else int(truth[c]),
            ]
            for c in classes
        ],
        "changed": round(float(view["changed"][row]), 3),
        "unsure": round(float(view["unsure"][row]), 3),
        "wrong": int(view["wrong"][row].sum()),
        "boxes": [] if view["boxes"] is None else boxes_of(view["boxes"], view["crops"], row, width, height),
    }


def boxes_of(boxes: Boxes, crops: Any, row: int, width: int, height: int) -> list[list[Any]]:
    """The boxes of one image, with the three likeliest classes of their crops where these are scored."""
    start, stop = np.searchsorted(boxes.image_index, [row, row + 1])
    scaled = np.rint(boxes.box[start:stop] / [width, height, width, height] * BOX_SCALE).astype(int)
    found = []
    for m, corners in zip(range(start, stop), scaled.tolist(), strict=True):
        top = [] if crops is None else np.argsort(-crops.probabilities[m], kind="stable")[:3]
        said = [[int(c), round(100 * float(crops.probabilities[m, c]))] for c in top]
        cam = [] if boxes.cam is None else [base64.b64encode(boxes.cam[m].tobytes()).decode()]
        found.append([int(boxes.class_index[m]), *corners, said, *cam])
    return found
