"""A tiny world for tests of the whole chain: photos of coloured squares, and a teacher that sees colours."""

import numpy as np
import timm
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from pipeline import cli
from pipeline.system.errors import PipelineError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def write_photos(root):
    """Twelve photos, each with a square of one colour on grey and, on every third, a second one; labelled."""
    generator = np.random.default_rng(0)
    names = list(COLOURS)
    lines = ["image,labels"]
    for split, count in (("train", 8), ("test", 4)):
        (root / split / "deep").mkdir(parents=True)
        for n in range(count):
            pixels = generator.integers(90, 130, (48, 64, 3)).astype(np.uint8)
            present = [names[n % 3]] + ([names[(n + 1) % 3]] if n % 3 == 0 else [])
            pixels[8:40, 4:30] = COLOURS[present[0]]
            if len(present) > 1:
                pixels[20:36, 40:56] = COLOURS[present[1]]
            path = root / split / ("deep" if n % 2 else "") / f"{n}.png"
            Image.fromarray(pixels).save(path)
            image_id = path.relative_to(root / split).as_posix()
            lines.append(f"{'test/' if split == 'test' else ''}{image_id},{';'.join(present)}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def write_backbone(path):
    """Weights of a tiny backbone, always the same."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


class ColourTeacher:
    """Sees the mean colour of an image; knows the three class names, and takes every other word for the first of them."""

    name = "colour"
    fingerprint = "colour-1"
    logit_scale = 20.0
    logit_bias = None
    input_size = 32
    squash = "bicubic"

    def encode_images(self, images):
        return F.normalize(images.float().mean(dim=(2, 3)), dim=1)

    def encode_texts(self, texts):
        colours = [COLOURS.get(text.split()[-1], COLOURS["red"]) for text in texts]
        return F.normalize(torch.tensor(colours).float(), dim=1)


def invoke(*arguments):
    """Exit code and output of a command, as `ccd` would give them."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, PipelineError):
        return 1, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def options(photos, backbone, folder):
    return [
        *("all", "--run", folder, "--images", photos / "train", "--test-images", photos / "test"),
        *("--classes", ",".join(COLOURS), "--labels", photos / "labels.csv", "--device", "cpu"),
        *("--set", "warmup.backbone=timm:test_resnet", "--set", f"warmup.weights={backbone}"),
        *(
            "--set",
            "warmup.image_size=64",
            "--set",
            "train.image_size=64",
            "--set",
            "warmup.predict_size=64",
            "--set",
            "train.predict_size=80",
            "--set",
            "boxes.image_size=64",
        ),
        *("--set", "train.epochs=3", "--set", "train.ema=0.9", "--set", "warmup.ema=0.9"),
        *("--set", "boxes.classes_per_image=2", "--set", "warmup.batch_size=4", "--set", "train.batch_size=4"),
    ]
