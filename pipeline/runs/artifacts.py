"""The files of a run: what each one holds, where it came from, and the only code that opens them.

`artifacts/README.md` is the specification; the classes below are the same in code. In shapes: N images,
C classes, M crops, K annotated objects, D embedding size, E epochs.

    from pipeline.runs.artifacts import read
    labels = read("artifacts/demo/final_labels.h5")
    labels.labels         # float32 [N, C]
    labels.frame()        # a pandas frame: a row an image, a column a class
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pickle import UnpicklingError  # torch's word for what `weights_only` refuses; nothing is unpickled here
from typing import Any, ClassVar

import h5py
import numpy as np
import pandas as pd
import torch

from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError, first_line
from pipeline.machine.progress import say
from pipeline.runs.config import Config
from pipeline.runs.files import replacing, write_json


@dataclass(frozen=True)
class Provenance:
    """Where an artifact came from; two artifacts with one fingerprint were made from the same in the same way."""

    schema: str
    version: int
    config: Mapping[str, Any]
    """Options of the stage that decide the content."""
    inputs: Mapping[str, str]
    """File name in the run folder to fingerprint, of everything that the stage read."""
    uses_ground_truth: bool = False
    """True if the stage, or one before it, looked at labels: a study, or thresholds calibrated on labelled photos."""

    @property
    def seed(self) -> int | None:
        """Seed of the stage's random draws; None for a stage without any."""
        return self.config.get("seed")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the content, 16 hex digits; known before the stage has run."""
        content = json.dumps([self.schema, self.version, self.config, self.inputs], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def of(self, kind: type["Artifact"]) -> "Provenance":
        """The same origin for a second file that the stage writes."""
        return replace(self, schema=kind.SCHEMA, version=kind.VERSION)

    def to_attributes(self) -> dict[str, Any]:
        """Flat attributes as they stand in a file."""
        attributes = {
            "schema": self.schema,
            "version": self.version,
            "config": json.dumps(self.config, sort_keys=True),
            "inputs": json.dumps(self.inputs, sort_keys=True),
            "fingerprint": self.fingerprint,
            "uses_ground_truth": self.uses_ground_truth,
        }
        return attributes if self.seed is None else {**attributes, "seed": self.seed}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "Provenance":
        """Inverse of `to_attributes`; raises KeyError or ValueError for a file that is not ours."""
        made = cls(
            schema=str(attributes["schema"]),
            version=int(attributes["version"]),
            config=json.loads(attributes["config"]),
            inputs=json.loads(attributes["inputs"]),
            uses_ground_truth=bool(attributes["uses_ground_truth"]),
        )
        if made.fingerprint != attributes["fingerprint"]:
            raise ValueError("its fingerprint does not fit its attributes")
        return made


def array(dtype: str, *dims: str | int, optional: bool = False) -> Any:
    """Field of an artifact: an HDF5 dataset of this dtype and these named (or fixed) sizes."""
    metadata = {"dtype": np.dtype(dtype), "dims": dims}
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What every HDF5 artifact carries."""

    SCHEMA: ClassVar[str]
    VERSION: ClassVar[int] = 1

    provenance: Provenance
    image_ids: list[str]
    """N unique ids."""
    class_names: list[str]
    """C unique names, as the dataset writes them."""

    @classmethod
    def array_fields(cls) -> list[Any]:
        """Fields that are HDF5 datasets with a checked dtype and shape."""
        return [f for f in fields(cls) if "dims" in f.metadata]

    def frame(self) -> pd.DataFrame:
        """What the file is about as a pandas frame: a row an image and a column a class, or a row a box or crop."""
        raise NotImplementedError

    def by_class(self, values: np.ndarray) -> pd.DataFrame:
        """Values [N, C] with index image id and a column a class."""
        return pd.DataFrame(values, index=pd.Index(self.image_ids, name="image_id"), columns=self.class_names)


