"""Labels of published methods for the train images of a run, from its own teacher: one label file per method.

Every method gets the same photos, views, prompts and logit scale. `pipeline.method.published` has their formulas.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.hdf5_file import create_array, creating, put_array, put_texts
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.method import FORMULAS
from pipeline.method.crops import grid_boxes
from pipeline.method.labels import clamp_labels, match_values
from pipeline.method.published import cdul, frolic, piaa, sparc, tagclip, tai_dpt
from pipeline.photos.prefetch import chunks
from pipeline.photos.views import ViewSpec
from pipeline.runs.options import EmbedConfig, InitLabelsConfig, ScoreCropsConfig
from pipeline.runs.partial_results import PartialResults, digest_of
from pipeline.runs.settings import Settings
from pipeline.stages.score_crops import CropTeacher, crop_teacher, score_crops
from pipeline.system.devices import pick_device
from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import regular_file, write_json
from pipeline.system.progress import bar, log
from pipeline.teachers.encoding import ViewRules, find_batch_size
from pipeline.teachers.image_scores import global_scores
from pipeline.teachers.photo_encoder import PhotoEncoder
from pipeline.teachers.prompts import class_embeddings, find_templates

TILES = 3
"""Tiles per side of a photo for CDUL, as in its paper."""
PAIRS = 10_000
"""Most compound prompts of SPARC, enough for 141 classes."""
BLOCK = 64
"""Photos whose cells are in memory together."""


class UnsuitedError(PipelineError):
    """The run or its teacher lacks what a method needs."""


@dataclass(frozen=True)
class Cost:
    """What labels cost."""

    views: float
    """Views that the teacher encoded."""
    seconds: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.views + other.views, self.seconds + other.seconds)


class CountedTeacher:
    """A teacher that counts the views that it encodes."""

    def __init__(self, teacher: Any) -> None:
        self.uncounted = teacher
        self.views = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.uncounted, name)

    def encode_images(self, images: Tensor) -> Tensor:
        """As the teacher's own."""
        encoded = self.uncounted.encode_images(images)
        self.views += len(images)
        return encoded

    def encode_views(self, images: Tensor) -> Any:
        """As the teacher's own; a view and its cells count once."""
        encoded = self.uncounted.encode_views(images)
        self.views += len(images)
        return encoded


