import pytest

from pipeline.method.epoch_choice import choose_epoch, second_difference_epoch


@pytest.mark.parametrize(
    ("curve", "epoch"),
    [
        ([50, 60, 65, 71], 3),  # differences 10, 5, 6: growth quickens after the third
        ([50, 52, 60, 61], 2),
        ([50, 60, 66, 69], None),  # ever slower
        ([50, 60, 70, 80], None),  # a straight line is not positive
        ([60, 50, 45], 2),  # a fall that slows down counts as well
        ([50, 60], None),
        ([50], None),
    ],
)
def test_first_positive_second_difference(curve, epoch):
    assert second_difference_epoch(curve) == epoch
    assert choose_epoch("second-difference", curve) == (epoch or len(curve))


def test_the_last_epoch_needs_no_curve():
    assert choose_epoch("last", [3.0, 1.0, 2.0]) == 3


def test_a_curve_that_is_not_defined_never_triggers():
    assert choose_epoch("second-difference", [float("nan")] * 4) == 4