@dataclass(frozen=True, kw_only=True)
class GroundTruth(Artifact):
    """Human labels of a dataset; opened by `evaluate`, `inspect`, `report` and the study views alone."""

    SCHEMA = "ground_truth"

    labels: np.ndarray = array("int8", "N", "C")
    """1 present, 0 absent, -1 only difficult objects."""
    object_image_index: np.ndarray = array("int64", "K")
    object_class_index: np.ndarray = array("int64", "K")
    object_box: np.ndarray = array("float32", "K", 4)
    """xyxy in pixels of the original image."""
    object_difficult: np.ndarray = array("bool", "K")

    def frame(self) -> pd.DataFrame:
        """Labels 1, 0 or -1."""
        return self.by_class(self.labels)

    def rows_of(self, image_ids: list[str]) -> np.ndarray:
        """Labels int8 [N, C] of these images, in their order.

        Raises:
            PipelineError: one of them has none.
        """
        row = {image_id: i for i, image_id in enumerate(self.image_ids)}
        missing = [i for i in image_ids if i not in row]
        if missing:
            raise PipelineError(
                f"ground_truth.h5 has no labels of {len(missing)} images (first: {missing[0]}). Run `ccd prepare`."
            )
        return self.labels[[row[i] for i in image_ids]]


@dataclass(frozen=True, kw_only=True)
class Embeddings(Artifact):
    """What the teacher says of every image of the manifest, train and test."""

    SCHEMA = "embeddings"

    is_train: np.ndarray = array("bool", "N")
    """Images of the train split; bias is estimated on these alone."""
    image: np.ndarray = array("float32", "N", "D", optional=True)
    """Unit rows; absent where precomputed probabilities were given."""
    text: np.ndarray = array("float32", "S", "D", optional=True)
    """Unit rows; one a class, or one a synonym."""
    text_class_index: np.ndarray = array("int64", "S", optional=True)
    """Class of each row of `text`."""
    probabilities: np.ndarray = array("float32", "N", "C")
    """Softmax over the classes; rows sum to 1."""
    entropy: np.ndarray = array("float32", "N")
    """Nats, in [0, log C]."""
    bias: np.ndarray = array("float32", "C")
    """Mean probability where the class is on top of a confident train image; in (0, 1]."""
    bias_counts: np.ndarray = array("int64", "C")
    """Train images behind each bias; 0 marks a class that got the mean of the others."""
    logit_scale: float
    """s of softmax(s * f . t) behind `probabilities`."""
    image_size: int
    """Side in pixels of the squashed global view; 0 where precomputed scores were given."""
    teacher_fingerprint: str
    """Hash of the teacher's weights; `score-crops` refuses another teacher."""

    def frame(self) -> pd.DataFrame:
        """Probabilities."""
        return self.by_class(self.probabilities)


@dataclass(frozen=True, kw_only=True)
class Labels(Artifact):
    """Pseudo-labels of the train images, initial or final."""

    SCHEMA = "labels"

    labels: np.ndarray = array("float32", "N", "C")
    """Soft targets in [0, 1]."""
    scores: np.ndarray = array("float32", "N", "C")
    """The same before clamping: free of the ties that clamping makes, non-negative."""
    confident: np.ndarray = array("bool", "N")
    """Entropy at most the limit."""
    corrected_entries: int = 0
    """Pairs of image and class that a person has fixed to 0 or 1 (see `Corrections`)."""

    def frame(self) -> pd.DataFrame:
        """Labels in [0, 1]."""
        return self.by_class(self.labels)


@dataclass(frozen=True, kw_only=True)
class Corrections(Artifact):
    """What a person has said of some train images; `fuse` puts it in the place of the pseudo-labels."""

    SCHEMA = "corrections"

    labels: np.ndarray = array("int8", "N", "C")
    """1 present, 0 absent, -1 not looked at."""

    def frame(self) -> pd.DataFrame:
        """Labels 1, 0 or -1."""
        return self.by_class(self.labels)


@dataclass(frozen=True, kw_only=True)
class Boxes(Artifact):
    """Where on the train images to look closer."""

    SCHEMA = "boxes"

    image_index: np.ndarray = array("int64", "M")
    """Row of `image_ids`, ascending."""
    class_index: np.ndarray = array("int64", "M")
    """Class whose CAM gave the box; -1 for a view that knows no class."""
    box: np.ndarray = array("float32", "M", 4)
    """xyxy in pixels of the original image, 0 <= x1 < x2 <= width."""
    cam_peak: np.ndarray = array("float32", "M")
    """Largest value of the CAM before normalisation; NaN where no CAM was used."""
    cam: np.ndarray = array("uint8", "M", "h", "w", optional=True)
    """The CAM of each box at the classifier's resolution, 0 at its smallest and 255 at its largest value; to look at."""
    tau: float
    """Threshold that selected the classes, on sigmoid(z) or on `relative_scores`; NaN where none was used."""

    def frame(self) -> pd.DataFrame:
        """A row a box: image_id, class (None for a view that knows none), x1, y1, x2, y2, cam_peak."""
        names = np.array([*self.class_names, None], dtype=object)
        frame = pd.DataFrame(self.box, columns=["x1", "y1", "x2", "y2"])
        frame.insert(0, "image_id", np.array(self.image_ids, dtype=object)[self.image_index])
        frame.insert(1, "class", names[self.class_index])
        return frame.assign(cam_peak=self.cam_peak)


