import math

import pytest
import torch

from pipeline.method.cam import (
    cam_boxes,
    expand_boxes,
    normalise,
    peak_boxes,
    quantile_threshold,
    rescale_boxes,
    search_threshold,
    search_windows,
    threshold_boxes,
    upsample,
    z_scores,
)

PAPER = {"threshold": 0.95, "margin": 0.125, "rule": "extent", "epsilon": 0.0}


def naive_extent(plane):
    cells = [(r, c) for r in range(plane.shape[0]) for c in range(plane.shape[1]) if plane[r, c]]
    if not cells:
        return [0, 0, 0, 0]
    rows, columns = [r for r, _ in cells], [c for _, c in cells]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def naive_corners(plane):
    cells = [(r, c) for r in range(plane.shape[0]) for c in range(plane.shape[1]) if plane[r, c]]
    if not cells:
        return [0, 0, 0, 0]
    (r1, c1), (r2, c2) = cells[0], cells[-1]
    return [min(c1, c2), r1, max(c1, c2), r2]  # the last cell is the edge, not inside


def random_masks(count=50, density=0.1):
    return torch.rand(count, 6, 9, generator=torch.Generator().manual_seed(0)) < density


def test_threshold_selects_the_wanted_number():
    scores = torch.rand(40, 20, generator=torch.Generator().manual_seed(0))
    tau = quantile_threshold(scores, 5)
    assert (scores >= tau).sum() == 200


def test_threshold_of_all_classes_and_of_nearly_none():
    scores = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert quantile_threshold(scores, 2) == pytest.approx(0.1)
    assert quantile_threshold(scores, 0.01) == pytest.approx(0.4)


def test_windows_of_a_search_are_a_hundred_but_for_the_first():
    assert [len(rows) for rows in search_windows(torch.arange(350))] == [101, 100, 100]
    assert [len(rows) for rows in search_windows(torch.arange(101))] == [101]
    assert search_windows(torch.arange(100)) == []
    assert torch.equal(torch.cat(search_windows(torch.arange(301))), torch.arange(301))


def test_a_search_ends_between_the_bounds_and_takes_no_more_images():
    scores = torch.rand(2000, 20, generator=torch.Generator().manual_seed(0)) * 0.07
    taken = []

    def windows():
        for rows in search_windows(torch.arange(len(scores))):
            taken.append(len(rows))
            yield scores[rows]

    found = search_threshold(windows(), bound=4)
    # counts fall by 20 / 70 a step, from 5.71 classes an image at 0.05 on
    assert found.converged and found.tau == pytest.approx(0.05)
    assert taken == [101]
    found = search_threshold(windows(), bound=2)
    assert found.converged and 2 < found.mean_count < 4
    assert len(taken) == 1 + round((found.tau - 0.05) / 0.001) + 1


def test_a_search_that_is_used_up_ends_one_step_on():
    found = search_threshold(iter([torch.ones(101, 20), torch.ones(100, 20)]), bound=4)
    assert (found.converged, found.mean_count) == (False, 20.0)
    assert found.tau == pytest.approx(0.052)
    assert search_threshold(iter([]), bound=4).tau == 0.05


