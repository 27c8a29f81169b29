"""Scores that someone else computed: an HDF5 file or a clip-retrieval folder to checked tensors."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.datasets.image_names import match_names
from pipeline.system.errors import PipelineError, UnreadableError, first_line, hint, system_refusal
from pipeline.system.files import sha256_of
from pipeline.system.text import nfc

SUM_TOLERANCE = 0.02
"""Largest deviation of a row of probabilities from 1: what rounding to float16 leaves."""


@dataclass(frozen=True)
class Precomputed:
    """Class probabilities, or embeddings, of N images; one of both is there."""

    teacher: str
    """The spec of the model that made them, or a description of it; empty where the file does not name it."""
    fingerprint: str
    """Hash of the files."""
    image_ids: list[str]
    """N unique names, see `match_names`."""
    class_names: list[str] | None
    """C names as the dataset writes them; None where there are only image embeddings."""
    probabilities: Tensor | None
    """float32 [N, C], in [0, 1], rows sum to 1."""
    image: Tensor | None
    """float32 [N, D], unit rows."""
    text: Tensor | None
    """float32 [C, D], unit rows; None where a teacher has to embed the classes."""
    logit_scale: float | None
    """s of softmax(s * f . t); None where it is not told."""
    logit_bias: float | None = None
    """b of sigmoid(s * f . t + b); None for a softmax."""
    known: Tensor | None = None
    """bool [N], which images it is about; None for all. The rows of the others are a uniform distribution, or zeros as
    image embeddings, which every text is equally far from."""


def read_precomputed(path: Path) -> Precomputed:
    """Read an HDF5 file, or the folder that `clip-retrieval inference` writes.

    The file has `image_ids` [N] and either `probabilities` [N, C] or `image` [N, D], perhaps with `text`
    [C, D]; `classes` [C] where something has C rows or columns; perhaps the attributes `logit_scale`, of a
    sigmoid `logit_bias`, and `teacher`: the spec of the model that made them.

    The folder has img_emb/img_emb_*.npy and, with the same numbers, metadata/metadata_*.parquet, whose
    column image_path names the images.

    Raises:
        PipelineError: if it has another form, or values that are no probabilities or embeddings.
    """
    if path.is_dir():
        return _read_clip_retrieval(path)
    if not path.is_file():
        raise PipelineError(f"{path} is missing. Give an .h5 file or a clip-retrieval folder.")
    if not h5py.is_hdf5(path):
        raise PipelineError(f"{path} is not an HDF5 file. Give an .h5 file or a clip-retrieval folder.")
    try:
        return _read_hdf5(path)
    except (OSError, RuntimeError, TypeError, UnicodeDecodeError, ValueError) as error:
        if refusal := system_refusal(error):
            raise UnreadableError(f"{path} cannot be read {refusal}") from error
        raise PipelineError(f"{path} is damaged or of another form ({first_line(error)}). Get it anew.") from error


def align(
    found: Precomputed, image_ids: list[str], class_names: list[str], required: Sequence[bool] | None = None
) -> Precomputed:
    """The same with these images and these classes, in this order; further images are left out.

    Args:
        found: of images that it may name as `match_names` describes.
        image_ids: N ids.
        class_names: C names.
        required: N, whether the image must be there; None for all. Test images alone need no scores.

    Raises:
        PipelineError: if a required image or a class is not there, or there are further classes.
    """
    must = [True] * len(image_ids) if required is None else required
    rows = match_names(found.image_ids, image_ids, must)
    if lacking := [i for i, row in enumerate(rows) if row is None and must[i]]:
        raise PipelineError(
            f"The precomputed scores lack {len(lacking)} of {sum(must)} images, the first {image_ids[lacking[0]]!r}; "
            f"theirs begin with {found.image_ids[0]!r}. Names match as ids, as paths that end in an id, or as file names, "
            "with or without extension, by one of these rules for the whole file; a name that fits several images matches "
            "none. Compute the rest, or name the images by their ids in manifest.csv."
        )
    known = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    taken = torch.tensor([0 if row is None else row for row in rows], dtype=torch.int64)
    columns = None
    if found.class_names is not None:
        columns = _columns(found.class_names, class_names)
        if further := sorted({*map(nfc, found.class_names)} - {*map(nfc, class_names)}):
            raise PipelineError(
                f"The precomputed scores have {len(further)} classes more than the dataset, the first "
                f"{further[0]!r}. A softmax over other classes is another one: compute them anew, or name "
                "these classes too."
            )
    return replace(
        found,
        image_ids=image_ids,
        class_names=None if columns is None else class_names,
        probabilities=None
        if found.probabilities is None
        else found.probabilities[taken][:, columns].masked_fill(~known[:, None], 1 / len(class_names)),
        image=None if found.image is None else found.image[taken].masked_fill(~known[:, None], 0.0),
        text=None if found.text is None else found.text[columns],
        known=None if bool(known.all()) else known,
    )


def _columns(found: list[str], wanted: list[str]) -> Tensor:
    """int64 Tensor[C]: where in `found` each wanted class is."""
    position = {nfc(name): i for i, name in enumerate(found)}
    if missing := [name for name in wanted if nfc(name) not in position]:
        raise PipelineError(
            f"The precomputed scores lack {len(missing)} of {len(wanted)} class names, the first {missing[0]!r}. "
            f"{hint(missing[0], found)} Name the classes as they do, or compute them anew."
        )
    return torch.tensor([position[nfc(name)] for name in wanted])


def _read_hdf5(path: Path) -> Precomputed:
    with h5py.File(path) as file:
        if "image_ids" not in file or ("probabilities" not in file and "image" not in file):
            raise PipelineError(
                f"{path} holds {', '.join(file) or 'nothing'}, expected image_ids, and probabilities or "
                "image. Rename or add them."
            )
        there = {name: _own_dataset(path, file, name) for name in ("image_ids", "classes", *_ARRAYS) if name in file}
        image_ids = _names(path, there["image_ids"])
        classes = _names(path, there["classes"]) if "classes" in there else None
        if classes is None and ("probabilities" in there or "text" in there):
            raise PipelineError(f"{path} has no classes, expected the name of each column. Add them.")
        columns = len(classes or [])
        for name in _ARRAYS:
            if name in there and there[name].dtype.kind not in "fiu":
                raise PipelineError(
                    f"{path} has {name} of {there[name].dtype}, expected real numbers. Write them as such."
                )
        arrays = {name: there[name][()] for name in _ARRAYS if name in there}
        scale = float(file.attrs["logit_scale"]) if "logit_scale" in file.attrs else None
        if scale is not None and not 0 < scale < math.inf:
            raise PipelineError(f"{path} has the logit_scale {scale}, expected a number above 0. Correct it.")
        bias = float(file.attrs["logit_bias"]) if "logit_bias" in file.attrs else None
        if bias is not None and not math.isfinite(bias):
            raise PipelineError(f"{path} has the logit_bias {bias}, expected a number. Correct it.")
        if {"image", "text"} <= set(arrays) and arrays["image"].shape[1:] != arrays["text"].shape[1:]:
            raise PipelineError(
                f"{path} has image of shape {arrays['image'].shape} and text of shape {arrays['text'].shape}, expected "
                "rows of one length, made by one model."
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
        )


_ARRAYS = ("probabilities", "image", "text")


def _own_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that is in this file and not in one that it points to."""
    own = isinstance(file.get(name, getlink=True), h5py.HardLink)
    if not own or not isinstance(file[name], h5py.Dataset) or file[name].external or file[name].is_virtual:
        raise PipelineError(f"{path} has {name} that is no dataset of its own, expected one. Write it into the file.")
    return file[name]


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
            raise PipelineError(f"{metadata} is missing, expected beside {part.name}. Run clip-retrieval again.")
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
        image_ids=_checked_names(folder, "image_path", names),
        class_names=None,
        probabilities=None,
        image=torch.cat(rows),
        text=None,
        logit_scale=None,
    )


