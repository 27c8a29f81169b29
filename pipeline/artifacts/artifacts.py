"""The HDF5 files of a run: what each one holds, where it came from, and the only code that opens them.

`artifacts/README.md` is the specification; the classes below are the same in code. In shapes: N images,
C classes, M crops, S texts, D embedding size, E epochs.

    from pipeline import read
    labels = read("artifacts/demo/final_labels.h5")
    labels.labels         # float32 [N, C]
    labels.frame()        # a pandas frame: one row per image, one column per class
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import h5py
import numpy as np

from pipeline.runs.graph import MAKERS, VERSIONS, advice, remedy
from pipeline.system.errors import PipelineError, UnreadableError, first_line, system_refusal
from pipeline.system.files import replacing

if TYPE_CHECKING:
    import pandas as pd

COMPRESSION = 1100
"""No filter of HDF5 makes more of a byte than this many; a dataset that claims more is no honest one."""


@dataclass(frozen=True)
class Provenance:
    """Where an artifact came from; two artifacts with one fingerprint were made from the same in the same way."""

    schema: str
    """The name of its file without the ending."""
    version: int
    config: Mapping[str, Any]
    """Options of the stage that decide the content; files among them by the hash of their content."""
    inputs: Mapping[str, str]
    """File name in the run folder to fingerprint, of everything that the stage read."""
    formulas: Mapping[str, int] = field(default_factory=dict)
    """Module of `pipeline.method` to its version, of those that decide the content."""
    uses_ground_truth: bool = False
    """True if the stage, or one before it, looked at labels: a study, or thresholds calibrated on labelled photos."""

    @property
    def seed(self) -> int | None:
        """Seed of the stage's random draws; None for a stage without any."""
        return self.config.get("seed")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the content, 16 hex digits; known before the stage has run."""
        content = json.dumps([self.schema, self.version, self.config, self.inputs, self.formulas], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def of(self, name: str) -> "Provenance":
        """The same origin for another file that the stage writes."""
        schema = Path(name).stem
        return replace(self, schema=schema, version=VERSIONS[schema])

    def to_attributes(self) -> dict[str, Any]:
        """Flat attributes as they stand in a file."""
        attributes = {
            "schema": self.schema,
            "version": self.version,
            "config": json.dumps(self.config, sort_keys=True),
            "inputs": json.dumps(self.inputs, sort_keys=True),
            "formulas": json.dumps(self.formulas, sort_keys=True),
            "fingerprint": self.fingerprint,
            "uses_ground_truth": self.uses_ground_truth,
        }
        return attributes if self.seed is None else {**attributes, "seed": self.seed}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "Provenance":
        """Inverse of `to_attributes`; raises KeyError, TypeError or ValueError for a file that is not ours."""
        config, inputs = (json.loads(attributes[name]) for name in ("config", "inputs"))
        formulas = json.loads(attributes.get("formulas", "{}"))
        if not all(isinstance(value, dict) for value in (config, inputs, formulas)):
            raise ValueError("its origin is not written as it should be")
        if unknown := [name for name in inputs if name not in MAKERS]:
            raise ValueError(f"it claims to be made from {unknown[0]!r}, which is no file of a run")
        made = cls(
            schema=str(attributes["schema"]),
            version=int(attributes["version"]),
            config=config,
            inputs=inputs,
            formulas=formulas,
            uses_ground_truth=bool(attributes["uses_ground_truth"]),
        )
        if made.fingerprint != attributes["fingerprint"]:
            raise ValueError("its fingerprint does not fit its attributes")
        return made


def array(
    dtype: str,
    *dims: str | int,
    optional: bool = False,
    low: float | None = None,
    high: float | None = None,
    index: str = "",
    nan: bool = False,
    ascending: bool = False,
) -> Any:
    """Field of an artifact: an HDF5 dataset of this dtype and these named (or fixed) sizes.

    Args:
        dtype: of NumPy.
        dims: sizes, those of one name being equal across a file.
        optional: whether it may be absent.
        low: smallest value.
        high: largest value; with `index`, the size that the values lie below.
        index: name of the size whose rows the values number.
        nan: whether NaN may stand for "not known".
        ascending: whether no value is below the one before.
    """
    metadata = {"dtype": np.dtype(dtype), "dims": dims, "low": low, "high": high, "index": index, "nan": nan}
    metadata["ascending"] = ascending
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What every HDF5 artifact carries."""

    SCHEMAS: ClassVar[tuple[str, ...]]
    """Names of the files of this kind, without their ending."""

    provenance: Provenance
    image_ids: list[str]
    """N unique ids."""
    class_names: list[str]
    """C unique names, as the dataset writes them."""

    @classmethod
    def array_fields(cls) -> list[Any]:
        """Fields that are HDF5 datasets with a checked dtype, shape and range."""
        return [f for f in fields(cls) if "dims" in f.metadata]

    @classmethod
    def scalar_fields(cls) -> list[Any]:
        """Fields that are root attributes: all that are neither arrays nor common to every artifact."""
        common = {f.name for f in fields(Artifact)}
        return [f for f in fields(cls) if f.name not in common and "dims" not in f.metadata]

    def frame(self) -> "pd.DataFrame":
        """What the file is about as a pandas frame: one row per image and one column per class, or one row per box."""
        raise NotImplementedError

    def by_class(self, values: np.ndarray) -> "pd.DataFrame":
        """Values [N, C] with index image id and one column per class."""
        import pandas as pd

        return pd.DataFrame(values, index=pd.Index(self.image_ids, name="image_id"), columns=self.class_names)


