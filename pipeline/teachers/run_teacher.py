"""The teacher of a run with its classes, which scores new photos as it scored those of the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.state import read_provenance
from pipeline.runs.graph import run_argument
from pipeline.runs.options import EmbedConfig, InitLabelsConfig
from pipeline.system.errors import PipelineError
from pipeline.teachers.encoding import ViewRules
from pipeline.teachers.image_scores import joined_scores
from pipeline.teachers.local_scores import cell_scores
from pipeline.teachers.teacher import Teacher, check_weights, load_teacher
from pipeline.teachers.zero_shot_head import ZeroShotHead, head_of


@dataclass(frozen=True)
class RunTeacher:
    """A teacher, and how its run scores photos."""

    teacher: Teacher
    head: ZeroShotHead
    """Softened, as for the scores that rank photos."""
    embeddings: Embeddings
    """Of the run: its photos give the biases."""
    options: InitLabelsConfig

    @property
    def views(self) -> list[tuple[int, str]]:
        """Side and resize filter of each square view of a photo."""
        made_with = self.embeddings.provenance.options(EmbedConfig)
        sides = [self.embeddings.image_size] + [made_with.second_size] * bool(self.has_cells and made_with.second_size)
        return [(side, ViewRules.of(made_with).resize_filter_of(self.teacher)) for side in sides]

    @property
    def has_cells(self) -> bool:
        """Whether the score of a photo has local evidence."""
        return self.embeddings.cell_scores is not None and self.options.cell_weight > 0

    @torch.inference_mode()
    def scores(self, views: Sequence[Tensor]) -> np.ndarray:
        """Scores float32 [B, C], as `image_scores.teacher_scores`, of each of `views`, uint8 Tensor[B, 3, S, S]."""
        made_with = self.embeddings.provenance.options(EmbedConfig)
        if not self.has_cells:
            images, cells = self.teacher.encode_images(views[0]), None
        else:
            encoded = [self.teacher.encode_views(view) for view in views]
            images = encoded[0].images
            pooling, share = made_with.cell_pooling, made_with.cell_share
            # half precision, as kept cells have
            rows = [each.cells.half().float().cpu().flatten(1, 2) for each in encoded]
            cells = torch.stack([cell_scores(self.head, each, pooling, share)[0] for each in rows]).mean(dim=0).numpy()
        global_scores = self.head.probabilities(self.head.logits(images.float().cpu())).probabilities.numpy()
        return joined_scores(self.embeddings, global_scores, cells, self.options)


def load_run_teacher(folder: Path, device: str) -> RunTeacher:
    """The teacher of a run.

    Raises:
        PipelineError: the run lacks a file, or its teacher cannot score new photos.
    """
    path = folder / "embeddings.h5"
    embeddings: Embeddings = read_arrays(path, without=("best_cell",))
    options = read_provenance(folder / "initial_labels.h5").options(InitLabelsConfig)
    made_with = embeddings.provenance.options(EmbedConfig)
    if made_with.precomputed:
        raise PipelineError(
            f"{path} contains precomputed scores, so no teacher can score new photos. Leave --with-teacher out."
        )
    if made_with.local == "tiles" and embeddings.cell_scores is not None and options.cell_weight:
        raise PipelineError(
            f"{path} has the scores of tiles, which --with-teacher cannot compute for new photos. Leave it out, or use cells: "
            f"`ccd all {run_argument(folder)} --set embed.local=cells`."
        )
    teacher = load_teacher(embeddings.teacher, device, made_with.precision, rules=ViewRules.of(made_with))
    check_weights(teacher, embeddings.teacher, embeddings.teacher_fingerprint, path)
    return RunTeacher(teacher, head_of(embeddings).softened(embeddings.softening), embeddings, options)
