"""Precomputed scores: an HDF5 file or a clip-retrieval folder to checked tensors."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.datasets.given_hdf5 import (
    checked_names,
    columns_of_classes,
    own_dataset,
    read_given,
    read_names,
    read_numbers,
    rows_of_images,
)
from pipeline.system.errors import PipelineError, UnreadableError, system_refusal
from pipeline.system.files import sha256_of
from pipeline.system.text import nfc

SUM_TOLERANCE = 0.02
"""Largest deviation from 1 of the sum of a row of probabilities; float16 causes it."""


@dataclass(frozen=True)
class Precomputed:
    """Either class probabilities, logits or embeddings of N images."""

    teacher: str
    """Spec or description of the model that computed them; empty if the file does not name it."""
    fingerprint: str
    """Hash of the files."""
    image_ids: list[str]
    """N unique names, see `match_names`."""
    class_names: list[str] | None
    """C names as in the dataset; None if there are only image embeddings."""
    probabilities: Tensor | None
    """float32 [N, C], in [0, 1], rows sum to 1."""
    image: Tensor | None
    """float32 [N, D], unit rows."""
    text: Tensor | None
    """float32 [C, D], unit rows; None if a teacher has to embed the classes."""
    logit_scale: float | None
    """Scale s in softmax(s * f . t); None if the file has none."""
    logit_bias: float | None = None
    """Bias b in sigmoid(s * f . t + b); None for a softmax."""
    logits: Tensor | None = None
    """float32 [N, C], scaled by `logit_scale`, of whole images."""
    local_logits: Tensor | None = None
    """float32 [N, C], the same of the best tile or cell of each class; None for none."""
    known: Tensor | None = None
    """bool [N], images with scores; None for all. Rows of images without scores are uniform probabilities, or zeros as
    logits or embeddings, which have the same cosine with every text."""

    def scaled(self, logits: Tensor, scale: float) -> Tensor:
        """Logits Tensor[N, C] of the file at another scale; 0, or a file that doesn't state its scale: unchanged."""
        return logits * (scale / self.logit_scale) if scale and self.logit_scale else logits

    def scaled_logits(self, scale: float) -> Tensor:
        """Logits Tensor[N, C] of whole images at this scale, see `scaled`; the logarithms of given probabilities."""
        if self.logits is None:
            return self.probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        return self.scaled(self.logits, scale)


def read_precomputed(path: Path) -> Precomputed:
    """Read an HDF5 file, or a folder of `clip-retrieval inference`.

    The file has `image_ids` [N] and either `probabilities` [N, C], `global_logits` [N, C] or `image` [N, D]. It may have
    local evidence next to the first two, `local_logits` [N, C] of the best tile or cell of each class (also named
    `tile_max_logits`); next to `image` the texts, `text` [C, D]; and the attributes `logit_scale`, `logit_bias` of a sigmoid,
    and `teacher`, the spec of the model. With C rows or columns it has `classes` [C].

    The folder has img_emb/img_emb_*.npy and metadata/metadata_*.parquet with the same numbers; the column image_path names
    the images.

    Raises:
        PipelineError: it has another form, or its values are not probabilities or embeddings.
    """
    if path.is_dir():
        return _read_clip_retrieval(path)
    return read_given(path, lambda file: _read_hdf5(path, file), "an .h5 file or a clip-retrieval folder")