@dataclass(frozen=True, kw_only=True)
class Embeddings(Artifact):
    """What the teacher says of every image of the manifest, train and test."""

    SCHEMAS = ("embeddings",)

    is_train: np.ndarray = array("bool", "N")
    """Images of the train split; bias is estimated on these alone."""
    known: np.ndarray = array("bool", "N", optional=True)
    """Images of which the teacher said anything; absent: all. Precomputed scores may lack test images."""
    text: np.ndarray = array("float32", "S", "D", optional=True)
    """Unit rows; one per class, or one per synonym."""
    text_class_index: np.ndarray = array("int64", "S", optional=True, index="C")
    """Class of each row of `text`."""
    other_text: np.ndarray = array("float32", "O", "D", optional=True)
    """Unit rows, of the others: what joined the softmax and is no class."""
    probabilities: np.ndarray = array("float32", "N", "C", low=0, high=1)
    """Softmax over classes and others, the columns of the classes: rows sum to at most 1; or sigmoids, with `logit_bias`."""
    entropy: np.ndarray = array("float32", "N", low=0)
    """Nats, in [0, log `outcomes`], of the softmax, or of the shares in the sum of the sigmoids."""
    class_on_top: np.ndarray = array("bool", "N")
    """A class, and none of the others, is the most probable; of sigmoids, one has at least 1/C."""
    bias: np.ndarray = array("float32", "C", low=0, high=1)
    """Mean probability where the class is on top of a confident train image; in (0, 1]."""
    bias_counts: np.ndarray = array("int64", "C", low=0)
    """Train images behind each bias; 0 marks a class that got the mean of the others."""
    logit_scale: float
    """s of softmax(s * f . t) behind `probabilities`."""
    logit_bias: float = math.nan
    """b of sigmoid(s * f . t + b); NaN for a softmax."""
    outcomes: int
    """C and the number of others: how many the softmax chose among."""
    others: str = ""
    """Names of the others, joined by ", "."""
    others_left_out: str = ""
    """Names of those that are too near a class, joined by ", "."""
    image_size: int
    """Side in pixels of the squashed global view; 0 where precomputed scores were given."""
    teacher: str
    """Its spec, as it was given; no part of the fingerprint."""
    teacher_fingerprint: str
    """Hash of the teacher's weights; `score-crops` refuses another teacher."""

    def frame(self) -> "pd.DataFrame":
        """Probabilities."""
        return self.by_class(self.probabilities)


def corrected_count(images: int, entries: int) -> str:
    """How much people have corrected, in photos or, where an old file does not count them, in labels; empty for nothing."""
    number, what = (images, "photo") if images else (entries, "label")
    return f"{number:,} {what}{'s' * (number != 1)}" if number else ""


