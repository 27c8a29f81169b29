"""The stages with a teacher that scores each class independently."""

import shutil

import h5py
import numpy as np
import pytest
from worlds.commands import ccd, invoke
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.evaluation.read import read
from pipeline.method.labels import class_bias, confident_images

SCALE, BIAS = 80.0, -69.0


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    use_teacher(ColourTeacher(fingerprint="colour-2", logit_scale=SCALE, logit_bias=BIAS), monkeypatch)
    return shutil.copytree(finished, tmp_path / "run")


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def test_labels_are_each_class_against_what_is_usual_for_it(run):
    output = ccd("embed", "--run", run, "--force")
    assert "background classes are skipped" in output and "scores each class independently" in output
    found = read(run / "embeddings.h5")
    assert (found.logit_scale, found.logit_bias, found.outcomes) == (SCALE, BIAS, 3)
    sums = found.probabilities.sum(1)
    assert sums.max() - sums.min() > 0.1  # no softmax
    shares = found.probabilities / sums[:, None]
    np.testing.assert_allclose(found.entropy, -(shares * np.log(shares)).sum(1), atol=1e-4)
    assert found.class_is_top1.tolist() == (found.probabilities.max(1) >= 1 / 3).tolist()
    assert 0 < found.class_is_top1.sum() < len(sums)
    confident = confident_images(found.entropy, 3, 0.668) & found.class_is_top1 & found.is_train
    expected, counts = class_bias(found.probabilities, confident)
    assert found.bias_counts.tolist() == counts.tolist() and counts.sum() > 0
    np.testing.assert_allclose(found.bias, expected, atol=1e-6)
    ccd("init-labels", "--run", run, "--force", "--cell-weight", 0)
    labels = read(run / "initial_labels.h5")
    np.testing.assert_allclose(labels.scores, found.probabilities[found.is_train] / found.bias, rtol=1e-5)


def test_crops_are_scored_in_the_same_way(run):
    for stage in ("embed", "init-labels", "warmup", "boxes", "score-crops"):
        ccd(stage, "--run", run, "--force")
    crops = read(run / "crop_scores.h5")
    sums = crops.probabilities.sum(1)
    assert crops.outcomes == 3 and sums.max() - sums.min() > 0.1


def test_others_that_are_named_are_refused(run):
    code, output = invoke("embed", "--run", run, "--background", "sky")
    assert code == 1 and "scores each class independently, so background cannot be 'sky'" in output


@pytest.mark.parametrize(("scale", "bias"), [(0, BIAS), (40, BIAS / 2)])
def test_embeddings_of_a_file_that_states_a_bias(run, tmp_path, scale, bias):
    known = read(run / "embeddings.h5")
    images = np.random.default_rng(0).normal(size=(len(known.image_ids), 3))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    with h5py.File(tmp_path / "siglip.h5", "w") as file:
        for name, texts in (("image_ids", known.image_ids), ("classes", known.class_names)):
            file.create_dataset(name, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
        file["image"], file["text"] = images, known.text
        file.attrs.update({"logit_scale": SCALE, "logit_bias": BIAS})
    ccd("embed", "--run", run, "--precomputed", tmp_path / "siglip.h5", "--logit-scale", scale)
    found = read(run / "embeddings.h5")
    assert found.logit_bias == bias
    np.testing.assert_allclose(found.probabilities, sigmoid((scale or SCALE) * images @ known.text.T + bias), atol=1e-4)
