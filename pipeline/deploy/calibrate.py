"""A classifier and labelled photos to a classifier file with thresholds of highest F1."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.datasets.checks import check_unique, missing_files
from pipeline.datasets.folder import match_rows
from pipeline.datasets.image_names import ImageNames
from pipeline.datasets.tables import read_table
from pipeline.deploy.classifier import Classifier, score_files
from pipeline.method import FORMULAS
from pipeline.method.extras.thresholds import NewThresholds, better_thresholds, predicted_nearly_everywhere
from pipeline.runs.graph import VERSIONS
from pipeline.runs.options import CalibrateConfig
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.files import regular_file, sha256_of
from pipeline.system.progress import PlainTable, log, show
from pipeline.system.text import nfc


def read_labelled(
    table: Path, class_names: list[str], manifest: Manifest | None = None
) -> tuple[list[Path], np.ndarray]:
    """N photos of a table and their labels, int8 [N, C] with -1 for unknown; rows without labels are skipped.

    Args:
        table: see `read_table`; `prepare --labels` and `import-labels` read the same.
        class_names: C names.
        manifest: of the classifier's run; the table may use its image ids.

    Raises:
        PipelineError: the table cannot be read, has no labels, or names an unknown class or a missing file.
    """
    rows = [row for row in read_table(table, class_names, needs_labels=True) if row.labels is not None]
    if not rows:
        raise PipelineError(f"{table} has no labels, expected the columns image and labels (class names joined by ;).")
    names, paths = [row.name for row in rows], [row.path for row in rows]
    check_unique(names, table)
    if manifest is not None and not all(path.is_file() for path in paths):
        known = ImageNames(manifest.image_ids, manifest.paths, list(manifest.images["split"]))
        matches = match_rows(rows, known, table, manifest.skipped)
        rows, paths = list(matches.values()), [Path(manifest.paths[index]) for index in matches]
        names = [row.name for row in rows]
    missing_files(names, paths, table)
    return paths, np.stack([row.labels for row in rows])


def calibrated(checkpoint: Checkpoint, thresholds: np.ndarray, provenance: Provenance) -> Checkpoint:
    """The classifier with other thresholds, without the state that training would resume from."""
    return replace(checkpoint, thresholds=thresholds.tolist(), provenance=provenance, training={})


def run(
    classifier_path: Path, labelled: Path, out: Path, config: CalibrateConfig, *, batch_size: int, device: str
) -> None:
    """Write the classifier with thresholds from labelled photos, and print the F1 to expect.

    A class keeps its threshold unless a new one has a higher F1 out of fold.

    Args:
        classifier_path: file of a classifier; unchanged, because other files of the run depend on it.
        labelled: CSV or Parquet file with the columns image (or image_id) and labels.
        out: file to write.
        config: options.
        batch_size: photos per batch.
        device: torch device.

    Raises:
        PipelineError: a file is missing or invalid, there are fewer photos than folds, or `out` is the classifier.
    """
    if out.resolve() == classifier_path.resolve():
        raise PipelineError(f"{out} is the classifier itself. Choose another file with --out.")
    checkpoint = read_checkpoint(classifier_path)
    run = classifier_path.parent
    manifest = read_manifest(run) if (run / "manifest.csv").is_file() else None
    paths, truth = read_labelled(labelled, checkpoint.class_names, manifest)
    scored = score_files(Classifier(checkpoint, device), paths, batch_size)
    truth = truth[scored.rows]
    if len(truth) < config.folds:
        raise PipelineError(
            f"{labelled} has {len(truth)} labelled photos, expected at least {config.folds}, one per fold. "
            "Label more, or lower --folds."
        )
    new = better_thresholds(scored.scores, truth, np.array(checkpoint.thresholds), config.folds, config.seed)
    provenance = Provenance(
        "classifier",
        VERSIONS["classifier"],
        {**config.identity(), "labelled": sha256_of(labelled)},
        {"classifier.pt": checkpoint.provenance.fingerprint},
        formulas={"thresholds": FORMULAS["thresholds"]},
        uses_ground_truth=True,
    )
    write_checkpoint(out, calibrated(checkpoint, new.thresholds, provenance))
    show(threshold_table(checkpoint, new, truth))
    counted = (truth == 1).any(axis=0)
    means = [100 * figure[counted].mean() if counted.any() else 0.0 for figure in (new.f1_before, new.f1_expected)]
    log(
        f"{out}: mean F1 (best: 100) is {means[0]:.1f} on {len(truth)} photos. With the new thresholds, expect {means[1]:.1f}."
    )
    if new.kept.any():
        log(
            f"{new.kept.sum()} of {len(new.kept)} thresholds are kept: no new one has a higher F1 on photos that it was not chosen on."
        )
    warn_of_common(checkpoint.class_names, scored.scores >= new.thresholds, truth)


def warn_of_common(class_names: list[str], decisions: np.ndarray, truth: np.ndarray) -> None:
    """Warn of classes that are predicted in nearly every photo although far fewer photos show them."""
    for c in np.flatnonzero(predicted_nearly_everywhere(decisions, truth)):
        log(
            f"warning: {class_names[c]!r} is predicted in {decisions[:, c].mean():.0%} of these photos and present in "
            f"{(truth[:, c] == 1).sum()} of {(truth[:, c] >= 0).sum()}. Its scores do not separate these photos. "
            "Raise its threshold, or leave the class out."
        )


def read_thresholds(path: Path, class_names: list[str]) -> np.ndarray:
    """Thresholds float64 [C] from a JSON object, class name to a number in [0, 1].

    Raises:
        PipelineError: the file has another form, or other classes.
    """
    try:
        content = json.loads(regular_file(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"{path} could not be read as JSON ({first_line(error)}).") from None
    by_class = {nfc(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    if set(by_class) != set(class_names):
        different = ", ".join(sorted(set(class_names) ^ set(by_class))[:3])
        raise PipelineError(
            f"{path} has other classes than the classifier (only in one of them: {different}). Expected a JSON object with "
            f"a threshold for each of the {len(class_names)} classes."
        )
    for name, value in by_class.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise PipelineError(f"{path} has {value!r} for {name}, expected a number from 0 to 1.")
    return np.array([by_class[name] for name in class_names], dtype=np.float64)


def run_given(classifier_path: Path, thresholds_path: Path, out: Path) -> None:
    """Write the classifier with thresholds from a file, such as the page of `ccd report` shows.

    Args:
        classifier_path: file of a classifier; unchanged.
        thresholds_path: JSON object, class name to threshold.
        out: file to write.

    Raises:
        PipelineError: a file is missing or invalid, or `out` is the classifier.
    """
    if out.resolve() == classifier_path.resolve():
        raise PipelineError(f"{out} is the classifier itself. Choose another file with --out.")
    checkpoint = read_checkpoint(classifier_path)
    thresholds = read_thresholds(thresholds_path, checkpoint.class_names)
    provenance = Provenance(
        "classifier",
        VERSIONS["classifier"],
        {"thresholds": thresholds.tolist()},
        {"classifier.pt": checkpoint.provenance.fingerprint},
        # the page shows the figures of each threshold against ground truth
        uses_ground_truth=True,
    )
    write_checkpoint(out, calibrated(checkpoint, thresholds, provenance))
    # a classifier finds the file beside it
    target = shlex.quote(str(classifier_path.parent if out == classifier_path.with_name("calibrated.pt") else out))
    moved = int((~np.isclose(thresholds, checkpoint.thresholds, atol=1e-6)).sum())
    log(f"{out}: {moved} of {len(thresholds)} thresholds changed. `ccd predict {target} PHOTOS` uses them.")


def threshold_table(checkpoint: Checkpoint, new: NewThresholds, truth: np.ndarray) -> PlainTable:
    """One row per class: photos that show it, and threshold and F1 before and after."""
    table = PlainTable("class", title="Thresholds")
    for heading in ("photos", "threshold", "F1 before", "new threshold", "expected F1"):
        table.add_column(heading, justify="right")
    for c, (name, count) in enumerate(zip(checkpoint.class_names, (truth == 1).sum(axis=0), strict=True)):
        before, expected = (f"{100 * f1[c]:.1f}" if count else "-" for f1 in (new.f1_before, new.f1_expected))
        threshold = "kept" if new.kept[c] else f"{new.thresholds[c]:.3f}"
        table.add_row(name, str(count), f"{checkpoint.thresholds[c]:.3f}", before, threshold, expected)
    return table