def _names(path: Path, dataset: h5py.Dataset) -> list[str]:
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise PipelineError(f"{path} has {dataset.name} of {dataset.dtype}, expected strings. Write them as such.")
    return _checked_names(path, dataset.name.removeprefix("/"), dataset.asstr("utf-8")[()])


def _checked_names(path: Path, kind: str, names: Iterable[str]) -> list[str]:
    """The names as a list, refused if there is none or one occurs twice."""
    counts = Counter(names)
    if not counts:
        raise PipelineError(f"{path} has no {kind}. Compute at least one.")
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise PipelineError(f"{path} has {kind} {repeated[0]!r} more than once. Remove or rename the others.")
    return list(counts)


def _probabilities(path: Path, values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """float32 [N, C] of this shape, whose rows are distributions."""
    if values.shape != shape:
        raise PipelineError(
            f"{path} has probabilities of shape {values.shape}, expected {shape}. Transpose or cut them."
        )
    rows = torch.from_numpy(values.astype(np.float32))
    sums = rows.sum(1)
    if not (rows.min() >= 0 and (sums - 1).abs().max() <= SUM_TOLERANCE):  # NaN is refused as well
        raise PipelineError(
            f"{path} has probabilities from {rows.min():.3g} with row sums from {sums.min():.3g} to "
            f"{sums.max():.3g}, expected a softmax over the classes: at least 0 with sums of 1."
        )
    return rows


def _unit_rows(path: Path, kind: str, values: np.ndarray, count: int) -> Tensor:
    """float32 [count, D] with unit rows, whatever the scale of the file's."""
    if values.ndim != 2 or len(values) != count:
        raise PipelineError(f"{path} has {kind} of shape {values.shape}, expected {count} rows of embeddings.")
    rows = torch.from_numpy(values.astype(np.float32))
    norms = rows.norm(dim=1)
    if not (norms.isfinite().all() and norms.min() > 0):
        raise PipelineError(f"{path} has {kind} with rows that are zero or not finite. Compute these images again.")
    return F.normalize(rows, dim=1)
