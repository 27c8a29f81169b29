"""The weight of a learned head against the teacher that labelled its photos.

The two make different errors, so their mean ranks better than either; but a head that learned from few photos is poor. Chosen on
train photos: weights of .1, .2, .3 and .4 to .5 are best with 12, 50, 100 and 200 or more of them (pipeline/plans/README.md).
"""

MOST = 0.5
"""Largest weight."""
HALF = 100
"""Photos at which half of it is reached."""


def learned_weight(images: int) -> float:
    """Weight of the learned head in the logits, from 0 without photos towards `MOST` with many.

    Args:
        images: photos that it was trained on.
    """
    return MOST * images / (images + HALF)