@dataclass(frozen=True, kw_only=True)
class CropScores(Artifact):
    """What the teacher says of every crop."""

    SCHEMA = "crop_scores"
    VERSION = 2

    image_index: np.ndarray = array("int64", "M")
    """Row of `image_ids`, as in `boxes.h5`."""
    probabilities: np.ndarray = array("float32", "M", "C")
    local: np.ndarray = array("float32", "N", "C")
    """Per image and class the maximum (or mean) over the crops that speak of it; 0 where none does."""
    votes: np.ndarray = array("int64", "N", "C")
    """Crops that speak of the class."""

    def frame(self) -> pd.DataFrame:
        """Probabilities, a row a crop: index image id, a column a class."""
        index = pd.Index(np.array(self.image_ids, dtype=object)[self.image_index], name="image_id")
        return pd.DataFrame(self.probabilities, index=index, columns=self.class_names)


@dataclass(frozen=True, kw_only=True)
class EpochScores(Artifact):
    """What the classifier says of the test images after every epoch; for the oracle of `evaluate` alone."""

    SCHEMA = "epoch_scores"

    scores: np.ndarray = array("float32", "E", "N", "C")
    """sigmoid(z); N counts the images of the test split."""
    chosen_epoch: int
    """Epoch (from 1) whose weights `classifier.pt` holds."""

    @property
    def chosen(self) -> np.ndarray:
        """Scores float32 [N, C] of the epoch that `classifier.pt` holds."""
        return self.scores[self.chosen_epoch - 1]

    def frame(self) -> pd.DataFrame:
        """Scores of the chosen epoch."""
        return self.by_class(self.chosen)