def align(
    scores: Precomputed, image_ids: list[str], class_names: list[str], required: Sequence[bool] | None = None
) -> Precomputed:
    """The scores of these images and classes, in this order.

    Args:
        scores: of all these classes and perhaps more images; names match as in `match_names`.
        image_ids: N ids.
        class_names: C names.
        required: N, whether the image must have scores; None for all. Test images need none.

    Raises:
        PipelineError: a required image or a class has no scores, or there are more classes.
    """
    must = [True] * len(image_ids) if required is None else required
    rows = rows_of_images(scores.image_ids, image_ids, must, "precomputed scores")
    known = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    source_rows = torch.tensor([0 if row is None else row for row in rows], dtype=torch.int64)
    columns = None
    if scores.class_names is not None:
        columns = torch.tensor(columns_of_classes(scores.class_names, class_names, "precomputed scores"))
        if extra := sorted({*map(nfc, scores.class_names)} - {*map(nfc, class_names)}):
            raise PipelineError(
                f"The precomputed scores have {len(extra)} classes more than the dataset, the first "
                f"{extra[0]!r}. Compute the softmax again without them, or add them to the classes."
            )

    def aligned(values: Tensor) -> Tensor:
        return values[source_rows][:, columns].masked_fill(~known[:, None], 0.0)

    return replace(
        scores,
        image_ids=image_ids,
        class_names=None if columns is None else class_names,
        probabilities=None
        if scores.probabilities is None
        else scores.probabilities[source_rows][:, columns].masked_fill(~known[:, None], 1 / len(class_names)),
        image=None if scores.image is None else scores.image[source_rows].masked_fill(~known[:, None], 0.0),
        logits=None if scores.logits is None else aligned(scores.logits),
        local_logits=None if scores.local_logits is None else aligned(scores.local_logits),
        text=None if scores.text is None else scores.text[columns],
        known=None if bool(known.all()) else known,
    )


def _read_hdf5(path: Path, file: h5py.File) -> Precomputed:
    if "image_ids" not in file or not {"probabilities", "global_logits", "image"} & set(file):
        raise PipelineError(
            f"{path} contains {', '.join(file) or 'nothing'}, expected image_ids, classes, and probabilities or "
            "global_logits; or image_ids and image. Rename or add them."
        )
    datasets = {name: own_dataset(path, file, name) for name in (*_NAMES, *_ARRAYS) if name in file}
    if "tile_max_logits" in datasets:
        datasets.setdefault("local_logits", datasets.pop("tile_max_logits"))
    if "local_logits" in datasets and not {"probabilities", "global_logits"} & set(datasets):
        raise PipelineError(f"{path} has local_logits without global_logits. Add the logits of whole images.")
    image_ids = read_names(path, datasets["image_ids"])
    classes = read_names(path, datasets["classes"]) if "classes" in datasets else None
    by_class = {"probabilities", "text", "global_logits", "local_logits"}
    if classes is None and by_class & set(datasets):
        raise PipelineError(
            f"{path} contains {', '.join(file)}, expected classes, the class name of each column. Rename or add it."
        )
    columns = len(classes or [])
    arrays = {name: read_numbers(path, dataset) for name, dataset in datasets.items() if name not in _NAMES}
    scale = float(file.attrs["logit_scale"]) if "logit_scale" in file.attrs else None
    if scale is not None and not 0 < scale < math.inf:
        raise PipelineError(f"{path} has the logit_scale {scale}, expected a number above 0. Correct it.")
    bias = float(file.attrs["logit_bias"]) if "logit_bias" in file.attrs else None
    if bias is not None and not math.isfinite(bias):
        raise PipelineError(f"{path} has the logit_bias {bias}, expected a number. Correct it.")
    if {"image", "text"} <= set(arrays) and arrays["image"].shape[1:] != arrays["text"].shape[1:]:
        raise PipelineError(
            f"{path} has image of shape {arrays['image'].shape} and text of shape {arrays['text'].shape}, expected "
            "embeddings of the same length. Compute both with one model."
        )
    return Precomputed(
        teacher=str(file.attrs.get("teacher", "")),
        fingerprint=sha256_of(path),
        image_ids=image_ids,
        class_names=classes,
        probabilities=_probabilities(path, arrays["probabilities"], (len(image_ids), columns))
        if "probabilities" in arrays
        else None,
        image=_unit_rows(path, "image", arrays["image"], len(image_ids)) if "image" in arrays else None,
        text=_unit_rows(path, "text", arrays["text"], columns) if "text" in arrays else None,
        logit_scale=scale,
        logit_bias=bias,
        **{
            field: _logits(path, name, arrays[name], (len(image_ids), columns))
            for field, name in (("logits", "global_logits"), ("local_logits", "local_logits"))
            if name in arrays
        },
    )


