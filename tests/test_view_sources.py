import pytest
import torch
from small import noise_photos, small_net

from pipeline.classifier import view_sources
from pipeline.classifier.batches import plan_epoch
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.network import build_classifier
from pipeline.classifier.view_sources import PhotoSource, can_share_features, share_features

SIZE = 48


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return noise_photos(tmp_path_factory.mktemp("photos"), [(40, 60)] * 5)


@pytest.fixture
def frozen():
    model = small_net(head_std=0.1).train()
    model.freeze(100, norms=True)
    return model


def logits(source, seed=3):
    """Logits of both views of every image, in the order of the rows."""
    plan = plan_epoch(torch.tensor([4, 2, 0, 3, 1]), 2, 1)
    views = source.views(plan, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        pairs = [[source.forward(view) for view in pair if view is not None] for pair in views]
    return [torch.cat(column) for column in zip(*pairs, strict=True)]


def test_shared_features_give_the_logits_of_the_photos(frozen, paths):
    device = torch.device("cpu")
    shared = share_features(frozen, None, paths, SIZE, None, 0, "views")
    photos = PhotoSource(frozen, paths, SIZE, None, device)
    (ours,), (expected,) = logits(shared), logits(photos)
    # features are kept in half precision
    torch.testing.assert_close(ours, expected, atol=2e-2, rtol=1e-2)
    assert (logits(shared, seed=4)[0] - ours).abs().max() > 1e-3  # other flips


def test_second_views_are_jittered_and_the_same_for_the_same_seed(frozen, paths):
    one, two, other = (share_features(frozen, None, paths, SIZE, 0.5, seed, "views") for seed in (0, 0, 1))
    first, second = logits(one)
    assert (first - second).abs().max() > 1e-2
    assert torch.equal(second, logits(two)[1])
    assert not torch.equal(second, logits(other)[1])


def test_features_are_shared_only_where_they_stay_and_fit(frozen, monkeypatch):
    assert can_share_features(frozen, 100, SIZE, 0.5)
    monkeypatch.setattr(view_sources, "MEMORY", 1000)
    assert not can_share_features(frozen, 100, SIZE, 0.5)


@pytest.mark.parametrize(("stages", "norms"), [(0, True), (1, True), (0, False)])
def test_a_backbone_that_is_trained_is_not_shared(stages, norms):
    model = build_classifier("timm:test_resnet", 3, boost=3.0, pretrained=False)
    model.train()
    model.freeze(stages, norms)
    assert can_share_features(model, 4, SIZE, None) == (stages == 1)  # a timm model is one stage


def test_other_seeds_and_views_are_kept_apart(frozen, paths):
    store = FeatureStore()
    sources = [share_features(frozen, None, paths, SIZE, 0.5, seed, "views", store=store) for seed in (0, 1, 0)]
    second = [logits(source)[1] for source in sources]
    assert torch.equal(second[0], second[2]) and not torch.equal(second[0], second[1])
    plain = share_features(frozen, None, paths, SIZE, None, 0, "views", store=store)
    (alone,) = logits(plain)
    assert torch.equal(alone[:2], logits(sources[0])[0][:2])  # the batch before any draw of a second view
