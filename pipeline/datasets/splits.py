"""Which split the names of folders and shards mean, and when that counts."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import PurePosixPath
from typing import Literal

from pipeline.datasets.listing import ListedImage

Split = Literal["train", "validation", "test"]
_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""As the Hugging Face Hub reads names."""


def split_in_folders(name: str) -> Split | None:
    """The split that a folder in a photo's path is called by, as "train" or "val2017"; the outermost counts.

    Args:
        name: posix path of the photo from its source.
    """
    return _split_of_folder(name.rpartition("/")[0])


@cache
def _split_of_folder(folder: str) -> Split | None:
    found = (_split_called(re.sub(r"\d{4}$", "", part.lower())) for part in folder.split("/"))
    return next((split for split in found if split), None)


def split_in_shard(name: str) -> Split | None:
    """The split in the name of a shard, as "train-00000-of-00002.parquet", or of a folder around it.

    Args:
        name: posix path of the shard from its source.
    """
    words = re.split(r"[^a-z]+", PurePosixPath(name).name.lower())
    found = {split for word in words if (split := _split_called(word))}
    return found.pop() if len(found) == 1 else split_in_folders(name)


def _split_called(word: str) -> Split | None:
    return next((split for split, words in _WORDS.items() if word in words), None)


def assign_splits(
    images: Sequence[ListedImage], *, wanted: Literal["train", "test"], has_test: bool = False
) -> tuple[list[ListedImage], dict[str, str], list[str]]:
    """Images with the splits that they belong to.

    A split that a source states for an image counts. The names of folders and shards count where they name train photos
    and others: a folder "test" alone may mean anything.

    Args:
        images: of --images or --test-images.
        wanted: the split that these options stand for.
        has_test: the test photos come from --test-images, so that none of these becomes one.

    Returns:
        The images that are kept; id to reason of the others; and what to say about it.
    """
    named = {_split_of(image, wanted) for image in images} - {None}
    if wanted == "test":
        held = next((split for split in ("test", "validation") if split in named), None)
        dropped = named - {held} if held else set()
        reason = "it is of the split {split}, and --test-images has photos of the split " + str(held)
    elif "train" in named:
        held = None if has_test else next((split for split in ("test", "validation") if split in named), None)
        dropped = named - {"train", held}
        test = "--test-images is given" if has_test else f"{held} is the split to test on"
        reason = f"it is of the split {{split}}, by the name of its folder or shard, and {test}"
    else:
        return list(images), {}, _remarks(images, named)
    kept, left_out = [], {}
    for image in images:
        split = _split_of(image, wanted)
        if split in dropped:
            left_out[image.image_id] = reason.format(split=split)
        elif split and split == held:
            kept.append(replace(image, split="test"))
        else:
            kept.append(image)
    notes = []
    if wanted == "train" and held:
        test = [image for image in kept if image.split == "test" and image.named_split == held]
        notes = [
            f"{len(test):,} photos are for testing, by the name of their folder or shard (first {test[0].image_id})"
        ]
    return kept, left_out, notes


def _split_of(image: ListedImage, wanted: str) -> str | None:
    """The split that an image belongs to unless the option decides; what --images states is decided already."""
    return image.split or image.named_split if wanted == "test" else None if image.split else image.named_split


def _remarks(images: Sequence[ListedImage], named: set[str]) -> list[str]:
    """What to say about photos whose folder is called like a split and that are trained on."""
    if not named:
        return []
    odd = [image for image in images if image.split is None and image.named_split]
    return [
        f"{len(odd):,} photos are trained on though their folder or shard is named {' or '.join(sorted(named))} (first "
        f"{odd[0].image_id}), as none is named train. If they are for testing, give them with --test-images"
    ]
