"""Two runs to one HTML page that shows how they differ: figures, classes, options, and the photos that changed."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.intervals import scores_gain_interval
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.run_files import RunFiles, read_run
from pipeline.method.extras.thresholds import PRESENT
from pipeline.report.compare import option_differences, shared_images
from pipeline.report.content import conventions, mean_of_classes, shorts, stages, thresholds, truth_of
from pipeline.report.gallery import entries_of
from pipeline.review.doubt import wrong
from pipeline.runs.options import ReportConfig
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_text
from pipeline.system.progress import log
from pipeline.web.page import build_facts, render


def run(first: Path, second: Path, config: ReportConfig) -> Path:
    """Write the page into the second run's folder, and return its path.

    Raises:
        PipelineError: one of them has no manifest, or they have no image or no class in common.
    """
    pair = (read_run(first), read_run(second))
    names = titles(first, second)
    classes = [name for name in pair[0].manifest.class_names if name in pair[1].manifest.class_names]
    views = {split: shared_view(pair, names, classes, split) for split in ("train", "test")}
    total = sum(len(view["ids"]) for view in views.values())
    if not classes or not total:
        what = "image" if classes else "class"
        raise PipelineError(f"{first} and {second} have no {what} in common, so there is nothing to compare.")
    content = {
        "names": names,
        "classes": classes,
        "shared": {split: len(view["ids"]) for split, view in views.items()},
        "sentence": sentence(pair, names, views["test"]),
        "stages": both_stages(pair, names),
        "table": class_table(pair, names, classes, views),
        "options": [(*row[:2], *map(json.dumps, row[2:])) for row in option_differences(first, second)],
        "gallery": {
            "total": total,
            "columns": {split: list(view["columns"]) for split, view in views.items()},
            "cam_size": None,
            "fixed": True,
            "extra": {"better": ["Better", "better"], "worse": ["Worse", "worse"]} if has_truth(views) else {},
            "entries": shown(views, second, config),
        },
        "build": build_facts(),
    }
    path = second / f"report-against-{first.resolve().name}.html"
    write_text(path, render("compare", content))
    log(f"{path}: {len(content['gallery']['entries'])} of {total} images that both runs have.")
    return path


def titles(first: Path, second: Path) -> list[str]:
    """What the runs are called on the page: their names, with the folder above where these are the same."""
    names = [folder.resolve().name for folder in (first, second)]
    return names if names[0] != names[1] else ["/".join(f.resolve().parts[-2:]) for f in (first, second)]


def has_truth(views: dict[str, dict[str, Any]]) -> bool:
    """Whether it can be said which change is for the better."""
    return any(view["truth"] is not None for view in views.values())


def shared_view(pair: tuple[RunFiles, RunFiles], names: list[str], classes: list[str], split: str) -> dict[str, Any]:
    """What both runs say of the images of a split that both have; in the form of `gallery.split_view`.

    Images that one of the runs says nothing of are left out.
    """
    said = [says(run, split) for run in pair]
    part = pair[1].manifest.split(split)
    rows = [{image_id: row for row, image_id in enumerate(run.manifest.split(split).image_ids)} for run in pair]
    both = shared_images(part, pair[0].manifest.split(split))
    ids = both if all(each is not None for each in said) else []
    empty = np.zeros((0, len(classes)))
    scores, present = [empty, empty], [empty > 0, empty > 0]
    if ids:
        cells = [
            np.ix_([row[i] for i in ids], [run.manifest.class_names.index(name) for name in classes])
            for run, row in zip(pair, rows, strict=True)
        ]
        scores = [each[0][cell] for each, cell in zip(said, cells, strict=True)]
        present = [each[1][cell] for each, cell in zip(said, cells, strict=True)]
    own = [rows[1][i] for i in ids]
    truth = truth_of(pair[1], ids)
    if truth is not None:
        truth = truth[:, [pair[1].manifest.class_names.index(name) for name in classes]]
    flips = present[0] != present[1]
    faults = [np.zeros(p.shape, bool) if truth is None else wrong(p, truth) for p in present]
    return {
        "ids": ids,
        "paths": [part.paths[row] for row in own],
        "digests": [part.digests[row] for row in own],
        "sizes": part.sizes[own],
        "columns": dict(zip(names, scores, strict=True)),
        "before": present[0],
        "present": present[1],
        "truth": truth,
        "changed": flips.sum(1) + np.abs(scores[1].astype(np.float64) - scores[0]).max(1, initial=0) * flips.any(1),
        "better": (faults[0] & ~faults[1]).sum(1),
        "worse": (faults[1] & ~faults[0]).sum(1),
        "doubt": np.zeros(flips.shape),
        "unsure": np.zeros(len(ids)),
        "top": np.full(len(ids), -1),
        "wrong": faults[1],
        "boxes": None,
        "crops": None,
    }


def says(run: RunFiles, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores and decisions [N, C] of the classifier on test images, of the labels on train images; None without."""
    if split == "test":
        if run.epoch_scores is None:
            return None
        return run.epoch_scores.chosen, run.epoch_scores.chosen >= thresholds(run)
    labels = run.final or run.initial
    return None if labels is None else (labels.labels, labels.labels >= PRESENT)