def test_relative_scores_select_a_class_that_the_classifier_hardly_dares_to_name():
    logits = torch.tensor([[3.0, -4.0, 1.0], [2.0, -4.0, 1.0], [1.0, -2.0, 1.0]])
    found = z_scores(logits.sigmoid())
    root = math.sqrt(1.5)  # of one over the variance 2/3
    expected = torch.tensor([[root, -math.sqrt(0.5), 0], [0, -math.sqrt(0.5), 0], [-root, math.sqrt(2), 0]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    chosen = found >= quantile_threshold(found, 2 / 3)
    assert chosen.nonzero().tolist() == [[0, 0], [2, 1]]


def test_relative_scores_of_one_image_or_of_certain_scores_are_finite():
    assert z_scores(torch.rand(1, 3)).tolist() == [[0.0] * 3]
    assert z_scores(torch.tensor([[0.0, 1.0], [1.0, 1.0]])).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(("corners", "naive"), [(False, naive_extent), (True, naive_corners)])
def test_boxes_of_what_exceeds_a_threshold_equal_a_naive_loop(corners, naive):
    masks = random_masks(density=0.05)
    boxes, owner = threshold_boxes(masks.float(), 0.5, 0.0, corners)
    assert owner.tolist() == [p for p, mask in enumerate(masks) if mask.any()] and len(owner) < len(masks)
    assert boxes.tolist() == [naive(masks[p]) for p in owner]


@pytest.mark.parametrize("rule", ["extent", "corners"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_boxes_are_those_of_the_stretched_map_whole_to_the_last_digit(rule, epsilon):
    generator = torch.Generator().manual_seed(0)
    cams = upsample(torch.randn(40, 3, 3, generator=generator), (7, 7))
    masks = normalise(upsample(cams, (50, 60)), epsilon) > 0.8
    naive = naive_extent if rule == "extent" else naive_corners
    boxes, _ = cam_boxes(cams, (50, 60), threshold=0.8, margin=0.0, rule=rule, epsilon=epsilon)
    wide = [box for box in map(naive, masks) if box[2] > box[0] and box[3] > box[1]]
    assert [box for box in boxes.tolist() if box in wide] == wide and len(wide) > 30


def test_peaks_come_largest_first():
    mask = torch.zeros(1, 6, 8, dtype=torch.bool)
    mask[0, 0, 0] = True
    mask[0, 3:5, 2:6] = True
    mask[0, 0:2, 7] = True
    mask[0, 3:6, 0] = True
    boxes, owner = peak_boxes(mask)
    assert boxes.tolist() == [[2, 3, 6, 5], [0, 3, 1, 6], [7, 0, 8, 2]]
    assert owner.tolist() == [0, 0, 0]


def test_normalise_spans_zero_to_one_and_flattens_a_flat_map():
    cams = torch.tensor([[[2.0, 4.0], [3.0, 2.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert normalise(cams).tolist() == [[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]


def test_an_epsilon_keeps_nearly_flat_maps_below_every_threshold():
    cams = torch.tensor([[[0.0, 1.0]], [[0.0, 1e-6]]])
    torch.testing.assert_close(normalise(cams, 1e-5).flatten(), torch.tensor([0.0, 1 / 1.00001, 0.0, 1 / 11]))
    _, owner = cam_boxes(cams, (1, 2), **{**PAPER, "margin": 0.0, "epsilon": 1e-5})
    assert owner.tolist() == [0]


def test_a_corner_box_of_one_pixel_has_an_inside_without_a_margin():
    cams = torch.zeros(1, 4, 4)
    cams[0, 3, 3] = 1.0
    boxes, _ = cam_boxes(cams, (4, 4), **{**PAPER, "margin": 0.0, "rule": "corners"})
    assert boxes.tolist() == [[3, 3, 4, 4]]


def test_expansion_is_clipped_at_the_border():
    found = expand_boxes(torch.tensor([[0.0, 10.0, 20.0, 40.0]]), (50, 80), margin=0.125)
    assert found.tolist() == [[0.0, 3.75, 30.0, 46.25]]


def test_rescaling_undoes_the_resize():
    boxes = torch.tensor([[16.0, 32.0, 64.0, 64.0]])
    found = rescale_boxes(boxes, (64, 64), torch.tensor([[100, 200]]))
    assert found.tolist() == [[50.0, 50.0, 200.0, 100.0]]


@pytest.mark.parametrize("rule", ["extent", "corners", "peaks"])
def test_box_lies_around_the_peak(rule):
    cams = torch.zeros(1, 8, 8)
    cams[0, 2, 5] = 1.0
    boxes, owner = cam_boxes(cams, (64, 64), **{**PAPER, "rule": rule})
    assert owner.tolist() == [0]
    x1, y1, x2, y2 = boxes[0].tolist()
    # the centre of cell (2, 5) is pixel (20, 44); the margin is 8 pixels
    assert x1 <= 36 and x2 >= 52 and y1 <= 12 and y2 >= 28
    assert x2 - x1 < 26 and y2 - y1 < 26


def test_a_peak_in_the_corner_is_clipped_to_the_view():
    cams = torch.zeros(1, 4, 4)
    cams[0, 3, 3] = 1.0
    boxes, _ = cam_boxes(cams, (64, 64), **PAPER)
    assert boxes[0, 2:].tolist() == [64.0, 64.0]
    assert (boxes[0, :2] < 64).all()


def test_flat_maps_have_no_box_and_the_others_keep_their_owner():
    cams = torch.zeros(3, 4, 4)
    cams[1, 1, 1] = 2.0
    boxes, owner = cam_boxes(cams, (32, 32), **PAPER)
    assert owner.tolist() == [1]
    assert boxes.shape == (1, 4)


def test_no_selected_class_gives_no_box():
    boxes, owner = cam_boxes(torch.zeros(0, 4, 4), (32, 32), **PAPER)
    assert boxes.shape == (0, 4)
    assert owner.shape == (0,)
