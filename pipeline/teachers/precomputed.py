"""Scores that someone else computed: an HDF5 file or a clip-retrieval folder to checked tensors."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.machine.errors import PipelineError
from pipeline.runs.files import sha256_of

SUM_TOLERANCE = 0.02
"""Largest deviation of a row of probabilities from 1: what rounding to float16 leaves."""


@dataclass(frozen=True)
class Precomputed:
    """Class probabilities, or embeddings, of N images; one of both is there."""

    teacher: str
    """Who computed them, in words."""
    fingerprint: str
    """Hash of the files."""
    image_ids: list[str]
    """N unique ids: the file names without folder and extension."""
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


def read_precomputed(path: Path) -> Precomputed:
    """Read an HDF5 file, or the folder that `clip-retrieval inference` writes.

    The file has `image_ids` [N] and either `probabilities` [N, C] or `image` [N, D], perhaps with `text`
    [C, D]; `classes` [C] where something has C rows or columns; perhaps the attributes `teacher` and
    `logit_scale`.

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
        raise PipelineError(f"{path} is no HDF5 file. Give an .h5 file or a clip-retrieval folder.")
    try:
        return _read_hdf5(path)
    except OSError as error:
        raise PipelineError(f"{path} is damaged ({error}). Get it anew.") from error


def align(found: Precomputed, image_ids: list[str], class_names: list[str]) -> Precomputed:
    """The same with these images and these classes, in this order; further images are left out.

    Raises:
        PipelineError: if an image or a class is not there, or there are further classes.
    """
    rows = _positions(found.image_ids, image_ids, "image")
    columns = None
    if found.class_names is not None:
        columns = _positions(found.class_names, class_names, "class")
        if further := sorted(set(found.class_names) - set(class_names)):
            raise PipelineError(
                f"The precomputed scores have {len(further)} classes more than the dataset, the first "
                f"{further[0]!r}. A softmax over other classes is another one: compute them anew, or name "
                "these classes too."
            )
    return replace(
        found,
        image_ids=image_ids,
        class_names=None if columns is None else class_names,
        probabilities=None if found.probabilities is None else found.probabilities[rows][:, columns],
        image=None if found.image is None else found.image[rows],
        text=None if found.text is None else found.text[columns],
    )


def _positions(found: list[str], wanted: list[str], kind: str) -> Tensor:
    """int64 Tensor[len(wanted)]: where in `found` each wanted name is."""
    position = {name: i for i, name in enumerate(found)}
    if missing := [name for name in wanted if name not in position]:
        raise PipelineError(
            f"The precomputed scores lack {len(missing)} of {len(wanted)} {kind} names, the first "
            f"{missing[0]!r}; theirs begin with {found[0]!r}. Compute the rest, or prepare the dataset that "
            "they belong to."
        )
    return torch.tensor([position[name] for name in wanted])


def _read_hdf5(path: Path) -> Precomputed:
    with h5py.File(path) as file:
        if "image_ids" not in file or ("probabilities" not in file and "image" not in file):
            raise PipelineError(
                f"{path} holds {', '.join(file) or 'nothing'}, expected image_ids, and probabilities or "
                "image. Rename or add them."
            )
        image_ids = _names(path, file["image_ids"])
        classes = _names(path, file["classes"]) if "classes" in file else None
        if classes is None and ("probabilities" in file or "text" in file):
            raise PipelineError(f"{path} has no classes, expected the name of each column. Add them.")
        columns = len(classes or [])
        return Precomputed(
            teacher=str(file.attrs.get("teacher", path.name)),
            fingerprint=sha256_of(path),
            image_ids=image_ids,
            class_names=classes,
            probabilities=_probabilities(path, file["probabilities"][()], (len(image_ids), columns))
            if "probabilities" in file
            else None,
            image=_unit_rows(path, "image", file["image"][()], len(image_ids)) if "image" in file else None,
            text=_unit_rows(path, "text", file["text"][()], columns) if "text" in file else None,
            logit_scale=float(file.attrs["logit_scale"]) if "logit_scale" in file.attrs else None,
        )


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
        except (EOFError, OSError, ValueError) as error:
            raise PipelineError(f"{part} or its metadata is damaged ({error}). Run clip-retrieval again.") from error
        names += [Path(name).stem for name in paths]
        rows.append(_unit_rows(part, "the array", embeddings, len(paths)))
        digest.update((sha256_of(part) + sha256_of(metadata)).encode())
    return Precomputed(
        teacher=f"clip-retrieval folder {folder.name}",
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
    return _checked_names(path, dataset.name.removeprefix("/"), dataset.asstr()[()])


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
