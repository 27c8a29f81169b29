"""The classifier file that a run predicts with."""

from pathlib import Path

from pipeline.artifacts.checkpoints import read_header, why_outdated
from pipeline.artifacts.manifest import read_class_names
from pipeline.artifacts.state import up_to_date
from pipeline.runs.folders import run_or_file, run_text
from pipeline.runs.graph import run_argument
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


def classifier_to_use(target: str | Path) -> Path:
    """A classifier file, or the file of a run (by name or folder), calibrated if possible.

    Raises:
        PipelineError: there is no such run; see also `trained_file`.
    """
    path = run_or_file(run_text(target))
    return calibrated_file(path) if path.is_dir() else path


def trained_file(folder: Path) -> Path:
    """The `classifier.pt` of a run; warns if it is out of date.

    Raises:
        PipelineError: the file is missing or damaged, or the run has other classes now.
    """
    path = folder / "classifier.pt"
    classes = read_header(path).class_names
    if not (folder / "manifest.csv").exists():
        return path  # copied out of its run
    if classes != (now := read_class_names(folder)):
        raise PipelineError(
            f"{path} predicts {', '.join(classes[:5])}, but the run now has the classes {', '.join(now[:5])}. Train "
            f"again with `ccd all {run_argument(folder)}`, or give the file {path} instead of the run."
        )
    try:
        return up_to_date(path)
    except PipelineError as error:
        log(f"warning: {error} Using the old classifier.")
        return path


def calibrated_file(folder: Path) -> Path:
    """The `calibrated.pt` of a run if it was made from the present `classifier.pt`, else `classifier.pt`.

    Raises:
        PipelineError: see `trained_file`.
    """
    path, base = folder / "calibrated.pt", trained_file(folder)
    if not path.exists():
        return base
    if warning := unused_calibration(folder):
        log(warning)
        return base
    log(f"{path}: thresholds set by `ccd calibrate`. {base} has the original ones.")
    return path


def unused_calibration(folder: Path) -> str:
    """Why the `calibrated.pt` of a run is not used, and what to do; empty if it is used, or there is none."""
    path, base = folder / "calibrated.pt", folder / "classifier.pt"
    if not path.exists() or not base.exists():
        return ""
    earlier = why_outdated(read_header(path).provenance, read_header(base).provenance)
    if not earlier:
        return ""
    return (
        f"warning: {path} is not used: its thresholds were made with {earlier}. Set them again with "
        f"`ccd calibrate {run_argument(folder)} TABLE`."
    )
