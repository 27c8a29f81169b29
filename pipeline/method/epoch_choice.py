"""Which epoch's weights to keep, chosen without labels."""

from collections.abc import Sequence


def authors_epoch(label_map: Sequence[float], warmup_map: Sequence[float]) -> int | None:
    """First epoch of the final training, from 1, at which the second difference of the mAP curve is positive.

    As in the authors' code, the curve starts with the warm-up, and the last of the three epochs of a difference counts.
    None if the rule finds no epoch; their code then fails.

    Args:
        label_map: mAP of each epoch of the final training, against the labels equal to 1.
        warmup_map: mAP of each epoch of the warm-up.
    """
    curve = [*warmup_map, *label_map]
    for e in range(max(2, len(warmup_map)), len(curve)):
        if curve[e] - 2 * curve[e - 1] + curve[e - 2] > 0:
            return e - len(warmup_map) + 1
    return None
