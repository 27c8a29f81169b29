import pytest
import torch
from worlds.networks import small_net
from worlds.photos import noise_photos

from pipeline.classifier.batches import plan_epoch
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.network import build_classifier
from pipeline.classifier.view_sources import DrawnViews, PhotoSource, frozen_source, is_frozen
from pipeline.photos.views import ViewSpec
from pipeline.system import distributed

SIZE = 48


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return noise_photos(tmp_path_factory.mktemp("photos"), [(40, 60)] * 5)


@pytest.fixture
def frozen():
    model = small_net(head_std=0.1).train()
    model.freeze(True, norms=True)
    return model


def logits(source, seed=3):
    """Logits of both views of every image, in the order of the rows."""
    plan = plan_epoch(torch.tensor([4, 2, 0, 3, 1]), 2)
    views = source.views(plan, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        pairs = [[source.forward(view) for view in pair if view is not None] for pair in views]
    return [torch.cat(column) for column in zip(*pairs, strict=True)]


def source_of(model, paths, jitter=None, seed=0, flips=True, **options):
    return frozen_source(model, model.logits, paths, ViewSpec(SIZE, flips=flips, jitter=jitter), seed, **options)


def test_a_frozen_backbone_gives_the_logits_of_the_photos(frozen, paths):
    ours = logits(source_of(frozen, paths))[0]
    (expected,) = logits(PhotoSource(frozen, paths, ViewSpec(SIZE, flips=True), torch.device("cpu")))
    # maps are kept in half precision
    torch.testing.assert_close(ours, expected, atol=2e-2, rtol=1e-2)
    assert (logits(source_of(frozen, paths), seed=4)[0] - ours).abs().max() > 1e-3  # other flips
    plain = [logits(source_of(frozen, paths, flips=False), seed)[0] for seed in (3, 4)]
    assert torch.equal(*plain)
    (expected,) = logits(PhotoSource(frozen, paths, ViewSpec(SIZE), torch.device("cpu")))
    torch.testing.assert_close(plain[0], expected, atol=2e-2, rtol=1e-2)


def test_second_views_are_jittered_and_the_same_for_the_same_seed(frozen, paths):
    one, two, other = (source_of(frozen, paths, 0.5, seed) for seed in (0, 0, 1))
    first, second = logits(one)
    assert (first - second).abs().max() > 1e-2
    assert torch.equal(second, logits(two)[1])
    assert not torch.equal(second, logits(other)[1])


def test_views_are_the_same_in_memory_on_disk_and_computed_anew(frozen, paths, tmp_path):
    stores = {
        "memory": FeatureStore(),
        "disk": FeatureStore(memory=0, folder=tmp_path),
        "anew": FeatureStore(memory=0),
        "half of it": FeatureStore(memory=int(1.5 * kept_bytes(frozen, paths))),
    }
    found = {}
    for name, store in stores.items():
        source = source_of(frozen, paths, 0.5, store=store)
        found[name] = [torch.cat(logits(source, seed)) for seed in (3, 4)]
    for logits_of in found.values():
        for ours, expected in zip(logits_of, found["memory"], strict=True):
            # a batch of another size may round the last digit before half precision otherwise
            torch.testing.assert_close(ours, expected, atol=2e-3, rtol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(found["memory"], found["disk"], strict=True))
    assert len(list(tmp_path.glob("*.f16"))) == 2


def kept_bytes(model, paths):
    return 2 * 2 * len(paths) * model.features(torch.zeros(1, 3, SIZE, SIZE)).numel()


def test_a_killed_process_finds_its_maps_on_disk(frozen, paths, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.classifier.view_sources.FILL_BATCH", 2)
    monkeypatch.setattr("pipeline.classifier.view_sources.SAVE_IMAGES", 2)
    expected = logits(source_of(frozen, paths, 0.5))
    original, made = DrawnViews.make, []

    def killed_after(count):
        def make(self, group, view, pixels, rows):
            made.append((group, view, rows.tolist()))
            if len(made) > count:
                raise KeyboardInterrupt
            return original(self, group, view, pixels, rows)

        return make

    monkeypatch.setattr(DrawnViews, "make", killed_after(6))  # in the second of three batches
    with pytest.raises(KeyboardInterrupt):
        source_of(frozen, paths, 0.5, store=FeatureStore(memory=0, folder=tmp_path))
    made.clear()
    monkeypatch.setattr(DrawnViews, "make", killed_after(100))
    found = logits(source_of(frozen, paths, 0.5, store=FeatureStore(memory=0, folder=tmp_path)))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    # the plain views of the second batch were there, its jittered ones were not
    assert ("plain", 0, [2, 3]) not in made and ("jittered", 0, [2, 3]) in made
    assert not [rows for _, _, rows in made if rows == [0, 1]]


@pytest.mark.parametrize("memory", [10**9, 0])
def test_processes_that_own_a_part_each_see_together_what_one_sees(frozen, paths, monkeypatch, memory):
    whole = logits(source_of(frozen, paths, 0.5))
    order = torch.tensor([4, 2, 0, 3, 1])
    found = [torch.zeros_like(each) for each in whole]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        store = FeatureStore(memory=memory)
        source = source_of(frozen, paths, 0.5, store=store)
        assert source.owned == bool(memory)
        plan = plan_epoch(order, 2, source.owned)
        assert all(len(batch.own_rows) for batch in plan)
        for batch, views in zip(plan, source.views(plan, torch.Generator().manual_seed(3)), strict=True):
            places = [order.tolist().index(row) for row in batch.own_rows.tolist()]
            if batch.share:
                for target, view in zip(found, views, strict=True):
                    target[places] = source.forward(view).detach()
    for ours, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("backbone", "norms"), [(False, True), (True, True), (False, False)])
def test_a_backbone_that_is_trained_is_not_frozen(backbone, norms):
    model = build_classifier("timm:test_resnet", 3, boost=3.0, pretrained=False)
    model.train()
    model.freeze(backbone, norms)
    assert is_frozen(model) == backbone


def test_other_seeds_and_views_are_kept_apart(frozen, paths):
    store = FeatureStore()
    sources = [source_of(frozen, paths, 0.5, seed, store=store) for seed in (0, 1, 0)]
    second = [logits(source)[1] for source in sources]
    assert torch.equal(second[0], second[2]) and not torch.equal(second[0], second[1])
    (alone,) = logits(source_of(frozen, paths, store=store))
    assert torch.equal(alone[:2], logits(sources[0])[0][:2])  # the batch before any draw of a second view
