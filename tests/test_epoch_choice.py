import pytest

from pipeline.method.epoch_choice import authors_epoch


@pytest.mark.parametrize(
    ("curve", "epoch"),
    [
        ([80, 86, 88, 89, 91, 92, 93, 94], 5),
        ([75, 82, 84, 85, 85.5, 86.5, 87, 88], 2),
        ([60, 70, 78, 84, 88, 90, 91, 91.5], 2),
        ([95, 96], 1),  # quickens right after the warm-up
        ([80, 85, 86], None),
    ],
)
def test_the_authors_keep_the_last_of_three_epochs_and_count_the_warm_up(curve, epoch):
    assert authors_epoch(curve, [50, 70]) == epoch


def test_the_authors_rule_needs_no_warm_up_and_keeps_no_epoch_of_it():
    assert authors_epoch([50, 60, 80], []) == 3
    assert authors_epoch([70, 72, 75], [50, 60, 80]) == 2  # 50, 60, 80 quickens before the final training


def test_a_curve_that_is_not_defined_never_triggers():
    assert authors_epoch([float("nan")] * 4, []) is None
