"""Corrections of people, from a CSV or a Label Studio export, to what `fuse` uses instead of pseudo-labels."""

from pathlib import Path

import numpy as np

from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import read_manifest
from pipeline.evaluation.read import read
from pipeline.review.corrections import UNTOUCHED, make_corrections, read_answers
from pipeline.runs.graph import run_argument
from pipeline.system.progress import log


def run(source: Path, folder: Path, *, replace: bool = False) -> None:
    """Write `corrections.h5`; what was imported before stays where nothing new is said.

    Args:
        source: CSV or JSON, see `pipeline.review.corrections.read_answers`.
        folder: the run folder.
        replace: forget what was imported before.

    Raises:
        PipelineError: the file is not as expected, or about other images or classes.
    """
    path = folder / "corrections.h5"
    manifest = read_manifest(folder)
    before: Corrections | None = read(path) if path.exists() and not replace else None
    corrections = make_corrections(read_answers(source, manifest.class_names), manifest, source, before)
    write(path, corrections)
    fixed = corrections.labels != UNTOUCHED
    name = run_argument(folder)
    log(
        f"{path}: corrected photos: {np.count_nonzero(fixed.any(1))}, labels present: "
        f"{np.count_nonzero(corrections.labels == 1)}, absent: {np.count_nonzero(corrections.labels == 0)}. Go on with "
        f"`ccd fuse --run {name}` and `ccd train --run {name}`."
    )
