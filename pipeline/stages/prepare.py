"""A dataset to the run's manifest and, if it has labels, ground truth."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.manifest import COLUMNS, Manifest, manifest_provenance, read_manifest, write_manifest
from pipeline.artifacts.photo_facts import KnownPhotos, PhotoFacts, file_status, read_facts
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import read_provenance
from pipeline.datasets import Dataset, Objects, coco, demo, folder, nuswide, voc
from pipeline.datasets.archives import Limit
from pipeline.datasets.class_names import check_class_names, joined_by_spaces, parse_class_names, prompt_names
from pipeline.datasets.listing import log_left_out
from pipeline.datasets.remote import is_address
from pipeline.evaluation.ground_truth import FILE, GroundTruth, digest_truth
from pipeline.photos.images import UnreadableImage, verify_image
from pipeline.photos.prefetch import Prefetch
from pipeline.runs.config import each_of
from pipeline.runs.graph import VERSIONS, run_argument
from pipeline.runs.options import PrepareConfig
from pipeline.runs.settings import Words
from pipeline.system.errors import PipelineError, UnreadableError, printable
from pipeline.system.files import sha256_of
from pipeline.system.progress import bar, log

NAMED = 20
"""Largest number of copies that are listed on the screen."""

FEW = 3
"""Largest number of classes in a reason."""

CLASSES_CHANGED = "the classes have changed"


def load_dataset(config: PrepareConfig, run_folder: Path, classes: Mapping[str, Words]) -> Dataset:
    """The dataset of the options; no photo is decoded yet.

    Args:
        config: the options.
        run_folder: gets the scenes of the demo.
        classes: `[classes]` of the run, whose keys are the class names of a folder of photos without --classes.

    Raises:
        PipelineError: a required option is missing, or the dataset does not have the expected form.
    """
    match config.kind:
        case "demo":
            root = scenes_folder(config, run_folder)
            demo.compose(root, demo_config(config))
            return demo.load(root)
        case "voc":
            splits = config.train_split or None, config.test_split or None
            return voc.load(need(config, "root"), config.year, *splits, skip_missing=config.skip_missing)
        case "coco":
            splits = config.train_split or "train2014", config.test_split or "val2014"
            return coco.load(need(config, "root"), *splits, config.keep_unannotated, skip_missing=config.skip_missing)
        case "nuswide":
            return nuswide.load(
                need(config, "root"),
                need(config, "images") if config.images else None,
                *map(given, (config.train_list, config.test_list)),
                keep_unannotated=config.keep_unannotated,
                skip_missing=config.skip_missing,
            )
        case "folder":
            names = class_names_of(config, classes)
            if not each_of(config.images):
                need(config, "images")
            limit = Limit(config.unpack_gb, config.unpack_files)
            exclude = tuple(each_of(config.exclude))
            reading = folder.Reading(given(config.unpack_to), limit, config.skip_missing, exclude=exclude)
            images, test_images = ([*map(source, each_of(each))] for each in (config.images, config.test_images))
            dataset = folder.load(images, names, test_images, given(config.labels), reading)
            return replace(dataset, notes=[*dataset.notes, *filter(None, [joined_by_spaces(config.classes, names)])])
        case _:
            raise PipelineError("no dataset is named. Give --images DIR, or --preset demo, voc12 and the like.")


def scenes_folder(config: PrepareConfig, run_folder: Path) -> Path:
    """The folder of the demo's scenes."""
    return Path(config.root) if config.root else run_folder / "scenes"


def demo_config(config: PrepareConfig) -> demo.DemoConfig:
    """The demo's options."""
    return demo.DemoConfig(config.seed, config.train_scenes, config.test_scenes)


def given(value: str) -> Path | None:
    """A path option; None if it is empty."""
    return Path(value) if value else None


def source(value: str) -> Path | str:
    """A path or a URL."""
    return value if is_address(value) else Path(value)


def need(config: PrepareConfig, name: str) -> Path:
    """A required path option."""
    value = getattr(config, name)
    if not value:
        raise PipelineError(
            f"a dataset of kind {config.kind} needs --{name}; give it to `ccd all` or `ccd prepare`, or in run.toml."
        )
    if isinstance(value, list):
        raise PipelineError(f"--{name} is given {len(value)} times, a dataset of kind {config.kind} takes one folder.")
    return Path(value)


