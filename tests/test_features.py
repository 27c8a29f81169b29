import numpy as np
import pytest
import torch
from PIL import Image
from small import noise_photos, small_net

from pipeline.classifier import inference
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import predict_scores

SIZE = 48


@pytest.fixture
def paths(tmp_path):
    return noise_photos(tmp_path, [(SIZE, SIZE)] * 5)


@pytest.fixture
def model():
    return small_net(head_std=0.1)


@pytest.fixture
def store():
    return FeatureStore()


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images in the order in which they were decoded."""
    names = []
    load = inference.load_squashed
    monkeypatch.setattr(inference, "load_squashed", lambda path, size: names.append(path.name) or load(path, size))
    return names


def naive_scores(model, paths):
    """What a forward pass of each image says."""
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        return model(images / 255).sigmoid()


def test_a_second_pass_decodes_nothing_and_gives_the_same_bytes(model, paths, store, decoded):
    first = predict_scores(model, paths, SIZE, batch_size=2, store=store)
    torch.testing.assert_close(first, naive_scores(model, paths))
    assert sorted(decoded) == [path.name for path in paths]
    assert torch.equal(predict_scores(model, paths, SIZE, batch_size=2, store=store), first)
    assert len(decoded) == 5


def test_a_head_that_changed_is_seen(model, paths, store, decoded):
    predict_scores(model, paths, SIZE, store=store)
    with torch.no_grad():
        model.head.bias += 1
    torch.testing.assert_close(predict_scores(model, paths, SIZE, store=store), naive_scores(model, paths))
    assert len(decoded) == 5


@pytest.mark.parametrize("part", ["weight", "running_mean"])
def test_a_backbone_that_changed_is_computed_anew(model, paths, store, decoded, part):
    predict_scores(model, paths, SIZE, store=store)
    with torch.no_grad():
        next(value for name, value in model.stages.state_dict().items() if name.endswith(part)).add_(0.5)
    torch.testing.assert_close(predict_scores(model, paths, SIZE, store=store), naive_scores(model, paths))
    assert len(decoded) == 10


def test_an_image_that_changed_is_computed_anew(model, paths, store):
    predict_scores(model, paths, SIZE, store=store)
    Image.new("RGB", (SIZE, SIZE), "red").save(paths[3])
    torch.testing.assert_close(predict_scores(model, paths, SIZE, store=store), naive_scores(model, paths))


def test_what_does_not_fit_is_not_kept_and_gives_the_same_bytes(model, paths, decoded):
    store = FeatureStore(limit=1000)
    first = predict_scores(model, paths, SIZE, store=store)
    assert torch.equal(predict_scores(model, paths, SIZE, store=store), first)
    assert len(decoded) == 10


def test_the_longest_unused_makes_room(model):
    store = FeatureStore(limit=100)
    maps = [torch.zeros(10)]  # 40 bytes
    for key in ("a", "b"):
        assert store.make_room(model, 40)
        store.keep(key, maps)
    assert store.find(model, "a") is maps
    assert store.make_room(model, 40)
    store.keep("c", maps)
    assert [key for key in "abc" if store.find(model, key)] == ["a", "c"]
    assert not store.make_room(model, 101)


def test_no_images_give_no_scores(model):
    assert predict_scores(model, [], SIZE, store=FeatureStore()).shape == (0, 3)
