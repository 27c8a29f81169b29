"""Splits from the names of folders and shards."""

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
"""Names of the splits, as on the Hugging Face Hub."""


def split_in_folders(name: str) -> Split | None:
    """The split in a folder name of a photo's path, such as "train" or "val2017"; the outermost folder decides."""
    return _split_of_folder(name.rpartition("/")[0])


@cache
def _split_of_folder(folder: str) -> Split | None:
    splits = (_split_of_word(re.sub(r"\d{4}$", "", part.lower())) for part in folder.split("/"))
    return next((split for split in splits if split), None)


def split_in_shard(name: str) -> Split | None:
    """The split in the path of a shard: in its name, such as "train-00000-of-00002.parquet", or in a folder name."""
    words = re.split(r"[^a-z]+", PurePosixPath(name).name.lower())
    splits = {split for word in words if (split := _split_of_word(word))}
    return splits.pop() if len(splits) == 1 else split_in_folders(name)


def _split_of_word(word: str) -> Split | None:
    return next((split for split, words in _WORDS.items() if word in words), None)


def assign_splits(
    images: Sequence[ListedImage], *, option: Literal["train", "test"], has_test: bool = False
) -> tuple[list[ListedImage], dict[str, str], list[str]]:
    """Images with their splits.

    The split in a table decides. The names of folders and shards decide only if they contain train and another split,
    because a single folder "test" may mean something else.

    Args:
        images: of --images or --test-images.
        option: the split of this option.
        has_test: whether --test-images is given, so that --images has no test photos.

    Returns:
        The images that are kept; id to reason of the images that are left out; and remarks to log.
    """
    named = {_split_of(image, option) for image in images} - {None}
    if option == "test":
        held = next((split for split in ("test", "validation") if split in named), None)
        dropped = named - {held} if held else set()
        reason = "its split is {split}, and --test-images has photos of the split " + str(held)
    elif "train" in named:
        held = None if has_test else next((split for split in ("test", "validation") if split in named), None)
        dropped = named - {"train", held}
        test = "--test-images is given" if has_test else f"{held} is the test split"
        reason = f"its split is {{split}}, by the name of its folder or shard, and {test}"
    else:
        return list(images), {}, _remarks(images, named)
    kept, left_out = [], {}
    for image in images:
        split = _split_of(image, option)
        if split in dropped:
            left_out[image.image_id] = reason.format(split=split)
        elif split and split == held:
            kept.append(replace(image, split="test"))
        else:
            kept.append(image)
    notes = []
    if option == "train" and held:
        test = [image for image in kept if image.split == "test" and image.named_split == held]
        notes = [
            f"{len(test):,} photos are test photos, by the name of their folder or shard (first {test[0].image_id})"
        ]
    return kept, left_out, notes


def _split_of(image: ListedImage, option: str) -> str | None:
    """The split of an image by its source; None if there is none, or if a table of --images has decided already."""
    if image.split:
        return image.split if option == "test" else None
    return image.named_split


def _remarks(images: Sequence[ListedImage], named: set[str]) -> list[str]:
    """A remark on train photos in a folder that is named like another split."""
    if not named:
        return []
    odd = [image for image in images if image.split is None and image.named_split]
    return [
        f"{len(odd):,} photos are train photos although their folder or shard is named {' or '.join(sorted(named))} (first "
        f"{odd[0].image_id}), because none is named train. If they are test photos, give them with --test-images"
    ]
