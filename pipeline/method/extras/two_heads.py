"""The weight of a learned head against the teacher that labelled its photos."""

MOST = 0.5
HALF = 100


def learned_weight(images: int) -> float:
    """Weight of the learned head in the logits, from 0 without photos towards `MOST` with many.

    Args:
        images: photos that it was trained on.
    """
    return MOST * images / (images + HALF)