KINDS: dict[str, type[Artifact]] = {
    kind.SCHEMA: kind for kind in (GroundTruth, Embeddings, Labels, Boxes, CropScores, Corrections, EpochScores)
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The images of a run and its classes: `manifest.csv` and, beside it, `manifest.json`."""

    SCHEMA: ClassVar[str] = "manifest"
    VERSION: ClassVar[int] = 1

    provenance: Provenance
    class_names: list[str]
    display_names: dict[str, list[str]]
    """Class name to the words that prompts use, synonyms included."""
    images: pd.DataFrame
    """Columns image_id, path (absolute), split ("train" or "test"), height, width, sha256."""
    skipped: dict[str, str]
    """Image id to the reason why it is not in `images`."""

    def split(self, name: str) -> "Manifest":
        """The manifest of one split alone, in the same order."""
        return replace(self, images=self.images[self.images["split"] == name].reset_index(drop=True))

    @property
    def image_ids(self) -> list[str]:
        """N ids."""
        return list(self.images["image_id"])

    @property
    def paths(self) -> list[str]:
        """N absolute paths."""
        return list(self.images["path"])

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N, 2], (H, W) of the photos as displayed."""
        return self.images[["height", "width"]].to_numpy(np.int64)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights of a classifier and what is needed to use or to continue them: a `.pt` file."""

    SCHEMA: ClassVar[str] = "classifier"
    VERSION: ClassVar[int] = 1

    provenance: Provenance
    image_ids: list[str]
    """Images it was trained on."""
    class_names: list[str]
    architecture: dict[str, Any]
    """Arguments of `pipeline.classifier.network.build_classifier`, without weights."""
    image_size: int
    """Side in pixels of the squashed input."""
    weights: dict[str, torch.Tensor]
    """State dict to predict with."""
    training: dict[str, Any]
    """State to continue from: raw weights, optimizer state, epochs done."""
    thresholds: list[float]
    """Per class, the score from which `predict` calls it present; in (0, 1)."""


class Metrics:
    """Figures of a run, `metrics.json`: plain JSON, specified in `artifacts/README.md`."""

    SCHEMA = "metrics"
    VERSION = 1


MAKERS = {
    "manifest.csv": ("prepare", Manifest),
    "ground_truth.h5": ("prepare", GroundTruth),
    "embeddings.h5": ("embed", Embeddings),
    "initial_labels.h5": ("init-labels", Labels),
    "warmup.pt": ("warmup", Checkpoint),
    "boxes.h5": ("boxes", Boxes),
    "crop_scores.h5": ("score-crops", CropScores),
    "corrections.h5": ("import-labels", Corrections),
    "final_labels.h5": ("fuse", Labels),
    "classifier.pt": ("train", Checkpoint),
    "epoch_scores.h5": ("train", EpochScores),
    "metrics.json": ("evaluate", Metrics),
}


OPTIONAL = ("ground_truth.h5", "corrections.h5")
"""Artifacts that a finished run need not have."""


def remedy(path: Path, force: bool = False) -> str:
    """The command that makes a file, for an error message."""
    name = "manifest.csv" if path.stem == "manifest" else path.name
    command = MAKERS[name][0] if name in MAKERS else "all"
    return f"`ccd {command} --run {path.parent}{' --force' if force else ''}`"


def begin(
    folder: Path,
    output: str,
    config: Config,
    inputs: list[str],
    *,
    force: bool = False,
    uses_ground_truth: bool = False,
) -> Provenance | None:
    """What `output` is to carry, or None if the file there carries it already (and says so).

    Args:
        folder: the run folder.
        output: file name of the artifact that the stage writes.
        config: the stage's options.
        inputs: file names that the stage reads.
        force: build even if the file is up to date.
        uses_ground_truth: the stage itself looks at ground truth.

    Raises:
        PipelineError: an input is missing, damaged or stale; names the command to run.
    """
    known: dict[Path, Provenance] = {}
    sources = {name: check_current(folder / name, known) for name in inputs}
    kind = MAKERS[output][1]
    provenance = Provenance(
        schema=kind.SCHEMA,
        version=kind.VERSION,
        config=config.identity(),
        inputs={name: source.fingerprint for name, source in sources.items()},
        uses_ground_truth=uses_ground_truth or any(s.uses_ground_truth for s in sources.values()),
    )
    path = folder / output
    if not force and is_current(path, provenance):
        path.touch()  # so that make, which compares times, sees what the fingerprint says
        say(f"{path} is up to date.")
        return None
    return provenance


def is_current(path: Path, provenance: Provenance) -> bool:
    """Whether a sound file with this provenance is there."""
    try:
        return path.exists() and read_provenance(path).fingerprint == provenance.fingerprint
    except PipelineError:
        return False


def check_current(path: Path, known: dict[Path, Provenance] | None = None) -> Provenance:
    """Provenance of a file whose inputs are still those that it was made from, and theirs, and so on.

    Args:
        path: the file.
        known: files that are already checked; gets those that are checked now.

    Raises:
        PipelineError: it, or a file it was made from, is missing, damaged, or has changed since.
    """
    known = {} if known is None else known
    if path in known:
        return known[path]
    provenance = read_provenance(path)
    for name, fingerprint in provenance.inputs.items():
        source = path.with_name(name)
        if check_current(source, known).fingerprint != fingerprint:
            raise PipelineError(
                f"{path} is stale: {name} has changed since it was made. Rebuild it with {remedy(path)}."
            )
    known[path] = provenance
    return provenance


def read_provenance(path: Path) -> Provenance:
    """Provenance of any artifact of a run, without reading its arrays."""
    path = Path(path)
    if path.suffix == ".csv":
        path = path.with_suffix(".json")
    with reporting_damage(path):
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                return Provenance.from_attributes(file.attrs)
        if path.suffix == ".pt":
            return Provenance.from_attributes(load_pt(path)["attributes"])
        return Provenance.from_attributes(json.loads(path.read_text())["attributes"])


def read(path: str | Path) -> Any:
    """Any artifact, checked against its specification: an `Artifact`, `Manifest`, `Checkpoint` or figures (a dict).

    Raises:
        PipelineError: missing, damaged, not one of ours, or not as specified.
    """
    path = Path(path)
    if path.name in ("manifest.csv", "manifest.json"):
        return read_manifest(path.parent)
    if path.suffix == ".pt":
        return read_checkpoint(path)
    if path.suffix == ".json":
        return read_json(path)
    return read_arrays(path)


def read_arrays(path: Path) -> Artifact:
    """An HDF5 artifact; see `read`."""
    with reporting_damage(path), h5py.File(path) as file:
        provenance = Provenance.from_attributes(file.attrs)
        kind = KINDS.get(provenance.schema)
        if kind is None or provenance.version != kind.VERSION:
            found = f"{provenance.schema} version {provenance.version}"
            raise PipelineError(
                f"{path} holds {found}, which this version cannot read. Rebuild it with {remedy(path)}."
            )
        values: dict[str, Any] = {f.name: file[f.name][()] for f in kind.array_fields() if f.name in file}
        values |= {name: [item.decode() for item in file[name][()]] for name in ("image_ids", "class_names")}
        values |= {name: file.attrs[name] for name in scalar_names(kind) if name in file.attrs}
        try:
            artifact = kind(provenance=provenance, **values)
        except TypeError as error:
            raise PipelineError(f"{path} is incomplete ({error}). Rebuild it with {remedy(path)}.") from None
    check_arrays(artifact, path)
    return artifact


def write(path: Path, artifact: Artifact) -> None:
    """Write an HDF5 artifact whole or not at all.

    Raises:
        PipelineError: an array has not the dtype or shape that the specification gives.
    """
    check_arrays(artifact, path)
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        file.attrs.update(artifact.provenance.to_attributes())
        file.attrs.update({name: getattr(artifact, name) for name in scalar_names(type(artifact))})
        for name in ("image_ids", "class_names"):
            file.create_dataset(name, data=np.array(getattr(artifact, name), dtype=object), dtype=h5py.string_dtype())
        for item in type(artifact).array_fields():
            if getattr(artifact, item.name) is not None:
                file.create_dataset(item.name, data=getattr(artifact, item.name))


def scalar_names(kind: type[Artifact]) -> list[str]:
    """Fields of an artifact that are root attributes: all that are neither arrays nor common to every artifact."""
    common = {f.name for f in fields(Artifact)}
    return [f.name for f in fields(kind) if f.name not in common and "dims" not in f.metadata]


def check_arrays(artifact: Artifact, path: Path) -> None:
    """Raise unless every array has its dtype and its named sizes agree across the file."""
    sizes: dict[str, int] = {"N": len(artifact.image_ids), "C": len(artifact.class_names)}
    for item in artifact.array_fields():
        value = getattr(artifact, item.name)
        if value is None:
            if item.default is None:
                continue
            raise PipelineError(f"{path} has no {item.name}. Rebuild it with {remedy(path)}.")
        if value.dtype != item.metadata["dtype"]:
            raise PipelineError(
                f"{item.name} in {path} is {value.dtype}, expected {item.metadata['dtype']}. "
                f"Rebuild it with {remedy(path)}."
            )
        dims = item.metadata["dims"]
        wanted = [d if isinstance(d, int) else sizes.setdefault(d, n) for d, n in zip(dims, value.shape, strict=False)]
        if list(value.shape) != wanted or len(dims) != value.ndim:
            named = ", ".join(map(str, dims))
            raise PipelineError(
                f"{item.name} in {path} has shape {list(value.shape)}, expected [{named}] = {wanted}. "
                f"Rebuild it with {remedy(path)}."
            )


def check_same_images(first: Any, second: Any, first_path: Path, second_path: Path) -> None:
    """Raise unless two artifacts are about the same images and classes, in the same order."""
    for name, what in (("image_ids", "images"), ("class_names", "classes")):
        a, b = list(getattr(first, name)), list(getattr(second, name))
        if a != b:
            odd = next((x for x in a if x not in set(b)), next((x for x in b if x not in set(a)), "their order"))
            raise PipelineError(
                f"{first_path} ({len(a)} {what}) and {second_path} ({len(b)} {what}) are about different {what}; "
                f"the first difference is {odd}. Rebuild the second with {remedy(second_path)}."
            )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run folder.

    Raises:
        PipelineError: missing, damaged, or the CSV was changed by hand (its rows do not fit the fingerprint).
    """
    csv_path, json_path = folder / "manifest.csv", folder / "manifest.json"
    with reporting_damage(csv_path):
        images = pd.read_csv(
            csv_path, dtype={"image_id": str, "path": str, "split": str, "sha256": str}, na_filter=False
        )
    with reporting_damage(json_path):
        side = json.loads(json_path.read_text())
        provenance = Provenance.from_attributes(side["attributes"])
        manifest = Manifest(
            provenance=provenance,
            class_names=side["class_names"],
            display_names=side["display_names"],
            images=images,
            skipped=side["skipped"],
        )
    if list(images.columns) != MANIFEST_COLUMNS or provenance.config["images"] != digest_images(images):
        raise PipelineError(f"{csv_path} was changed after it was made. Rebuild it with {remedy(csv_path)}.")
    images["path"] = [str((folder / p).resolve()) for p in images["path"]]
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` and then `manifest.csv`; paths inside the run folder become relative to it."""
    root = folder.resolve()
    images = manifest.images.copy()
    images["path"] = [
        str(Path(p).relative_to(root)) if Path(p).is_relative_to(root) else str(p) for p in images["path"]
    ]
    side = {
        "attributes": manifest.provenance.to_attributes(),
        "class_names": manifest.class_names,
        "display_names": manifest.display_names,
        "skipped": manifest.skipped,
    }
    write_json(folder / "manifest.json", side)
    write_csv(folder / "manifest.csv", images)


MANIFEST_COLUMNS = ["image_id", "path", "split", "height", "width", "sha256"]


def digest_images(images: pd.DataFrame) -> str:
    """Hash of what a manifest says of its images, wherever they lie."""
    rows = images[["image_id", "split", "height", "width", "sha256"]].astype(str).to_numpy()
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]


def read_checkpoint(path: Path) -> Checkpoint:
    """A `.pt` file of weights.

    Raises:
        PipelineError: missing, damaged, or not a checkpoint of this version.
    """
    with reporting_damage(path):
        content = load_pt(path)
        provenance = Provenance.from_attributes(content.pop("attributes"))
        if provenance.schema != Checkpoint.SCHEMA or provenance.version != Checkpoint.VERSION:
            raise ValueError(f"it holds {provenance.schema} version {provenance.version}")
        return Checkpoint(provenance=provenance, **content)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all."""
    content = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint) if f.name != "provenance"}
    save_pt(path, {"attributes": checkpoint.provenance.to_attributes(), **content})


def load_pt(path: Path) -> dict[str, Any]:
    """Content of a `.pt` file: tensors and plain values only, nothing that could run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        # torch's own text explains how to load it unsafely
        raise ValueError("it holds more than tensors and plain values") from None


def save_pt(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        # through a file object the archive's inner name is fixed, so equal content gives equal bytes
        torch.save(content, file)


def read_json(path: Path) -> Any:
    """Content of a JSON artifact."""
    with reporting_damage(path):
        return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame without its index, whole or not at all."""
    with replacing(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn what a library says of a missing or damaged file into one line that names the command to run."""
    if not path.exists():
        raise PipelineError(f"{path} is missing. Create it with {remedy(path)}.")
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise PipelineError(
            f"{path} is damaged or not an artifact of this tool ({first_line(error)}). "
            f"Rebuild it with {remedy(path, force=True)}."
        ) from error


class Partial:
    """Folder `<name>.partial` of finished pieces, from which a killed stage goes on.

    A piece is a file that appears whole or not at all, so whatever is in the folder can be trusted. Pieces that were
    made for another provenance are thrown away.
    """

    def __init__(self, target: Path, provenance: Provenance, *, fresh: bool = False) -> None:
        self.folder = target.with_name(target.name + ".partial")
        stamp = self.folder / "fingerprint"
        stale = fresh or not stamp.exists() or stamp.read_text() != provenance.fingerprint
        if stale and distributed.is_main():
            shutil.rmtree(self.folder, ignore_errors=True)
            with replacing(stamp) as partial:
                partial.write_text(provenance.fingerprint)
        distributed.barrier()  # no process looks for pieces, or saves one, before the old ones are gone

    def path(self, name: str) -> Path:
        """Where the piece of this name lies, or would."""
        return self.folder / name

    def save_arrays(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep one piece of named arrays."""
        with replacing(self.path(f"{index:08d}.npz")) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    def has_arrays(self, index: int) -> bool:
        """Whether the piece of this index is finished."""
        return self.path(f"{index:08d}.npz").exists()

    def load_arrays(self, index: int) -> dict[str, np.ndarray]:
        """One piece of named arrays."""
        with np.load(self.path(f"{index:08d}.npz"), allow_pickle=False) as content:
            return dict(content)

    def remove(self) -> None:
        """Throw the folder away; the artifact is written."""
        shutil.rmtree(self.folder)