class Evidence:
    """Embeddings and logits of the train images of a run; each is computed at most once, on first use.

    Args:
        base: run folder, with embeddings.
        manifest: of the run.
        own: settings of the run.
        device: where the teacher runs.
    """

    def __init__(self, base: Path, manifest: Manifest, own: Settings, device: str) -> None:
        self.folder = base / "ablation" / "methods"
        self.train = manifest.split("train")
        self.costs: dict[str, Cost] = {}
        self._source = base / "embeddings.h5"
        self._embeddings: Embeddings = read_arrays(self._source)
        self._options = self._embeddings.provenance.options(EmbedConfig)
        self._device = pick_device(device)
        check_same_images(self._embeddings, manifest, self._source, base / "manifest.csv")
        config = own.config("init-labels", InitLabelsConfig, {})
        self.reference = global_scores(self._embeddings, self._embeddings.is_train, config)
        """Labels of the whole photos before clamping, float32 [N, C], whose distribution scores without a scale get."""

    @cached_property
    def key(self) -> str:
        """Digest of everything but the formulas that determines the labels."""
        e = self._embeddings
        numbers = [e.teacher_fingerprint, e.image_size, self._options.precision, e.logit_scale, self._options.templates]
        texts = [array for array in (e.text, e.background_text) if array is not None]
        names = [list(words) for words in self.train.display_names.values()]
        return digest_of(numbers, names, self.train.digests, *texts, self.reference)

    @cached_property
    def scorer(self) -> CropTeacher:
        """The teacher of the run, counted, with its head.

        Raises:
            UnsuitedError: the scores of the run are precomputed.
        """
        if self._options.precomputed:
            raise UnsuitedError("the scores of the run are precomputed, so it has no teacher")
        found = crop_teacher(self._embeddings, self.train, ScoreCropsConfig(), self._source, self._device)
        return replace(found, teacher=CountedTeacher(found.teacher))

    @property
    def logit_scale(self) -> float:
        """Logit scale of the head."""
        return self.scorer.head.logit_scale

    @property
    def views(self) -> int:
        """Views that the teacher has encoded so far."""
        return self.scorer.teacher.views if "scorer" in vars(self) else 0

    @cached_property
    def text(self) -> Tensor:
        """Unit embedding of each class, the mean over its synonyms: float32 Tensor[C, D]."""
        head = self.scorer.head
        sums = torch.zeros(head.class_count, head.text.shape[1]).index_add(0, head.text_class, head.text)
        return F.normalize(sums, dim=1)

    def pair_text(self, pairs: list[tuple[int, int]]) -> Tensor:
        """Unit embedding of the compound prompt of each pair of classes: float32 Tensor[P, D]."""
        words = [next(iter(names)) for names in self.train.display_names.values()]
        names = [{f"{words[a]} and {words[b]}": 1.0} for a, b in pairs]
        return class_embeddings(self.scorer.teacher, names, find_templates(self._options.templates))[0].float().cpu()

    @cached_property
    def _photos(self) -> Path:
        """File of the embeddings of the photos and, as float16, of their cells."""
        path = self.folder / "photos.partial.h5"
        start, before = time.perf_counter(), self.views
        teacher, size = self.scorer.teacher, self._embeddings.image_size
        resize_filter = ViewRules.of(self._options).resize_filter_of(teacher)
        views = ViewSpec(size, resize_filter, digests=self.train.digest_of)
        batch_size = find_batch_size(teacher.uncounted.encode_views, (size, size), self._device)
        encoder = PhotoEncoder(teacher, views, self._device, [self.train.paths], batch_size, "cells")
        count = len(self.train.paths)
        with creating(path) as file, bar("cells", count) as progress:
            for rows, entries in encoder.encode_photos(self.train.paths):
                for name in entries.dtype.names:
                    if name not in file:
                        create_array(file, name, (count, *entries[name].shape[1:]), entries[name].dtype)
                    file[name][rows.start : rows.stop] = entries[name]
                progress.advance(len(rows))
        self.costs["images"] = Cost(self.views - before, time.perf_counter() - start)
        return path

    @cached_property
    def images(self) -> Tensor:
        """Embeddings of whole photos, float32 Tensor[N, D]."""
        with h5py.File(self._photos) as file:
            return torch.from_numpy(file["image"][()])

    def cells(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of photos, and the embeddings of their cells, float32 Tensor[b, h, w, D] with unit vectors.

        Raises:
            UnsuitedError: the teacher has no cells.
        """
        with h5py.File(self._photos) as file:
            if "cells" not in file:
                raise UnsuitedError(f"{self._embeddings.teacher} has no cells")
            for rows in chunks(len(self.train.paths), BLOCK):
                block = slice(rows.start, rows.stop)
                yield block, F.normalize(torch.from_numpy(file["cells"][block]).float(), dim=3)

    @cached_property
    def tiles(self) -> Tensor:
        """Class probabilities of the tiles, without background classes: float32 Tensor[N, TILES^2, C]."""
        start, before = time.perf_counter(), self.views
        boxes = torch.cat([grid_boxes((height, width), TILES) for height, width in self.train.sizes.tolist()])
        owner = torch.arange(len(self.train.paths)).repeat_interleave(TILES**2)
        probabilities = self._class_softmax(self.crop_logits("tiles", owner, boxes)).unflatten(0, (-1, TILES**2))
        self.costs["tiles"] = Cost(self.views - before, time.perf_counter() - start)
        return probabilities

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits of classes and background classes, Tensor[..., C + O], of Tensor[..., D]."""
        return self.scorer.head.logits(embeddings.flatten(0, -2)).unflatten(0, embeddings.shape[:-1])

    def class_logits(self, embeddings: Tensor) -> Tensor:
        """`logits` of the classes alone."""
        return self.logits(embeddings)[..., : self.scorer.head.class_count]

    def whole(self) -> Tensor:
        """Class probabilities of whole photos, without background classes: Tensor[N, C]."""
        return self._class_softmax(self.logits(self.images))

    def crop_logits(self, name: str, owner: Tensor, boxes: Tensor) -> Tensor:
        """Logits of crops, float32 Tensor[M, C + O].

        Args:
            name: of the work.
            owner: int64 Tensor[M], ascending, the photo of each box.
            boxes: Tensor[M, 4], xyxy in pixels of the photo.
        """
        if not len(boxes):
            return torch.zeros(0, self.scorer.head.outcomes)
        partial = PartialResults(self.folder / name, Provenance(name, 1, {}, {}), fresh=True)
        side = (self.scorer.rules.long_side,) * 2
        batch_size = find_batch_size(self.scorer.teacher.uncounted.encode_images, side, self._device)
        blocks = score_crops(self.scorer, self.train, owner, boxes, batch_size, partial)
        logits = torch.from_numpy(np.concatenate(list(blocks)))
        partial.remove()
        return logits

    def remove(self) -> None:
        """Delete the embeddings."""
        (self.folder / "photos.partial.h5").unlink(missing_ok=True)

    def _class_softmax(self, logits: Tensor) -> Tensor:
        return logits[..., : self.scorer.head.class_count].softmax(dim=-1)


def score_cdul(evidence: Evidence) -> Tensor:
    """See `cdul.initial_labels`."""
    return cdul.initial_labels(evidence.whole(), evidence.tiles)


def score_tai_dpt(evidence: Evidence) -> Tensor:
    """See `tai_dpt.dense_scores`."""
    whole = evidence.class_logits(evidence.images)
    parts = [
        tai_dpt.dense_scores(whole[rows], evidence.class_logits(cells).flatten(1, 2))
        for rows, cells in evidence.cells()
    ]
    return torch.cat(parts)


def score_tagclip(evidence: Evidence) -> Tensor:
    """See `tagclip.class_scores`; the background classes are those of the run."""
    class_count = evidence.scorer.head.class_count
    sizes = torch.from_numpy(evidence.train.sizes).float()
    scores, parts = [], []
    for rows, cells in evidence.cells():
        patches = evidence.logits(cells).softmax(dim=3)
        crops = tagclip.likely_crops(patches, class_count)
        scores.append(tagclip.class_scores(patches, class_count))
        parts.append(replace(crops, image_index=crops.image_index + rows.start))
    joined = tagclip.Crops(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))
    pixels = joined.boxes * sizes[joined.image_index].flip(1).repeat(1, 2)
    again = evidence.crop_logits("crops", joined.image_index, pixels).softmax(dim=1)
    return tagclip.add_crops(torch.cat(scores), joined, again)


