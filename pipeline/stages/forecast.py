"""Time and disk of a run, estimated before its first long stage from a short probe on its own photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.state import origin_of, why_build
from pipeline.runs.graph import Stage, options_of
from pipeline.runs.options import BoxesConfig, EmbedConfig, ScoreCropsConfig, TrainConfig, TrainingConfig, WarmupConfig
from pipeline.runs.settings import Settings
from pipeline.runs.timings import count_images
from pipeline.stages.plan import amount, duration, views_of
from pipeline.system import distributed
from pipeline.system.devices import pick_device
from pipeline.system.errors import PipelineError

SHORT = 1500
"""Passes of `conse` that take about a minute on two cores: such a run starts without a probe."""
FEW = 24
"""Photos with which a run of any networks starts without a probe."""
WORTH_SAYING = 60.0
"""Seconds from which an estimate is printed."""
CROP = 0.7
"""Pixels of a crop, which keeps its aspect, as a share of those of a square view; mean of the default boxes of VOC photos."""
DAY = 86_400.0
"""Seconds from which a run needs --yes."""


@dataclass(frozen=True)
class Pace:
    """Seconds per image of the parts of a run, on this machine."""

    decode: float
    """From a photo to a view."""
    teacher: float
    """A pass of the teacher."""
    classifier: float
    """A pass of the classifier's backbone."""
    step: float
    """A step of the training: of the head on kept maps, or of the whole network."""
    overlaps: bool
    """Whether photos are decoded while the network runs, as with a GPU."""

    def views(self, count: float, passes: float, network: float) -> float:
        """Seconds of `count` decoded photos and `passes` passes of a network."""
        parts = (count * self.decode, passes * network)
        return max(parts) if self.overlaps else sum(parts)


@dataclass(frozen=True)
class Sizes:
    """Numbers of photos and bytes that decide time and disk."""

    train: int
    test: int
    missing: int
    """Photos that the teacher has not encoded yet."""
    entry: int
    """Bytes that are kept of a photo: its embedding and, if they fit, its cells."""
    maps: int
    """Bytes of the feature maps of a photo; 0 if the backbone is trained."""
    weights: int
    """Bytes of the classifier's weights."""
    view: int
    """Side of the teacher's global view in pixels; 0 if the teacher is not needed."""
    side: int
    """Side of the warm-up's input in pixels."""


@dataclass(frozen=True)
class Forecast:
    """Estimate of a run."""

    seconds: dict[str, float]
    """By stage."""
    kept: int
    """Bytes of the files that the run keeps."""
    temporary: int
    """More bytes while it runs: feature maps that memory does not hold."""

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())

    def sentence(self, folder: Path) -> str:
        """The estimate in words."""
        longest = sorted(self.seconds, key=self.seconds.__getitem__, reverse=True)
        parts = ", ".join(
            f"{name} {duration(self.seconds[name])}" for name in longest if self.seconds[name] > self.total / 20
        )
        more = f", and {amount(self.temporary)} more while it runs" if self.temporary else ""
        return (
            f"Estimate from a short probe: {duration(self.total)} ({parts}) and {amount(self.kept)} in {folder}{more}."
        )


def forecast(folder: Path, own: Settings, device: str, stages: Sequence[Stage], force: bool) -> Forecast | None:
    """Estimate of the stages that have work; None for stages without a network, and where few passes need no probe.

    Args:
        folder: run folder, with a manifest.
        own: settings of the run.
        device: device option of the command.
        stages: of the command, without `prepare`.
        force: as `run_stage`.
    """
    work = stages_with_work(folder, own, stages, force)
    if not any(stage.network for stage in work) or is_short(own, count_images(folder)):
        return None
    from pipeline.stages.probe import probe  # imports torch

    names = [stage.name for stage in work]
    return estimate_run(own, names, *probe(folder, own, names, pick_device(device)))


def stages_with_work(folder: Path, own: Settings, stages: Sequence[Stage], force: bool) -> list[Stage]:
    """The stages that would be built: after the first one, all."""
    for number, stage in enumerate(stages):
        config = own.config(stage.name, options_of(stage), {})
        try:
            if force or why_build(stage, folder, origin_of(stage, folder, config)):
                return list(stages[number:])
        except PipelineError:  # an input is missing or out of date
            return list(stages[number:])
    return []


