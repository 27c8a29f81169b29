"""One module a stage: a pure function and a thin `run` that reads, calls and writes.

`STAGES` lists them in pipeline order; every `run` takes the run folder and the stage's options.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.runs.config import Config
from pipeline.stages import boxes, embed, evaluate, fuse, init_labels, prepare, score_crops, train, warmup


@dataclass(frozen=True)
class Stage:
    """A stage as the command line and `all` see it."""

    name: str
    """Name of the command, of the make target and of the table in the settings."""
    config: type[Config]
    run: Callable[..., None]
    """Called with run folder, config and `force`."""
    summary: str
    """One sentence, the command's help."""
    uses_device: bool = True
    """Whether `run` takes `device`."""
    shared: bool = False
    """Whether the processes of torchrun share the work; else the first one does it alone."""


STAGES = (
    Stage("prepare", prepare.PrepareConfig, prepare.run, prepare.__doc__, uses_device=False),
    Stage("embed", embed.EmbedConfig, embed.run, embed.__doc__, shared=True),
    Stage("init-labels", init_labels.InitialLabelsConfig, init_labels.run, init_labels.__doc__, uses_device=False),
    Stage("warmup", warmup.WarmupConfig, warmup.run, warmup.__doc__, shared=True),
    Stage("boxes", boxes.BoxesConfig, boxes.run, boxes.__doc__),
    Stage("score-crops", score_crops.CropScoresConfig, score_crops.run, score_crops.__doc__, shared=True),
    Stage("fuse", fuse.FuseConfig, fuse.run, fuse.__doc__, uses_device=False),
    Stage("train", train.TrainConfig, train.run, train.__doc__, shared=True),
    Stage("evaluate", evaluate.EvaluateConfig, evaluate.run, evaluate.__doc__),
)
