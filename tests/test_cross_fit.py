import numpy as np
import pytest
import torch
from worlds.networks import small_net

from pipeline.artifacts.provenance import Provenance
from pipeline.classifier import cross_fit as module
from pipeline.classifier.cross_fit import OutOfFold, cross_fit, deal_folds
from pipeline.classifier.training import TrainingSet
from pipeline.method.extras.calibration import platt_scores
from pipeline.runs.options import TrainConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system.errors import PipelineError

COUNT, CLASSES = 10, 3
CONFIG = TrainConfig(cross_fit_rounds=2, cross_fit_folds=3, seed=4)


@pytest.fixture
def trainings(monkeypatch):
    """Fake training and scoring: the arguments of each call, and logits that identify the training."""
    seen = []

    def fit(state, data, config, pieces, **_):
        pieces.path("x").parent.mkdir(parents=True)
        seen.append((data.rows.tolist(), data.labels.clone()))

    def predict_together(model, paths, size, **_):
        return logits_of(len(seen))

    monkeypatch.setattr(module, "load_classifier", lambda warmup: small_net(head_std=0.1))
    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "predict_together", predict_together)
    return seen


def logits_of(training):
    return torch.from_numpy(np.random.default_rng(training).normal(size=(COUNT, CLASSES))).float()


@pytest.fixture
def data():
    labels = torch.from_numpy(np.random.default_rng(0).random((COUNT, CLASSES))).float()
    return TrainingSet([f"{i}.png" for i in range(COUNT)], labels, torch.ones(COUNT))


def pieces_in(folder):
    return PartialResults(folder / "classifier.pt", Provenance("classifier", 1, {}, {}))


def run(data, folder, share=0.3):
    return cross_fit(data, share, CONFIG, OutOfFold(None, pieces_in(folder), "cpu"))


def test_folds_are_equal_and_drawn_by_the_seed():
    folds = deal_folds(11, 3, 0)
    assert sorted(torch.bincount(folds).tolist()) == [3, 4, 4]
    assert torch.equal(folds, deal_folds(11, 3, 0)) and not torch.equal(folds, deal_folds(11, 3, 1))


def test_no_image_is_scored_by_what_was_trained_on_it(data, trainings, tmp_path):
    found = run(data, tmp_path)
    assert len(trainings) == 6
    folds = deal_folds(COUNT, 3, CONFIG.seed)
    labels = data.labels
    for number in range(2):
        logits = torch.zeros(COUNT, CLASSES)
        for fold in range(3):
            rows, given = trainings[3 * number + fold]
            assert sorted(rows) == [i for i in range(COUNT) if folds[i] != fold]
            torch.testing.assert_close(given, labels)
            logits[folds == fold] = logits_of(3 * number + fold + 1)[folds == fold]
        # mixed anew with what the labels were in the beginning
        labels = 0.7 * data.labels + 0.3 * torch.from_numpy(platt_scores(logits.numpy(), data.labels.numpy())).float()
    torch.testing.assert_close(found, labels)


def test_a_fold_that_is_finished_is_not_trained_again(data, trainings, tmp_path, monkeypatch):
    expected = run(data, tmp_path / "unbroken")
    trainings.clear()

    def load(warmup):
        if len(trainings) == 4:
            raise PipelineError("stopped")
        return small_net(head_std=0.1)

    with monkeypatch.context() as patch, pytest.raises(PipelineError, match="stopped"):
        patch.setattr(module, "load_classifier", load)
        run(data, tmp_path / "broken")
    torch.testing.assert_close(run(data, tmp_path / "broken"), expected)
    assert len(trainings) == 6
    names = {path.name for path in (tmp_path / "broken" / "classifier.pt.partial").iterdir()}
    assert names == {"fingerprint"} | {f"round{r}_fold{f}.pt" for r in (1, 2) for f in (1, 2, 3)}