def score_sparc(evidence: Evidence) -> Tensor:
    """See `sparc.class_scores`."""
    pairs = list(combinations(range(evidence.scorer.head.class_count), 2))
    if len(pairs) > PAIRS:
        raise UnsuitedError(f"its {len(pairs):,} compound prompts are more than {PAIRS:,}")
    return sparc.class_scores(evidence.images, evidence.text, evidence.pair_text(pairs), torch.tensor(pairs))


def score_piaa(evidence: Evidence) -> Tensor:
    """See `piaa.class_scores`."""
    text, scale = evidence.text, evidence.logit_scale
    classifier = piaa.fit_patches((cells.flatten(0, 2) for _, cells in evidence.cells()), text, scale)
    parts = [
        piaa.class_scores(evidence.images[rows], cells.flatten(1, 2), text, scale, classifier)
        for rows, cells in evidence.cells()
    ]
    return torch.cat(parts)


def score_frolic(evidence: Evidence) -> Tensor:
    """See `frolic.class_scores`."""
    return frolic.class_scores(evidence.class_logits(evidence.images))


@dataclass(frozen=True)
class Method:
    """How a method scores the train images."""

    score: Callable[[Evidence], Tensor]
    """Returns Tensor[N, C]."""
    formulas: tuple[str, ...]
    """Names in `FORMULAS`."""
    needs: tuple[str, ...] = ("images",)
    """Embeddings and scores of `Evidence` that it uses; their cost counts for each method."""
    are_labels: bool = False
    """Whether the scores are labels in [0, 1]; otherwise they get the values of the run's global labels, see `match_values`."""


