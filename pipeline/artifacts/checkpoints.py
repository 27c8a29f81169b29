"""The `.pt` files of a run: weights that torch reads, and a description that needs no torch.

A file is what `torch.save` writes, a zip archive, with one more member: `archive/ccd.json` contains everything except
tensors, so that a classifier's provenance and thresholds can be read without torch.
"""

import copy
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import (
    UnpicklingError,  # what torch raises for content that `weights_only` refuses; nothing is unpickled here
)
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.provenance import Provenance, check_schema
from pipeline.method import FORMULAS
from pipeline.runs.graph import remedy
from pipeline.runs.options import ResizeFilter
from pipeline.runs.partial_results import place_of
from pipeline.system.errors import PipelineError, UnreadableError, system_refusal
from pipeline.system.files import replacing_stream
from pipeline.system.sealed import check_seal, seal

if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTION = "archive/ccd.json"
ARCHITECTURE = {"backbone", "class_count", "boost", "resize_filter"}
"""Keys of an architecture; with a teacher head also `teacher`, numbers by name; with a teacher's image tower also `tower`."""
LONGEST = 256 * 2**20
"""Largest size of a description, bytes."""


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """The description of a classifier file."""

    provenance: Provenance
    class_names: list[str]
    architecture: dict[str, Any]
    """Arguments of `pipeline.classifier.network.build_classifier`, without weights."""
    image_size: int
    """Side in pixels of the square input."""
    thresholds: list[float]
    """Per class, the smallest score that `predict` counts as present; 0.5 unless `ccd calibrate` has set another."""
    steps: int
    """Optimizer steps of the training."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointHeader):
    """Weights of a classifier, and the state to continue its training from."""

    image_ids: list[str]
    """Train images."""
    weights: "dict[str, Tensor]"
    """State dict for prediction."""
    training: dict[str, Any]
    """Weights and optimizer state to continue from; empty in a file that only predicts."""


def read_header(path: Path) -> CheckpointHeader:
    """The description of a classifier file, read without torch.

    Raises:
        PipelineError: missing, damaged, or not a classifier file of this version.
    """
    if path.suffix != ".pt" and path.is_file() and not zipfile.is_zipfile(path):
        raise PipelineError(f"{path} is not a classifier file. Name a run, or a file such as classifier.pt.")
    with reporting_damage(path):
        return header_of(read_description(path), path)


def why_outdated(calibrated: Provenance, classifier: Provenance) -> str:
    """What the thresholds of a `calibrated.pt` were made with if they do not apply to a `classifier.pt`, else empty."""
    if calibrated.inputs.get("classifier.pt") != classifier.fingerprint:
        return "an earlier classifier.pt"
    if any(FORMULAS.get(name) != version for name, version in calibrated.formulas.items()):
        return "earlier formulas"
    return ""


def read_description(path: Path) -> dict[str, Any]:
    """The description inside a `.pt` file; raises ValueError or BadZipFile if there is none."""
    with zipfile.ZipFile(path) as archive:
        if DESCRIPTION not in archive.namelist() or archive.getinfo(DESCRIPTION).file_size > LONGEST:
            raise ValueError("it has no ccd.json")
        content = json.loads(archive.read(DESCRIPTION))
    if not isinstance(content, dict):
        raise ValueError("its ccd.json is not an object")
    return content


def header_of(content: Mapping[str, Any], path: Path) -> CheckpointHeader:
    """The header in a description; raises KeyError, TypeError or ValueError if it is not as specified."""
    provenance = Provenance.from_attributes(content["attributes"])
    check_schema(path, provenance)
    names, thresholds = content["class_names"], content["thresholds"]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)):
        raise ValueError("its class names are not a list of different texts")
    if len(thresholds) != len(names) or not all(0 <= float(t) <= 1 for t in thresholds):
        raise ValueError(f"its thresholds are not {len(names)} numbers from 0 to 1")
    architecture = content["architecture"]
    if not isinstance(architecture, dict) or set(architecture) - {"teacher", "tower"} != ARCHITECTURE:
        raise ValueError("its architecture is not as specified")
    teacher = architecture.get("teacher")
    if teacher is not None and not (
        isinstance(teacher, dict) and all(type(value) in (int, float, bool) for value in teacher.values())
    ):
        raise ValueError("its teacher head is not as specified")
    if not isinstance(architecture.get("tower", {}), dict):
        raise ValueError("its tower is not as specified")
    if architecture["class_count"] != len(names) or not isinstance(architecture["backbone"], str):
        raise ValueError("its architecture does not fit its class names")
    if architecture["resize_filter"] not in get_args(ResizeFilter):
        raise ValueError(f"its resize filter is {architecture['resize_filter']!r}")
    if not 1 <= int(content["image_size"]) <= 4096:
        raise ValueError(f"its image size is {content['image_size']}")
    return CheckpointHeader(
        provenance=provenance,
        class_names=names,
        architecture=architecture | {"boost": float(architecture["boost"])},
        image_size=int(content["image_size"]),
        thresholds=[float(t) for t in thresholds],
        steps=int(content["steps"]),
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """A classifier file with its weights.

    Raises:
        PipelineError: missing, damaged, or not a classifier file of this version.
    """
    header = read_header(path)
    with reporting_damage(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not compare checksums
                raise ValueError(f"the checksum of {damaged} does not match")
        content = load_pt(path)
        if not isinstance(content, dict) or set(content) != {"image_ids", "weights", "training"}:
            raise ValueError("it does not contain exactly image_ids, weights and training")
        check_content(content)
        return Checkpoint(**vars(header), **content)


def check_content(content: Mapping[str, Any]) -> None:
    """Raise ValueError unless the image ids are texts, and the weights named tensors of finite numbers."""
    import torch

    ids, weights = content["image_ids"], content["weights"]
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("its image_ids are not a list of texts")
    if not isinstance(content["training"], dict) or not isinstance(weights, dict):
        raise ValueError("its weights or its training state are not a dictionary")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"its weights contain {name!r}, which is not a named tensor")
        if not torch.isfinite(value).all():
            raise ValueError(f"its weights {name} are not all finite")


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    description = {
        "attributes": checkpoint.provenance.to_attributes(),
        "class_names": checkpoint.class_names,
        "architecture": checkpoint.architecture,
        "image_size": checkpoint.image_size,
        "thresholds": checkpoint.thresholds,
        "steps": checkpoint.steps,
    }
    tensors = {name: getattr(checkpoint, name) for name in ("image_ids", "weights", "training")}
    with replacing_stream(path) as stream:
        save_tensors(tensors, stream)
        stream.seek(0)
        with zipfile.ZipFile(stream, "a") as archive:
            # a fixed date, so that equal content gives equal bytes
            archive.writestr(zipfile.ZipInfo(DESCRIPTION), json.dumps(description))


def load_pt(path: Path) -> Any:
    """Content of a `.pt` file: tensors and plain values, never code."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        # torch's own message explains how to load the file unsafely
        raise ValueError("it contains more than tensors and plain values") from None


def load_partial(path: Path, *names: str) -> dict[str, Any]:
    """Entries of a partial result of training; without names, all of them.

    They are copies: on NFS, a folder cannot be removed while one of its files is mapped into memory.

    Raises:
        PipelineError: it is damaged.
    """
    try:
        check_seal(path, place_of(path))
        content = load_pt(path)
        return copy.deepcopy({name: content[name] for name in names or content})
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        if refusal := system_refusal(error):
            raise UnreadableError(f"{path} cannot be read {refusal}") from error
        folder = next((each for each in path.parents if each.suffix == ".partial"), path.parent)
        raise PipelineError(
            f"{path} is damaged ({error}). Start the stage again with {remedy(folder.with_suffix(''), force=True)}."
        ) from error


def save_partial(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values as a partial result, atomically."""
    with replacing_stream(path) as stream:
        save_tensors(content, stream)
        seal(stream, place_of(path))


def save_tensors(content: dict[str, Any], stream: BinaryIO) -> None:
    """Save as `torch.save` does; equal content gives equal bytes, as torch names the archive's folder after a path only."""
    import torch

    torch.save(content, stream)
