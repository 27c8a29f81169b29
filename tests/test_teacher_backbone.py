"""The teacher's image tower as the classifier's backbone, on small random models of every family."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from worlds.commands import ccd, refused
from worlds.photos import COLOURS
from worlds.towers import FAMILIES, OPEN_CLIP, save_teacher, with_small_siglip

from pipeline import Classifier
from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.classifier.inference import feature_run, load_classifier, to_float
from pipeline.classifier.network import build_classifier
from pipeline.deploy import export
from pipeline.evaluation.read import read
from pipeline.photos import views
from pipeline.photos.resize import load_view
from pipeline.runs.options import InitLabelsConfig, WarmupConfig
from pipeline.system.errors import PipelineError
from pipeline.teachers.image_scores import teacher_scores
from pipeline.teachers.teacher import load_teacher

pytest.importorskip("open_clip")

HEAD = {"class_count": 3, "boost": 3.0, "resize_filter": "bicubic"}


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        with_small_siglip(patch)
        yield load_teacher(save_teacher(request.param, tmp_path_factory.mktemp("model") / "model"))


def rebuilt(teacher, head_std=0.0):
    """A classifier from what a file keeps: an architecture as JSON, and named weights."""
    torch.manual_seed(1)
    net = build_classifier(**json.loads(json.dumps(teacher.architecture)), **HEAD).eval().requires_grad_(False)
    net.stages.load_state_dict(teacher.tower.stages.state_dict())
    torch.nn.init.normal_(net.head.weight, std=head_std)
    return net


def random_views(count, side):
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_the_maps_are_the_teachers_embeddings_bit_for_bit(teacher):
    net = rebuilt(teacher).to(memory_format=torch.channels_last)
    images = random_views(3, teacher.input_size)
    encoded = teacher.encode_views(images)
    grid = (1, 1) if encoded.cells is None else encoded.cells.shape[1:3]
    expected = torch.zeros(3, net.head.in_channels, *grid)
    for n in range(3):
        for y in range(grid[0]):
            for x in range(grid[1]):
                parts = [encoded.images[n]] if encoded.cells is None else [encoded.cells[n, y, x], encoded.images[n]]
                expected[n, :, y, x] = torch.cat(parts) * 24**0.5
    for maps in (teacher.maps_of(encoded), net.features(to_float(images)), feature_run(net)(to_float(images))):
        assert torch.equal(maps, expected)
    assert 0.5 < expected.var() < 1.5


def test_both_exports_give_the_scores(teacher, tmp_path):
    scorer = export.Scorer(rebuilt(teacher, head_std=0.3)).eval()
    program = export.trace(scorer, teacher.input_size)
    for name, write, load in (
        ("onnx", export.write_onnx, export.load_onnx),
        ("pt2", export.write_torch_export, export.load_torch_export),
    ):
        write(program, {}, tmp_path / name)
        assert export.largest_difference(scorer, load(tmp_path / name), teacher.input_size) < export.TOLERANCE
    images = random_views(4, teacher.input_size) / 255
    assert scorer(images).std(dim=0).max() > 1e-3  # scores that depend on the photo


def run_with(teacher, photos, run, *settings):
    """A finished run with the teacher's tower as the backbone."""
    # a random teacher fails its self-check
    own = (
        "embed.self_check=false",
        "embed.background=none",
        f"embed.teacher={teacher}",
        "warmup.backbone=teacher",
        "train.epochs=2",
        *settings,
    )
    ccd(
        *("all", "--run", run, "--images", photos / "train", "--test-images", photos / "test"),
        *("--classes", ",".join(COLOURS), "--labels", photos / "labels.csv", "--device", "cpu"),
        *(part for setting in own for part in ("--set", setting)),
    )
    return run


