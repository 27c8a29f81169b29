"""The artifacts of a run to the charts and tables of its page, as plain values for JSON.

Shares and scores are in [0, 1]; None stands for unknown values.
"""

import json
from typing import Any, cast

import numpy as np
import pandas as pd

from pipeline.artifacts.state import MISSING, NOT_MADE, UP_TO_DATE
from pipeline.datasets.dataset import UNKNOWN
from pipeline.evaluation.box_quality import box_quality
from pipeline.evaluation.metrics import Difficult, apply_difficult, average_precision, precision_recall
from pipeline.evaluation.run_files import RunFiles
from pipeline.evaluation.tables import TEACHER, TEACHER_LOCAL, sources_of
from pipeline.method.extras.thresholds import PRESENT, best_f1_threshold, class_f1
from pipeline.runs.graph import MAKERS, run_argument
from pipeline.runs.timings import read_timings

CURVE_POINTS = 48
BINS = 20

SLIDER_POINTS = 120
"""Thresholds per class that the slider offers, in addition to its own and the one of highest F1."""

SOURCE_TITLES = {
    "warm-up classifier": "warm-up",
    "final classifier": "classifier",
    "final + teacher": "classifier + teacher",
}
"""Short titles of sources; the others keep their name."""


def content_of(run: RunFiles) -> dict[str, Any]:
    """The content of the page without verdict and gallery."""
    return {
        "run": run.folder.resolve().name,
        "argument": run_argument(run.folder),
        "dataset": run.manifest.dataset,
        "classes": run.manifest.class_names,
        "counts": {split: len(run.manifest.split(split).image_ids) for split in ("train", "test")},
        "skipped": list(run.manifest.skipped.values())[:50],
        "supervision": supervision(run),
        "cards": cards(run),
        "unknown": unknown(run),
        "stages": stages(run),
        "bias": bias(run),
        "table": class_table(run),
        "curves": curves(run),
        "sliders": sliders(run),
        "training": training(run),
        "distribution": distribution(run),
        "cooccurrence": cooccurrence(run),
        "files": files(run),
    }


def short(value: float | None, digits: int = 4) -> float | None:
    """A number rounded for the page; None for NaN."""
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def shorts(values: np.ndarray, digits: int = 4) -> list[float | None]:
    """An array [K] rounded for the page."""
    return [short(v, digits) for v in values]


def conventions(run: RunFiles) -> tuple[Difficult, bool]:
    """The conventions of the run's figures: treatment of difficult objects, and whether an empty class counts as 0."""
    used = (run.metrics or {}).get("conventions", {})
    return cast(Difficult, used.get("difficult", "ignore")), used.get("empty_class") == "zero"


def truth_of(run: RunFiles, image_ids: list[str]) -> np.ndarray | None:
    """Ground truth int8 [N, C] of these images by the run's convention; None if none of them is labelled.

    UNKNOWN marks pairs that do not count: ignored difficult objects, and unlabelled pairs.
    """
    if run.truth is None or not image_ids:
        return None
    places = run.truth.positions_of(image_ids)
    if not run.truth.labelled[places].any():
        return None
    return apply_difficult(run.truth.labels[places], conventions(run)[0])


