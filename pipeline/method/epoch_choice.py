"""Which epoch's weights to keep, from what can be seen without labels."""

from collections.abc import Sequence


def second_difference_epoch(label_map: Sequence[float]) -> int | None:
    """First epoch, from 1, at which the second difference of the curve turns positive; None if it never does.

    The mAP of the training scores against the pseudo-labels rises ever more slowly while the classifier learns what
    the labels have in common, and faster again once it starts to fit their noise. This is the middle one of the three
    epochs that a second difference needs: the last before the quickening.

    Args:
        label_map: mAP of each epoch against the pseudo-labels.
    """
    for e in range(1, len(label_map) - 1):
        if label_map[e + 1] - 2 * label_map[e] + label_map[e - 1] > 0:
            return e + 1
    return None


def authors_epoch(label_map: Sequence[float], warmup_map: Sequence[float]) -> int | None:
    """First epoch of the final training, from 1, that ends three of positive second difference; None if there is none.

    As in the authors' code: the curve begins with the warm-up, and the last of the three epochs is kept. Their code
    has no weights to keep, and fails, where there is none.

    Args:
        label_map: mAP of each epoch of the final training.
        warmup_map: of each epoch before it.
    """
    curve = [*warmup_map, *label_map]
    for e in range(max(2, len(warmup_map)), len(curve)):
        if curve[e] - 2 * curve[e - 1] + curve[e - 2] > 0:
            return e - len(warmup_map) + 1
    return None


def choose_epoch(rule: str, label_map: Sequence[float], certain_map: Sequence[float] = ()) -> int:
    """Epoch, from 1, whose weights to keep; the last where the rule finds none.

    Args:
        rule: "last", "second-difference", or "authors".
        label_map: mAP of each epoch against the pseudo-labels, at least one.
        certain_map: for "authors", their own mAP of each epoch (positives are the labels equal to 1), the warm-up's
            first.
    """
    found = None
    if rule == "second-difference":
        found = second_difference_epoch(label_map)
    elif rule == "authors":
        warmup = len(certain_map) - len(label_map)
        found = authors_epoch(certain_map[warmup:], certain_map[:warmup])
    return len(label_map) if found is None else found
