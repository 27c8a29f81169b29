"""The images of a run to the gallery of its page: thumbnails, labels, scores and boxes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pipeline.artifacts.boxes import Boxes, CropScores, rows_of_crops
from pipeline.artifacts.manifest import Manifest
from pipeline.evaluation.run_files import RunFiles
from pipeline.method.extras.thresholds import PRESENT
from pipeline.photos.drawing import jpeg
from pipeline.photos.prefetch import Prefetch
from pipeline.report.content import thresholds, truth_of
from pipeline.review.uncertainty import change, closeness, ranks, spread_choice, wrong
from pipeline.runs.graph import run_argument
from pipeline.runs.options import ReportConfig
from pipeline.system.errors import PipelineError, printable
from pipeline.system.files import sha256_of
from pipeline.system.progress import bar, log

TOP_CLASSES = 5
"""Classes with the highest scores that an entry always lists, per column."""

TEST_SHARE = 0.25
"""Largest share of test images in a gallery that cannot show all images."""

BOX_SCALE = 1000
"""Boxes are in thousandths of the sides."""


@dataclass(frozen=True, kw_only=True)
class SplitView:
    """The N images of a split, and what the run predicts for their C classes."""

    images: Manifest
    columns: dict[str, np.ndarray]
    """Title to scores, float [N, C]; `present` decides the last one, or the one before it if there are `labels`."""
    present: np.ndarray
    """bool [N, C], the final decisions."""
    truth: np.ndarray | None
    """int8 [N, C] by the run's convention."""
    changed: np.ndarray
    """float [N], how much the labels of an image have changed."""
    labels: np.ndarray | None = None
    """float [N, C], the labels that `present` decides, if the last column is another one."""
    closeness: np.ndarray | None = None
    """float [N, C], closeness of each score to the threshold of its class."""
    top1: np.ndarray | None = None
    """int [N], the teacher's top-1 class."""
    before: np.ndarray | None = None
    """bool [N, C], the decisions of the other run in a comparison."""
    boxes: Boxes | None = None
    crops: CropScores | None = None

    @property
    def decided(self) -> np.ndarray:
        """The scores that `present` decides, float [N, C]."""
        if self.labels is not None:
            return self.labels
        return [*self.columns.values()][-1] if self.columns else np.zeros(self.present.shape)

    @cached_property
    def unsure(self) -> np.ndarray:
        """Rank of each image by its score closest to a threshold, float [N] in [0, 1]; comparable between the splits."""
        return np.zeros(len(self.changed)) if self.closeness is None else ranks(self.closeness.max(1, initial=0))

    @cached_property
    def wrong(self) -> np.ndarray:
        """Final decisions that contradict the ground truth, bool [N, C]."""
        return self._wrong(self.present)

    @cached_property
    def wrong_before(self) -> np.ndarray:
        """Decisions of the other run that contradict the ground truth, bool [N, C]."""
        assert self.before is not None
        return self._wrong(self.before)

    @cached_property
    def crop_rows(self) -> np.ndarray:
        """Row in `crops` of the crop of each box, int64 [M]; -1 without."""
        assert self.boxes is not None
        return np.full(len(self.boxes.box), -1) if self.crops is None else rows_of_crops(self.boxes, self.crops)

    def _wrong(self, decisions: np.ndarray) -> np.ndarray:
        return np.zeros(decisions.shape, bool) if self.truth is None else wrong(decisions, self.truth)


def gallery(run: RunFiles, config: ReportConfig, required: Sequence[str] = ()) -> dict[str, Any]:
    """The gallery of a run as JSON.

    Args:
        run: the files of the run.
        config: number and size of the thumbnails, seed of the sample.
        required: ids of images that the page shows elsewhere.

    Returns:
        total: number of images of the run. columns: by split, titles of the scores in the labels of an entry.
        cam_size: rows and columns of the CAMs, None without. entries: see `entry`; train before test.
    """
    views = {split: split_view(run, split) for split in ("train", "test")}
    return {
        "total": sum(len(view.images.image_ids) for view in views.values()),
        "columns": {split: list(view.columns) for split, view in views.items()},
        "cam_size": None if run.boxes is None or run.boxes.cam is None else run.boxes.cam.shape[1:],
        "entries": entries_of(views, run.folder, config, required),
    }