def verify(path: Path) -> PhotoFacts | str:
    """Size and SHA-256 of a readable image, or the reason why it is not readable."""
    try:
        status = file_status(path)  # before the content, so that a change in between is noticed
        height, width = verify_image(path)
        return PhotoFacts(*status, sha256_of(path), height, width)
    except (UnreadableImage, PipelineError) as error:
        return str(error)


def run(run_folder: Path, config: PrepareConfig, classes: Mapping[str, Words], *, force: bool = False) -> None:
    """Check every image and write `manifest.csv`, `manifest.json` and, if there are labels, `ground_truth.h5`.

    Raises:
        PipelineError: the dataset does not have the expected form, or none of its train images can be read.
    """
    dataset = load_dataset(config, run_folder, classes)
    display_names = prompt_names(dataset.class_names, classes)
    rows, kept, skipped = check_images(dataset, KnownPhotos(run_folder, fresh=force))
    for note in dataset.notes:
        log(f"{note}.")
    log_left_out(dataset.left_out, dataset.name)
    report_skipped(skipped)
    skipped = {**dataset.left_out, **skipped}
    if not rows:
        raise PipelineError(
            f"none of the {len(dataset.paths)} images of {dataset.name} can be read; see the list above."
        )
    images = pd.DataFrame(rows, columns=COLUMNS)
    copies = copies_in_test(images)
    log_copies(images, copies, keep=config.keep_test_copies)
    if not config.keep_test_copies:
        stays = ~images["image_id"].isin(copies).to_numpy()
        images, kept = images[stays].reset_index(drop=True), np.array(kept)[stays]
        skipped |= {image_id: f"it is the same file as train photo {original}" for image_id, original in copies.items()}
    counts = images["split"].value_counts()
    if not counts.get("train", 0):
        raise PipelineError(
            f"{dataset.name} has {len(images)} test images and no train image, so there is nothing to train on. "
            "Give the photos to train on with --images."
        )
    manifest = Manifest(
        provenance=manifest_provenance(images, display_names),
        dataset=dataset.name,
        display_names=display_names,
        images=images,
        skipped=skipped,
    )
    keep_manifest(run_folder, manifest, force)
    keep_ground_truth(run_folder, dataset, np.array(kept), manifest.provenance)


def class_names_of(config: PrepareConfig, classes: Mapping[str, Words]) -> list[str]:
    """Class names of a folder of photos, see `load_dataset`."""
    names = parse_class_names(config.classes) if each_of(config.classes) else [*classes]
    if not names:
        need(config, "classes")
    check_class_names(names)
    return names


