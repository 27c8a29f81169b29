"""Artifacts to printed tables."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.boxes import Boxes, CropScores
from pipeline.artifacts.checkpoints import CheckpointHeader, read_header
from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.photo_facts import check_photos
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import Artifact
from pipeline.artifacts.state import (
    MISSING,
    NOT_MADE,
    UP_TO_DATE,
    FileState,
    file_state,
    file_states,
    next_stage,
    read_provenance,
    up_to_date,
)
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.evaluation.box_quality import box_quality
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.read import read
from pipeline.evaluation.run_files import read_run
from pipeline.evaluation.tables import show_metrics
from pipeline.exchange.label_sets import LabelSet, read_label_set
from pipeline.method.extras.thresholds import PRESENT
from pipeline.report.compare import compare, option_differences
from pipeline.report.verdict import sentence
from pipeline.runs.folders import known_runs
from pipeline.runs.graph import HISTORIES, MAKERS, run_argument
from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import replacing
from pipeline.system.progress import PlainTable, log, show
from pipeline.system.text import as_listed, nfc

TRUTH_WORDS = {1: "present", 0: "absent", UNKNOWN: "not labelled", DIFFICULT: "only difficult"}
"""Values of ground truth in words."""

EXAMPLES = 10
"""Images per list."""

PLAIN_STATES = (UP_TO_DATE, MISSING, NOT_MADE)
"""States of a file that need no explanation."""

UNUSED = ("embeddings.h5", "boxes.h5", "crop_scores.h5", "epoch_scores.h5")
"""Large files that the result of a run does not need."""


def run(path: Path, image: str = "") -> None:
    """Print the content of an artifact, or the state of every artifact of a run folder.

    Args:
        path: an artifact or a run folder.
        image: id of an image to print as well; empty for none.

    Raises:
        PipelineError: the file is missing, damaged or not of a run, or has no such image.
    """
    if path.is_dir():
        show_run(path, image)
        return
    if path.name in HISTORIES:
        show(history_table(path))
        return
    if path.name == "metrics.json":
        show(origin_table(path, read_provenance(path)))
        show_metrics(path.parent)
        return
    if path.suffix == ".h5":
        artifact = read(path)
        show(origin_table(path, artifact.provenance))
        show(array_table(artifact))
        show(class_table(artifact))
        if isinstance(artifact, Boxes) and (path.parent / "ground_truth.h5").exists():
            show_box_quality(artifact, read(path.parent / "ground_truth.h5"))
        if image:
            up_to_date(path)
            show_image({path.name: artifact}, image)
        return
    if path.suffix == ".pt":
        header = read_header(path)
        show(origin_table(path, header.provenance))
        show(checkpoint_table(header))
        return
    if path.name not in ("manifest.csv", "manifest.json"):
        raise PipelineError(f"{path} is not a file of a run. {hint(path.name, [*MAKERS, *HISTORIES])}")
    manifest = read_manifest(path.parent)
    show(origin_table(path, manifest.provenance))
    show(manifest_table(manifest))


def show_run(folder: Path, image: str) -> None:
    """Print the states of a run's files and, if `image` is given, the content of the readable ones about it."""
    if not any((folder / name).exists() for name in (*MAKERS, "run.toml")):
        raise PipelineError(f"{folder} has no file of a run. {hint(folder.name, known_runs())}")
    states = file_states(folder)
    show(run_table(folder, states))
    if not image:
        for line in closing_lines(folder, states):
            log(line)
        return
    check_photo(folder, read_manifest(folder), image)
    artifacts: dict[str, Artifact] = {}
    for name in MAKERS:
        if name.endswith(".h5") and (folder / name).exists():
            try:
                artifacts[name] = read(up_to_date(folder / name))
            except PipelineError as error:
                log(f"skipped: {error}")
    show_image(artifacts, image)


def check_photo(folder: Path, manifest: Manifest, image_id: str) -> None:
    """Raise PipelineError if the photo of an image is missing or has changed since `ccd prepare`."""
    one = manifest.images[manifest.images["image_id"] == as_listed(image_id, manifest.image_ids)].reset_index(drop=True)
    check_photos(folder, replace(manifest, images=one), remember=False)