@dataclass(frozen=True, kw_only=True)
class Labels(Artifact):
    """Pseudo-labels of the train images: initial, final, or as they are trained on."""

    SCHEMAS = ("initial_labels", "final_labels", "refined_labels")

    labels: np.ndarray = array("float32", "N", "C", low=0, high=1)
    """Soft targets in [0, 1]."""
    scores: np.ndarray = array("float32", "N", "C", low=0)
    """The same before clamping: free of the ties that clamping makes, non-negative."""
    confident: np.ndarray = array("bool", "N")
    """Entropy at most the limit."""
    corrected_entries: int = 0
    """Pairs of image and class that a person has fixed to 0 or 1 (see `Corrections`)."""
    corrected_images: int = 0
    """Images with such a pair; 0 also in files of earlier versions."""

    @property
    def by_hand(self) -> str:
        """How much people have corrected, as "3 photos"; empty where they have not."""
        return corrected_count(self.corrected_images, self.corrected_entries)

    def frame(self) -> "pd.DataFrame":
        """Labels in [0, 1]."""
        return self.by_class(self.labels)


@dataclass(frozen=True, kw_only=True)
class Corrections(Artifact):
    """What a person has said of some images; `fuse` puts it in the place of the pseudo-labels of the same images.

    It names images and classes of its own, made from nothing but what was said: it stays true when photos are added or
    the class list changes, see `align_corrections`.
    """

    SCHEMAS = ("corrections",)

    labels: np.ndarray = array("int8", "N", "C", low=-1, high=1)
    """1 present, 0 absent, -1 not looked at."""

    def frame(self) -> "pd.DataFrame":
        """Labels 1, 0 or -1."""
        return self.by_class(self.labels)


@dataclass(frozen=True)
class AlignedCorrections:
    """Corrections at the rows and columns of other images and classes."""

    labels: np.ndarray
    """int8 [N, C]: 1 present, 0 absent, -1 nothing said."""
    unknown_images: list[str]
    """Corrected images that are not among these."""
    unknown_classes: list[str]
    """Corrected classes that are not among these."""


def align_corrections(
    corrections: Corrections, image_ids: Sequence[str], class_names: Sequence[str]
) -> AlignedCorrections:
    """What people said of these N images and C classes, wherever it stands in the corrections."""
    said = corrections.labels >= 0
    rows, columns = (
        np.array([place.get(name, -1) for name in names], dtype=np.int64)
        for place, names in (
            ({image_id: row for row, image_id in enumerate(image_ids)}, corrections.image_ids),
            ({name: column for column, name in enumerate(class_names)}, corrections.class_names),
        )
    )
    labels = np.full((len(image_ids), len(class_names)), -1, np.int8)
    labels[np.ix_(rows[rows >= 0], columns[columns >= 0])] = corrections.labels[np.ix_(rows >= 0, columns >= 0)]
    return AlignedCorrections(
        labels=labels,
        unknown_images=[corrections.image_ids[i] for i in np.flatnonzero((rows < 0) & said.any(axis=1))],
        unknown_classes=[corrections.class_names[c] for c in np.flatnonzero((columns < 0) & said.any(axis=0))],
    )


@dataclass(frozen=True, kw_only=True)
class Boxes(Artifact):
    """Where on the train images to look closer."""

    SCHEMAS = ("boxes",)

    image_index: np.ndarray = array("int64", "M", index="N", ascending=True)
    """Row of `image_ids`, ascending."""
    class_index: np.ndarray = array("int64", "M", low=-1, index="C")
    """Class whose CAM gave the box; -1 for a view that knows no class."""
    box: np.ndarray = array("float32", "M", 4, low=0)
    """xyxy in pixels of the original image, 0 <= x1 < x2 <= width."""
    cam_peak: np.ndarray = array("float32", "M", nan=True)
    """Largest value of the CAM before normalisation; NaN where no CAM was used."""
    cam: np.ndarray = array("uint8", "M", "h", "w", optional=True)
    """The CAM of each box at the classifier's resolution, 0 at its smallest and 255 at its largest value; to look at."""
    tau: float
    """Threshold that selected the classes, on sigmoid(z) or on `relative_scores`; NaN where none was used."""

    def frame(self) -> "pd.DataFrame":
        """One row per box: image_id, class (None for a view that knows none), x1, y1, x2, y2, cam_peak."""
        import pandas as pd

        names = np.array([*self.class_names, None], dtype=object)
        frame = pd.DataFrame(self.box, columns=["x1", "y1", "x2", "y2"])
        frame.insert(0, "image_id", np.array(self.image_ids, dtype=object)[self.image_index])
        frame.insert(1, "class", names[self.class_index])
        return frame.assign(cam_peak=self.cam_peak)


