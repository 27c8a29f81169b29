"""The `.pt` files of a run: weights that torch reads, and a description that needs no torch.

A file is what `torch.save` writes, a zip archive, with one more member: `archive/ccd.json` holds everything that is no
tensor, so that anyone who asks where a classifier came from, or what its thresholds are, does not load a network.
"""

import copy
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # torch's word for what `weights_only` refuses; nothing is unpickled here
from typing import TYPE_CHECKING, Any, get_args

from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.provenance import Provenance, check_schema
from pipeline.runs.graph import remedy
from pipeline.runs.options import Squash
from pipeline.system.errors import PipelineError, UnreadableError, system_refusal
from pipeline.system.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTION = "archive/ccd.json"
LONGEST = 256 * 2**20
"""Bytes of the longest description that is read."""


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """What a classifier file says of itself."""

    provenance: Provenance
    class_names: list[str]
    architecture: dict[str, Any]
    """Arguments of `pipeline.classifier.network.build_classifier`, without weights."""
    image_size: int
    """Side in pixels of the squashed input."""
    thresholds: list[float]
    """Per class, the score from which `predict` calls it present; 0.5 but for what `ccd calibrate` has set."""
    steps: int
    """Optimizer steps that it was trained for."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointHeader):
    """Weights of a classifier and what is needed to use or to continue them."""

    image_ids: list[str]
    """Images it was trained on."""
    weights: "dict[str, Tensor]"
    """State dict to predict with."""
    training: dict[str, Any]
    """State to continue from: raw weights, optimizer state, running average; empty in a file for prediction alone."""


def read_header(path: Path) -> CheckpointHeader:
    """What a classifier file says of itself, without torch.

    Raises:
        PipelineError: missing, damaged, or not a classifier file of this version.
    """
    if path.suffix != ".pt" and path.is_file() and not zipfile.is_zipfile(path):
        raise PipelineError(f"{path} is not a classifier file. Name a run, or a file such as classifier.pt.")
    with reporting_damage(path):
        return header_of(read_description(path), path)


def read_description(path: Path) -> dict[str, Any]:
    """The description inside a `.pt` file; raises ValueError or BadZipFile where there is none."""
    with zipfile.ZipFile(path) as archive:
        if DESCRIPTION not in archive.namelist() or archive.getinfo(DESCRIPTION).file_size > LONGEST:
            raise ValueError("it has no description of ours")
        content = json.loads(archive.read(DESCRIPTION))
    if not isinstance(content, dict):
        raise ValueError("its description is none of ours")
    return content


def header_of(content: Mapping[str, Any], path: Path) -> CheckpointHeader:
    """The header that a description gives; raises KeyError, TypeError or ValueError where it is not as specified."""
    provenance = Provenance.from_attributes(content["attributes"])
    check_schema(path, provenance)
    names, thresholds = content["class_names"], content["thresholds"]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)):
        raise ValueError("its class names are no list of different texts")
    if len(thresholds) != len(names) or not all(0 <= float(t) <= 1 for t in thresholds):
        raise ValueError(f"its thresholds are not {len(names)} numbers from 0 to 1")
    architecture = content["architecture"]
    if not isinstance(architecture, dict) or set(architecture) - {"squash"} != {"backbone", "class_count", "boost"}:
        raise ValueError("its architecture is not as specified")
    if architecture["class_count"] != len(names) or not isinstance(architecture["backbone"], str):
        raise ValueError("its architecture does not fit its class names")
    squash = architecture.get("squash", "bicubic")  # older files do not say
    if squash not in get_args(Squash):
        raise ValueError(f"photos are to be squashed by {squash!r}")
    if not 1 <= int(content["image_size"]) <= 4096:
        raise ValueError(f"its image size is {content['image_size']}")
    return CheckpointHeader(
        provenance=provenance,
        class_names=names,
        architecture=architecture | {"boost": float(architecture["boost"]), "squash": squash},
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
        content = load_pt(path)
        if not isinstance(content, dict) or set(content) != {"image_ids", "weights", "training"}:
            raise ValueError("it does not hold image_ids, weights and training alone")
        check_content(content)
        return Checkpoint(**vars(header), **content)


def check_content(content: Mapping[str, Any]) -> None:
    """Raise ValueError unless the images are texts, and the weights named tensors of finite numbers."""
    import torch

    ids, weights = content["image_ids"], content["weights"]
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("its image_ids are no list of texts")
    if not isinstance(content["training"], dict) or not isinstance(weights, dict):
        raise ValueError("its weights or its state of training are no table")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"its weights hold {name!r}, which is no named tensor")
        if not torch.isfinite(value).all():
            raise ValueError(f"its weights {name} are not all finite")


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all."""
    description = {
        "attributes": checkpoint.provenance.to_attributes(),
        "class_names": checkpoint.class_names,
        "architecture": checkpoint.architecture,
        "image_size": checkpoint.image_size,
        "thresholds": checkpoint.thresholds,
        "steps": checkpoint.steps,
    }
    tensors = {name: getattr(checkpoint, name) for name in ("image_ids", "weights", "training")}
    with replacing(path) as partial:
        write_tensors(partial, tensors)
        with zipfile.ZipFile(partial, "a") as archive:
            # a member of a fixed date, so that equal content gives equal bytes
            archive.writestr(zipfile.ZipInfo(DESCRIPTION), json.dumps(description))


def load_pt(path: Path) -> Any:
    """Content of a `.pt` file: tensors and plain values only, nothing that could run code."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        # torch's own text explains how to load it unsafely
        raise ValueError("it holds more than tensors and plain values") from None


def load_partial(path: Path, *names: str) -> dict[str, Any]:
    """Entries of a piece of unfinished training, all of them where none is named.

    They are copies: a file that is still mapped into memory keeps its folder from being removed on NFS.

    Raises:
        PipelineError: it is damaged.
    """
    try:
        content = load_pt(path)
        return copy.deepcopy({name: content[name] for name in names or content})
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        if refusal := system_refusal(error):
            raise UnreadableError(f"{path} cannot be read {refusal}") from error
        folder = next((each for each in path.parents if each.suffix == ".partial"), path.parent)
        raise PipelineError(
            f"{path} is damaged ({error}). Start the stage again with {remedy(folder.with_suffix(''), force=True)}."
        ) from error


def save_pt(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    with replacing(path) as partial:
        write_tensors(partial, content)


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """What `torch.save` writes, the same bytes for the same content."""
    import torch

    with path.open("wb") as file:
        # through a file object the archive's inner name is fixed
        torch.save(content, file)