def history_table(path: Path) -> PlainTable:
    """The epochs of a training, one row per epoch."""
    with reporting_damage(path), path.open(encoding="utf-8", newline="") as file:
        try:
            rows = list(csv.reader(file))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("its rows are not of equal length")
    table = PlainTable(*(name for name in rows[0]), title=str(path))
    for row in rows[1:]:
        table.add_row(*(value[:8] for value in row))
    return table


def run_class(path: Path, class_name: str) -> None:
    """Print the images with the highest label of a class, and those closest to the threshold.

    Args:
        path: a run folder, or a file of a run with labels.
        class_name: one of its classes.

    Raises:
        PipelineError: there are no labels, or no such class.
    """
    labels = read_label_set(path)
    class_name = nfc(class_name)
    if class_name not in labels.class_names:
        raise PipelineError(f"{labels.path} has no class {class_name!r}. {hint(class_name, labels.class_names)}")
    c = labels.class_names.index(class_name)
    truth = truth_of(labels)
    values = labels.labels[:, c]
    top = np.argsort(-values, kind="stable")[:EXAMPLES]
    uncertain = np.argsort(np.abs(values - PRESENT), kind="stable")[:EXAMPLES]
    show(example_table(f"{class_name}: top images", labels, top, c, truth))
    show(example_table(f"{class_name}: nearest to {PRESENT}", labels, uncertain, c, truth))


def run_compare(first: Path, second: Path) -> None:
    """Print the differences of two sets of labels and, for two run folders, of their options.

    Args:
        first: a run folder, or a file of a run with labels.
        second: the same.

    Raises:
        PipelineError: one has no labels, or they have no image or class in common.
    """
    comparison = compare(read_label_set(first), read_label_set(second))
    title = (
        f"{first} and {second}: {len(comparison.image_ids)} images, {len(comparison.class_names)} classes, "
        f"{comparison.agreement:.1%} of the decisions equal"
    )
    show(number_table(title, comparison.class_names, comparison.class_columns()))
    table = PlainTable("image", "class", "first", "second", title="labels that differ most")
    for row, c in comparison.most_changed(EXAMPLES):
        before, after = (values[row, c] for values in comparison.labels)
        table.add_row(comparison.image_ids[row], comparison.class_names[c], format_number(before), format_number(after))
    show(table)
    if first.is_dir() and second.is_dir():
        table = PlainTable("file", "option", "first", "second", title="options that differ")
        for name, option, *values in option_differences(first, second):
            table.add_row(name, option, *(json.dumps(value) for value in values))
        show(table)


def save_picture(folder: Path, image_id: str, out: Path) -> None:
    """Write a photo with its boxes and labels as a PNG.

    Args:
        folder: a run folder.
        image_id: one of its images.
        out: the file.

    Raises:
        PipelineError: there is no such image, or its file cannot be read.
    """
    from pipeline.photos.drawing import draw_boxes  # imports torch, which no other function here needs

    manifest = read_manifest(folder)
    image_id = as_listed(image_id, manifest.image_ids)
    if image_id not in manifest.image_ids:
        raise unknown_image(image_id, manifest.image_ids, [folder.name])
    check_photo(folder, manifest, image_id)
    names = manifest.class_names
    box, class_index = np.zeros((0, 4)), np.zeros(0, int)
    if (folder / "boxes.h5").exists():
        boxes: Boxes = read(up_to_date(folder / "boxes.h5"))
        here = np.array([boxes.image_ids[i] == image_id for i in boxes.image_index], dtype=bool)
        box, class_index = boxes.box[here], boxes.class_index[here]
    caption = []
    for name in ("initial_labels.h5", "final_labels.h5", "ground_truth.h5"):
        artifact = read(up_to_date(folder / name)) if (folder / name).exists() else None
        if artifact is not None and image_id in artifact.image_ids:
            values = artifact.labels[artifact.image_ids.index(image_id)]
            listed = [f"{names[c]} {values[c]:.2g}" for c in np.argsort(-values) if values[c] >= PRESENT]
            caption.append(f"{name.removesuffix('.h5').replace('_', ' ')}: {', '.join(listed) or 'none'}")
    path = Path(manifest.paths[manifest.image_ids.index(image_id)])
    picture = draw_boxes(path, box, class_index, names, caption)
    with replacing(out) as partial:
        picture.save(partial, "PNG")
    log(f"{out}: {image_id} with {len(box)} boxes.")