@dataclass(frozen=True, kw_only=True)
class CropScores(Artifact):
    """What the teacher says of every crop; nothing is combined yet."""

    SCHEMAS = ("crop_scores",)

    image_index: np.ndarray = array("int64", "M", index="N", ascending=True)
    """Row of `image_ids`, as in `boxes.h5`."""
    class_index: np.ndarray = array("int64", "M", low=-1, index="C")
    """Class that the crop was cut for, as in `boxes.h5`."""
    probabilities: np.ndarray = array("float32", "M", "C", low=0, high=1)
    """As in `embeddings.h5`."""
    entropy: np.ndarray = array("float32", "M", low=0)
    """As in `embeddings.h5`."""
    class_on_top: np.ndarray = array("bool", "M")
    """As in `embeddings.h5`."""
    outcomes: int
    """C and the number of others."""

    def frame(self) -> "pd.DataFrame":
        """Probabilities, one row per crop: index image id, one column per class."""
        import pandas as pd

        index = pd.Index(np.array(self.image_ids, dtype=object)[self.image_index], name="image_id")
        return pd.DataFrame(self.probabilities, index=index, columns=self.class_names)


@dataclass(frozen=True, kw_only=True)
class EpochScores(Artifact):
    """What the classifier says of the test images before the final training and after its epochs."""

    SCHEMAS = ("epoch_scores",)

    epochs: np.ndarray = array("int64", "E", low=0)
    """Epoch of each row of `scores`; 0 is the warm-up classifier."""
    scores: np.ndarray = array("float32", "E", "N", "C", low=0, high=1)
    """sigmoid(z); N counts the images of the test split. From epoch 1 on calibrated as `classifier.pt` is."""
    chosen_epoch: int
    """Epoch (from 1) whose weights `classifier.pt` holds."""

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Scores float32 [N, C] after an epoch; 0 is the warm-up classifier."""
        return self.scores[np.flatnonzero(self.epochs == epoch)[0]]

    @property
    def chosen(self) -> np.ndarray:
        """Scores float32 [N, C] of the epoch that `classifier.pt` holds."""
        return self.of_epoch(self.chosen_epoch)

    def frame(self) -> "pd.DataFrame":
        """Scores of the chosen epoch."""
        return self.by_class(self.chosen)


KINDS: dict[str, type[Artifact]] = {
    schema: kind
    for kind in (Embeddings, Labels, Boxes, CropScores, Corrections, EpochScores)
    for schema in kind.SCHEMAS
}
"""Schema to kind. Ground truth is not among them: `pipeline.evaluation.ground_truth` reads it, and a linter holds who
may import that."""


def read_arrays(path: Path, kinds: Mapping[str, type[Artifact]] = KINDS, without: Sequence[str] = ()) -> Any:
    """An HDF5 artifact, checked against its specification.

    Args:
        path: the file.
        kinds: schema to the kind that is made of the content.
        without: large arrays that are not needed, in whose place stands one of no rows.

    Raises:
        PipelineError: missing, damaged, not one of ours, of another schema than its name says, or not as specified.
    """
    path = Path(path)
    with reporting_damage(path), h5py.File(path) as file:
        provenance = Provenance.from_attributes(file.attrs)
        check_schema(path, provenance)
        kind = kinds.get(provenance.schema)
        if kind is None:
            raise PipelineError(f"{path} holds {provenance.schema}, expected {', '.join(kinds)}.")
        values: dict[str, Any] = {
            f.name: take(file, f.name) for f in kind.array_fields() if f.name in file and f.name not in without
        }
        values |= {name: take_names(file, name) for name in ("image_ids", "class_names")}
        for item in kind.scalar_fields():
            if item.name in file.attrs:
                values[item.name] = plain_scalar(file.attrs[item.name], item)
        left_out = {name: unread(file, name) for name in without if name in file}
        values |= {name: found[:0] for name, found in left_out.items()}
        try:
            artifact = kind(provenance=provenance, **values)
        except TypeError as error:
            raise PipelineError(f"{path} is incomplete ({error}). Rebuild it with {remedy(path)}.") from None
    check_arrays(artifact, path, left_out)
    return artifact


def read_rows(path: Path, artifact: Artifact, name: str, rows: slice) -> np.ndarray:
    """Some rows of an array that `read_arrays` left out of an artifact, checked as it checks a whole one.

    Raises:
        PipelineError: the file is damaged, or has values that the specification does not allow.
    """
    with reporting_damage(path), h5py.File(path) as file:
        values = take(file, name, rows)
    item = next(field for field in artifact.array_fields() if field.name == name)
    check_array(values, item, {"C": len(artifact.class_names), item.metadata["dims"][0]: rows.stop - rows.start}, path)
    return values


def unread(file: h5py.File, name: str) -> np.ndarray:
    """An array of the shape and dtype of a dataset that takes no memory; its values mean nothing."""
    return np.broadcast_to(np.zeros((), file[name].dtype), file[name].shape)


def take(file: h5py.File, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of a dataset of a file, refused where its content lies elsewhere or is less than it claims.

    Raises:
        ValueError: it is a link or external, is no dataset, or claims more than the file holds.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link, expected a dataset in this file")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{name} is no array")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} lies in another file, expected a dataset in this file")
    if dataset.nbytes > COMPRESSION * (dataset.id.get_storage_size() + 4096):
        raise ValueError(f"{name} claims {dataset.nbytes:,} bytes, and the file holds fewer")
    return dataset[rows] if dataset.ndim else dataset[()]


def take_names(file: h5py.File, name: str) -> list[str]:
    """A dataset of unique texts."""
    found = take(file, name)
    if h5py.check_string_dtype(file[name].dtype) is None or found.ndim != 1:
        raise ValueError(f"{name} is no list of texts")
    names = [item.decode() for item in found]
    if len(set(names)) != len(names):
        raise ValueError(f"{name} names one of them twice")
    return names


def plain_scalar(value: Any, item: Any) -> Any:
    """A root attribute as the plain Python value that its field has."""
    kind = {"int": int, "float": float, "str": str}[getattr(item.type, "__name__", item.type)]
    if np.ndim(value) or isinstance(value, str | bytes) != (kind is str):
        raise ValueError(f"{item.name} is {value!r}, expected one {kind.__name__}")
    return kind(value)


def write(path: Path, artifact: Artifact) -> None:
    """Write an HDF5 artifact whole or not at all.

    Raises:
        PipelineError: an array does not have the dtype, shape or range that the specification gives.
    """
    check_arrays(artifact, path)
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        file.attrs.update(artifact.provenance.to_attributes())
        file.attrs.update({item.name: getattr(artifact, item.name) for item in artifact.scalar_fields()})
        for name in ("image_ids", "class_names"):
            file.create_dataset(name, data=np.array(getattr(artifact, name), dtype=object), dtype=h5py.string_dtype())
        for item in artifact.array_fields():
            if getattr(artifact, item.name) is not None:
                file.create_dataset(item.name, data=getattr(artifact, item.name))


def check_schema(path: Path, provenance: Provenance) -> None:
    """Raise unless a file holds what its name says, in the version that this code reads.

    A file that is called as none of a run's may hold any of them.
    """
    schema, wanted = provenance.schema, path.stem
    if schema not in VERSIONS or provenance.version != VERSIONS[schema]:
        raise PipelineError(
            f"{path} holds {schema} version {provenance.version}, which this version cannot read. "
            f"Rebuild it with {remedy(path)}."
        )
    if wanted in VERSIONS and schema != wanted:
        raise PipelineError(f"{path} holds {schema}, expected {wanted}. Rebuild it with {remedy(path, force=True)}.")


def check_arrays(artifact: Artifact, path: Path, left_out: Mapping[str, np.ndarray] | None = None) -> None:
    """Raise unless every array has its dtype and range and named sizes agree across the file.

    Of those left out, see `unread`, dtype and sizes alone are looked at.
    """
    left_out = left_out or {}
    sizes: dict[str, int] = {"N": len(artifact.image_ids), "C": len(artifact.class_names)}
    for item in artifact.array_fields():
        value = left_out.get(item.name, getattr(artifact, item.name))
        if value is None:
            if item.default is None:
                continue
            raise PipelineError(f"{path} has no {item.name}. Rebuild it with {remedy(path)}.")
        check_array(value, item, sizes, path, is_read=item.name not in left_out)


def check_array(value: np.ndarray, item: Any, sizes: dict[str, int], path: Path, is_read: bool = True) -> None:
    """Raise unless an array is as its field says; adds new named sizes to `sizes`."""
    problem = wrong_form(value, item, sizes) or (wrong_values(value, item, sizes) if is_read else "")
    if problem:
        raise PipelineError(f"{item.name} in {path} {problem}. Rebuild it with {remedy(path)}.")


def wrong_form(value: np.ndarray, item: Any, sizes: dict[str, int]) -> str:
    """What is wrong with an array's dtype or shape; empty for nothing. Adds new named sizes to `sizes`."""
    if value.dtype != item.metadata["dtype"]:
        return f"is {value.dtype}, expected {item.metadata['dtype']}"
    dims = item.metadata["dims"]
    wanted = [d if isinstance(d, int) else sizes.setdefault(d, n) for d, n in zip(dims, value.shape, strict=False)]
    if list(value.shape) != wanted or len(dims) != value.ndim:
        return f"has shape {list(value.shape)}, expected [{', '.join(map(str, dims))}] = {wanted}"
    return ""


