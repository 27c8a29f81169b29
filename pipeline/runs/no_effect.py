"""The options of a command that another option leaves without effect."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.runs.graph import find_stage, options_of
from pipeline.runs.settings import Settings


@dataclass(frozen=True)
class Rule:
    """Options without effect where all causes have one of the values."""

    options: tuple[str, ...]
    """As "stage.option"."""
    causes: Mapping[str, tuple[Any, ...]]
    """Option, as "stage.option", to its values."""


NOT_CAM = ("none", "grid", "cells", "gt", "around-gt")
"""Views without a CAM."""

RULES = (
    Rule(("fuse.ratio", "score-crops.skip_above"), {"boxes.view": ("none",), "fuse.boxless": ("keep",)}),
    Rule(("fuse.crop_scope",), {"boxes.view": ("none",)}),
    Rule(
        tuple(f"score-crops.{name}" for name in ("teacher", "view_size", "cut_from", "resampling", "sides", "shape")),
        {"boxes.view": ("none",)},
    ),
    Rule(("boxes.select", "boxes.classes_per_image"), {"boxes.view": ("none", "grid", "gt", "around-gt")}),
    Rule(("boxes.margin",), {"boxes.view": ("none", "grid", "gt")}),
    Rule(
        tuple(f"boxes.{name}" for name in ("rule", "threshold", "boosted_cam", "cam_epsilon")), {"boxes.view": NOT_CAM}
    ),
    Rule(("boxes.tiles",), {"boxes.view": ("cam", "cells", "random", "none", "gt", "around-gt")}),
    Rule(("boxes.search_bound",), {"boxes.tau_rule": ("quantile",)}),
    Rule(("embed.tiles",), {"embed.local": ("cells", "none")}),
    Rule(
        ("embed.cell_pooling", "embed.cell_share", "embed.second_size", "init-labels.cell_weight"),
        {"embed.local": ("none",)},
    ),
    Rule(("warmup.backbone_lr",), {"warmup.freeze_backbone": (True,)}),
    Rule(("train.backbone_lr",), {"train.freeze_backbone": (True,)}),
    Rule(("train.jitter", "train.jitter_order"), {"train.consistency": (0,)}),
    Rule(("train.cross_fit_weight",), {"train.cross_fit_rounds": (0,)}),
)


def without_effect(own: Settings, given: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line per option that has no effect with the settings of the run.

    Args:
        own: settings of the run.
        given: options of the command, by stage.
    """
    for rule in RULES:
        named = [each for each in rule.options if each.partition(".")[2] in given.get(each.partition(".")[0], {})]
        if named and all(value_of(own, name) in values for name, values in rule.causes.items()):
            causes = " and ".join(f"{name} is {value_of(own, name)!r}" for name in rule.causes)
            yield f"{' and '.join(named)} {'have' if len(named) > 1 else 'has'} no effect, because {causes}."


def value_of(own: Settings, name: str) -> Any:
    """The value of an option "stage.option" in a run."""
    stage, _, option = name.partition(".")
    return getattr(own.config(stage, options_of(find_stage(stage)), {}), option)
