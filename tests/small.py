"""Photos of noise and an untrained network: what a test needs that asks for no sense."""

import numpy as np
import torch
from PIL import Image

from pipeline.classifier.network import build_classifier

ARCHITECTURE = {"backbone": "timm:test_resnet", "class_count": 3, "boost": 3.0}


def noise_photos(folder, sizes):
    """Paths of PNG photos of noise, (H, W) each, always the same."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.fromarray(generator.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    return paths


def small_net(head_std):
    """A classifier of three classes with a random head, in eval mode; always the same."""
    torch.manual_seed(0)
    net = build_classifier(**ARCHITECTURE, pretrained=False)
    torch.nn.init.normal_(net.head.weight, std=head_std)
    return net.eval()
