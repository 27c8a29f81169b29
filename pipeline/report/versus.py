"""Two runs to one HTML page with their differences: figures, classes, options, and the photos that changed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.intervals import scores_gain_interval
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.run_files import RunFiles, read_run
from pipeline.method.extras.thresholds import PRESENT
from pipeline.report.compare import option_differences, shared_images
from pipeline.report.content import conventions, mean_of_classes, shorts, stages, thresholds, truth_of
from pipeline.report.gallery import SplitView, entries_of
from pipeline.runs.options import ReportConfig
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_text
from pipeline.system.progress import log
from pipeline.web.page import build_facts, render


def run(first: Path, second: Path, config: ReportConfig) -> Path:
    """Write the page into the second run's folder, and return its path.

    Raises:
        PipelineError: a run has no manifest, or the runs have no image or no class in common.
    """
    pair = (read_run(first), read_run(second))
    names = titles(first, second)
    classes = [name for name in pair[0].manifest.class_names if name in pair[1].manifest.class_names]
    views = {split: shared_view(pair, names, classes, split) for split in ("train", "test")}
    counts = {split: len(view.images.image_ids) for split, view in views.items()}
    total = sum(counts.values())
    if not classes or not total:
        missing = "image" if classes else "class"
        raise PipelineError(
            f"{first} and {second} have no {missing} in common. Choose two finished runs of the same dataset."
        )
    has_truth = any(view.truth is not None for view in views.values())
    content = {
        "names": names,
        "classes": classes,
        "shared": counts,
        "sentence": sentence(pair, names, views["test"]),
        "stages": both_stages(pair, names),
        "table": class_table(names, classes, views),
        "options": [(*row[:2], *map(json.dumps, row[2:])) for row in option_differences(first, second)],
        "gallery": {
            "total": total,
            "columns": {split: list(view.columns) for split, view in views.items()},
            "cam_size": None,
            "fixed": True,
            "extra": {"better": ["Better", "better"], "worse": ["Worse", "worse"]} if has_truth else {},
            "entries": entries_of(views, second, config),
        },
        "build": build_facts(),
    }
    path = second / f"report-against-{first.resolve().name}.html"
    write_text(path, render("compare", content))
    log(f"{path}: {len(content['gallery']['entries'])} of {total} images that both runs have.")
    return path


def titles(first: Path, second: Path) -> list[str]:
    """The names of the runs on the page; with their parent folders if the names are equal."""
    names = [folder.resolve().name for folder in (first, second)]
    return names if names[0] != names[1] else ["/".join(f.resolve().parts[-2:]) for f in (first, second)]


def shared_view(pair: tuple[RunFiles, RunFiles], names: list[str], classes: list[str], split: str) -> SplitView:
    """The images of a split that both runs have; none if a run has no scores for the split."""
    scores = [scores_of(run, split) for run in pair]
    parts = [run.manifest.split(split) for run in pair]
    ids = shared_images(parts[1], parts[0]) if all(each is not None for each in scores) else []
    row_of = [{image_id: row for row, image_id in enumerate(part.image_ids)} for part in parts]
    rows = [[by_id[image_id] for image_id in ids] for by_id in row_of]
    columns = [[run.manifest.class_names.index(name) for name in classes] for run in pair]
    if ids:
        cells = [np.ix_(*each) for each in zip(rows, columns, strict=True)]
        labels, present = ([each[k][cell] for each, cell in zip(scores, cells, strict=True)] for k in (0, 1))
    else:
        empty = np.zeros((0, len(classes)))
        labels, present = [empty, empty], [empty > 0, empty > 0]
    truth = truth_of(pair[1], ids)
    flips = present[0] != present[1]
    largest = np.abs(labels[1].astype(np.float64) - labels[0]).max(1, initial=0)
    return SplitView(
        images=replace(parts[1], images=parts[1].images.iloc[rows[1]].reset_index(drop=True)),
        columns=dict(zip(names, labels, strict=True)),
        before=present[0],
        present=present[1],
        truth=None if truth is None else truth[:, columns[1]],
        changed=flips.sum(1) + largest * flips.any(1),
    )


def scores_of(run: RunFiles, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores and decisions [N, C]: of the classifier on test images, of the labels on train images; None without."""
    if split == "test":
        if run.epoch_scores is None:
            return None
        return run.epoch_scores.chosen, run.epoch_scores.chosen >= thresholds(run)
    labels = run.final or run.initial
    return None if labels is None else (labels.labels, labels.labels >= PRESENT)