def run_table(folder: Path, states: Mapping[str, FileState]) -> PlainTable:
    """Every artifact of a run and its state."""
    table = PlainTable("file", "command", "state", "fingerprint", title=str(folder))
    for each in states.values():
        fingerprint = each.provenance.fingerprint if each.provenance else ""
        state = each.state if each.state in PLAIN_STATES else "out of date"
        table.add_row(each.name, each.command, state, fingerprint)
    return table


def closing_lines(folder: Path, states: Mapping[str, FileState]) -> list[str]:
    """Why files are out of date or unreadable, the result of the run, and the next command."""
    lines = [*dict.fromkeys(each.state for each in states.values() if each.state not in PLAIN_STATES)]
    argument = run_argument(folder)
    if states["classifier.pt"].state == UP_TO_DATE:
        run = read_run(folder, without=UNUSED)
        final = (run.metrics or {}).get("test", {}).get("final classifier")
        if final is not None:
            lines.append(f"mAP of the classifier on the test photos: {100 * final['mAP']:.1f}.")
        lines.append(sentence(run))
    if next_stage({name: each.state for name, each in states.items()}):
        return [*lines, f"Next: `ccd all {argument}` builds what is missing or out of date."]
    return [*lines, f"Next: `ccd report {argument}` shows the run on one page."]


def origin_table(path: Path, provenance: Provenance) -> PlainTable:
    """The provenance of an artifact."""
    table = PlainTable("", "", title=str(path), show_header=False)
    table.add_row("schema", f"{provenance.schema} version {provenance.version}")
    table.add_row("fingerprint", provenance.fingerprint)
    table.add_row("made by", f"ccd {MAKERS[path.name]}" if path.name in MAKERS else "unknown")
    if path.name in MAKERS:
        table.add_row("state", file_state(path).state)
    table.add_row("inputs", "\n".join(f"{name}  {value}" for name, value in provenance.inputs.items()) or "none")
    table.add_row("config", "\n".join(f"{name} = {json.dumps(value)}" for name, value in provenance.config.items()))
    if provenance.formulas:
        table.add_row("formulas", ", ".join(f"{name} {version}" for name, version in provenance.formulas.items()))
    if provenance.uses_ground_truth:
        table.add_row("ground truth", "USED, by an ablation or for the thresholds of a calibrated classifier")
    return table


def array_table(artifact: Artifact) -> PlainTable:
    """The datasets of an artifact with shape and range."""
    counts = f"{len(artifact.image_ids)} images, {len(artifact.class_names)} classes"
    table = PlainTable("dataset", "dtype", "shape", "min", "mean", "max", title=counts)
    for item in artifact.array_fields():
        value = getattr(artifact, item.name)
        if value is None:
            table.add_row(item.name, "", "absent", "", "", "")
            continue
        shape = ", ".join(
            f"{d} = {n}" if isinstance(d, str) else str(n)
            for d, n in zip(item.metadata["dims"], value.shape, strict=True)
        )
        numbers = value.astype(np.float64).ravel()
        numbers = numbers[~np.isnan(numbers)]
        spread = [f"{f(numbers):.4g}" for f in (np.min, np.mean, np.max)] if numbers.size else ["-"] * 3
        table.add_row(item.name, str(value.dtype), f"[{shape}]", *spread)
    return table


def class_table(artifact: Artifact) -> PlainTable:
    """The figures of an artifact per class."""
    return number_table("classes", artifact.class_names, class_columns(artifact))


