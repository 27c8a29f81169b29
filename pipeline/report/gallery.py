"""The images of a run to the gallery of its page: small JPEGs and what every stage said of each."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pipeline.artifacts.boxes import Boxes
from pipeline.evaluation.run_files import RunFiles
from pipeline.method.extras.thresholds import PRESENT
from pipeline.photos.drawing import jpeg
from pipeline.photos.prefetch import Prefetch
from pipeline.report.content import thresholds, truth_of
from pipeline.review.doubt import change, closeness, ranks, spread_choice, wrong
from pipeline.runs.graph import run_argument
from pipeline.system.errors import PipelineError, printable
from pipeline.system.files import sha256_of
from pipeline.system.progress import bar, log

TOP_CLASSES = 5
"""Classes that an entry lists whatever their scores are."""

TEST_SHARE = 0.25
"""Most of the gallery that test images take where there are too many train images."""

BOX_SCALE = 1000
"""Boxes are in thousandths of the sides."""


def gallery(run: RunFiles, limit: int, side: int, seed: int, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Entries of at most `limit` images, train before test, and of those that are wanted in any case.

    Args:
        run: the run.
        limit: most images.
        side: longest side of a thumbnail in pixels.
        seed: of the choice where there are more.
        wanted: ids of images that something else on the page shows; nothing is added where `limit` is 0.

    Returns:
        total: number of images of the run. columns: what the numbers of an entry's labels mean, after the class.
        cam_size: rows and columns of the CAMs, None without. entries: see `entry`.
    """
    views = {split: split_view(run, split) for split in ("train", "test")}
    entries = entries_of(views, run.folder, limit, side, seed, wanted)
    return {
        "total": sum(len(view["ids"]) for view in views.values()),
        "columns": {split: list(view["columns"]) for split, view in views.items()},
        "cam_size": None if run.boxes is None or run.boxes.cam is None else run.boxes.cam.shape[1:],
        "entries": entries,
    }


