"""Any file of a run to what it holds, for people: stages read the kind that they need."""

from pathlib import Path
from typing import Any

from pipeline.evaluation.ground_truth import read_ground_truth
from pipeline.runs.artifacts import read_arrays


def read(path: str | Path) -> Any:
    """Any file of a run, checked against its specification: arrays, manifest, checkpoint or figures (a dict).

    Raises:
        PipelineError: missing, damaged, not one of ours, or not as specified.
    """
    path = Path(path)
    if path.name in ("manifest.csv", "manifest.json"):
        from pipeline.runs.manifest import read_manifest

        return read_manifest(path.parent)
    if path.suffix == ".pt":
        from pipeline.runs.checkpoints import read_checkpoint

        return read_checkpoint(path)
    if path.suffix == ".json":
        from pipeline.evaluation.tables import read_metrics

        return read_metrics(path.parent)
    return read_ground_truth(path.parent) if path.name == "ground_truth.h5" else read_arrays(path)