_NAMES = ("image_ids", "classes")
_ARRAYS = ("probabilities", "image", "text", "global_logits", "local_logits", "tile_max_logits")


def _read_clip_retrieval(folder: Path) -> Precomputed:
    parts = sorted((folder / "img_emb").glob("img_emb_*.npy"))
    if not parts:
        raise PipelineError(f"{folder} has no img_emb/img_emb_*.npy. Give the output folder of clip-retrieval.")
    digest = hashlib.sha256()
    names, rows = [], []
    for part in parts:
        number = part.stem.removeprefix("img_emb_")
        metadata = folder / "metadata" / f"metadata_{number}.parquet"
        if not metadata.is_file():
            raise PipelineError(f"{metadata} is missing, expected next to {part.name}. Run clip-retrieval again.")
        try:
            paths = pd.read_parquet(metadata, columns=["image_path"])["image_path"]
            embeddings = np.load(part, allow_pickle=False)
        except ImportError as error:
            raise PipelineError(f"{metadata} needs pyarrow. Install it with `pip install '.[parquet]'`.") from error
        except (EOFError, KeyError, OSError, ValueError) as error:
            if refusal := system_refusal(error):
                raise UnreadableError(f"{part} or its metadata cannot be read {refusal}") from error
            raise PipelineError(f"{part} or its metadata is damaged ({error}). Run clip-retrieval again.") from error
        names += [PurePath(str(name)).as_posix() for name in paths]
        rows.append(_unit_rows(part, "the array", embeddings, len(paths)))
        if rows[-1].shape[1] != rows[0].shape[1]:
            raise PipelineError(
                f"{part} has embeddings of {rows[-1].shape[1]} numbers, {parts[0].name} of {rows[0].shape[1]}. Embed all "
                "images with one model."
            )
        digest.update((sha256_of(part) + sha256_of(metadata)).encode())
    return Precomputed(
        teacher="",
        fingerprint=digest.hexdigest(),
        image_ids=checked_names(folder, "image_path", names),
        class_names=None,
        probabilities=None,
        image=torch.cat(rows),
        text=None,
        logit_scale=None,
    )


def _probabilities(path: Path, values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """float32 [N, C], checked to have this shape, and rows that are distributions."""
    if values.shape != shape:
        raise PipelineError(
            f"{path} has probabilities of shape {values.shape}, expected {shape}. Transpose or slice them."
        )
    rows = torch.from_numpy(values.astype(np.float32))
    sums = rows.sum(1)
    if not (rows.min() >= 0 and (sums - 1).abs().max() <= SUM_TOLERANCE):  # NaN is refused as well
        raise PipelineError(
            f"{path} has probabilities from {rows.min():.3g} with row sums from {sums.min():.3g} to "
            f"{sums.max():.3g}, expected a softmax over the classes: at least 0 with sums of 1."
        )
    return rows


def _logits(path: Path, kind: str, values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """float32 [N, C], checked to have this shape and finite values."""
    if values.shape != shape or not np.isfinite(values).all():
        raise PipelineError(
            f"{path} has {kind} of shape {values.shape}, expected finite numbers of shape {shape}. Write them again."
        )
    return torch.from_numpy(values.astype(np.float32))


def _unit_rows(path: Path, kind: str, values: np.ndarray, count: int) -> Tensor:
    """float32 [count, D] with unit rows, from rows of any norm."""
    if values.ndim != 2 or len(values) != count:
        raise PipelineError(f"{path} has {kind} of shape {values.shape}, expected {count} rows of embeddings.")
    rows = torch.from_numpy(values.astype(np.float32))
    norms = rows.norm(dim=1)
    if not (norms.isfinite().all() and norms.min() > 0):
        raise PipelineError(f"{path} has {kind} with rows that are zero or not finite. Compute these images again.")
    return F.normalize(rows, dim=1)