def entries_of(
    views: dict[str, dict[str, Any]], folder: Path, limit: int, side: int, seed: int, wanted: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Entries of the images of two splits (see `split_view`) for a page in a folder; the rest as of `gallery`."""
    counts = {split: len(view["ids"]) for split, view in views.items()}
    room = {"test": min(counts["test"], max(int(limit * TEST_SHARE), limit - counts["train"]))}
    room["train"] = min(counts["train"], limit - room["test"])
    jobs = []
    for split, view in views.items():
        if room[split]:
            rows = spread_choice([view["changed"], view["unsure"], view["wrong"].sum(1)], room[split], seed)
            rows = np.union1d(rows, [row for row, image_id in enumerate(view["ids"]) if image_id in set(wanted)])
            jobs += [(split, int(row)) for row in rows]
    photos = [(views[split]["paths"][row], views[split]["digests"][row]) for split, row in jobs]
    entries, other = [], []
    with bar("report", len(jobs)) as progress:
        for (split, row), thumb in zip(
            jobs, Prefetch(lambda photo: thumbnail(*photo, side), photos, ahead=32), strict=True
        ):
            if thumb is None:
                other.append(views[split]["ids"][row])
                thumb = ""
            found = {"thumb": thumb, "href": address(Path(views[split]["paths"][row]), folder)}
            entries.append(entry(views[split], split, row) | found)
            progress.advance(1)
    if other:
        log(
            f"warning: {len(other)} photos have changed since they were prepared (first: {printable(other[0])}); the page "
            f"does not show them. Take them as they are now with `ccd prepare --run {run_argument(folder)}`."
        )
    return entries


def address(path: Path, folder: Path) -> str:
    """What a link on a page in `folder` calls a photo: relative if it lies inside, so that both can move together."""
    root = folder.resolve()
    return quote(path.relative_to(root).as_posix()) if path.is_relative_to(root) else path.as_uri()


def thumbnail(path: str, digest: str, side: int) -> str | None:
    """A photo as base64 of a small JPEG; empty if it can no longer be read, None if the file has another SHA-256."""
    try:
        if sha256_of(Path(path)) != digest:
            return None
        return base64.b64encode(jpeg(Path(path), side)).decode()
    except PipelineError:
        return ""  # the labels can still be looked at


def split_view(run: RunFiles, split: str) -> dict[str, Any]:
    """What is known of the images of a split, in columns.

    Returns:
        ids, paths, digests (SHA-256), sizes [N, 2]. columns: title to float [N, C]. present: bool [N, C], the last decision.
        truth: int8 [N, C] by the run's convention, or None. changed: float [N]. doubt: float [N, C], how close each
        score is to its class's threshold. unsure: float [N], rank among the split's images by the closest one, so
        that scores and labels, which have thresholds of their own, can stand in one list. top: the teacher's first
        class [N], -1 without. wrong: bool [N, C]. boxes, crops: of the train images.
    """
    part = run.manifest.split(split)
    shape = (len(part.image_ids), len(part.class_names))
    columns: dict[str, np.ndarray] = {}
    if run.embeddings is not None:
        columns["teacher"] = run.embeddings.probabilities[run.embeddings.is_train == (split == "train")]
    present, changed, doubt = np.zeros(shape, bool), np.zeros(shape[0]), np.zeros(shape)
    if split == "train":
        for name, labels in (("initial", run.initial), ("final", run.final)):
            if labels is not None:
                columns[name] = labels.labels
                present, doubt = labels.labels >= PRESENT, closeness(labels.labels, np.full(shape[1], PRESENT))
        if run.local is not None:
            columns["crops"] = run.local
        if run.initial is not None and run.final is not None:
            changed = change(run.initial.labels, run.final.labels)
    elif run.epoch_scores is not None:
        columns["classifier"] = run.epoch_scores.chosen
        present = run.epoch_scores.chosen >= thresholds(run)
        doubt = closeness(run.epoch_scores.chosen, thresholds(run))
    truth = truth_of(run, part.image_ids)
    order = [name for name in ("teacher", "initial", "crops", "final", "classifier") if name in columns]
    return {
        "ids": part.image_ids,
        "paths": part.paths,
        "digests": part.digests,
        "sizes": part.sizes,
        "columns": {name: columns[name] for name in order},
        "present": present,
        "truth": truth,
        "changed": changed,
        "doubt": doubt,
        "unsure": ranks(doubt.max(1, initial=0)),
        "top": columns["teacher"].argmax(1) if "teacher" in columns else np.full(shape[0], -1),
        "wrong": np.zeros(shape, bool) if truth is None else wrong(present, truth),
        "boxes": run.boxes if split == "train" else None,
        "crops": run.crops if split == "train" else None,
    }


def entry(view: dict[str, Any], split: str, row: int) -> dict[str, Any]:
    """One image for the page.

    Returns:
        id, split, size (W, H of the photo). labels: [class, score in per cent by column ..., present, truth or None, and
        where two runs are compared whether it was present before] of the classes that anything says are there and of the likeliest others. scores: base64 of the last column of all
        classes, uint16 little-endian, 65535 for 1. doubted: the class closest to its threshold, -1 for none. top: the
        teacher's first class. changed, unsure, wrong: the keys to sort and filter by. boxes: [class or -1, x1, y1, x2, y2 in thousandths, [[class, per cent] of the crop ...], base64 of
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
    if "before" in view:
        kept |= view["before"][row]
    if view["doubt"][row].any():
        kept[view["doubt"][row].argmax()] = True
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
                *([] if "before" not in view else [int(view["before"][row, c])]),
            ]
            for c in classes
        ],
        "scores": packed(leading),
        "doubted": int(view["doubt"][row].argmax()) if view["doubt"][row].any() else -1,
        "top": int(view["top"][row]),
        "changed": round(float(view["changed"][row]), 3),
        "unsure": round(float(view["unsure"][row]), 3),
        "wrong": int(view["wrong"][row].sum()),
        "boxes": [] if view["boxes"] is None else boxes_of(view["boxes"], view["crops"], row, width, height),
    }


def packed(scores: np.ndarray) -> str:
    """Scores [C] in [0, 1] as base64 of uint16 little-endian."""
    return base64.b64encode(np.rint(65535 * scores.clip(0, 1)).astype("<u2").tobytes()).decode()


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
