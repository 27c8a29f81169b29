"""The classifier: a backbone with a 1x1-convolution head that computes a CAM per class before pooling."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.classifier.backbones import Backbone, Tower, build_backbone
from pipeline.classifier.teacher_head import TeacherHead, TeacherHeadShape
from pipeline.method.boost import boost_positive


class CamNet(Tower):
    """Multi-label classifier with class activation maps (CCD, section 3; BoostLU from BridgeGap, CVPR 2023)."""

    def __init__(
        self,
        backbone: Backbone,
        class_count: int,
        boost: float,
        resize_filter: str = "bicubic",
        teacher: TeacherHeadShape | None = None,
    ) -> None:
        super().__init__(backbone, resize_filter)
        self.head = nn.Conv2d(backbone.channels, class_count, kernel_size=1)
        self.boost = boost
        self.teacher = None if teacher is None else TeacherHead(teacher)
        """The teacher on the same maps; None while training, and where it is another network."""
        self.register_buffer("learned_weight", torch.ones(()))
        """Weight of the learned head in the logits, against the teacher's."""
        # set by `fit_calibration`; the identity in training
        self.register_buffer("scale", torch.ones(class_count))
        self.register_buffer("offset", torch.zeros(class_count))

    def init_head(self, prior: Tensor) -> None:
        """Set the head to score each class by its prior.

        Args:
            prior: Tensor[C] in [0, 1], mean label of each class.
        """
        nn.init.zeros_(self.head.weight)
        self.head.bias.data.copy_(torch.logit(prior, eps=0.02))

    def logits(self, features: Tensor) -> Tensor:
        """Logits Tensor[B, C] of features Tensor[B, D, h, w]: of the learned head and the teacher, calibrated."""
        # float32 even under autocast, for the precision of means over the maps and of losses
        logits = boost_positive(self.head(features).float(), self.boost).mean(dim=(2, 3))
        if self.teacher is not None:
            logits = self.learned_weight * logits + (1 - self.learned_weight) * self.teacher(features.float())
        return self.scale * logits + self.offset

    def forward(self, images: Tensor) -> Tensor:
        """Logits Tensor[B, C] of float Tensor[B, 3, H, W] in [0, 1]."""
        return self.logits(self.features(images))

    def freeze(self, backbone: bool, norms: bool) -> None:
        """Take the backbone out of training or, with `norms`, keep its batch norms' statistics, until the next `train()`."""
        if backbone:
            self.stages.requires_grad_(False).eval()
        if norms:
            for module in self.stages.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()


class Head(nn.Module):
    """The head of a classifier as a module of its own, which shares the classifier's weights."""

    def __init__(self, model: CamNet) -> None:
        super().__init__()
        self.head = model.head
        self._logits = model.logits

    def forward(self, features: Tensor) -> Tensor:
        """See `CamNet.logits`."""
        return self._logits(features)


def build_classifier(
    backbone: str,
    class_count: int,
    boost: float,
    resize_filter: str = "bicubic",
    weights: str = "",
    pretrained: bool = True,
    teacher: dict[str, Any] | None = None,
    tower: dict[str, Any] | None = None,
) -> CamNet:
    """A classifier with a fresh head.

    Args:
        backbone: "lite0", "lite2", "resnet50", "resnet101", "timm:NAME", or one of `TOWERS`, always with random weights.
        class_count: C, at least 2.
        boost: factor of positive activations, at least 1 (1: none; 3: the paper's).
        resize_filter: of photos; see `photos.resize`.
        weights: file of backbone weights, or, of a ResNet, one of `TORCHVISION_WEIGHTS`; empty for the backbone's own
            ImageNet weights (the newest of torchvision for a ResNet).
        pretrained: False leaves the backbone random, for a caller that loads weights.
        teacher: fields of `TeacherHeadShape`; None for no teacher head.
        tower: description of a tower, see `backbones.tower_backbone`; None for another backbone.

    Raises:
        PipelineError: the backbone is unknown, or the weights are missing or do not fit.
    """
    shape = None if teacher is None else TeacherHeadShape.of(teacher)
    return CamNet(build_backbone(backbone, weights, pretrained, tower), class_count, boost, resize_filter, shape)


def parameter_groups(model: CamNet, backbone_lr: float, head_lr: float, head_l2: float) -> list[dict[str, Any]]:
    """Three optimizer groups: the backbone, the head's weights, its bias.

    The groups include frozen parameters, so an optimizer state fits whichever parameters were frozen before.

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
