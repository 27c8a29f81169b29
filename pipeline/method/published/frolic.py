"""Prior removal of Frolic (Zhu et al., NeurIPS 2024): logits without the teacher's preference for some classes."""

import torch
from torch import Tensor

ROUNDS = 11


def class_scores(logits: Tensor) -> Tensor:
    """Class probabilities without the prior, float32 Tensor[N, C]; the prior changes the ranking of photos only in a softmax."""
    return remove_prior(logits).softmax(dim=1)


def remove_prior(logits: Tensor) -> Tensor:
    """Logits minus the logarithm of the estimated prior, repeatedly: float32 Tensor[N, C].

    Args:
        logits: float32 Tensor[N, C], C of at least 2.
    """
    for _ in range(ROUNDS):
        logits = logits - prior(logits).log()
    return logits


def prior(logits: Tensor) -> Tensor:
    """The teacher's preference for each class, Tensor[C]: the leading eigenvector of its mean predictions.

    It counts photos whose highest logit exceeds the second by 1/C. A class that is top-1 in none of them gets 1/C; in the
    authors' code it gets a value near 0.
    """
    class_count = logits.shape[1]
    best = logits.topk(2, dim=1).values
    clear = logits[best[:, 0] - best[:, 1] > 1 / class_count]
    top = clear.argmax(dim=1)
    counts = torch.bincount(top, minlength=class_count)
    sums = torch.zeros(class_count, class_count).index_add(0, top, clear.softmax(dim=1))
    predictions = sums / counts.clamp(min=1)[:, None]  # [C, C], mean prediction where class k is top-1
    beta = torch.full((class_count,), 1 / class_count)
    for _ in range(100):  # power iteration
        after = predictions.T @ beta
        after = after / after.sum().clamp(min=1e-12)
        converged = (after - beta).abs().sum() < 1e-6
        beta = after
        if converged:
            break
    return torch.where(counts > 0, beta, 1 / class_count)