def is_short(own: Settings, images: int) -> bool:
    """Whether a run takes about a minute on a CPU: few photos, or few passes of `conse` and of a frozen backbone of its kind."""
    if images <= FEW:
        return True
    embed, warmup = own.config("embed", EmbedConfig, {}), own.config("warmup", WarmupConfig, {})
    passes = sum(views_of(stage, own, images) for stage in ("embed", "score-crops"))
    small = embed.teacher.partition(":")[0] == "conse" and embed.image_size <= 320
    return small and warmup.freeze_backbone and warmup.backbone.startswith(("lite", "teacher")) and passes <= SHORT


def shares_maps(own: Settings, view: int, side: int) -> bool:
    """Whether the teacher's maps are those that the classifier trains on; see `Sizes` for the sides."""
    embed, warmup = own.config("embed", EmbedConfig, {}), own.config("warmup", WarmupConfig, {})
    return warmup.shares_tower(embed) and embed.local != "tiles" and not warmup.flips and view == side


def pixels(side: int, measured: int) -> float:
    """Pixels of a square view, as a share of those of the view that was measured; 1 where a side is 0, the network's own."""
    return (side / measured) ** 2 if side and measured else 1.0


def estimate_run(own: Settings, names: Sequence[str], pace: Pace, sizes: Sizes) -> Forecast:
    """The estimate of stages from the pace of their parts."""
    from pipeline.classifier.features import DISK, MEMORY  # imports torch

    warmup, train = own.config("warmup", WarmupConfig, {}), own.config("train", TrainConfig, {})
    embed = own.config("embed", EmbedConfig, {})
    frozen = warmup.freeze_backbone and train.freeze_backbone
    views = (1 + max(warmup.flips, train.flips)) * (2 if train.consistency else 1)
    maps = sizes.maps * (views * sizes.train + sizes.test)
    stored = maps <= MEMORY + DISK
    shared = shares_maps(own, sizes.view, sizes.side) and stored and "embed" in names
    processes = distributed.world_size() if pace.overlaps else 1

    def maps_of(count: float, config: TrainingConfig, first: bool) -> float:
        """Seconds of the maps of a training; the second stage finds those of the first."""
        if shared or (not first and stored and views == 1):
            return 0.0
        passes = count * (1 + config.flips) * (1 if stored else config.epochs)
        return pace.views(passes, passes, pace.classifier)

    def training(config: TrainingConfig, first: bool) -> float:
        if not frozen:
            each = sizes.train * config.epochs * (1 if first or not train.consistency else 2)
            return pace.views(each, each, pace.step)
        return maps_of(sizes.train, config, first) + sizes.train * config.epochs * pace.step

    def final() -> float:
        seconds = training(train, first=False)
        if frozen:
            folds = train.cross_fit_rounds * (train.cross_fit_folds - 1)
            seconds += folds * sizes.train * train.epochs * pace.step
            return seconds + (0.0 if shared else pace.views(sizes.test, sizes.test, pace.classifier))
        tested = sizes.test * (train.epochs if train.score_epochs else 1)
        return seconds + pace.views(tested, tested, pace.classifier)

    boxes, cut = own.config("boxes", BoxesConfig, {}), own.config("score-crops", ScoreCropsConfig, {})
    predicts = warmup.predict_size or sizes.side
    again = 0 if frozen and stored and (boxes.image_size or predicts) == predicts else sizes.train
    crops = sizes.train if boxes.view != "none" else 0
    encodes = 0 if embed.precomputed else sizes.missing
    parts: dict[str, Callable[[], float]] = {
        "embed": lambda: pace.views(encodes, views_of("embed", own, encodes), pace.teacher),
        "warmup": lambda: training(warmup, first=True),
        "boxes": lambda: pace.views(again, again, pace.classifier * pixels(boxes.image_size or predicts, sizes.side)),
        "score-crops": lambda: pace.views(
            crops, views_of("score-crops", own, crops), CROP * pace.teacher * pixels(cut.view_size, sizes.view)
        ),
        "train": lambda: final() * pixels(train.image_size or predicts, sizes.side),
    }
    seconds = {name: parts[name]() / processes for name in names if name in parts}
    files = sizes.weights * sum(name in names for name in ("warmup", "train")) * (1 if frozen else 4)
    return Forecast(seconds, sizes.missing * sizes.entry + files, 0 if maps <= MEMORY or not stored else maps)
