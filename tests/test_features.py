import numpy as np
import pytest
import torch
from PIL import Image
from worlds.networks import small_net
from worlds.photos import noise_photos

from pipeline.classifier import features, inference
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import feature_batches, predict_together
from pipeline.photos import views
from pipeline.system import distributed

SIZE = 48
HALF = {"atol": 8e-4, "rtol": 1e-3}
"""How far logits may be (four times as far as scores) from those of maps that are not rounded to half precision."""


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
    load = views.load_view
    monkeypatch.setattr(views, "load_view", lambda path, *how: names.append(path.name) or load(path, *how))
    return names


def naive_logits(model, paths):
    """Output of a forward pass of each image."""
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        return model(images / 255)


def test_a_second_pass_decodes_nothing_and_gives_the_same_bytes(model, paths, store, decoded):
    first = predict_together(model, paths, SIZE, batch_size=2, store=store)
    torch.testing.assert_close(first, naive_logits(model, paths), **HALF)
    assert sorted(decoded) == [path.name for path in paths]
    assert torch.equal(predict_together(model, paths, SIZE, batch_size=2, store=store), first)
    assert len(decoded) == 5


def test_a_head_that_changed_is_seen(model, paths, store, decoded):
    predict_together(model, paths, SIZE, store=store)
    with torch.no_grad():
        model.head.bias += 1
    torch.testing.assert_close(predict_together(model, paths, SIZE, store=store), naive_logits(model, paths), **HALF)
    assert len(decoded) == 5


@pytest.mark.parametrize("part", ["weight", "running_mean"])
def test_a_backbone_that_changed_is_computed_anew(model, paths, store, decoded, part):
    predict_together(model, paths, SIZE, store=store)
    with torch.no_grad():
        next(value for name, value in model.stages.state_dict().items() if name.endswith(part)).add_(0.5)
    torch.testing.assert_close(predict_together(model, paths, SIZE, store=store), naive_logits(model, paths), **HALF)
    assert len(decoded) == 10


def test_an_image_that_changed_is_computed_anew(model, paths, store):
    predict_together(model, paths, SIZE, store=store)
    Image.new("RGB", (SIZE, SIZE), "red").save(paths[3])
    torch.testing.assert_close(predict_together(model, paths, SIZE, store=store), naive_logits(model, paths), **HALF)


def test_scores_are_the_same_wherever_the_maps_are_kept(model, paths, decoded, tmp_path):
    stores = {
        "nowhere": None,
        "no room": FeatureStore(memory=1000),
        "in memory": FeatureStore(),
        "on disk": FeatureStore(memory=1000, folder=tmp_path / "features"),
    }
    passes = {name: [] for name in stores}
    for name, store in stores.items():
        for _ in range(2):
            decoded.clear()
            passes[name].append((predict_together(model, paths, SIZE, batch_size=2, store=store), len(decoded)))
    first = passes["nowhere"][0][0]
    assert all(torch.equal(scores, first) for both in passes.values() for scores, _ in both)
    assert {name: [count for _, count in both] for name, both in passes.items()} == {
        "nowhere": [5, 5],
        "no room": [5, 5],
        "in memory": [5, 0],
        "on disk": [5, 0],
    }


def test_a_killed_process_leaves_its_maps_to_the_next(model, paths, decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "SAVE_EVERY", 1)
    expected = predict_together(model, paths, SIZE)
    batches = feature_batches(model, paths, SIZE, 2, store=FeatureStore(memory=0, folder=tmp_path))
    next(batches), next(batches)
    batches.close()
    decoded.clear()
    again = FeatureStore(memory=0, folder=tmp_path)
    torch.testing.assert_close(predict_together(model, paths, SIZE, batch_size=3, store=again), expected)
    # the maps of the second batch may or may not have been saved when the process went
    assert [path.name for path in paths[4:]] == decoded[-1:] and len(decoded) <= 3
    again.remove()
    assert not list(tmp_path.glob("*"))


def test_a_file_of_another_size_is_not_trusted(model, paths, tmp_path):
    expected = predict_together(model, paths, SIZE, store=FeatureStore(memory=0, folder=tmp_path))
    (file,) = tmp_path.glob("*.f16")
    file.write_bytes(file.read_bytes()[:-10])
    assert torch.equal(predict_together(model, paths, SIZE, store=FeatureStore(memory=0, folder=tmp_path)), expected)


