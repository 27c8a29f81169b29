from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worlds.photos import noise_photos
from worlds.teachers import ColourTeacher

from pipeline.artifacts.boxes import Boxes, CropScores, rows_of_crops
from pipeline.artifacts.provenance import Provenance
from pipeline.method.crops import grid_boxes, random_boxes, square_boxes, truncated_size, view_size
from pipeline.method.probabilities import class_logits
from pipeline.method.snapping import snapped_size
from pipeline.photos.resize import crop
from pipeline.runs.options import ScoreCropsConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.stages import score_crops
from pipeline.teachers.zero_shot_head import ZeroShotHead

RULES = score_crops.CropRules(32, 0, "bicubic", "bicubic", "snapped")


def test_grid_tiles_cover_the_image_without_overlap():
    boxes = grid_boxes((40, 60), 2)
    assert boxes.tolist() == [[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40], [30, 20, 60, 40]]


def test_random_boxes_keep_their_sizes_and_stay_inside():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 35.0, 40.0]]).repeat(50, 1)
    found = random_boxes(boxes, (40, 60), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[:, 2:] - found[:, :2], boxes[:, 2:] - boxes[:, :2])
    assert (found >= 0).all() and (found[:, 2] <= 60).all() and (found[:, 3] <= 40).all()
    assert len(found[:, 0].unique()) > 50


def test_squares_are_shifted_inside_and_cut_where_the_photo_is_narrow():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0], [30.0, 10.0, 36.0, 14.0], [0.0, 0.0, 60.0, 20.0]])
    found = square_boxes(boxes, torch.tensor([[40, 60]]).expand(3, 2))
    assert found.tolist() == [[0, 0, 20, 20], [30, 9, 36, 15], [0, 0, 60, 40]]


@pytest.mark.parametrize(
    ("size", "stride", "snapped"),
    [((640, 427), 32, (640, 416)), ((10, 3), 32, (32, 32)), ((48, 80), 32, (64, 64)), ((47.9, 16.1), 14, (42, 14))],
)
def test_sides_are_snapped_to_the_nearest_multiple_and_at_least_one(size, stride, snapped):
    assert snapped_size(*size, stride) == snapped


@pytest.mark.parametrize(
    ("box", "size"), [((0, 0, 100, 100), (320, 320)), ((0, 0, 100, 52), (160, 320)), ((0, 0, 5, 100), (320, 32))]
)
def test_view_keeps_the_aspect_to_a_multiple(box, size):
    assert view_size(torch.tensor(box).float(), 320) == size


def test_truncated_sides_by_hand():
    assert truncated_size(320, 640, 640) == (320, 640)
    assert truncated_size(100, 100, 640) == (639, 639)  # 1 / 100 has no float32
    assert truncated_size(1, 640, 320) == (1, 320)


def test_cut_takes_the_pixels_of_the_box():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 5:10, 12:20] = 255
    assert crop(image, torch.tensor([12.0, 5.0, 20.0, 10.0]), (5, 8)).min() == 255
    # edges are rounded outwards, and a box on the very border has at least one pixel
    assert crop(image, torch.tensor([11.5, 5.0, 20.0, 10.0]), (5, 9))[0, 2, 0] < 255
    assert crop(image, torch.tensor([30.0, 20.0, 30.0, 20.0]), (4, 4)).shape == (3, 4, 4)


def test_crops_share_batches_across_photos_and_a_stopped_stage_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(score_crops, "PART", 2)
    paths = noise_photos(tmp_path, [(40, 60)] * 9)
    owner = torch.tensor([0, 0, 1, 3, 3, 3, 4, 5, 7, 8])  # photos 2 and 6 have no box
    boxes = torch.tensor([[0.0, 0, 20, 20], [20, 0, 60, 20], [0, 0, 40, 40], [5, 5, 25, 25], [0, 0, 60, 30]] * 2)

    def asked(teacher):
        return score_crops.CropTeacher(
            teacher, ZeroShotHead(torch.eye(3), torch.arange(3), torch.eye(3)[:0], 5.0), RULES
        )

    def pieces(name):
        return PartialResults(tmp_path / name, Provenance("crop_scores", 1, {}, {}))

    alone = torch.cat(
        [
            class_logits(
                ColourTeacher().encode_images(score_crops.crops_of(paths[photo], boxes[n : n + 1], RULES)[0][None]),
                torch.eye(3),
                5.0,
                torch.arange(3),
            )
            for n, photo in enumerate(owner)
        ]
    ).numpy()
    whole, photos = ColourTeacher(), SimpleNamespace(paths=paths, digest_of={})
    found = score_crops.score_crops(asked(whole), photos, owner, boxes, 2, pieces("whole"))
    np.testing.assert_allclose(np.concatenate(list(found)), alone, atol=1e-6)
    assert len(whole.batches) < len(boxes)
    with pytest.raises(KeyboardInterrupt):
        score_crops.score_crops(asked(ColourTeacher(limit=8)), photos, owner, boxes, 1, pieces("stopped"))
    rest = ColourTeacher()
    found = score_crops.score_crops(asked(rest), photos, owner, boxes, 2, pieces("stopped"))
    np.testing.assert_allclose(np.concatenate(list(found)), alone, atol=1e-6)
    assert 0 < sum(rest.batches) < len(boxes)


# image and class of each box; the class of two of them has two boxes
PAIRS = np.array([[0, 0], [0, 1], [0, 1], [1, -1], [1, 0], [1, 1]])


def made_boxes() -> Boxes:
    count = len(PAIRS)
    return Boxes(
        provenance=Provenance("boxes", 1, {}, {}),
        image_ids=["a.png", "b.png"],
        class_names=["cat", "dog"],
        image_index=PAIRS[:, 0],
        class_index=PAIRS[:, 1],
        box=np.tile(np.float32([0, 0, 1, 1]), (count, 1)),
        cam_peak=np.arange(count, dtype=np.float32),
        tau=0.0,
    )


def made_crops(rows: list[int]) -> CropScores:
    count = len(rows)
    return CropScores(
        provenance=Provenance("crop_scores", 1, {}, {}),
        image_ids=["a.png", "b.png"],
        class_names=["cat", "dog"],
        image_index=PAIRS[rows, 0],
        class_index=PAIRS[rows, 1],
        probabilities=np.full((count, 2), 0.5, np.float32),
        entropy=np.zeros(count, np.float32),
        class_is_top1=np.ones(count, bool),
        outcomes=2,
    )


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, [1, 2, 3, 4]),
        ({"skip_above": 0.4}, [3, 4]),
        ({"skip_above": 1.0}, [0, 1, 2, 3, 4, 5]),
        ({"teacher": "conse"}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_boxes_of_sure_labels_are_skipped_but_not_those_without_a_class(settings, rows):
    labels = np.float32([[0.95, 0.5], [0.2, 1.0]])
    found = score_crops.boxes_to_score(made_boxes(), labels, ScoreCropsConfig(**settings))
    assert found.tolist() == rows
    assert made_boxes().take(found).cam_peak.tolist() == rows


@pytest.mark.parametrize(
    ("scored", "rows"),
    [
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
        ([1, 2, 3, 5], [-1, 0, 1, 2, -1, 3]),
        ([], [-1] * 6),
        ([0, 1, 3], [-1] * 6),  # of other boxes: one of two boxes of a class
    ],
)
def test_each_box_finds_its_crop(scored, rows):
    assert rows_of_crops(made_boxes(), made_crops(scored)).tolist() == rows
