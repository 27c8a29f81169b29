"""Which classifier file a run predicts with; needs no network."""

from pathlib import Path

from pipeline.artifacts.checkpoints import read_header
from pipeline.artifacts.manifest import read_class_names
from pipeline.artifacts.state import up_to_date
from pipeline.method import FORMULAS
from pipeline.runs.folders import run_or_file
from pipeline.runs.graph import run_argument
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


def classifier_to_use(target: str | Path) -> Path:
    """A classifier file, or that of a run (by name or folder), with calibrated thresholds where there are any.

    Raises:
        PipelineError: there is no such run, or as `trained_file`.
    """
    found = run_or_file(str(target))
    return calibrated_file(found) if found.is_dir() else found


def trained_file(folder: Path) -> Path:
    """The `classifier.pt` of a run; one that newer photos or settings made out of date is used with a warning.

    Raises:
        PipelineError: it is missing or damaged, or predicts other classes than the run now has.
    """
    path = folder / "classifier.pt"
    classes = read_header(path).class_names
    if not (folder / "manifest.csv").exists():
        return path  # a classifier that was copied out of its run
    if classes != (now := read_class_names(folder)):
        raise PipelineError(
            f"{path} predicts {', '.join(classes[:5])}, and the classes of this run are now {', '.join(now[:5])}. Train "
            f"again with `ccd all --run {run_argument(folder)}`, or name the file {path} to use it as it is."
        )
    try:
        return up_to_date(path)
    except PipelineError as error:
        log(f"warning: {error} Until then the classifier is used as it is.")
        return path


def calibrated_file(folder: Path) -> Path:
    """The classifier that a run predicts with: `calibrated.pt` where it was made from `classifier.pt` as it is now.

    Raises:
        PipelineError: as `trained_file`.
    """
    path, base = folder / "calibrated.pt", trained_file(folder)
    if not path.exists():
        return base
    made = read_header(path).provenance
    from_earlier = made.inputs.get("classifier.pt") != read_header(base).provenance.fingerprint
    if from_earlier or any(FORMULAS.get(name) != version for name, version in made.formulas.items()):
        earlier = f"an earlier {base.name}" if from_earlier else "earlier formulas"
        log(
            f"{path} was made with {earlier} and is not used; `ccd calibrate {run_argument(folder)} TABLE` makes it again."
        )
        return base
    log(f"{path}: thresholds calibrated on labelled photos. Those without are in {base}.")
    return path
