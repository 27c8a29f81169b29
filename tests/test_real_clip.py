"""The label stages on the CLIP output of RN50x64 on VOC 2012 train: known figures."""

import h5py
import numpy as np
import pytest
import torch

from pipeline.evaluation.metrics import label_metrics, multilabel_metrics
from pipeline.method.labels import clamp_labels, class_bias, confident_images, debias
from pipeline.method.probabilities import entropy
from pipeline.runs.options import EmbedConfig

BIAS = [0.947, 0.913, 0.937, 0.917, 0.868, 0.943, 0.904, 0.890, 0.819, 0.956]
BIAS += [0.782, 0.866, 0.954, 0.935, 0.701, 0.862, 0.946, 0.777, 0.970, 0.752]


@pytest.fixture(scope="module")
def clip(shared_data):
    path = shared_data / "clip_rn50x64_voc12_train.h5"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    with h5py.File(path) as file:
        names = [name.decode() for name in file["classes"]]
        return file["probabilities"][()], file["ground_truth"][()], names


def confident(probabilities):
    found = entropy(torch.from_numpy(probabilities.astype(np.float32))).numpy()
    return confident_images(found, 20, EmbedConfig.entropy_limit)


def test_probabilities(clip):
    probabilities, truth, names = clip
    assert 100 * multilabel_metrics(probabilities, truth, names)["mAP"] == pytest.approx(85.34, abs=0.005)
    share = 1 - confident(probabilities).mean()
    assert 100 * share == pytest.approx(2.45, abs=0.005)


def test_bias_to_three_decimals(clip):
    probabilities, _, _ = clip
    bias, counts = class_bias(probabilities, confident(probabilities))
    np.testing.assert_allclose(bias, BIAS, atol=0.0005001)
    assert counts.min() > 0


def test_initial_labels(clip):
    probabilities, truth, names = clip
    bias, _ = class_bias(probabilities, confident(probabilities))
    figures = label_metrics(clamp_labels(debias(probabilities, bias, floor_share=1.0)), truth, names)
    assert 100 * figures["mAP"] == pytest.approx(79.94, abs=0.005)
    assert figures["label_sum"] == pytest.approx(2.077, abs=0.0005)
    assert figures["OF1"] == pytest.approx(0.729, abs=0.0005)
    assert label_metrics(probabilities, truth, names)["OF1"] == pytest.approx(0.717, abs=0.0005)
