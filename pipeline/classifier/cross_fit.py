"""Cross-fitted labels: soft labels mixed with the scores of classifiers that were trained on the other images only.

A classifier repeats the labels that it was trained on. Its scores of other images, out of fold, correct their labels by
the evidence of the rest. Mixing labels with scores is bootstrapping (Reed et al., 2015). This is not part of CCD.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, load_partial, save_partial
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import load_classifier, predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import Consistency, TrainingSet, fit, start_training, targets_of
from pipeline.method.extras.calibration import platt_scores
from pipeline.method.losses import mean_label_entropy
from pipeline.runs.options import TrainConfig, WarmupConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed


def deal_folds(count: int, folds: int, seed: int) -> Tensor:
    """Fold of each image, int64 Tensor[N] in [0, folds), in sizes that differ by at most 1."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % folds


@dataclass(frozen=True)
class OutOfFold:
    """Trains classifiers on a part of the images and scores the rest."""

    warmup: Checkpoint
    """Each classifier starts from its weights, with a new head."""
    partial: PartialResults
    """Keeps the logits of each fold, from which a killed command resumes."""
    device: str
    store: FeatureStore | None = None
    """Keeps the feature maps."""

    def logits(
        self, data: TrainingSet, config: TrainConfig, folds: int, name: str, consistency: Consistency | None = None
    ) -> Tensor:
        """Logits float32 Tensor[N, C] of each image by a classifier that was trained on the other folds.

        Args:
            data: all images, with their labels.
            config: options of the trainings.
            folds: at most N.
            name: of these trainings among the partial results, and in titles.
            consistency: second view and its loss, as in the final training.
        """
        fold_of = deal_folds(len(data.paths), folds, config.seed)
        logits = torch.zeros_like(data.labels)
        for fold in range(folds):
            held_out = fold_of == fold
            path = self.partial.path(f"{name}_fold{fold + 1}.pt")
            if not path.exists():
                part = replace(data, rows=(~held_out).nonzero()[:, 0])
                inner = self.partial.below(path.stem)
                state = start_training(self._untrained(part, config), config, torch.device(self.device))
                how = {"consistency": consistency, "title": f"{name} fold {fold + 1}/{folds}", "store": self.store}
                fit(state, part, config.replace(track="none"), inner, **how)
                fold_logits = predict_together(
                    state.model, data.paths, config.test_size, title="  out of fold", store=self.store
                )
                if distributed.is_main():
                    save_partial(path, {"logits": fold_logits[held_out]})
                    inner.remove()
                distributed.barrier()  # the file exists for all processes
            logits[held_out] = load_partial(path)["logits"]
        return logits

    def _untrained(self, data: TrainingSet, config: TrainConfig) -> CamNet:
        model = load_classifier(self.warmup)
        model.init_head(targets_of(data.labels[data.rows], config).mean(dim=0))
        return model


def cross_fit_share(labels: Tensor, warmup: Checkpoint, config: TrainConfig) -> float:
    """Share of out-of-fold scores in a label, from Tensor[N, C]; 0 where labels are decided, as CLIP's are.

    A backbone that is trained has seen every label in the warm-up, so its scores are never out of fold.
    """
    frozen = config.freeze_backbone and config.freeze_norms and warmup.provenance.options(WarmupConfig).freeze_backbone
    if not frozen or not config.cross_fit_rounds or len(labels) < config.cross_fit_folds:
        return 0.0
    return config.cross_fit_weight * mean_label_entropy(labels)


def cross_fit(data: TrainingSet, share: float, config: TrainConfig, out_of_fold: OutOfFold) -> Tensor:
    """Labels of the next training: (1 - share) * label + share * out-of-fold score, in each round again from the labels.

    Each round trains on the labels of the previous one. Its logits are mapped to the labels by Platt scaling for each class.

    Args:
        data: images and their labels.
        share: weight of the out-of-fold scores, in [0, 1].
        config: options of the trainings, rounds and folds.
        out_of_fold: trains and scores.

    Returns:
        float32 Tensor[N, C] in [0, 1].
    """
    mixed = data.labels
    for number in range(1, config.cross_fit_rounds + 1):
        given, name = replace(data, labels=mixed), f"round{number}"
        logits = out_of_fold.logits(given, config, config.cross_fit_folds, name, Consistency.of(config))
        mapped = platt_scores(logits.numpy(), data.labels.numpy())
        mixed = ((1 - share) * data.labels.double() + share * torch.from_numpy(mapped)).float()
    return mixed