def shown(views: dict[str, dict[str, Any]], folder: Path, config: ReportConfig) -> list[dict[str, Any]]:
    """Entries of the gallery, with how many decisions are better and worse than before."""
    rows = {split: {image_id: row for row, image_id in enumerate(view["ids"])} for split, view in views.items()}
    entries = entries_of(views, folder, config.images, config.thumbnail, config.seed)
    for entry in entries:
        view, row = views[entry["split"]], rows[entry["split"]][entry["id"]]
        entry |= {key: int(view[key][row]) for key in ("better", "worse")}
    return entries


def sentence(pair: tuple[RunFiles, RunFiles], names: list[str], test: dict[str, Any]) -> str:
    """Which of the classifiers is better, over the test images that both have."""
    truth = test["truth"]
    if truth is None or not len(truth):
        return f"{names[1]} against {names[0]}: which is better cannot be said without labelled test photos of both."
    scores = [test["columns"][name] for name in names]
    empty_is_zero = conventions(pair[1])[1]
    means = [mean_of_classes(average_precision(each, truth), empty_is_zero) for each in scores]
    if None in means:
        return f"{names[1]} against {names[0]}: none of the shared test photos shows any class."
    over = f"over {int((truth >= 0).any(1).sum()):,} test photos"
    if np.array_equal(*scores):
        return f"{names[1]} is as good as {names[0]}: its scores are the same {over}."
    empty_class = "zero" if empty_is_zero else "skip"
    interval = scores_gain_interval([scores[0]], [scores[1]], truth, empty_class=empty_class)
    gain = f"{100 * (means[1] - means[0]):+.1f} mAP"
    if interval.low is None:
        return f"{names[1]} against {names[0]}: {gain} {over}. This may be chance: {interval.why_none}."
    low, high = interval.low, interval.high
    word = "better than" if low > 0 else "worse than" if high < 0 else "not measurably different from"
    return f"{names[1]} is {word} {names[0]}: {gain}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} {over}."


def both_stages(pair: tuple[RunFiles, RunFiles], names: list[str]) -> list[dict[str, Any]]:
    """The stages of both runs, each stage of the first above the same of the second."""
    found = [{stage["name"]: stage for stage in stages(run)} for run in pair]
    rows = []
    for title in [*found[1], *(title for title in found[0] if title not in found[1])]:
        for which, (name, by_title) in enumerate(zip(names, found, strict=True)):
            if title in by_title:
                stage = by_title[title]
                rows.append(
                    stage
                    | {"split": f"{name}, {stage['split']}", "colour": ("var(--teacher)", "var(--classifier)")[which]}
                )
    return rows


def class_table(
    pair: tuple[RunFiles, RunFiles], names: list[str], classes: list[str], views: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Columns (title, help, kind) and a row of values a class, as of `content.class_table`."""
    before, after = views["train"]["before"], views["train"]["present"]
    columns: list[tuple[str, str, str, list[Any]]] = [("class", "what is looked for", "text", classes)]
    if len(after):
        for title, text, cells in (
            (f"labels {names[0]}", "train photos with the label", before),
            (f"labels {names[1]}", "train photos with the label", after),
            ("lost", "train photos that have the label no more", before & ~after),
            ("gained", "train photos that have the label now", after & ~before),
        ):
            columns.append((title, text, "count", cells.sum(0).tolist()))
    truth = views["test"]["truth"]
    if truth is not None and len(truth):
        both = [average_precision(views["test"]["columns"][name], truth) for name in names]
        for name, values in zip(names, both, strict=True):
            columns.append((f"AP {name}", f"average precision of the classifier of {name}", "share", shorts(values)))
        columns.append(("difference", "second less first", "signed", shorts(both[1] - both[0])))
    return {
        "columns": [{"title": title, "help": text, "kind": kind} for title, text, kind, _ in columns],
        "rows": [list(row) for row in zip(*(values for *_, values in columns), strict=True)],
    }