@pytest.fixture(scope="module", params=["openai ResNet", "ViT", "SigLIP", "CoCa"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def chain(family, photos, tmp_path_factory):
    """A finished run, and how often each photo was decoded as a whole."""
    folder = tmp_path_factory.mktemp("chain")
    counts = Counter()
    load = views.load_view
    with pytest.MonkeyPatch.context() as patch:
        with_small_siglip(patch)
        patch.setattr(views, "load_view", lambda photo, *how: counts.update([photo]) or load(photo, *how))
        run = run_with(save_teacher(family, folder / "model"), photos, folder / "run")
        yield run, Counter(counts)


def test_each_photo_passes_the_tower_once(chain):
    run, counts = chain
    paths = read(run / "manifest.csv").paths
    assert len(counts) == len(paths) and set(counts.values()) == {1}


def test_the_classifier_has_the_teachers_size_and_both_heads(chain, family):
    checkpoint = read_checkpoint(chain[0] / "classifier.pt")
    side = 96 if family == "openai ResNet" else 32
    assert checkpoint.image_size == side == read_checkpoint(chain[0] / "warmup.pt").image_size
    net = load_classifier(checkpoint)
    assert net.head.in_channels == (24 if family == "CoCa" else 48) and net.teacher is not None
    assert net.teacher.shape.sigmoid == (family == "SigLIP")


def test_the_teacher_head_scores_photos_as_the_label_stages_do(chain):
    embeddings, manifest = read(chain[0] / "embeddings.h5"), read(chain[0] / "manifest.csv")
    net = load_classifier(read_checkpoint(chain[0] / "classifier.pt"))
    side = embeddings.image_size
    images = to_float(torch.stack([load_view(path, (side, side)) for path in manifest.paths]))
    with torch.no_grad():
        logits = net.teacher(net.features(images))
        logits = ((logits - net.teacher.offset) / net.teacher.scale).numpy()
    expected = np.log(teacher_scores(embeddings, np.ones(len(manifest.paths), bool), InitLabelsConfig()))
    np.testing.assert_allclose(logits, expected, atol=4e-3)  # kept cells have half precision
    assert logits.std(axis=0).max() > 0.012


def test_stages_alone_give_the_bytes_of_the_chain(chain, tmp_path):
    run = shutil.copytree(chain[0], tmp_path / "run", ignore=shutil.ignore_patterns("image_embeddings"))
    for stage, name in (("embed", "embeddings.h5"), ("warmup", "warmup.pt")):
        ccd(stage, "--run", run, "--force", "--device", "cpu")
        assert (run / name).read_bytes() == (chain[0] / name).read_bytes()


def test_predictions_and_the_hub_folder_are_those_of_the_run(chain):
    test = read(chain[0] / "manifest.csv").split("test")
    scores = Classifier.load(chain[0]).scores(test.paths)
    np.testing.assert_allclose(
        scores, read(chain[0] / "epoch_scores.h5").chosen, atol=0.01
    )  # the maps of the run are rounded
    ccd("export", "--run", chain[0], "--format", "hub")  # compares its scores with the classifier's
    assert (chain[0] / "hub" / "backbone.pt2").exists()


def test_sizes_that_the_tower_does_not_take_are_refused(chain, family, tmp_path):
    run = shutil.copytree(chain[0], tmp_path / "run")
    message = {
        "openai ResNet": "train.image_size is 100, but the backbone takes sides that are multiples of 32 px. Set it to 96"
    }.get(family, "train.image_size is 100, but the backbone takes images of 32 px alone. Set it to 32")
    assert message in refused("train", "--run", run, "--device", "cpu", "--image-size", 100)


def test_views_that_are_not_square_are_refused(tmp_path, photos):
    spec = save_teacher("ViT", tmp_path / "model", image_size=[24, 40])
    with pytest.raises(AssertionError, match="its views are not square"):
        run_with(spec, photos, tmp_path / "run")


def test_weights_of_another_teacher_are_refused(tmp_path, photos):
    spec = save_teacher("ViT", tmp_path / "model")
    run_with(spec, photos, tmp_path / "run", "boxes.view=none")
    torch.manual_seed(7)
    save_teacher("ViT", tmp_path / "model", layers=1)
    assert "model are not those that" in refused("warmup", "--run", tmp_path / "run", "--force")


def test_the_teachers_backbone_has_its_own_weights():
    with pytest.raises(PipelineError, match="Remove weights"):
        WarmupConfig(backbone="teacher", weights="file.pt")


def tower(**vision):
    visual = {"embedding_size": 24, "vision": OPEN_CLIP["ViT"] | vision, "quick_gelu": False}
    statistics = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return {"visual": visual, "cells": {"attention": "values"}, "stride": 1, "side": 32} | statistics


@pytest.mark.parametrize(
    ("description", "match"),
    [
        (tower(timm_model_name="hf-hub:someone/model"), "no image tower hf-hub"),
        (tower(timm_model_name="resnet18", timm_model_pretrained=True), "no image tower resnet18"),
        (tower(width=10**9), "has the number 1000000000"),
        (tower(unknown=1), "no image tower"),
        (tower(layers="many"), "tower is not as specified"),
        ({}, "tower is not as specified"),
        (tower() | {"cells": {"attention": "other"}}, "tower is not as specified"),
    ],
)
def test_descriptions_of_other_towers_are_refused(description, match):
    with pytest.raises(ValueError, match=match):
        build_classifier("open_clip", **HEAD, tower=description)
