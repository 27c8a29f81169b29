"""CLIPs of the package's own classes with random weights: what stands in for OpenAI's downloads."""

import warnings

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from clip.model import CLIP

SMALL_TEXT = (77, 49408, 64, 1, 1)
SHAPES = {
    "small resnet": (24, 96, (1, 2, 1, 1), 8, None, *SMALL_TEXT),
    "small vit": (24, 32, 2, 64, 8, *SMALL_TEXT),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, None, 77, 49408, 1024, 16, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
}
"""The package's arguments, in its order: embedding; image size, layers, width and patch; context, words, width, heads, layers."""


def random_clip(shape: str) -> CLIP:
    """A CLIP of one of `SHAPES`, in eval mode, whose embeddings depend on what it sees; always the same."""
    torch.manual_seed(0)
    model = CLIP(*SHAPES[shape])
    for name, tensor in model.state_dict().items():
        if "bn" in name or "downsample.1" in name:  # neither the identity nor zero, as after training
            if "running_var" in name or "weight" in name:
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.1)
        elif tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(tensor)  # the package's own loses the image on the way through a ResNet
        if name.endswith("bn3.weight") and ".layer" in name:
            tensor.mul_(0.3)  # or sixty blocks in a row, each of which adds to the last, leave half precision's range
    return model.eval()