def test_the_budgets_of_memory_and_disk_are_kept(model, tmp_path):
    shape = (10, 1, 1, 1, 1)  # 20 bytes
    store = FeatureStore(memory=50, disk=30, folder=tmp_path)
    opened = [store.open(model, key, shape) for key in "abc"]
    assert len(list(tmp_path.glob("*.f16"))) == 1  # the third
    assert [store.open(model, key, shape) for key in "cba"] == opened[::-1]
    store.open(model, "d", shape)  # c is the longest unused, but frees no memory
    assert store.open(model, "a", shape) is opened[0] and store.open(model, "b", shape) is not opened[1]
    assert store.open(model, "e", (100, 1, 1, 1, 1)) is None


def test_no_images_give_no_scores(model):
    assert predict_together(model, [], SIZE, store=FeatureStore()).shape == (0, 3)


def test_processes_predict_a_part_each_and_put_it_in_its_places(model, paths, monkeypatch):
    whole = predict_together(model, paths, SIZE)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(predict_together(model, paths, SIZE, batch_size=1))  # their sum is what every process then has
    assert [part.any(dim=1).tolist() for part in parts] == [[True, False] * 2 + [True], [False, True] * 2 + [False]]
    torch.testing.assert_close(sum(parts), whole, atol=2e-4, rtol=1e-3)


def test_maps_that_are_not_rounded_give_the_logits_of_a_forward_pass(model, paths):
    exact = predict_together(model, paths, SIZE, rounded=False)
    torch.testing.assert_close(exact, naive_logits(model, paths), atol=8e-6, rtol=1e-5)
    assert not torch.equal(predict_together(model, paths, SIZE), exact)


class Accelerator:
    """A model on the device `meta`, whose tensors take no memory."""

    def __init__(self, name):
        self.name = name

    def parameters(self):
        return iter([torch.zeros(1, device="meta")])


@pytest.fixture
def accelerator(monkeypatch):
    """A store for a device with 1000 bytes, and how to ask it for maps of so many bytes of a backbone."""
    store = FeatureStore(memory=100_000)
    monkeypatch.setattr(features, "backbone_digest", lambda model: model.name)
    monkeypatch.setattr(
        features, "free_memory", lambda device: 1000 - store._used("meta") if device.type == "meta" else 0
    )

    def place(key, size, backbone="first"):
        return store.open(Accelerator(backbone), key, (size // 2, 1, 1, 1, 1)).values.device.type

    return store, place


def test_maps_on_a_gpu_take_half_of_it_together_and_not_half_of_what_is_left_each(accelerator):
    store, place = accelerator
    assert [place("a", 300), place("b", 200), place("c", 2), place("a", 300)] == ["meta", "meta", "cpu", "meta"]
    assert store._used("meta") == 500
    store.open(Accelerator("first"), "d", (50_000, 1, 1, 1, 1))  # memory is short: c goes, and what is on the GPU stays
    assert list(store._kept) == ["b", "a", "d"]


def test_another_backbone_and_a_cleared_store_give_the_gpu_back(accelerator, monkeypatch):
    store, place = accelerator
    place("a", 500)
    assert place("b", 500, backbone="second") == "meta" and store._used("meta") == 500
    store.clear()
    assert store._used("meta") == 0


def test_a_store_that_is_cleared_gives_the_disk_back(model, tmp_path):
    store = FeatureStore(memory=0, folder=tmp_path)
    kept = store.open(model, "a", (2, 1, 1, 1, 1))
    kept.append(torch.zeros(2, 1, 1, 1, 1))
    kept.save()
    (tmp_path / "0123.f16").write_bytes(b"of another process")
    store.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["0123.f16"]


def test_photos_are_known_by_their_content_where_it_was_checked(model, paths, store, decoded, tmp_path):
    store.know(dict(zip(map(str, paths), [f"{n:064x}" for n in range(5)], strict=True)))
    expected = predict_together(model, paths, SIZE, store=store)
    moved = [path.rename(tmp_path / f"moved{n}.png") for n, path in enumerate(paths)]
    store.know(dict(zip(map(str, moved), [f"{n:064x}" for n in range(5)], strict=True)))
    assert torch.equal(predict_together(model, moved, SIZE, store=store), expected) and len(decoded) == 5
    store.know(dict(zip(map(str, moved), [f"{n:064x}" for n in range(1, 6)], strict=True)))
    predict_together(model, moved, SIZE, store=store)
    assert len(decoded) == 10


def test_only_for_cuda_maps_are_pinned():
    maps = features.Maps(torch.ones(3, 1, 2, 2, 2, dtype=torch.float16))
    # any device that is neither CUDA nor where the maps are stands for Apple's GPUs
    assert maps.rows(torch.tensor([0, 2]), 0, torch.device("meta")).shape == (2, 2, 2, 2)
