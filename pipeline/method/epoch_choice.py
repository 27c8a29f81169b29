"""Which epoch's weights to keep, chosen without labels."""

from collections.abc import Sequence


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