def cards(run: RunFiles) -> list[dict[str, str]]:
    """The figures at the top of the page: title, value, note."""
    rows = []
    for stage in reversed(stages(run)):
        if stage["name"] in ("classifier", "final labels"):
            interval = "" if stage["low"] is None else f"95 %: {100 * stage['low']:.1f} to {100 * stage['high']:.1f}"
            note = f"{stage['split']} images" + (f", {interval}" if interval else "")
            rows.append({"title": f"mAP of the {stage['name']}", "value": f"{100 * stage['mAP']:.1f}", "note": note})
    gain = (run.metrics or {}).get("gain")
    if gain:
        low, high = gain.get("mAP_interval", (None, None))
        note = "" if low is None else f"mAP; 95 %: {100 * low:+.1f} to {100 * high:+.1f}"
        rows.append({"title": "gain over the teacher", "value": f"{100 * gain['mAP']:+.1f}", "note": note or "mAP"})
    counts = run.manifest.images["split"].value_counts()
    rows.append(
        {
            "title": "images",
            "value": f"{len(run.manifest.image_ids):,}",
            "note": f"{counts.get('train', 0):,} train, {counts.get('test', 0):,} test, {len(run.manifest.skipped)} skipped",
        }
    )
    labels = run.final or run.initial
    if labels is not None:
        each = labels.per_image
        note = f"mean number of labels of {PRESENT} or more; {(each == 0).mean():.0%} of the train images have none"
        rows.append({"title": "labels per image", "value": f"{each.mean():.2f}", "note": note})
    if run.final is not None and run.final.by_hand:
        number, unit = run.final.by_hand.split()
        rows.append({"title": "corrected by hand", "value": number, "note": unit})
    if run.boxes is not None:
        boxed = len(np.unique(run.boxes.image_index)) / max(len(run.boxes.image_ids), 1)
        rows.append({"title": "boxes", "value": f"{len(run.boxes.box):,}", "note": f"{boxed:.0%} of the train images"})
    quality = quality_of_boxes(run)
    if quality is not None:
        note = f"contain the centre of an object of their class; mean best IoU {quality['mean_best_iou']:.2f}"
        rows.append({"title": "boxes on target", "value": f"{quality['centre_share']:.0%}", "note": note})
    return rows


def supervision(run: RunFiles) -> str:
    """The human labels that the training used, as a phrase."""
    if any(provenance.uses_ground_truth for provenance in run.provenances.values()):
        return "ablation: some stages used ground truth"
    if run.final is not None and run.final.by_hand:
        return f"corrected by hand: {run.final.by_hand}"
    return "trained without human labels"


def unknown(run: RunFiles) -> list[str]:
    """Notes about missing or unusable figures."""
    notes = []
    if run.truth is None:
        notes.append(
            "Nothing is measured, because the run has no labelled photos. To measure it, label some test photos and run "
            f"`ccd all {run_argument(run.folder)} --test-images FOLDER --labels labels.csv`."
        )
    elif run.metrics is None:
        notes.append("There are no figures yet. Compute them with `ccd evaluate`.")
    notes += (run.metrics or {}).get("not_measured", [])
    used = [name for name, provenance in run.provenances.items() if provenance.uses_ground_truth]
    if used:
        notes.append(f"Ablation: {', '.join(used)} used ground truth, so these are not results without labels.")
    bad = {name: state for name, state in run.states.items() if state not in (UP_TO_DATE, MISSING, NOT_MADE)}
    notes += [f"Not shown: {state}" for state in dict.fromkeys(bad.values())]
    missing = [name for name, state in run.states.items() if state == MISSING]
    if missing:
        notes.append(f"Missing: {', '.join(missing)}. Create them with `ccd all {run_argument(run.folder)}`.")
    return notes


def stages(run: RunFiles) -> list[dict[str, Any]]:
    """The mAP after each stage with its interval, if there is one: labels first, then classifiers."""
    if run.metrics is None:
        return []
    rows = sources_of(run.metrics)
    order = [
        "initial labels",
        "final labels",
        "cross-fitted labels",
        TEACHER,
        TEACHER_LOCAL,
        "warm-up classifier",
        "learned head",
        "final classifier",
        "final + teacher",
    ]
    rows = sorted(rows, key=lambda row: order.index(row[1]))
    return [
        {
            "name": SOURCE_TITLES.get(name, name),
            "split": split,
            "mAP": short(figures["mAP"]),
            "low": short(figures.get("mAP_interval", [None])[0]),
            "high": short(figures.get("mAP_interval", [None])[-1]),
        }
        for split, name, figures in rows
    ]


def bias(run: RunFiles) -> dict[str, Any] | None:
    """The teacher's bias per class, with the number of images that it averages."""
    if run.embeddings is None:
        return None
    return {"values": shorts(run.embeddings.bias), "counts": run.embeddings.bias_counts.tolist()}