def sentence(pair: tuple[RunFiles, RunFiles], names: list[str], test: SplitView) -> str:
    """Which classifier is better on the shared test images."""
    truth = test.truth
    if truth is None or not len(truth):
        return f"{names[1]} cannot be compared with {names[0]} without labelled test photos that both runs have."
    scores = [test.columns[name] for name in names]
    empty_is_zero = conventions(pair[1])[1]
    means = [mean_of_classes(average_precision(each, truth), empty_is_zero) for each in scores]
    if None in means:
        return f"{names[1]} cannot be compared with {names[0]}: no shared test photo shows any class."
    photos = f"on {int((truth >= 0).any(1).sum()):,} test photos"
    if np.array_equal(*scores):
        return f"{names[1]} is as good as {names[0]}: its scores are the same {photos}."
    empty_class = "zero" if empty_is_zero else "skip"
    interval = scores_gain_interval([scores[0]], [scores[1]], truth, empty_class=empty_class)
    gain = f"{100 * (means[1] - means[0]):+.1f} mAP"
    if interval.low is None:
        return f"{names[1]} against {names[0]}: {gain} {photos}. This may be chance: {interval.why_none}."
    low, high = interval.low, interval.high
    relation = "better than" if low > 0 else "worse than" if high < 0 else "not measurably different from"
    return f"{names[1]} is {relation} {names[0]}: {gain}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} {photos}."


def both_stages(pair: tuple[RunFiles, RunFiles], names: list[str]) -> list[dict[str, Any]]:
    """The stages of both runs, each stage of the first run above the same stage of the second."""
    by_title = [{stage["name"]: stage for stage in stages(run)} for run in pair]
    rows = []
    for title in by_title[1] | by_title[0]:
        for name, of_run, colour in zip(names, by_title, ("var(--teacher)", "var(--classifier)"), strict=True):
            if title in of_run:
                rows.append(of_run[title] | {"split": f"{name}, {of_run[title]['split']}", "colour": colour})
    return rows


def class_table(names: list[str], classes: list[str], views: dict[str, SplitView]) -> dict[str, Any]:
    """Columns (title, help, kind) and a row of values per class, as of `content.class_table`."""
    before, after = views["train"].before, views["train"].present
    columns: list[tuple[str, str, str, list[Any]]] = [("class", "name of the class", "text", classes)]
    if len(after):
        for title, text, cells in (
            (f"labels {names[0]}", f"train photos with the label in {names[0]}", before),
            (f"labels {names[1]}", f"train photos with the label in {names[1]}", after),
            ("lost", f"train photos with the label in {names[0]} only", before & ~after),
            ("gained", f"train photos with the label in {names[1]} only", after & ~before),
        ):
            columns.append((title, text, "count", cells.sum(0).tolist()))
    truth = views["test"].truth
    if truth is not None and len(truth):
        both = [average_precision(views["test"].columns[name], truth) for name in names]
        for name, values in zip(names, both, strict=True):
            columns.append((f"AP {name}", f"average precision of the classifier of {name}", "share", shorts(values)))
        columns.append(("difference", f"AP of {names[1]} minus AP of {names[0]}", "signed", shorts(both[1] - both[0])))
    return {
        "columns": [{"title": title, "help": text, "kind": kind} for title, text, kind, _ in columns],
        "rows": [list(row) for row in zip(*(values for *_, values in columns), strict=True)],
    }