def number_table(title: str, class_names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> PlainTable:
    """One row per class, one column of numbers per title."""
    table = PlainTable(title=title)
    table.add_column("class")
    for name in columns:
        table.add_column(name, justify="right")
    for c, class_name in enumerate(class_names):
        table.add_row(class_name, *(format_number(values[c]) for values in columns.values()))
    return table


def class_columns(artifact: Artifact) -> dict[str, np.ndarray]:
    """Column title to values [C]."""
    class_count = len(artifact.class_names)
    match artifact:
        case Embeddings():
            top1 = artifact.is_train & artifact.class_is_top1
            top = np.bincount(artifact.probabilities[top1].argmax(1), minlength=class_count)
            columns = {
                "bias": artifact.bias,
                "confident top-1 images": artifact.bias_counts,
                "top-1 train images": top,
                "mean probability": artifact.probabilities.mean(0),
            }
            if artifact.cell_scores is not None:
                columns["mean cell score"] = artifact.cell_scores.mean(0)
            return columns
        case Labels():
            return {
                "label mean": artifact.labels.mean(0),
                f"positives (>= {PRESENT})": (artifact.labels >= PRESENT).sum(0),
                "clamped (> 1)": (artifact.scores > 1).sum(0),
                "largest score": artifact.scores.max(0),
            }
        case Boxes():
            known = artifact.class_index[artifact.class_index >= 0]
            return {"boxes": np.bincount(known, minlength=class_count)}
        case CropScores():
            top = artifact.probabilities[artifact.class_is_top1].argmax(1)
            return {
                "top-1 crops": np.bincount(top, minlength=class_count),
                "crops of its boxes": np.bincount(
                    artifact.class_index[artifact.class_index >= 0], minlength=class_count
                ),
            }
        case Corrections():
            return {"corrected to 1": (artifact.labels == 1).sum(0), "corrected to 0": (artifact.labels == 0).sum(0)}
        case GroundTruth():
            return {
                "positives": (artifact.labels == 1).sum(0),
                "only difficult": (artifact.labels == DIFFICULT).sum(0),
                "not labelled": (artifact.labels == UNKNOWN).sum(0),
                "objects": np.bincount(artifact.object_class_index, minlength=class_count),
            }
        case EpochScores():
            pairs = zip(artifact.epochs, artifact.scores, strict=True)
            return {f"mean score, epoch {e}": scores.sum(0) / max(len(scores), 1) for e, scores in pairs}
    raise TypeError(type(artifact).__name__)


def checkpoint_table(header: CheckpointHeader) -> PlainTable:
    """Architecture and thresholds of a classifier file."""
    table = PlainTable("", "", show_header=False)
    for name, value in {**header.architecture, "image_size": header.image_size, "steps": header.steps}.items():
        table.add_row(name, str(value))
    pairs = zip(header.class_names, header.thresholds, strict=True)
    table.add_row("thresholds", ", ".join(f"{name} {threshold:.3f}" for name, threshold in pairs))
    return table


def manifest_table(manifest: Manifest) -> PlainTable:
    """Images per split, classes, and skipped images of a manifest."""
    table = PlainTable("", "", show_header=False)
    for split, count in manifest.images["split"].value_counts().items():
        table.add_row(f"{split} images", str(count))
    table.add_row("classes", "\n".join(f"{name}: {', '.join(words)}" for name, words in manifest.display_names.items()))
    table.add_row("skipped", "\n".join(manifest.skipped.values()) or "none")
    return table


def show_image(artifacts: dict[str, Artifact], image_id: str) -> None:
    """Print the content of the artifacts about one image: one row per class, then its boxes and crops."""
    image_id = as_listed(image_id, [each for artifact in artifacts.values() for each in artifact.image_ids])
    with_image = {name: a for name, a in artifacts.items() if image_id in a.image_ids}
    if not with_image:
        known = [i for a in artifacts.values() for i in a.image_ids]
        raise unknown_image(image_id, known, list(artifacts))
    columns: dict[str, Sequence[Any]] = {}
    for name, artifact in with_image.items():
        columns |= image_columns(name, artifact, artifact.image_ids.index(image_id), brief=len(artifacts) > 1)
    if np.array_equal(columns.get("cross-fitted label", ()), columns.get("final label", ())):
        columns.pop("cross-fitted label", None)
    if columns:
        show(number_table(image_id, next(iter(with_image.values())).class_names, columns))
    for artifact in with_image.values():
        if isinstance(artifact, Boxes | CropScores):
            show(box_table(artifact, artifact.image_ids.index(image_id)))


def unknown_image(image_id: str, known: list[str], where: list[str]) -> PipelineError:
    """The error for an unknown image; names the nearest ids."""
    return PipelineError(f"no image {image_id!r} in {', '.join(where)}. {hint(image_id, known)}")


def truth_of(labels: LabelSet) -> np.ndarray | None:
    """Ground truth int8 [N, C] of these images; None if the run has none."""
    path = labels.path.with_name("ground_truth.h5")
    return read(path).rows_of(labels.image_ids) if path.exists() else None


def example_table(title: str, labels: LabelSet, rows: np.ndarray, c: int, truth: np.ndarray | None) -> PlainTable:
    """Images with their label of one class and, if known, the ground truth."""
    table = PlainTable("image", "label", *(["truth"] if truth is not None else []), title=title)
    for row in rows:
        cells = [] if truth is None else [TRUTH_WORDS[int(truth[row, c])]]
        table.add_row(labels.image_ids[row], format_number(labels.labels[row, c]), *cells)
    return table


def show_box_quality(boxes: Boxes, truth: GroundTruth) -> None:
    """Print the agreement of the boxes with annotated objects, if there are any."""
    if not len(truth.object_box):
        return
    figures = box_quality(boxes, truth)
    table = PlainTable("", "", title="boxes against annotated objects", show_header=False)
    table.add_row("boxes with the centre of an object of their class", f"{figures['centre_share']:.1%}")
    table.add_row("mean best IoU with an object of their class", f"{figures['mean_best_iou']:.3f}")
    table.add_row("present classes with such a box", f"{figures['recall']:.1%}")
    show(table)


def image_columns(name: str, artifact: Artifact, row: int, brief: bool) -> dict[str, Sequence[Any]]:
    """Column title to values [C] of one image, from an artifact of this file name; `brief`: those that fit a terminal."""
    match artifact:
        case Embeddings():
            columns = {f"teacher, whole photo (entropy {artifact.entropy[row]:.2f})": artifact.probabilities[row]}
            if artifact.cell_scores is not None:
                columns["teacher, parts"] = artifact.cell_scores[row]
            if artifact.best_cell is not None and not brief:
                lines, places = np.divmod(artifact.best_cell[row].astype(int), artifact.grid_width)
                columns["row, column of best cell"] = [f"{y}, {x}" for y, x in zip(lines, places, strict=True)]
            return columns
        case Labels():
            kind = name.removesuffix("_labels.h5").replace("_", "-")
            scores = {} if brief else {f"{kind} score": artifact.scores[row]}
            return scores | {f"{kind} label": artifact.labels[row]}
        case CropScores():
            own = artifact.probabilities[artifact.image_index == row]
            return {f"largest of {len(own)} crops": own.max(0, initial=0)}
        case GroundTruth():
            return {"truth": [TRUTH_WORDS[int(value)] for value in artifact.labels[row]]}
        case Corrections():
            return {"corrected": artifact.labels[row]}
        case EpochScores():
            return {"classifier": artifact.chosen[row]}
    return {}


def box_table(artifact: Boxes | CropScores, row: int) -> PlainTable:
    """Boxes of one image, or the teacher's classes for its crops."""
    names = np.array([*artifact.class_names, "-"], dtype=object)
    here = np.flatnonzero(artifact.image_index == row)
    if isinstance(artifact, Boxes):
        table = PlainTable("box", "class", "x1, y1, x2, y2 (pixels)", "CAM peak", title="boxes")
        for m in here:
            corners = ", ".join(f"{v:.0f}" for v in artifact.box[m])
            table.add_row(str(m), names[artifact.class_index[m]], corners, format_number(artifact.cam_peak[m]))
        return table
    table = PlainTable("crop", "most probable classes", title="crops")
    for m in here:
        top = np.argsort(-artifact.probabilities[m])[:3]
        table.add_row(str(m), ", ".join(f"{names[c]} {artifact.probabilities[m, c]:.2f}" for c in top))
    return table


def format_number(value: float | int | str) -> str:
    """Integers without decimals, other numbers with three, strings unchanged."""
    if isinstance(value, str):
        return value
    return f"{value:d}" if isinstance(value, np.integer | int) else f"{value:.3f}"