def wrong_values(value: np.ndarray, item: Any, sizes: Mapping[str, int]) -> str:
    """What is wrong with an array's values; empty for nothing."""
    low, high = item.metadata["low"], item.metadata["high"]
    if item.metadata["index"]:
        low, high = low or 0, sizes[item.metadata["index"]] - 1
    if not value.size or value.dtype == bool:
        return ""
    if value.dtype.kind == "f" and not item.metadata["nan"] and not np.isfinite(value).all():
        return f"has {np.count_nonzero(~np.isfinite(value))} values that are not finite"
    if low is not None and value.min() < low:
        return f"has a value of {value.min():g}, expected at least {low}"
    if high is not None and value.max() > high:
        return f"has a value of {value.max():g}, expected at most {high}"
    if item.metadata["ascending"] and (value[1:] < value[:-1]).any():
        return "is not ascending"
    return ""


def check_same_images(first: Any, second: Any, first_path: Path, second_path: Path) -> None:
    """Raise unless two artifacts are about the same images and classes, in the same order."""
    for name, what in (("image_ids", "images"), ("class_names", "classes")):
        a, b = list(getattr(first, name)), list(getattr(second, name))
        if a != b:
            raise PipelineError(
                f"{first_path} ({len(a)} {what}) and {second_path} ({len(b)} {what}) are about different {what}; "
                f"the first difference is {first_difference(a, b)}. Rebuild the second with {remedy(second_path)}."
            )


def first_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """A name that is in one of two lists alone, or that only their order differs."""
    others = (set(second), set(first))
    odd = [next((x for x in each if x not in other), "") for each, other in zip((first, second), others, strict=True)]
    return odd[0] or odd[1] or "their order"


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn what a library says of a missing, damaged or locked file into one line that names what to do.

    Raises:
        UnreadableError: the operating system does not let us read it, so nothing is known of its content.
        PipelineError: it is missing or damaged.
    """
    if not path.exists():
        raise PipelineError(f"{path} is missing. {advice(path, 'Create')}")
    try:
        yield
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        MemoryError,
        OverflowError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        if refusal := system_refusal(error):
            raise UnreadableError(f"{path} cannot be read {refusal}") from error
        raise PipelineError(
            f"{path} is damaged or not an artifact of this tool ({first_line(error)}). "
            f"{advice(path, 'Rebuild', force=True)}"
        ) from error
