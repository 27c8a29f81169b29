"""Fields of HDF5 artifacts, with dtype, shape and range, and their checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.artifacts.provenance import Provenance
from pipeline.runs.graph import remedy
from pipeline.system.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd


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
    """Field of an artifact: an HDF5 dataset with this dtype and shape.

    Args:
        dtype: of NumPy.
        dims: shape, in fixed sizes or names; a name has one size in the whole file.
        optional: whether it may be absent.
        low: smallest value.
        high: largest value.
        index: name of the size that the values are row numbers of.
        nan: whether NaN is allowed, for "unknown".
        ascending: whether the values must not decrease.
    """
    metadata = {"dtype": np.dtype(dtype), "dims": dims, "low": low, "high": high, "index": index, "nan": nan}
    metadata["ascending"] = ascending
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Fields of every HDF5 artifact."""

    SCHEMAS: ClassVar[tuple[str, ...]]
    """Names of the files of this kind, without suffix."""

    provenance: Provenance
    image_ids: list[str]
    """N unique image ids."""
    class_names: list[str]
    """C unique class names, as the dataset writes them."""

    @classmethod
    def array_fields(cls) -> list[Any]:
        """Fields that are HDF5 datasets with a checked dtype, shape and range."""
        return [f for f in fields(cls) if "dims" in f.metadata]

    @classmethod
    def scalar_fields(cls) -> list[Any]:
        """Fields that are root attributes: neither arrays nor common to every artifact."""
        common = {f.name for f in fields(Artifact)}
        return [f for f in fields(cls) if f.name not in common and "dims" not in f.metadata]

    def frame(self) -> "pd.DataFrame":
        """The main content as a pandas frame: one row per image and one column per class, or one row per box."""
        raise NotImplementedError

    def by_class(self, values: np.ndarray) -> "pd.DataFrame":
        """Values [N, C] with index image id and one column per class."""
        import pandas as pd

        return pd.DataFrame(values, index=pd.Index(self.image_ids, name="image_id"), columns=self.class_names)


def check_arrays(artifact: Artifact, path: Path, left_out: Mapping[str, np.ndarray] | None = None) -> None:
    """Raise unless every array has its dtype, shape and range.

    For arrays that were not read (`left_out`), only dtype and shape are checked.
    """
    left_out = left_out or {}
    sizes: dict[str, int] = {"N": len(artifact.image_ids), "C": len(artifact.class_names)}
    for item in artifact.array_fields():
        value = left_out.get(item.name, getattr(artifact, item.name))
        if value is None:
            if item.default is None:
                continue
            raise PipelineError(f"{path} has no {item.name}. Rebuild it with {remedy(path, force=True)}.")
        check_array(value, item, sizes, path, is_read=item.name not in left_out)


def check_array(value: np.ndarray, item: Any, sizes: dict[str, int], path: Path, is_read: bool = True) -> None:
    """Raise unless an array matches its field; adds new named sizes to `sizes`."""
    problem = wrong_form(value, item, sizes) or (wrong_values(value, item, sizes) if is_read else "")
    if problem:
        raise PipelineError(f"{item.name} in {path} {problem}. Rebuild it with {remedy(path, force=True)}.")


def wrong_form(value: np.ndarray, item: Any, sizes: dict[str, int]) -> str:
    """The problem with an array's dtype or shape, or an empty text. Adds new named sizes to `sizes`."""
    if value.dtype != item.metadata["dtype"]:
        return f"is {value.dtype}, expected {item.metadata['dtype']}"
    dims = item.metadata["dims"]
    expected = [d if isinstance(d, int) else sizes.setdefault(d, n) for d, n in zip(dims, value.shape, strict=False)]
    if list(value.shape) != expected or len(dims) != value.ndim:
        return f"has shape {list(value.shape)}, expected [{', '.join(map(str, dims))}] = {expected}"
    return ""


def wrong_values(value: np.ndarray, item: Any, sizes: Mapping[str, int]) -> str:
    """The problem with an array's values, or an empty text."""
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
    """Raise unless two artifacts have the same images and classes, in the same order."""
    for name, what in (("image_ids", "images"), ("class_names", "classes")):
        a, b = list(getattr(first, name)), list(getattr(second, name))
        if a != b:
            raise PipelineError(
                f"{first_path} ({len(a)} {what}) and {second_path} ({len(b)} {what}) have different {what}; "
                f"the first difference is {first_difference(a, b)}. Rebuild the second with {remedy(second_path, force=True)}."
            )


def first_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """The first name that only one of two lists has; "their order" if there is none."""
    sets = (set(second), set(first))
    odd = [next((x for x in each if x not in other), "") for each, other in zip((first, second), sets, strict=True)]
    return odd[0] or odd[1] or "their order"
