"""Corrections from a table or a Label Studio export to `corrections.h5`, which `fuse` uses instead of pseudo-labels."""

from pathlib import Path

import numpy as np

from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import read_manifest
from pipeline.evaluation.read import read
from pipeline.review.corrections import UNTOUCHED, merge_corrections, read_corrected_rows
from pipeline.runs.graph import run_argument
from pipeline.system.progress import log


def run(source: Path, folder: Path, *, replace: bool = False) -> None:
    """Write `corrections.h5`; earlier corrections stay where the file has none.

    Args:
        source: table or JSON, see `pipeline.review.corrections.read_corrected_rows`.
        folder: the run folder.
        replace: drop all earlier corrections.

    Raises:
        PipelineError: the file has another form, or names other images or classes.
    """
    path = folder / "corrections.h5"
    manifest = read_manifest(folder)
    before: Corrections | None = read(path) if path.exists() and not replace else None
    rows = read_corrected_rows(source, manifest.class_names)
    corrections = merge_corrections(rows, manifest, source, before)
    write(path, corrections)
    corrected = corrections.labels != UNTOUCHED
    name = run_argument(folder)
    log(
        f"{path}: corrected photos: {np.count_nonzero(corrected.any(1))}, labels present: "
        f"{np.count_nonzero(corrections.labels == 1)}, absent: {np.count_nonzero(corrections.labels == 0)}. "
        f"Train on them with `ccd all {name}`."
    )