def quality_of_boxes(run: RunFiles) -> dict[str, float] | None:
    """The agreement of boxes and annotated objects; None without either."""
    if run.boxes is None or run.truth is None or not len(run.truth.object_box):
        return None
    return box_quality(run.boxes, run.truth)


MAIN_COLUMNS = ("class", "final labels", "ground truth", f"AP {TEACHER_LOCAL}", "AP classifier", "F1 classifier")
"""Columns of the class table that are always shown."""


def class_table(run: RunFiles) -> dict[str, Any]:
    """Columns (title, help, kind: text, count or share; whether always shown) and a row of values per class."""
    columns: list[tuple[str, str, str, list[Any]]] = [("class", "name of the class", "text", run.manifest.class_names)]
    train, test = run.manifest.split("train"), run.manifest.split("test")
    for name, labels in (("initial", run.initial), ("final", run.final)):
        if labels is not None:
            present = (labels.labels >= PRESENT).sum(0).tolist()
            columns.append(
                (f"{name} labels", f"train images whose {name} label is at least {PRESENT}", "count", present)
            )
    truth = truth_of(run, train.image_ids)
    if truth is not None:
        positives = (truth == 1).sum(0).tolist()
        columns.append(("ground truth", "train images with the class, by the ground truth", "count", positives))
    if run.metrics is not None:
        for split, name, figures in sources_of(run.metrics):
            title = SOURCE_TITLES.get(name, name)
            values = [short(figures["AP"][c]) for c in run.manifest.class_names]
            columns.append((f"AP {title}", f"average precision of the {title} on {split} images", "share", values))
    truth = truth_of(run, test.image_ids)
    if truth is not None and run.epoch_scores is not None:
        decisions = run.epoch_scores.chosen >= thresholds(run)
        f1 = shorts(class_f1(decisions, truth))
        columns.append(("F1 classifier", "F1 of the classifier at its thresholds on test images", "share", f1))
    if run.embeddings is not None:
        columns.append(
            (
                "bias",
                "teacher's mean score of the class on photos where it is sure of it",
                "share",
                shorts(run.embeddings.bias),
            )
        )
    return {
        "columns": [
            {"title": title, "help": text, "kind": kind, "main": title in MAIN_COLUMNS}
            for title, text, kind, _ in columns
        ],
        "rows": [list(row) for row in zip(*(values for *_, values in columns), strict=True)],
    }


def thresholds(run: RunFiles) -> np.ndarray:
    """The thresholds that `ccd predict` uses, float64 [C]."""
    return np.array(run.thresholds or [PRESENT] * len(run.manifest.class_names))


def curves(run: RunFiles) -> list[dict[str, Any]]:
    """Precision-recall curves of every class and their mean, for each source of scores."""
    rows = []
    empty_is_zero = conventions(run)[1]
    for name, split, scores in scored(run):
        truth = truth_of(run, run.manifest.split(split).image_ids)
        if truth is None or not len(truth):
            continue
        each = [precision_recall(scores[:, c], truth[:, c]) for c in range(truth.shape[1])]
        average = average_precision(scores, truth)
        rows.append(
            {
                "name": name,
                "split": split,
                "AP": shorts(average),
                "mAP": mean_of_classes(average, empty_is_zero),
                "classes": [thin_curve(*curve) for curve in each],
                "all": mean_curve(each, empty_is_zero),
            }
        )
    return rows


def mean_of_classes(values: np.ndarray, empty_is_zero: bool) -> float | None:
    """Mean of figures [C], NaN for a class without positives; None if no class has any."""
    counted = np.nan_to_num(values) if empty_is_zero else values[~np.isnan(values)]
    return short(counted.mean()) if len(counted) else None


