"""The images of a run and its classes: `manifest.csv` and, next to it, `manifest.json`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.provenance import Provenance, check_schema
from pipeline.runs.graph import VERSIONS, remedy
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing, write_json

COLUMNS = ["image_id", "path", "split", "height", "width", "sha256"]
SPLITS = ("train", "test")
BLOCK = 65_536
"""Rows per hash update."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """N images, each with its split, and C classes."""

    provenance: Provenance
    dataset: str
    """Name of the dataset, for display; not part of the provenance."""
    display_names: dict[str, dict[str, float]]
    """Class name to its display names in prompts, synonyms included, with the weight of each."""
    images: pd.DataFrame
    """Columns image_id, path (absolute), split ("train" or "test"), height, width, sha256."""
    skipped: dict[str, str]
    """Image id of each skipped photo, with the reason."""

    def split(self, name: str) -> "Manifest":
        """The manifest of one split, in the same order."""
        return replace(self, images=self.images[self.images["split"] == name].reset_index(drop=True))

    @cached_property
    def class_names(self) -> list[str]:
        """C names."""
        return list(self.display_names)

    @cached_property
    def image_ids(self) -> list[str]:
        """N ids."""
        return list(self.images["image_id"])

    @cached_property
    def paths(self) -> list[str]:
        """N absolute paths."""
        return list(self.images["path"])

    @cached_property
    def digests(self) -> list[str]:
        """N SHA-256 of the files."""
        return list(self.images["sha256"])

    @cached_property
    def digest_of(self) -> dict[str, str]:
        """SHA-256 of each photo by its path."""
        return dict(zip(self.paths, self.digests, strict=True))

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N, 2], (H, W) of the photos as displayed."""
        return self.images[["height", "width"]].to_numpy(np.int64)


def manifest_provenance(images: pd.DataFrame, display_names: Mapping[str, Mapping[str, float]]) -> Provenance:
    """Provenance of a manifest: the content of the photos and the classes determine it, not paths or the dataset's name."""
    classes = hashlib.sha256(json.dumps(list(display_names.items())).encode()).hexdigest()[:16]
    return Provenance("manifest", VERSIONS["manifest"], {"images": digest_images(images), "classes": classes}, {})


def digest_images(images: pd.DataFrame) -> str:
    """Hash of all columns of a manifest except the paths."""
    digest = hashlib.sha256()
    names = [name for name in COLUMNS if name != "path"]
    for start in range(0, len(images), BLOCK):
        block = images.iloc[start : start + BLOCK]
        rows = map("\t".join, zip(*(map(str, block[name].tolist()) for name in names), strict=True))
        digest.update("".join(f"{row}\n" for row in rows).encode())
    return digest.hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run folder.

    Raises:
        PipelineError: missing, damaged, or the CSV was edited (its rows do not match the fingerprint).
    """
    csv_path, json_path = folder / "manifest.csv", folder / "manifest.json"
    with reporting_damage(csv_path):
        texts = dict.fromkeys(("image_id", "path", "split", "sha256"), str)
        images = pd.read_csv(csv_path, dtype=texts, na_filter=False)
    with reporting_damage(json_path):
        side = json.loads(json_path.read_text(encoding="utf-8"))
        provenance = Provenance.from_attributes(side["attributes"])
        check_schema(json_path, provenance)
        manifest = Manifest(
            provenance=provenance,
            dataset=str(side["dataset"]),
            display_names=display_names_of(side),
            images=images,
            skipped={str(name): str(reason) for name, reason in side["skipped"].items()},
        )
    if list(images.columns) != COLUMNS or provenance != manifest_provenance(images, manifest.display_names):
        raise PipelineError(
            f"{csv_path} was changed after it was made. Rebuild it with {remedy(csv_path, force=True)}."
        )
    paths = images["path"]
    images["path"] = paths.where(paths.str.startswith("/"), f"{folder.resolve()}/" + paths)
    return manifest


def read_display_names(folder: Path) -> dict[str, dict[str, float]]:
    """The classes of a run with their display names, without its images.

    Raises:
        PipelineError: missing or damaged.
    """
    path = folder / "manifest.json"
    with reporting_damage(path):
        return display_names_of(json.loads(path.read_text(encoding="utf-8")))


def display_names_of(side: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The classes in the content of `manifest.json`."""
    return {
        str(name): {str(word): float(weight) for word, weight in words.items()}
        for name, words in side["display_names"].items()
    }


def read_class_names(folder: Path) -> list[str]:
    """The class names of a run, without its images.

    Raises:
        PipelineError: missing or damaged.
    """
    return list(read_display_names(folder))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` and then `manifest.csv`; paths inside the run folder become relative to it."""
    inside = f"{folder.resolve()}/"
    side = {
        "attributes": manifest.provenance.to_attributes(),
        "dataset": manifest.dataset,
        "display_names": manifest.display_names,
        "skipped": manifest.skipped,
    }
    write_json(folder / "manifest.json", side)
    write_csv(
        folder / "manifest.csv",
        manifest.images.assign(path=[str(path).removeprefix(inside) for path in manifest.images["path"]]),
    )


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame without its index, atomically."""
    with replacing(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")
