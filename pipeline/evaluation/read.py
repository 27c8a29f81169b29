"""Reader of any file of a run, for users; stages read a specific kind."""

import warnings
from pathlib import Path
from typing import Any

from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.state import up_to_date
from pipeline.evaluation.ground_truth import read_ground_truth
from pipeline.runs.graph import HISTORIES, MAKERS
from pipeline.system.errors import PipelineError, hint, raised_at_call

TABLES = (*HISTORIES, "predictions.csv")
"""Files that `read` returns as a pandas frame."""


def read(path: str | Path) -> Any:
    """Content of any file of a run, checked: arrays, manifest, checkpoint, figures (a dict) or table.

    Raises:
        PipelineError: missing, damaged, not a file of a run, or not as specified.
    """
    path = Path(path)
    if path.is_dir():
        raise PipelineError(f"{path} is a folder. Give one of its files, such as {path / 'final_labels.h5'}.")
    if path.name in TABLES:
        import pandas as pd

        with reporting_damage(path):
            return pd.read_csv(path, keep_default_na=False, na_values=[""])
    if path.suffix not in (".h5", ".pt") and path.name not in ("manifest.csv", "manifest.json", "metrics.json"):
        raise PipelineError(f"{path} is not a file that `read` knows. {hint(path.name, [*MAKERS, *TABLES])}")
    if path.name in ("manifest.csv", "manifest.json"):
        from pipeline.artifacts.manifest import read_manifest

        return read_manifest(path.parent)
    if path.suffix == ".pt":
        from pipeline.artifacts.checkpoints import read_checkpoint

        return read_checkpoint(path)
    if path.suffix == ".json":
        from pipeline.evaluation.tables import read_metrics

        return read_metrics(path.parent)
    return read_ground_truth(path.parent) if path.name == "ground_truth.h5" else read_arrays(path)


@raised_at_call
def read_with_warning(path: str | Path) -> Any:
    """`read` for the Python API, with a warning about a file that is out of date.

    Raises:
        PipelineError: as `read`.
    """
    path = Path(path)
    content = read(path)
    if path.name in MAKERS and (path.parent / "manifest.csv").exists():  # else it is a copy outside of a run
        try:
            up_to_date(path)
        except PipelineError as error:
            warnings.warn(str(error), stacklevel=3)  # the caller of the decorated function
    return content
