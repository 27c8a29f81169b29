"""Any artifact to tables that a person can read."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.artifacts import (
    MAKERS,
    OPTIONAL,
    Artifact,
    Boxes,
    Checkpoint,
    CropScores,
    Embeddings,
    EpochScores,
    GroundTruth,
    Labels,
    Manifest,
    Provenance,
    check_current,
    read,
    read_checkpoint,
    read_manifest,
    read_provenance,
)
from pipeline.errors import PipelineError
from pipeline.progress import show
from pipeline.tables import show_metrics


def run(path: Path, image: str = "") -> None:
    """Print what an artifact, or every artifact of a run folder, holds.

    Args:
        path: an artifact or a run folder.
        image: id of an image to show as well; empty for none.

    Raises:
        PipelineError: the file is missing, damaged or none of ours, or has no such image.
    """
    if path.is_dir():
        show(run_table(path))
        if image:
            found = [name for name in MAKERS if name.endswith(".h5") and (path / name).exists()]
            show_image({name: read(path / name) for name in found}, image)
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
        if image:
            show_image({path.name: artifact}, image)
        return
    content = read_checkpoint(path) if path.suffix == ".pt" else read_manifest(path.parent)
    show(origin_table(path, content.provenance))
    show(checkpoint_table(content) if isinstance(content, Checkpoint) else manifest_table(content))


def run_table(folder: Path) -> Table:
    """Every artifact of a run: there or not, current or stale."""
    table = Table("file", "command", "state", "fingerprint", title=str(folder))
    for name, (command, _) in MAKERS.items():
        path = folder / name
        if not path.exists() and not path.with_suffix(".json").exists():
            table.add_row(name, command, "none" if name in OPTIONAL else "missing", "")
            continue
        try:
            table.add_row(name, command, "current", check_current(path).fingerprint)
        except PipelineError as error:
            table.add_row(name, command, str(error), "")
    return table


def origin_table(path: Path, provenance: Provenance) -> Table:
    """Where an artifact came from."""
    table = Table("", "", title=str(path), show_header=False)
    table.add_row("schema", f"{provenance.schema} version {provenance.version}")
    table.add_row("fingerprint", provenance.fingerprint)
    table.add_row("made by", f"ccd {MAKERS[path.name][0]}" if path.name in MAKERS else "unknown")
    table.add_row("inputs", "\n".join(f"{name}  {value}" for name, value in provenance.inputs.items()) or "none")
    table.add_row("config", "\n".join(f"{name} = {json.dumps(value)}" for name, value in provenance.config.items()))
    if provenance.uses_ground_truth:
        table.add_row("ground truth", "USED: this artifact is for studies and no result without labels")
    return table


def array_table(artifact: Artifact) -> Table:
    """Datasets of an artifact with shape and range."""
    counts = f"{len(artifact.image_ids)} images, {len(artifact.class_names)} classes"
    table = Table("dataset", "dtype", "shape", "min", "mean", "max", title=counts)
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


def class_table(artifact: Artifact) -> Table:
    """What an artifact says of each class."""
    columns = class_columns(artifact)
    table = Table(title="classes")
    table.add_column("class")
    for name in columns:
        table.add_column(name, justify="right")
    for c, class_name in enumerate(artifact.class_names):
        table.add_row(class_name, *(format_number(values[c]) for values in columns.values()))
    return table


def class_columns(artifact: Artifact) -> dict[str, np.ndarray]:
    """Column title to values [C]."""
    class_count = len(artifact.class_names)
    match artifact:
        case Embeddings():
            top = np.bincount(artifact.probabilities[artifact.is_train].argmax(1), minlength=class_count)
            return {
                "bias": artifact.bias,
                "confident images on top": artifact.bias_counts,
                "train images on top": top,
                "mean probability": artifact.probabilities.mean(0),
            }
        case Labels():
            return {
                "label mean": artifact.labels.mean(0),
                "positives (>= 0.5)": (artifact.labels >= 0.5).sum(0),
                "clamped (> 1)": (artifact.scores > 1).sum(0),
                "largest score": artifact.scores.max(0),
            }
        case Boxes():
            known = artifact.class_index[artifact.class_index >= 0]
            return {"boxes": np.bincount(known, minlength=class_count)}
        case CropScores():
            top = (
                np.bincount(artifact.probabilities.argmax(1), minlength=class_count)
                if len(artifact.probabilities)
                else None
            )
            return {
                "crops on top": np.zeros(class_count, int) if top is None else top,
                "mean local": artifact.local.mean(0),
            }
        case GroundTruth():
            return {
                "positives": (artifact.labels == 1).sum(0),
                "difficult": (artifact.labels == -1).sum(0),
                "objects": np.bincount(artifact.object_class_index, minlength=class_count),
            }
        case EpochScores():
            return {f"mean score, epoch {e + 1}": scores.mean(0) for e, scores in enumerate(artifact.scores)}
    raise TypeError(type(artifact).__name__)


def checkpoint_table(checkpoint: Checkpoint) -> Table:
    """Architecture and weights of a checkpoint."""
    table = Table("", "", show_header=False)
    for name, value in {**checkpoint.architecture, "image_size": checkpoint.image_size}.items():
        table.add_row(name, str(value))
    table.add_row(
        "weights",
        f"{sum(w.numel() for w in checkpoint.weights.values()):,} numbers in {len(checkpoint.weights)} tensors",
    )
    table.add_row("trained on", f"{len(checkpoint.image_ids)} images, {checkpoint.training['steps']} steps")
    table.add_row(
        "thresholds",
        ", ".join(f"{n} {t:.3f}" for n, t in zip(checkpoint.class_names, checkpoint.thresholds, strict=True)),
    )
    return table


def manifest_table(manifest: Manifest) -> Table:
    """Counts of a manifest, its classes, and what was skipped."""
    table = Table("", "", show_header=False)
    for split, count in manifest.images["split"].value_counts().items():
        table.add_row(f"{split} images", str(count))
    table.add_row("classes", "\n".join(f"{name}: {', '.join(words)}" for name, words in manifest.display_names.items()))
    table.add_row("skipped", "\n".join(manifest.skipped.values()) or "none")
    return table


def show_image(artifacts: dict[str, Artifact], image_id: str) -> None:
    """Print what the artifacts say of one image: a row a class, then its boxes and crops."""
    holding = {name: a for name, a in artifacts.items() if image_id in a.image_ids}
    if not holding:
        known = [i for a in artifacts.values() for i in a.image_ids]
        near = difflib.get_close_matches(image_id, known, n=3) or known[:3]
        raise PipelineError(
            f"no image {image_id!r} in {', '.join(artifacts)}; there are for example {', '.join(near)}."
        )
    columns: dict[str, Sequence[Any]] = {}
    for name, artifact in holding.items():
        row = artifact.image_ids.index(image_id)
        columns |= {
            f"{name.removesuffix('.h5')}\n{title}": values for title, values in image_columns(artifact, row).items()
        }
    if columns:
        table = Table(title=image_id)
        table.add_column("class")
        for title in columns:
            table.add_column(title, justify="right")
        for c, class_name in enumerate(next(iter(holding.values())).class_names):
            table.add_row(class_name, *(format_number(values[c]) for values in columns.values()))
        show(table)
    for artifact in holding.values():
        if isinstance(artifact, Boxes | CropScores):
            show(box_table(artifact, artifact.image_ids.index(image_id)))


def image_columns(artifact: Artifact, row: int) -> dict[str, np.ndarray]:
    """Column title to values [C] of one image."""
    match artifact:
        case Embeddings():
            return {f"probability (entropy {artifact.entropy[row]:.2f})": artifact.probabilities[row]}
        case Labels():
            return {"score": artifact.scores[row], "label": artifact.labels[row]}
        case CropScores():
            return {f"local ({artifact.crop_counts[row]} crops)": artifact.local[row]}
        case GroundTruth():
            return {"truth": artifact.labels[row]}
        case EpochScores():
            return {"score": artifact.scores[artifact.chosen_epoch - 1, row]}
    return {}


def box_table(artifact: Boxes | CropScores, row: int) -> Table:
    """Boxes of one image, or what the teacher says of each of its crops."""
    names = np.array([*artifact.class_names, "-"], dtype=object)
    here = np.flatnonzero(artifact.image_index == row)
    if isinstance(artifact, Boxes):
        table = Table("box", "class", "x1, y1, x2, y2 (pixels)", "CAM peak", title="boxes")
        for m in here:
            corners = ", ".join(f"{v:.0f}" for v in artifact.box[m])
            table.add_row(str(m), names[artifact.class_index[m]], corners, format_number(artifact.cam_peak[m]))
        return table
    table = Table("crop", "most probable classes", title="crops")
    for m in here:
        top = np.argsort(-artifact.probabilities[m])[:3]
        table.add_row(str(m), ", ".join(f"{names[c]} {artifact.probabilities[m, c]:.2f}" for c in top))
    return table


def format_number(value: float | int) -> str:
    """Integers whole, everything else to three decimals."""
    return f"{value:d}" if isinstance(value, np.integer | int) else f"{value:.3f}"
