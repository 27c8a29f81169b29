"""Which epoch's weights to keep, from what can be seen without labels."""

from collections.abc import Sequence


def second_difference_epoch(label_map: Sequence[float]) -> int | None:
    """First epoch, from 1, at which the second difference of the curve turns positive; None if it never does.

    The authors' rule: the mAP of the training scores against the pseudo-labels rises ever more slowly while the
    classifier learns what the labels have in common, and faster again once it starts to fit their noise.

    Args:
        label_map: mAP of each epoch against the pseudo-labels.
    """
    for e in range(1, len(label_map) - 1):
        if label_map[e + 1] - 2 * label_map[e] + label_map[e - 1] > 0:
            return e + 1
    return None


def choose_epoch(rule: str, label_map: Sequence[float]) -> int:
    """Epoch, from 1, whose weights to keep.

    Args:
        rule: "last", or "second-difference" (the paper's; the last epoch where it does not trigger).
        label_map: mAP of each epoch against the pseudo-labels, at least one.
    """
    found = second_difference_epoch(label_map) if rule == "second-difference" else None
    return len(label_map) if found is None else found
