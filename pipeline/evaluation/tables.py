"""Figures of a run as tables for the terminal."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.labels import corrected_count
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import read_provenance
from pipeline.runs.partial_results import digest_of
from pipeline.system.files import write_json
from pipeline.system.progress import PlainTable, log, show

TEACHER, TEACHER_LOCAL = "teacher, whole photos", "teacher, photos and parts"
"""Names of the teacher's scores: of whole photos alone, and with its local evidence (cells or tiles)."""


def teacher_of(names: Container[str]) -> str:
    """Name of the teacher's best scores, which the gain is measured against; "" if there are none."""
    return next((name for name in (TEACHER_LOCAL, TEACHER) if name in names), "")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The figures of `metrics.json`.

    Raises:
        PipelineError: missing, damaged, or edited since it was written.
    """
    path = folder / "metrics.json"
    read_provenance(path)
    with reporting_damage(path):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if metrics.pop("digest") != digest_of(metrics):
            raise ValueError("its content does not match its digest")
        return metrics


def write_metrics(folder: Path, origin: Provenance, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, with a digest of its content."""
    content = {"attributes": origin.to_attributes(), **metrics}
    write_json(folder / "metrics.json", content | {"digest": digest_of(content)})


def show_metrics(folder: Path, *, headline: bool = True) -> None:
    """Print `metrics.json`: AP by class, the figures of the run, remarks and, as a `headline`, the gain over the teacher."""
    metrics = read_metrics(folder)
    if sources_of(metrics):
        show(class_table(metrics))
        show(summary_table(metrics))
    for sentence in metrics["not_measured"]:
        log(sentence)
    final = metrics.get("labels", {}).get("final", {})
    if by_hand := corrected_count(final.get("corrected_images", 0)):
        log(f"Corrected by hand: {by_hand}. The classifier was trained with these human labels.")
    if "epochs" in metrics:
        epochs = metrics["epochs"]
        log(
            f"The classifier is that of epoch {epochs['chosen_epoch']} (`train.checkpoint_selection`): "
            f"mAP {100 * epochs['chosen_mAP']:.1f}. The best epoch by ground truth is {epochs['oracle_epoch']} "
            f"({100 * epochs['oracle_mAP']:.1f})."
        )
    if headline and "gain" in metrics:
        log(gain_sentence(metrics["gain"]))
    if "gain_with_teacher" in metrics:
        log(both_sentence(metrics["gain_with_teacher"]))


def gain_sentence(gain: dict[str, Any]) -> str:
    """The final classifier against its teacher, in one sentence."""
    figure = f"{100 * gain['mAP']:+.1f} mAP"
    if "mAP_interval" not in gain:
        return f"Gain over the teacher: {figure}. This may be chance: {gain.get('no_interval', 'it has no interval')}."
    low, high = gain["mAP_interval"]
    text = f"{figure}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    comparison = "better" if low > 0 else "worse" if high < 0 else "not measurably better"
    return f"The classifier is {comparison} than its teacher: {text}."


def both_sentence(gain: dict[str, Any]) -> str:
    """The classifier with its teacher against the classifier alone, in one sentence."""
    low, high = gain.get("mAP_interval", (None, None))
    interval = "" if low is None else f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    return f"Both (`ccd predict --with-teacher`) against the classifier alone: {100 * gain['mAP']:+.1f} mAP{interval}."


def sources_of(metrics: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Split, name and figures of each measured set of scores or labels."""
    rows = [("test", name, figures) for name, figures in metrics.get("test", {}).items()]
    return rows + [("train", f"{name} labels", figures) for name, figures in metrics.get("labels", {}).items()]


def summary_table(metrics: dict[str, Any]) -> PlainTable:
    """One row per classifier and set of labels, with decisions at a score of 0.5."""
    conventions = metrics["conventions"]
    table = PlainTable(
        title=f"difficult: {conventions['difficult']}; a class without positives: {conventions['empty_class']}"
    )
    for name in ("", "mAP", "95 % interval", "CF1", "OF1", "sample\nF1", "images"):
        table.add_column(name, justify="right" if name else "left", min_width=None if name else 12)
    for split, name, figures in sources_of(metrics):
        low, high = figures.get("mAP_interval", (None, None))
        interval = "" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
        decisions = ("CF1", "OF1", "sample_F1")
        values = [f"{100 * figures[key]:.1f}" if key in figures else "-" for key in ("mAP", *decisions)]
        table.add_row(name, values[0], interval, *values[1:], f"{figures['images']} {split}")
    return table


def class_table(metrics: dict[str, Any]) -> PlainTable:
    """AP of every class of the teacher, the classifier and the labels; `metrics.json` also has the other scores."""
    sources = {name: (split, figures["AP"]) for split, name, figures in sources_of(metrics)}
    teacher = teacher_of(sources)
    columns = {
        teacher: "teacher",
        "final classifier": "classifier",
        "initial labels": "initial\nlabels",
        "final labels": "final\nlabels",
    }
    shown = {title: sources[name] for name, title in columns.items() if name in sources}
    table = PlainTable(title=f"AP by class ({teacher})" if teacher else "AP by class")
    table.add_column("class")
    for title, (split, _) in shown.items():
        table.add_column(f"{title}\n({split})", justify="right")
    for class_name in next(iter(shown.values()))[1]:
        values = [precisions.get(class_name) for _, precisions in shown.values()]
        table.add_row(class_name, *("-" if v is None else f"{100 * v:.1f}" for v in values))
    return table