METHODS = {
    "cdul": Method(score_cdul, ("cdul", "crops"), ("images", "tiles"), are_labels=True),
    "cdul-ranking": Method(score_cdul, ("cdul", "crops"), ("images", "tiles")),
    "tai-dpt": Method(score_tai_dpt, ("tai_dpt", "cells")),
    "tagclip": Method(score_tagclip, ("tagclip", "crops")),
    "sparc": Method(score_sparc, ("sparc",)),
    "piaa": Method(score_piaa, ("piaa",)),
    "frolic": Method(score_frolic, ("frolic",)),
}
"""Methods that a plan can name."""


@dataclass(frozen=True)
class LabelFile:
    """Labels of a method, and what they cost."""

    path: Path
    cost: Cost
    """Views per train image, and the duration of the labelling, with loading the teacher."""


def label_file(name: str, evidence: Evidence) -> LabelFile:
    """Labels of a method in `<base>/ablation/methods/<name>.h5`; a file of the same photos, teacher and formulas is kept.

    Raises:
        UnsuitedError: the run or its teacher lacks what the method needs.
    """
    method = METHODS[name]
    if len(evidence.train.class_names) == 1:
        raise UnsuitedError("it compares the classes of the run with one another, and there is only one")
    path = evidence.folder / f"{name}.h5"
    key = digest_of(evidence.key, name, [FORMULAS[each] for each in (*method.formulas, "labels", "probabilities")])
    made = cost_in(path.with_suffix(".json"), key)
    if made and path.is_file():
        log(f"{path} is up to date.")
        return LabelFile(path, made)
    for need in method.needs:
        getattr(evidence, need)
    start, before = time.perf_counter(), evidence.views
    scores = method.score(evidence).float().numpy()
    labels = scores if method.are_labels else match_values(scores, evidence.reference)
    with creating(path) as file:
        put_texts(file, "image_ids", evidence.train.image_ids)
        put_texts(file, "classes", evidence.train.class_names)
        put_array(file, "labels", clamp_labels(labels))
        put_array(file, "scores", labels)
    cost = Cost(evidence.views - before, time.perf_counter() - start)
    for need in method.needs:
        cost += evidence.costs[need]
    made = Cost(cost.views / len(evidence.train.paths), round(cost.seconds, 3))
    write_json(path.with_suffix(".json"), {"key": key, **asdict(made)})
    log(f"{path}: {made.views:.1f} teacher passes per photo, {made.seconds:.0f} s.")
    return LabelFile(path, made)


def cost_in(path: Path, key: str) -> Cost | None:
    """The cost in the file next to labels, if they were made with this key."""
    try:
        content = json.loads(regular_file(path).read_text(encoding="utf-8"))
        return Cost(float(content["views"]), float(content["seconds"])) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def label_files(
    base: Path, manifest: Manifest, own: Settings, names: Iterable[str], device: str
) -> dict[str, LabelFile | UnsuitedError]:
    """The label file of each method, or why there is none.

    Args:
        base: run folder.
        manifest: of the run.
        own: settings of the run.
        names: methods, of `METHODS`.
        device: where the teacher runs.

    Raises:
        PipelineError: there is no such method, or the run has no embeddings.
    """
    names = dict.fromkeys(names)
    if unknown := [name for name in names if name not in METHODS]:
        raise PipelineError(f"There is no method {unknown[0]!r}. {hint(unknown[0], METHODS)}")
    found: dict[str, LabelFile | UnsuitedError] = {}
    evidence = Evidence(base, manifest, own, device)
    for name in names:
        try:
            found[name] = label_file(name, evidence)
        except UnsuitedError as error:
            found[name] = error
    evidence.remove()
    return found
