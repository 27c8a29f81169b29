"""Untrained networks."""

import timm
import torch

from pipeline.classifier.network import build_classifier

ARCHITECTURE = {"backbone": "timm:test_resnet", "class_count": 3, "boost": 3.0, "resize_filter": "bicubic"}


def small_net(head_std):
    """A classifier of three classes with a random head, in eval mode."""
    torch.manual_seed(0)
    net = build_classifier(**ARCHITECTURE, pretrained=False)
    torch.nn.init.normal_(net.head.weight, std=head_std)
    return net.eval()


def write_backbone(path):
    """Path of the weights of a small backbone."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path
