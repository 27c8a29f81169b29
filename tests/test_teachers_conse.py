import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from pipeline.classifier import lite
from pipeline.datasets import demo
from pipeline.method.labels import class_bias, confident_images, debias
from pipeline.runs.options import EmbedConfig
from pipeline.system.errors import PipelineError
from pipeline.teachers.teacher import Teacher, load_teacher
from pipeline.teachers.zero_shot_head import zero_shot_head

VOC = Path(__file__).resolve().parents[2] / "shared/data/VOCdevkit/VOC2012"
VOC_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


@pytest.fixture(scope="module")
def conse():
    return load_teacher("conse")


@pytest.fixture
def fast_conse():
    """The real networks with random class embeddings, which saves encoding 1000 descriptions."""
    teacher = load_teacher("conse")
    teacher._imagenet = torch.randn(1000, 384, generator=torch.Generator().manual_seed(0))
    return teacher


def random_images(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_images_are_the_probability_weighted_mean_of_centred_class_embeddings(fast_conse):
    images = random_images(2, 3, 64, 96)
    network = lite.load_lite("lite2")
    maps = network.forward_features(images / 127.5 - 1).half().float()  # as maps are kept
    probabilities = network.forward_head(maps).softmax(1)
    embeddings = fast_conse._imagenet
    for got, weights in zip(fast_conse.encode_images(images), probabilities, strict=True):
        total = torch.zeros(384)
        for weight, embedding in zip(weights, embeddings, strict=True):
            centred = embedding - embeddings.mean(0)
            total += weight * centred / centred.norm()
        torch.testing.assert_close(got, total / total.norm(), atol=1e-5, rtol=0)


def test_cells_are_the_weighted_mean_of_each_cell_and_images_those_of_encode_images(fast_conse):
    images = random_images(18, 3, 70, 97)
    views = fast_conse.encode_views(images)
    assert torch.equal(views.images, fast_conse.encode_images(images))
    assert views.cells.shape == (18, 3, 4, 384) and views.cells.dtype == torch.float32
    network, embeddings = lite.load_lite("lite2"), fast_conse._imagenet
    centred = F.normalize(embeddings - embeddings.mean(0), dim=1)
    for n in (0, 16):
        with torch.no_grad():
            maps = network.forward_features(images[n : n + 1] / 127.5 - 1)[0].half().float()  # as maps are kept
        for y, x in ((0, 0), (1, 3), (2, 1)):
            logits = network.classifier.weight @ maps[:, y, x] + network.classifier.bias
            total = sum(weight * row for weight, row in zip(logits.softmax(0), centred, strict=True))
            # maps that differ in the last digit may be rounded to different half-precision numbers
            torch.testing.assert_close(views.cells[n, y, x], total / total.norm(), atol=1e-4, rtol=0)


def test_batches_larger_than_a_chunk_keep_their_order(fast_conse):
    images = random_images(18, 3, 32, 45)
    together = fast_conse.encode_images(images)
    for i in (0, 15, 16, 17):
        alone = fast_conse.encode_images(images[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_conse_fulfils_the_protocol_and_its_fingerprint_costs_no_model():
    teacher = load_teacher("conse")
    assert isinstance(teacher, Teacher)
    assert len(teacher.fingerprint) == 64
    assert not {"_sentences", "_network", "_backbone"} & set(vars(teacher))


def test_texts_are_near_the_imagenet_classes_they_name(conse):
    texts = conse.encode_texts(["a photo of the teapot", "a photo of the zebra"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    classes = F.normalize(conse._imagenet - conse._centre, dim=1)
    assert (texts @ classes.T).argmax(1).tolist() == [849, 340]  # ImageNet's teapot and zebra


@pytest.mark.skipif(not VOC.is_dir(), reason="needs the PASCAL VOC photos in shared/data")
def test_zero_shot_on_real_photos(conse):
    ids = (VOC / "ImageSets/Main/val.txt").read_text().split()[:60]
    images = [Image.open(VOC / f"JPEGImages/{i}.jpg").convert("RGB").resize((320, 320)) for i in ids]
    objects = [
        {name.text for name in ElementTree.parse(VOC / f"Annotations/{i}.xml").findall("object/name")} for i in ids
    ]
    image = conse.encode_images(torch.stack([pil_to_tensor(image) for image in images]))
    text = conse.encode_texts([f"a photo of the {WORDS.get(name, name)}" for name in VOC_NAMES])
    scores = (conse.logit_scale * image @ text.T).softmax(1)  # [N, C]
    precision = [
        average_precision_score([name in found for found in objects], scores[:, c])
        for c, name in enumerate(VOC_NAMES)
        if any(name in found for found in objects)
    ]
    assert sum(precision) / len(precision) > 0.75


def head(conse, names, background):
    return zero_shot_head(conse, [{name: 1.0} for name in names], names, "paper", "mean", background)


def test_the_things_among_the_classes_do_not_compete_with_them(conse):
    found = head(conse, [WORDS.get(name, name) for name in VOC_NAMES], "everyday")
    assert {"dog", "airplane", "television", "sofa", "table", "houseplant"} <= set(found.left_out)
    assert {"sky", "wall", "fish", "hat", "shoe", "building"} <= set(found.background)
    assert found.outcomes == 20 + len(found.background) and len(found.background) + len(found.left_out) == 71


def test_photos_that_show_no_class_get_few_labels(conse):
    """The demo's cut-outs on grey; the classes are two of them."""
    cutouts = [c for split in ("train", "test") for kind in demo.load_cutouts(split).values() for c in kind[:4]]
    views = [Image.new("RGB", (224, 224), (120, 125, 115)) for _ in cutouts]
    for view, cutout in zip(views, cutouts, strict=True):
        sprite = cutout.image.convert("RGBA")
        sprite.thumbnail((190, 190))
        view.paste(sprite, (112 - sprite.width // 2, 112 - sprite.height // 2), sprite)
    images = conse.encode_images(torch.stack([pil_to_tensor(view) for view in views]))
    shows = np.array([cutout.class_name in ("cattle", "sheep") for cutout in cutouts])
    assert shows.sum() >= 6 and (~shows).sum() >= 40
    false, true = {}, {}
    for background in ("none", "everyday"):
        asked = head(conse, ["cattle", "sheep", "horse"], background)
        said = asked.probabilities(asked.logits(images))
        probabilities, confident = (
            said.probabilities.numpy(),
            confident_images(said.entropy.numpy(), asked.outcomes, EmbedConfig.entropy_limit),
        )
        bias, _ = class_bias(probabilities, confident & said.class_is_top1.numpy())
        labels = debias(probabilities, bias) >= 0.5
        false[background], true[background] = labels[~shows].sum() / (~shows).sum(), labels[shows].any(1).mean()
    assert false["none"] > 0.6 and false["everyday"] < 0.2 * false["none"]
    assert true["everyday"] >= true["none"] - 0.15


def test_unknown_teacher_is_refused():
    with pytest.raises(PipelineError, match="no teacher 'konse'"):
        load_teacher("konse")