def class_changes(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """How the classes and their display names differ, in a few words; empty if they are the same in the same order."""
    changed = [name for name, words in after.items() if before.get(name, words) != words]
    kinds = (
        ("new", [name for name in after if name not in before]),
        ("removed", [name for name in before if name not in after]),
        ("other display names", changed),
    )
    parts = [f"{kind}: {', '.join(names[:FEW])}{' ...' if len(names) > FEW else ''}" for kind, names in kinds if names]
    order = "" if list(before) == list(after) else "in another order"
    return f"{CLASSES_CHANGED} ({'; '.join(parts) or order})" if parts or order else ""


def may_get_labels(config: PrepareConfig) -> bool:
    """Whether the dataset may have labels; a folder of photo files alone has none."""
    if config.kind != "folder" or config.labels:
        return True
    sources = [source(each) for each in (*each_of(config.images), *each_of(config.test_images))]
    return not all(folder.is_plain(each) and Path(each).expanduser().is_dir() for each in sources)


def why_prepare(run_folder: Path, config: PrepareConfig, classes: Mapping[str, Words]) -> str:
    """Why `run` would change the manifest or ground truth, in a few words; empty if it would not.

    Writes nothing, and decodes only photos that could not be read before: any other counts as unchanged while its file
    has the same size and time. Archives and URLs are not checked, because that would unpack or fetch them.

    Raises:
        PipelineError: the dataset does not have the expected form.
    """
    if not (run_folder / "manifest.csv").exists():
        return "manifest.csv is missing"
    before = read_manifest(run_folder)
    if config.kind == "demo" and not demo.is_composed(scenes_folder(config, run_folder), demo_config(config)):
        return "the scenes are missing"
    if config.kind == "folder":
        names = prompt_names(class_names_of(config, classes), classes)
        if changes := class_changes(before.display_names, names):
            return changes
    if config.kind == "folder" and not all(
        map(folder.is_plain, map(source, [*each_of(config.images), *each_of(config.test_images)]))
    ):
        log("status does not check archives and URLs; `ccd prepare` does.")
        return ""
    dataset = load_dataset(config, run_folder, classes)
    if changes := class_changes(before.display_names, prompt_names(dataset.class_names, classes)):
        return changes
    splits = dict(zip(dataset.image_ids, dataset.splits, strict=True))
    new = [image_id for image_id in dataset.image_ids if image_id not in before.skipped.keys() | set(before.image_ids)]
    missing = [image_id for image_id in before.image_ids if image_id not in splits]
    if new or missing:
        counts = [f"{len(ids):,} photos are {what}" for ids, what in ((new, "new"), (missing, "missing")) if ids]
        return " and ".join(counts)
    if any(splits[i] != split for i, split in zip(before.image_ids, before.images["split"], strict=True)):
        return "photos are in another split"
    table = read_facts(run_folder)
    paths = dict(zip(dataset.image_ids, dataset.paths, strict=True))
    known = [image_id for image_id in dataset.image_ids if image_id in table.index]
    facts = zip(known, table.loc[known, "bytes"], table.loc[known, "mtime_ns"], strict=True)
    changed = sum(file_status(paths[image_id]) != (size, time) for image_id, size, time in facts)
    changed += sum(image_id not in table.index for image_id in before.image_ids)  # their old size and time are unknown
    if changed:
        return f"{changed:,} photos may have changed"
    skipped = set(dataset.image_ids).difference(before.image_ids)
    copies = skipped.intersection(table.index) if config.keep_test_copies else copies_in_test(before.images)
    if copies:
        return f"{len(copies):,} test photos are also train photos"
    readable = sum(not isinstance(verify(paths[image_id]), str) for image_id in skipped.difference(table.index))
    if readable:
        return f"{readable:,} photos that could not be read can be read now"
    return why_ground_truth(run_folder, dataset, before)


def why_ground_truth(run_folder: Path, dataset: Dataset, manifest: Manifest) -> str:
    """Why the ground truth of these images would change; empty if it would not."""
    path = run_folder / FILE
    if dataset.labels is None:
        return f"{FILE} is to be removed" if path.exists() else ""
    if not path.exists():
        return f"{FILE} is missing"
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    kept = np.array([row_of[image_id] for image_id in manifest.image_ids], dtype=np.int64)
    expected = ground_truth(dataset, kept, manifest.provenance).provenance
    return "" if read_provenance(path).fingerprint == expected.fingerprint else "the labels have changed"


def copies_in_test(images: pd.DataFrame) -> dict[str, str]:
    """Id of each test photo that is byte for byte a train photo, to the id of the train photo."""
    is_test = images["split"] == "test"
    train = images[~is_test].drop_duplicates("sha256").set_index("sha256")["image_id"]
    originals = images.loc[is_test, "sha256"].map(train).dropna()
    return dict(zip(images.loc[originals.index, "image_id"], originals, strict=True))


def log_copies(images: pd.DataFrame, copies: Mapping[str, str], *, keep: bool) -> None:
    """Log how many photos are copies, and which test photos are also train photos."""
    repeated = images[images["sha256"].duplicated()]
    if len(repeated):
        first = repeated.iloc[0]
        original = images.loc[images["sha256"] == first["sha256"], "image_id"].iloc[0]
        log(
            f"{len(repeated):,} of {len(images):,} photos are byte-for-byte copies (first: "
            f"{printable(first['image_id'])} of {printable(original)})."
        )
    if copies:
        what = "they stay in both" if keep else "they are left out of test (--keep-test-copies keeps them)"
        log(f"{len(copies):,} test photos are also train photos; {what}:")
        for image_id, original in list(copies.items())[:NAMED]:
            log(f"  {printable(image_id)} is {printable(original)}")
        if len(copies) > NAMED:
            log(
                f"  and {len(copies) - NAMED:,} more"
                + ("." if keep else "; manifest.json lists them all under skipped.")
            )


def check_images(dataset: Dataset, known: KnownPhotos) -> tuple[list[tuple[Any, ...]], list[int], dict[str, str]]:
    """Rows of the manifest, the index of each in the dataset, and the unreadable images with their reasons.

    A known photo whose file has the same size and time is not read again.
    """
    rows, kept, skipped = [], [], {}

    def look_at(index: int) -> PhotoFacts | str:
        return known.find(dataset.image_ids[index], dataset.paths[index]) or verify(dataset.paths[index])

    count = len(dataset.paths)
    with known, bar("prepare", count) as progress:
        for index, facts in enumerate(Prefetch(look_at, range(count), ahead=64)):
            image_id, path = dataset.image_ids[index], dataset.paths[index]
            if isinstance(facts, str):
                skipped[image_id] = facts
            else:
                known.add(image_id, facts)
                row = (image_id, str(path.absolute()), dataset.splits[index], facts.height, facts.width, facts.sha256)
                rows.append(row)
                kept.append(index)
            progress.advance(1)
    return rows, kept, skipped


def keep_manifest(run_folder: Path, manifest: Manifest, force: bool) -> None:
    """Write the manifest; if only paths have changed, later artifacts stay up to date."""
    path = run_folder / "manifest.csv"
    try:
        before = read_manifest(run_folder)
    except UnreadableError:
        raise
    except PipelineError:  # missing or damaged: it is written again
        before = None
    if before is not None and before.provenance == manifest.provenance and not force:
        if before.images.equals(manifest.images) and before.skipped == manifest.skipped:
            log(f"{path} is up to date.")
            return
        write_manifest(run_folder, manifest)
        log(f"{path}: the same images, now in {os.path.commonpath(manifest.paths)}.")
        return
    write_manifest(run_folder, manifest)
    if before is not None:
        warn_of_corrected(run_folder, before, manifest)
    counts = manifest.images["split"].value_counts()
    log(
        f"{path}: {counts.get('train', 0)} train and {counts.get('test', 0)} test images, "
        f"{len(manifest.class_names)} classes."
    )


def warn_of_corrected(run_folder: Path, before: Manifest, manifest: Manifest) -> None:
    """Warn of corrected photos whose content has changed: corrections belong to image ids, so they still apply."""
    path = run_folder / "corrections.h5"
    if not path.exists():
        return
    corrections: Corrections = read_arrays(path)
    corrected = {corrections.image_ids[row] for row in np.flatnonzero((corrections.labels >= 0).any(axis=1))}
    digests = dict(zip(before.image_ids, before.digests, strict=True))
    now = zip(manifest.image_ids, manifest.digests, strict=True)
    changed = [i for i, digest in now if i in corrected and digests.get(i, digest) != digest]
    if changed:
        log(
            f"warning: {len(changed)} corrected photos have changed (first: {printable(changed[0])}), but their corrections "
            "still apply. Check them, and correct them again with "
            f"`ccd import-labels {run_argument(run_folder)} TABLE`."
        )


def keep_ground_truth(run_folder: Path, dataset: Dataset, kept: np.ndarray, manifest: Provenance) -> None:
    """Write the ground truth of the dataset, or remove an old one if the dataset has no labels."""
    path = run_folder / FILE
    if dataset.labels is None:
        if path.exists():
            path.unlink()
            log(f"{path} is removed: these photos have no labels.")
        return
    write(path, ground_truth(dataset, kept, manifest))


def report_skipped(skipped: Mapping[str, str]) -> None:
    """Log which images are skipped, and why."""
    if skipped:
        log(f"{len(skipped)} images cannot be read and are skipped:")
        for reason in skipped.values():
            log(f"  {reason}")


def ground_truth(dataset: Dataset, kept: np.ndarray, manifest: Provenance) -> GroundTruth:
    """Labels and boxes of the kept images, at their new rows."""
    objects = (dataset.objects or Objects.of([])).of_images(kept, len(dataset.image_ids))
    labels = dataset.labels[kept].astype(np.int8)
    content = digest_truth(labels, *vars(objects).values())
    return GroundTruth(
        provenance=Provenance(
            "ground_truth", VERSIONS["ground_truth"], {"content": content}, {"manifest.csv": manifest.fingerprint}
        ),
        image_ids=[dataset.image_ids[i] for i in kept],
        class_names=dataset.class_names,
        labels=labels,
        object_image_index=objects.image_index,
        object_class_index=objects.class_index,
        object_box=objects.box,
        object_difficult=objects.difficult,
    )
