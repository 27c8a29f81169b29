"""A classifier and its teacher, another network, that score photos together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline.artifacts.checkpoints import read_header
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.method.extras.two_heads import mixed_logits
from pipeline.runs.graph import run_argument
from pipeline.system.errors import PipelineError
from pipeline.teachers.run_teacher import RunTeacher, load_run_teacher


@dataclass(frozen=True)
class PhotoTeacher:
    """The teacher of a run, and the factors of its scores in the logits of both."""

    teacher: RunTeacher
    factors: np.ndarray
    """See `two_heads.mixture`."""

    @property
    def views(self) -> list[tuple[int, str]]:
        """See `RunTeacher.views`."""
        return self.teacher.views

    def logits_of_both(self, logits: np.ndarray, views: Sequence[Tensor]) -> np.ndarray:
        """Logits float32 [B, C] of both, given those of the classifier and the `views` of the photos."""
        return mixed_logits(logits, self.teacher.scores(views), self.factors)


def photo_teacher(path: Path, device: str) -> PhotoTeacher:
    """The teacher of the run of a `classifier.pt`.

    Raises:
        PipelineError: the file is not in its run, the run lacks a file, or the teacher cannot score new photos.
    """
    folder = path.parent
    for name in ("embeddings.h5", "initial_labels.h5", "epoch_scores.h5"):
        if not (folder / name).is_file():
            raise PipelineError(
                f"{folder} has no {name}, which --with-teacher needs next to {path.name}. Name the run that trained it."
            )
    scores: EpochScores = read_arrays(folder / "epoch_scores.h5", without=("scores", "train", "learned"))
    if read_header(path).provenance.of("epoch_scores.h5").fingerprint != scores.provenance.fingerprint:
        raise PipelineError(
            f"{path} does not belong to {folder / 'epoch_scores.h5'}. Name the run to use its classifier.pt."
        )
    if scores.mixture is None:
        raise PipelineError(
            f"{folder / 'epoch_scores.h5'} has no factors for --with-teacher, because train.calibrate was off. Set it with "
            f"`ccd all {run_argument(folder)} --set train.calibrate=true`."
        )
    return PhotoTeacher(load_run_teacher(folder, device), scores.mixture)