def mean_curve(curves: list[tuple[np.ndarray, np.ndarray]], empty_is_zero: bool) -> list[list[float]]:
    """Mean over the classes of the precision at each recall; the area below it is the mAP.

    Between two points of a class its precision is that of the second, as in its average precision.
    """
    counted = [curve for curve in curves if len(curve[0])]
    if not counted:
        return []
    at = np.linspace(0, 1, 2 * CURVE_POINTS + 1)[1:] - 1 / (4 * CURVE_POINTS)  # the middles of equal steps
    rows = [precision[np.searchsorted(recall, at)] for recall, precision in counted]
    total = np.sum(rows, axis=0) / (len(curves) if empty_is_zero else len(counted))
    return [[round(float(x), 3), round(float(y), 3)] for x, y in zip(at, total, strict=True)]


def sliders(run: RunFiles) -> dict[str, Any] | None:
    """The predictions of the classifier at other thresholds, as of `classifier_scores`.

    Returns:
        split: of the images. own: present thresholds [C]. best: thresholds of highest F1 [C], None without ground truth.
        positives: images with each class [C], None without. points: see `slider_points`, by class.
    """
    if (classifier := classifier_scores(run)) is None:
        return None
    split, scores = classifier
    own = thresholds(run)
    truth = truth_of(run, run.manifest.split(split).image_ids)
    best = [None] * len(own)
    if truth is not None:
        best = shorts(np.array([best_f1_threshold(scores[:, c], truth[:, c]) for c in range(len(own))]), 6)
    return {
        "split": split,
        "own": shorts(own, 6),
        "best": best,
        "positives": None if truth is None else (truth == 1).sum(0).tolist(),
        "points": [
            slider_points(scores[:, c], None if truth is None else truth[:, c], [own[c], best[c]])
            for c in range(len(own))
        ],
    }


def slider_points(scores: np.ndarray, truth: np.ndarray | None, always: list[float | None]) -> list[list[float]]:
    """[threshold, predicted, right, wrong] images of one class, by rising threshold, dense where few images are predicted.

    Args:
        scores: float [N].
        truth: int8 [N], -1 for not counted; None: right and wrong are 0.
        always: thresholds to include.
    """
    descending = np.append(np.sort(scores)[::-1], 0)
    calls = np.unique(np.geomspace(1, max(len(scores), 1), SLIDER_POINTS).round().astype(int))
    cuts = [(descending[k - 1] + descending[k]) / 2 for k in calls] if len(scores) else []
    points = []
    for cut in sorted({round(float(cut), 6) for cut in [*cuts, *always, 1.0] if cut is not None}):
        predicted = scores >= cut
        right, wrong = (0, 0) if truth is None else ((predicted & (truth == value)).sum() for value in (1, 0))
        points.append([cut, int(predicted.sum()), int(right), int(wrong)])
    return points


def classifier_scores(run: RunFiles) -> tuple[str, np.ndarray] | None:
    """Split and scores [N, C] of the classifier: of the test images, or of the train images if there are no test images."""
    if run.epoch_scores is None:
        return None
    return ("test", run.epoch_scores.chosen) if len(run.epoch_scores.image_ids) else ("train", run.epoch_scores.train)


def scored(run: RunFiles) -> list[tuple[str, str, np.ndarray]]:
    """Name, split and scores [N, C] of every source that ranks images."""
    sources = []
    if run.embeddings is not None and not run.embeddings.is_train.all():
        sources.append((TEACHER, "test", run.embeddings.probabilities[~run.embeddings.is_train]))
    if run.epoch_scores is not None and len(run.epoch_scores.image_ids):
        sources.append(("classifier", "test", run.epoch_scores.chosen))
    for name, labels in (("initial labels", run.initial), ("final labels", run.final)):
        if labels is not None:
            sources.append((name, "train", labels.scores))
    return sources


def thin_curve(recall: np.ndarray, precision: np.ndarray) -> list[list[float]]:
    """At most CURVE_POINTS pairs of recall and precision, evenly spaced in recall; empty for an empty curve."""
    if not len(recall):
        return []
    at = np.linspace(recall[0], 1, CURVE_POINTS)
    rows = np.unique(np.searchsorted(recall, at - 1e-9).clip(max=len(recall) - 1))
    return [[round(float(recall[i]), 3), round(float(precision[i]), 3)] for i in rows]


