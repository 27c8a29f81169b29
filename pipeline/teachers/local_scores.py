"""A teacher's scores of photos by their cells or tiles: local evidence of each class."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.manifest import SPLITS, Manifest
from pipeline.classifier.features import FeatureStore
from pipeline.method.cells import best_mean, weighted_logits
from pipeline.method.probabilities import softening
from pipeline.photos.views import ViewSpec
from pipeline.runs.folders import run_folder
from pipeline.runs.options import EmbedConfig
from pipeline.runs.partial_results import PartialResults, digest_of
from pipeline.system import distributed
from pipeline.system.progress import log
from pipeline.teachers.embedding_cache import ImageStore, StoreKey
from pipeline.teachers.encoding import ViewRules, precision_of
from pipeline.teachers.photo_encoder import CELLS, PART, PhotoEncoder, encode_missing, structured
from pipeline.teachers.teacher import Teacher
from pipeline.teachers.zero_shot_head import ZeroShotHead

SAMPLE = 1000
"""Train photos that decide the scale of the ranking."""


@dataclass(frozen=True)
class LocalScores:
    """Local evidence of N images; see `Embeddings`."""

    scores: np.ndarray
    """float32 [N, C]."""
    best_cell: np.ndarray | None
    """uint16 [N, C]; None for precomputed scores."""
    grid: tuple[int, int]
    """(h, w); (0, 0) for precomputed scores."""


def cell_scores(head: ZeroShotHead, cells: Tensor, pooling: str, share: float) -> tuple[Tensor, Tensor]:
    """Scores of the classes over the cells of each image, and the best cell of each class.

    The scores of an image do not depend on the other images.

    Args:
        head: of the classes.
        cells: float Tensor[B, J, D], unit rows.
        pooling: "best" (see `best_mean`) or "softmax" (see `weighted_logits`).
        share: best cells, as a share of J.

    Returns:
        float32 Tensor[B, C] in [0, 1], and int64 Tensor[B, C] in [0, J).
    """
    logits = head.logits(cells.float())
    probabilities = head.probabilities(logits.flatten(0, 1)).probabilities.unflatten(0, logits.shape[:2])
    if pooling == "best":
        scores = [best_mean(each, share) for each in probabilities]
    else:
        scores = [head.probabilities(weighted_logits(each)[None]).probabilities[0] for each in logits]
    return torch.stack(scores), probabilities.argmax(dim=1)


@dataclass(frozen=True)
class RunningTeacher:
    """The teacher of a run and what its scores depend on."""

    folder: Path
    manifest: Manifest
    config: EmbedConfig
    teacher: Teacher
    head: ZeroShotHead
    image_size: int
    """Side of the square global view."""
    device: str
    partial: PartialResults
    maps: FeatureStore | None
    """Keeps feature maps for the classifier."""

    def store(self, size: int, content: str = "", dtype: type = np.float32) -> ImageStore:
        """The store of views of this size, with the entries of the run `reuse_embeddings`."""
        key = StoreKey(self.teacher.fingerprint, size, precision_of(self.teacher), content)
        store = ImageStore(self.folder, key, self.config.teacher, dtype)
        if not self.config.reuse_embeddings:
            return store
        if distributed.is_main():
            other = ImageStore(run_folder(self.config.reuse_embeddings), key, dtype=dtype)
            if reused := store.take_over(other, self.manifest.digests):
                log(f"{store.path}: {reused} images reused from {self.config.reuse_embeddings}.")
        distributed.barrier()
        return ImageStore(self.folder, key, self.config.teacher, dtype)

    def encoder(self, size: int, local: str) -> PhotoEncoder:
        """Encodes views of this size; with local "cells", also their cells."""
        resize_filter = ViewRules.of(self.config).resize_filter_of(self.teacher)
        views = ViewSpec(size, resize_filter, digests=self.manifest.digest_of)
        groups = [self.manifest.split(split).paths for split in SPLITS]
        config = self.config
        return PhotoEncoder(self.teacher, views, self.device, groups, config.batch_size, local, config.tiles, self.maps)

    def encode_images(self, manifest: Manifest) -> tuple[ImageStore, int]:
        """The store of global embeddings, after adding those photos of `manifest` that it lacks, and their number."""
        store = self.store(self.image_size)
        encoder = self.encoder(self.image_size, "none")
        return store, encode_missing(encoder, manifest, {"image": store}, [vars(store.key)], self.partial)

    @cached_property
    def ranking_head(self) -> ZeroShotHead:
        """The head whose probabilities rank images: softened on a sample of the train photos, see `softening`."""
        if self.head.logit_bias is not None or not self.config.ranking_entropy:
            return self.head
        train = self.manifest.split("train")
        rows = np.unique(np.linspace(0, len(train.image_ids) - 1, SAMPLE).astype(int))
        sample = replace(train, images=train.images.iloc[rows].reset_index(drop=True))
        images = np.concatenate(list(self.encode_images(sample)[0].blocks(sample.digests)))
        return self.head.softened(softening(self.head.logits(torch.from_numpy(images)), self.config.ranking_entropy))

    def local_scores(self, size: int) -> LocalScores | None:
        """Local evidence from views of this size, after adding missing photos to the stores; None for a teacher without cells.

        Cell embeddings are kept if they fit `cell_cache_gb`; otherwise only the scores that they give with these texts.
        Cells are rounded to half precision in both cases, so the scores are the same.
        """
        config, digests = self.config, self.manifest.digests
        content = f"cells {CELLS}" if config.local == "cells" else f"tiles {config.tiles}"
        cells = self.store(size, content, np.float16)
        encoder = self.encoder(size, config.local)
        shape = cells.shape or encoder.cell_shape()
        if not shape:
            log(
                f"{self.teacher.name} has no cells, so local evidence is left out. `--local tiles` works with every teacher."
            )
            return None
        gigabytes = len(set(digests)) * int(np.prod(shape)) * 2 / 1e9
        images = self.store(size)
        if gigabytes <= config.cell_cache_gb:
            stores, key, finish = {"image": images, "cells": cells}, [vars(cells.key)], lambda rows: rows
        else:
            log(
                f"the cells of all photos would take {gigabytes:.1f} GB, more than cell_cache_gb, so they are not kept."
            )
            cells, head = None, self.ranking_head
            texts = [each.numpy() for each in (head.text, head.text_class, head.background_text)]
            values = [head.logit_scale, head.logit_bias, config.cell_pooling, config.cell_share]
            scores = self.store(size, f"{content} {digest_of(*texts, values)}")
            stores, key, finish = {"image": images, "scores": scores}, [vars(scores.key)], self.without_cells
        encoded = encode_missing(encoder, self.manifest, stores, key, self.partial, finish)
        log_encoded(images, encoded, len(digests))
        if cells is not None:
            rows = np.concatenate([self.score_cells(block) for block in cells.blocks(digests)])
        else:
            rows = np.concatenate(list(scores.blocks(digests)))
        return LocalScores(rows[:, 0], rows[:, 1].astype(np.uint16), shape[:2])

    def score_cells(self, cells: np.ndarray) -> np.ndarray:
        """Scores and best cells of cells float16 [n, h, w, D], together float32 [n, 2, C]."""
        pooling, share = self.config.cell_pooling, self.config.cell_share
        blocks = torch.from_numpy(cells).flatten(1, 2).split(PART)
        scored = [torch.stack(cell_scores(self.ranking_head, block, pooling, share), dim=1) for block in blocks]
        return torch.cat(scored).float().numpy()

    def without_cells(self, rows: np.ndarray) -> np.ndarray:
        """Entries of `PhotoEncoder.encode` with the scores of the cells instead of the cells."""
        return structured(image=rows["image"], scores=self.score_cells(rows["cells"]))


def log_encoded(store: ImageStore, encoded: int, count: int) -> None:
    """Log how many of `count` images were encoded, unless all were."""
    if encoded < count:
        log(f"{store.path}: {encoded} of {count} images were encoded, the rest reused.")
