"""A classifier file and photos to labels and scores; needs neither the teacher nor the run."""

import glob
from collections.abc import Sequence
from pathlib import Path

from pipeline.classifier.api import Classifier, score_files
from pipeline.datasets.listing import no_images, scan_folder
from pipeline.machine.engines import Engine
from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import say
from pipeline.runs.score_table import check_suffix, prediction_frame, print_predictions, write_predictions


def find_images(sources: Sequence[str]) -> list[Path]:
    """Photos that files, folders (searched to any depth) and globs stand for: each once, in the order given.

    Raises:
        PipelineError: a source is missing, or a folder has no photo.
    """
    found: dict[Path, None] = {}
    for source in sources:
        matches = matches_of(source)
        if not matches:
            raise PipelineError(f"{source} is missing, expected a photo, a folder or a glob. Correct the path.")
        images = [image for match in matches for image in images_at(Path(match))]
        if not images:
            raise no_images(Path(source), {})
        found |= dict.fromkeys(images)
    return list(found)


def matches_of(source: str) -> list[str]:
    """What has exactly this name (a photo may be called "[1].jpg"), or else what the glob matches, sorted."""
    # unlike Path.glob, this takes absolute patterns
    return glob.glob(glob.escape(source)) or sorted(glob.glob(source, recursive=True))  # noqa: PTH207


def images_at(path: Path) -> list[Path]:
    """The photos below a folder, or the file itself, whatever its ending."""
    return [path / image.image_id for image in scan_folder(path)] if path.is_dir() else [path]


def run(
    classifier_path: Path,
    sources: Sequence[str],
    out: Path | None,
    *,
    batch_size: int,
    device: str,
    engine: Engine = "auto",
) -> None:
    """Write labels and scores of photos to a table, or as CSV to standard output.

    Args:
        classifier_path: file of a classifier.
        sources: photos, folders and globs.
        out: CSV, JSON lines or Parquet file; None for standard output.
        batch_size: photos that go through the network together.
        device: torch device.
        engine: what runs the backbone; see `engines.run_of`.

    Raises:
        PipelineError: a file is missing or wrong, or no photo can be read.
    """
    if out is not None:
        check_suffix(out)
    classifier = Classifier.load(classifier_path, device, engine)
    paths = find_images(sources)
    found = score_files(classifier, paths, batch_size)
    images = [str(paths[row]) for row in found.rows]
    if not (found.scores >= classifier.thresholds).any():
        say(
            f"no class reaches its threshold in any photo; the highest score is {found.scores.max():.2f}. The scores "
            f"rank the photos all the same; `ccd calibrate {classifier_path} TABLE` sets thresholds by labelled photos."
        )
    frame = prediction_frame(images, found.scores, classifier.thresholds, classifier.class_names, key="image")
    if out is None:
        print_predictions(frame)
        return
    write_predictions(out, frame)
    say(f"{out}: {len(images)} images, {len(classifier.class_names)} classes.")
