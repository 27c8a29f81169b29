"""Background classes: they compete in the softmax and are never predicted."""

import h5py
import numpy as np
import pytest
import torch
from worlds.commands import ccd, invoke
from worlds.photos import COLOURS
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.evaluation.read import read
from pipeline.method.labels import class_bias, confident_images
from pipeline.system.errors import PipelineError
from pipeline.teachers.background import EVERYDAY, find_background, too_near
from pipeline.teachers.conse import Conse
from pipeline.teachers.zero_shot_head import ZeroShotHead

MORE = {"teal": (20, 110, 115), "crimson": COLOURS["red"]}


@pytest.fixture
def shown(monkeypatch):
    """Numbers of images that the teacher encodes; it knows two more colours than there are classes."""
    monkeypatch.setattr("pipeline.teachers.background.TOO_NEAR", 2)  # of three dimensions, all near one another
    return use_teacher(ColourTeacher(colours=COLOURS | MORE), monkeypatch).batches


def test_names():
    assert find_background("everyday") == EVERYDAY and len(set(EVERYDAY)) == len(EVERYDAY) == 71
    assert find_background("none") == ()
    assert find_background("everyday, shelf,dog") == (*EVERYDAY, "shelf")
    assert find_background(" sky, wet sand,sky ,") == ("sky", "wet sand")
    with pytest.raises(PipelineError, match="background is ' , ', expected everyday, none, or names"):
        find_background(" , ")


@pytest.mark.parametrize(
    ("classes", "out"),
    [
        (["dog"], {"dog"}),  # cat and sheep compete
        (["puppy"], {"dog", "toy"}),
        (["animal"], {"dog", "cat", "bird", "horse", "cow", "sheep", "fish", "insect"}),
        (["bus", "pet"], {"bus", "dog", "cat", "bird", "horse", "cow", "sheep", "fish", "insect"}),
        (["vehicle"], {"car", "bus", "truck", "train", "bicycle", "motorcycle", "boat", "airplane"}),
        (["laptop", "rose"], {"computer", "flower"}),
        (["shelf"], {"bottle", "cup", "plate", "shelf", "wet shelf"}),  # near tableware
    ],
    ids=lambda value: " ".join(sorted(value)[:2]),
)
def test_what_means_the_same_as_a_class_or_is_a_kind_of_it_is_left_out(classes, out):
    names = (*EVERYDAY, "shelf", "wet shelf")
    assert {name for name, left in zip(names, too_near(Conse(), classes, names), strict=True) if left} == out


def test_names_are_compared_alike_for_every_teacher_of_one_language():
    teacher = ColourTeacher()
    teacher.multilingual = False
    assert too_near(teacher, ["animal"], ["dog", "sky"]).tolist() == [True, False]


def test_without_others_the_softmax_is_over_the_classes():
    head = ZeroShotHead(torch.eye(3), torch.arange(3), torch.zeros(0, 3), 5.0)
    found = head.probabilities(head.logits(torch.eye(3)[:2]))
    torch.testing.assert_close(found.probabilities, (5 * torch.eye(3)[:2]).softmax(1))
    assert head.outcomes == 3 and found.class_is_top1.all()


def test_the_run_knows_others_by_their_share_alone(run, shown):
    before = read(run / "embeddings.h5")
    output = ccd("embed", "--run", run, "--background", "teal", "--entropy-limit", 0.9)
    assert shown == []  # photos are not asked about again
    assert "background classes, which compete with yours: teal." in output
    after = read(run / "embeddings.h5")
    assert (after.background, after.background_left_out, after.outcomes) == ("teal", "", 4)
    assert after.class_names == before.class_names and after.probabilities.shape == before.probabilities.shape
    remaining = 1 - after.probabilities.sum(1)
    assert remaining.min() > 0.05  # no photo is far from teal, whose share goes to no class
    np.testing.assert_allclose(
        after.probabilities / after.probabilities.sum(1, keepdims=True), before.probabilities, atol=1e-5
    )
    whole = np.column_stack([after.probabilities, remaining])
    np.testing.assert_allclose(after.entropy, -(whole * np.log(whole)).sum(1), atol=1e-4)
    assert after.class_is_top1.tolist() == (whole.argmax(1) < 3).tolist()
    assert 0 < after.class_is_top1.sum() < len(whole)
    confident = confident_images(after.entropy, 4, 0.9) & after.class_is_top1 & after.is_train
    assert after.bias_counts.tolist() == class_bias(after.probabilities, confident)[1].tolist()
    assert 0 < after.bias_counts.sum() < after.is_train.sum()


def test_what_is_too_near_a_class_is_left_out_and_said(run, shown):
    before = read(run / "embeddings.h5")
    output = ccd("embed", "--run", run, "--background", "crimson")
    assert (
        "background classes not used, as they mean the same as yours or are of their kind: crimson." in output
        and "compete" not in output
    )
    after = read(run / "embeddings.h5")
    assert (after.background, after.background_left_out, after.outcomes) == ("", "crimson", 3)
    np.testing.assert_array_equal(after.probabilities, before.probabilities)


@pytest.mark.parametrize("teacher", [None, "conse"], ids=["the run's teacher", "another"])
def test_crops_are_asked_with_the_same_others(run, shown, teacher):
    for stage in ("embed", "init-labels", "warmup", "boxes"):
        ccd(stage, "--run", run, *(["--background", "teal"] if stage == "embed" else []))
    ccd("score-crops", "--run", run, *(["--teacher", teacher] if teacher else []))
    crops = read(run / "crop_scores.h5")
    assert crops.outcomes == 4 and crops.probabilities.shape[1] == 3
    remaining = 1 - crops.probabilities.sum(1)
    assert remaining.min() > 0 and remaining.max() > 0.05
    ccd("fuse", "--run", run)


@pytest.mark.parametrize(("background", "expected"), [("everyday", 0), ("none", 0), ("teal", 1)])
def test_scores_of_a_file_cannot_be_joined(run, tmp_path, shown, background, expected):
    known = read(run / "embeddings.h5")
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        for name, texts in (("image_ids", known.image_ids), ("classes", known.class_names)):
            file.create_dataset(name, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
        file["probabilities"] = known.probabilities
    code, output = invoke("embed", "--run", run, "--precomputed", tmp_path / "scores.h5", "--background", background)
    assert code == expected, output
    assert ("scores or texts of the classes alone" in output) == (background != "none")
    if not expected:
        after = read(run / "embeddings.h5")
        assert (after.outcomes, after.background) == (3, "") and after.class_is_top1.all()
        np.testing.assert_allclose(after.bias, known.bias, atol=1e-6)
