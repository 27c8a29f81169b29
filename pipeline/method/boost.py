"""The boost of class activation maps before pooling."""

import torch
from torch import Tensor


def boost_positive(cams: Tensor, factor: float) -> Tensor:
    """BoostLU: positive activations times a factor (Kim et al., BridgeGap, CVPR 2023)."""
    return torch.where(cams > 0, factor * cams, cams)