def training(run: RunFiles) -> dict[str, Any] | None:
    """Curves over the epochs, warm-up first, with the chosen epoch and the best one on test images."""
    if run.warmup_epochs is None and run.train_epochs is None:
        return None
    rows = []
    for stage, history in (("warm-up", run.warmup_epochs), ("train", run.train_epochs)):
        rows += [] if history is None else [epoch_row(stage, row) for _, row in history.iterrows()]
    epochs = (run.metrics or {}).get("epochs")
    return {
        "rows": rows,
        "warmup": 0 if run.warmup_epochs is None else len(run.warmup_epochs),
        "chosen": None if run.epoch_scores is None else run.epoch_scores.chosen_epoch,
        "best": epochs and epochs["oracle_epoch"],
        "test": epochs and shorts(epochs["mAP_by_epoch"]),
    }


def epoch_row(stage: str, row: pd.Series) -> dict[str, Any]:
    """One epoch of the training curves."""
    return {
        "stage": stage,
        "epoch": int(row["epoch"]),
        "loss": short(row["loss"]),
        "label_map": short(row["pseudo_label_mAP"]),
    }


def distribution(run: RunFiles) -> dict[str, Any] | None:
    """Histograms of the labels, and of the number of classes per image, before and after fusion."""
    labels_of = {
        name: labels for name, labels in (("initial", run.initial), ("final", run.final)) if labels is not None
    }
    if not labels_of:
        return None
    most = max(int(labels.per_image.max(initial=0)) for labels in labels_of.values())
    per_image = {name: np.bincount(labels.per_image, minlength=most + 1).tolist() for name, labels in labels_of.items()}
    ids = run.manifest.split("train").image_ids
    truth = truth_of(run, ids)
    if truth is not None and run.truth is not None:
        complete = (run.truth.rows_of(ids) != UNKNOWN).all(1)  # other images may have unlabelled classes
        per_image["ground truth"] = np.bincount((truth == 1).sum(1)[complete], minlength=most + 1).tolist()
    return {
        "labels": {
            name: np.histogram(labels.labels, bins=BINS, range=(0, 1))[0].tolist() for name, labels in labels_of.items()
        },
        "per_image": per_image,
    }


def cooccurrence(run: RunFiles) -> list[dict[str, Any]]:
    """Share of the images with the row's class that also have the column's, for labels and ground truth."""
    sources = []
    labels = run.final or run.initial
    if labels is not None:
        present = labels.labels >= PRESENT
        sources.append(("final labels" if run.final else "initial labels", present, np.ones_like(present)))
    truth = None if labels is None else truth_of(run, labels.image_ids)
    if truth is not None:
        sources.append(("ground truth", truth == 1, truth >= 0))
    return [
        {
            "name": name,
            "shares": [shorts(row, 3) for row in conditional(present, known)],
            "counts": present.sum(0).tolist(),
        }
        for name, present, known in sources
    ]


def conditional(present: np.ndarray, known: np.ndarray) -> np.ndarray:
    """P(column | row) over the images whose column is known, float64 [C, C]; 0 without such images. Arguments: bool [N, C]."""
    rows = present.T.astype(np.float64)
    return (rows @ present) / np.maximum(rows @ known, 1)


def files(run: RunFiles) -> list[dict[str, Any]]:
    """One row per artifact with its command, state and options."""
    rows = []
    timings = read_timings(run.folder)
    for name, command in MAKERS.items():
        provenance = run.provenances.get(name)
        config = {} if provenance is None else provenance.config
        rows.append(
            {
                "file": name,
                "command": f"ccd {command}",
                "seconds": timings[command].seconds if command in timings else None,
                "state": run.states[name],
                "fingerprint": provenance and provenance.fingerprint,
                "seed": provenance and provenance.seed,
                "config": ", ".join(f"{key} = {json.dumps(value)}" for key, value in config.items() if key != "seed"),
            }
        )
    return rows