def entries_of(
    views: dict[str, SplitView], folder: Path, config: ReportConfig, required: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """At most `config.images` entries, and those of the required images; none at all if the limit is 0.

    Args:
        views: by split.
        folder: of the page, which links to the photos.
        config: see `gallery`.
        required: ids of images.
    """
    counts = {split: len(view.images.image_ids) for split, view in views.items()}
    limits = {"test": min(counts["test"], max(int(config.images * TEST_SHARE), config.images - counts["train"]))}
    limits["train"] = min(counts["train"], config.images - limits["test"])
    selected = []
    for split, view in views.items():
        if limits[split]:
            rows = spread_choice([view.changed, view.unsure, view.wrong.sum(1)], limits[split], config.seed)
            rows = np.union1d(rows, [row for row, i in enumerate(view.images.image_ids) if i in set(required)])
            selected += [(split, int(row)) for row in rows]
    photos = [(views[split].images.paths[row], views[split].images.digests[row]) for split, row in selected]
    thumbnails = Prefetch(lambda photo: thumbnail(*photo, config.thumbnail), photos, ahead=32)
    entries, changed = [], []
    with bar("report", len(selected)) as progress:
        for (split, row), (path, _), thumb in zip(selected, photos, thumbnails, strict=True):
            if thumb is None:
                changed.append(views[split].images.image_ids[row])
            links = {"thumb": thumb or "", "href": address(Path(path), folder)}
            entries.append(entry(views[split], split, row) | links)
            progress.advance(1)
    if changed:
        log(
            f"warning: {len(changed)} photos have changed since `ccd prepare` (first: {printable(changed[0])}); the page "
            f"does not show them. Update the run with `ccd prepare {run_argument(folder)}`."
        )
    return entries


def address(path: Path, folder: Path) -> str:
    """The link to a photo from a page in `folder`; relative for a photo inside it, so that both can move together."""
    root = folder.resolve()
    return quote(path.relative_to(root).as_posix()) if path.is_relative_to(root) else path.as_uri()


def thumbnail(path: str, digest: str, side: int) -> str | None:
    """A small JPEG of a photo as base64; empty if the photo cannot be read, None if its SHA-256 differs."""
    try:
        if sha256_of(Path(path)) != digest:
            return None
        return base64.b64encode(jpeg(Path(path), side)).decode()
    except PipelineError:
        return ""  # the page still shows the labels


def split_view(run: RunFiles, split: str) -> SplitView:
    """The images of a split, "train" or "test"."""
    part = run.manifest.split(split)
    shape = (len(part.image_ids), len(part.class_names))
    columns: dict[str, np.ndarray] = {}
    if run.embeddings is not None:
        columns["teacher"] = run.embeddings.probabilities[run.embeddings.is_train == (split == "train")]
    present, changed, close, labels = np.zeros(shape, bool), np.zeros(shape[0]), None, None
    if split == "train":
        for name, stage in (("initial", run.initial), ("final", run.final)):
            if stage is not None:
                columns[name] = stage.labels
                present, close = stage.labels >= PRESENT, closeness(stage.labels, np.full(shape[1], PRESENT))
        if run.local is not None:
            columns["crops"] = run.local
        if run.initial is not None and run.final is not None:
            changed = change(run.initial.labels, run.final.labels)
        if run.epoch_scores is not None and run.final is not None:
            columns["classifier"], labels = run.epoch_scores.train, run.final.labels
    elif run.epoch_scores is not None:
        columns["classifier"] = run.epoch_scores.chosen
        present = run.epoch_scores.chosen >= thresholds(run)
        close = closeness(run.epoch_scores.chosen, thresholds(run))
    order = [name for name in ("teacher", "initial", "crops", "final", "classifier") if name in columns]
    return SplitView(
        images=part,
        columns={name: columns[name] for name in order},
        present=present,
        truth=truth_of(run, part.image_ids),
        changed=changed,
        labels=labels,
        closeness=close,
        top1=columns["teacher"].argmax(1) if "teacher" in columns else None,
        boxes=run.boxes if split == "train" else None,
        crops=run.crops if split == "train" else None,
    )


def entry(view: SplitView, split: str, row: int) -> dict[str, Any]:
    """One image as JSON.

    Returns:
        id, split, size (W, H of the photo). labels: per class [class, score in per cent or None by column ..., present, truth or
        None, and in a comparison the other run's decision]; the classes are those that are present by any source and the
        top classes of each column. scores: base64 of the last column for all classes, see `packed`; with `view.labels` also
        decided: of these. closest: the class
        closest to its threshold, -1 for none. top: the teacher's top-1 class, -1 for none. changed, unsure, wrong, and in
        a comparison better and worse: keys to sort and filter by. boxes: see `boxes_of`.
    """
    columns = [values[row] for values in view.columns.values()]
    height, width = (int(side) for side in view.images.sizes[row])
    truth = None if view.truth is None else view.truth[row]
    before = None if view.before is None else view.before[row]
    closest = -1
    if view.closeness is not None and view.closeness[row].any():
        closest = int(view.closeness[row].argmax())
    listed = view.present[row].copy()
    if truth is not None:
        listed |= truth == 1
    if before is not None:
        listed |= before
    for values in columns:
        listed[np.argsort(-values, kind="stable")[:TOP_CLASSES]] = True
    if closest >= 0:
        listed[closest] = True
    decided = view.decided[row]
    labels = [
        [
            int(c),
            *(None if np.isnan(values[c]) else round(100 * float(values[c])) for values in columns),
            int(view.present[row, c]),
            None if truth is None else int(truth[c]),
            *([] if before is None else [int(before[c])]),
        ]
        for c in sorted(np.flatnonzero(listed), key=lambda c: -decided[c])
    ]
    content = {
        "id": view.images.image_ids[row],
        "split": split,
        "size": [width, height],
        "labels": labels,
        "scores": packed(np.nan_to_num(columns[-1]) if columns else decided),
        "closest": closest,
        "top": -1 if view.top1 is None else int(view.top1[row]),
        "changed": round(float(view.changed[row]), 3),
        "unsure": round(float(view.unsure[row]), 3),
        "wrong": int(view.wrong[row].sum()),
        "boxes": [] if view.boxes is None else boxes_of(view, row, width, height),
    }
    if view.labels is not None:
        content["decided"] = packed(decided)
    if before is not None:
        content["better"] = int((view.wrong_before[row] & ~view.wrong[row]).sum())
        content["worse"] = int((view.wrong[row] & ~view.wrong_before[row]).sum())
    return content


def packed(scores: np.ndarray) -> str:
    """Scores [C] in [0, 1] as base64 of uint16 little-endian, 65535 for 1."""
    return base64.b64encode(np.rint(65535 * scores.clip(0, 1)).astype("<u2").tobytes()).decode()


def boxes_of(view: SplitView, row: int, width: int, height: int) -> list[list[Any]]:
    """The boxes of one image: [class or -1, x1, y1, x2, y2 in thousandths, [[class, per cent], ...], CAM].

    The pairs are the three most probable classes of the crop, empty if it was not scored. The CAM is base64 of its bytes;
    without CAMs it is left out.
    """
    boxes, crops = view.boxes, view.crops
    assert boxes is not None
    start, stop = np.searchsorted(boxes.image_index, [row, row + 1])
    scaled = np.rint(boxes.box[start:stop] / [width, height, width, height] * BOX_SCALE).astype(int)
    rows = []
    for m, corners in zip(range(start, stop), scaled.tolist(), strict=True):
        probabilities = crops.probabilities[view.crop_rows[m]] if crops and view.crop_rows[m] >= 0 else np.zeros(0)
        top = np.argsort(-probabilities, kind="stable")[:3]
        scores = [[int(c), round(100 * float(probabilities[c]))] for c in top]
        cam = [] if boxes.cam is None else [base64.b64encode(boxes.cam[m].tobytes()).decode()]
        rows.append([int(boxes.class_index[m]), *corners, scores, *cam])
    return rows
