"""The classifier: a convolutional backbone whose 1x1-convolution head makes a CAM per class before pooling."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what a weights-only load raises for anything else; nothing is unpickled here
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.classifier.lite import MEAN as LITE_MEAN
from pipeline.classifier.lite import STD as LITE_STD
from pipeline.classifier.lite import WHEELS, build_lite, load_lite
from pipeline.machine.errors import PipelineError, first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HEADS = ("fc.", "classifier.", "head.")
"""Prefixes of the classification layer that is cut off; a weights file may have it or not."""

BACKBONES = (*WHEELS, "resnet50", "resnet101", "timm:NAME")


@dataclass(frozen=True)
class Backbone:
    """Stages from the image to the last feature map, and how its input is normalised."""

    stages: nn.Sequential
    """First the stem, then one module a resolution or block; without pooling and classification layer."""
    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class CamNet(nn.Module):
    """Multi-label classifier that can say where it looks (CCD, section 3; BoostLU from BridgeGap, CVPR 2023)."""

    def __init__(self, backbone: Backbone, class_count: int, boost: float = 3.0) -> None:
        super().__init__()
        self.stages = backbone.stages
        self.head = nn.Conv2d(backbone.channels, class_count, kernel_size=1)
        self.boost = boost
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def cams(self, images: Tensor) -> Tensor:
        """Class activation maps.

        Args:
            images: float Tensor[B, 3, H, W] in [0, 1].

        Returns:
            Tensor[B, C, h, w].
        """
        # float32 even under autocast: means over the maps and losses on them need the digits
        return self.head(self.features(images)).float()

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: Tensor[B, D, h, w] of float Tensor[B, 3, H, W] in [0, 1]."""
        return self.stages((images - self.mean) / self.std)

    def begin_head(self, prior: Tensor) -> None:
        """Start the head at the prior of each class instead of at random.

        Args:
            prior: Tensor[C] in [0, 1], mean label of each class.
        """
        nn.init.zeros_(self.head.weight)
        self.head.bias.data.copy_(torch.logit(prior, eps=0.02))

    def pool(self, cams: Tensor) -> Tensor:
        """Logits Tensor[B, C] of maps Tensor[B, C, h, w]: positive activations times `boost`, then the mean."""
        return torch.where(cams > 0, self.boost * cams, cams).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits Tensor[B, C] of float Tensor[B, 3, H, W] in [0, 1]."""
        return self.pool(self.cams(images))

    def freeze(self, stages: int, norms: bool) -> None:
        """Take the first `stages` stages out of training and, with `norms`, keep every batch norm's statistics.

        Call it after `train()`, which would undo it.
        """
        for stage in self.stages[:stages]:
            stage.requires_grad_(False).eval()
        if norms:
            for module in self.stages.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()


def build_classifier(
    backbone: str, class_count: int, boost: float = 3.0, weights: str = "", pretrained: bool = True
) -> CamNet:
    """A classifier with a fresh head.

    Args:
        backbone: "lite0", "lite2", "resnet50", "resnet101" or "timm:NAME".
        class_count: C, at least 2.
        boost: factor of positive activations, at least 1 (1: none; 3: the paper's).
        weights: file of backbone weights; empty for the backbone's own ImageNet weights.
        pretrained: False leaves the backbone random, for weights that are loaded right after.

    Raises:
        PipelineError: unknown backbone, or weights that are missing or do not fit.
    """
    return CamNet(build_backbone(backbone, weights, pretrained), class_count, boost)


def build_backbone(name: str, weights: str = "", pretrained: bool = True) -> Backbone:
    """Backbone of one of the names in `BACKBONES`; see `build_classifier`."""
    if name in WHEELS:
        model = load_lite(name) if pretrained and not weights else build_lite(name)
        load_weights(model, weights)
        stages = [nn.Sequential(model.conv_stem, model.bn1), *model.blocks, nn.Sequential(model.conv_head, model.bn2)]
        return Backbone(nn.Sequential(*stages), model.num_features, LITE_MEAN, LITE_STD)
    if name in ("resnet50", "resnet101"):
        model = fetch_weights(name, pretrained and not weights)
        load_weights(model, weights)
        stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        stages = [stem, model.layer1, model.layer2, model.layer3, model.layer4]
        return Backbone(nn.Sequential(*stages), model.fc.in_features, IMAGENET_MEAN, IMAGENET_STD)
    if name.startswith("timm:"):
        return timm_backbone(name.removeprefix("timm:"), weights, pretrained)
    raise PipelineError(f"backbone is {name!r}, expected one of {', '.join(BACKBONES)}.")


def fetch_weights(name: str, pretrained: bool) -> nn.Module:
    """A torchvision ResNet; its ImageNet weights are downloaded once if they are not in torch's cache."""
    build = getattr(torchvision.models, name)
    if not pretrained:
        return build()
    kind = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return build(weights=kind)
    except OSError as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(kind.url).name
        raise PipelineError(
            f"the ImageNet weights of {name} could not be fetched from {kind.url} ({error}); "
            f"put that file at {file}, or name a local one with --weights."
        ) from error


def timm_backbone(name: str, weights: str, pretrained: bool) -> Backbone:
    """Any convolutional timm model, as one stage."""
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5])
        raise PipelineError(f"timm has no model {name!r}; near ones: {near or 'none'}.")
    try:
        model = timm.create_model(name, pretrained=pretrained and not weights, num_classes=0, global_pool="")
    except OSError as error:
        raise PipelineError(
            f"the weights of timm:{name} could not be fetched ({error}); name a local file with --weights."
        ) from error
    load_weights(model, weights)
    config = model.pretrained_cfg
    return Backbone(nn.Sequential(model), model.num_features, tuple(config["mean"]), tuple(config["std"]))


def load_weights(model: nn.Module, path: str) -> None:
    """Load a state dict file into a backbone; nothing for an empty path. The layer that is cut off may be missing."""
    if not path:
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, UnpicklingError) as error:
        raise PipelineError(f"{path} does not hold weights of this backbone ({first_line(error)}).") from error
    lost, unknown = ([key for key in keys if not key.startswith(HEADS)] for keys in (missing, unexpected))
    if lost or unknown:
        raise PipelineError(
            f"{path} does not fit the backbone: {len(lost)} weights missing (first: {next(iter(lost), 'none')}), "
            f"{len(unknown)} unknown (first: {next(iter(unknown), 'none')})."
        )


def parameter_groups(model: CamNet, backbone_lr: float, head_lr: float, head_l2: float) -> list[dict[str, Any]]:
    """Three optimizer groups: the backbone, the head's weights, its bias.

    What is frozen is among them, unchanged for want of a gradient: so groups fit whatever was frozen before.

    Args:
        model: the classifier.
        backbone_lr: learning rate of the backbone.
        head_lr: learning rate of the head.
        head_l2: factor of the head's weights that is added to their gradient: an L2 penalty of half this factor.
    """
    return [
        {"params": list(model.stages.parameters()), "lr": backbone_lr},
        {"params": [model.head.weight], "lr": head_lr, "weight_decay": head_l2},
        {"params": [model.head.bias], "lr": head_lr},
    ]
