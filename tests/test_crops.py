import pytest
import torch

from pipeline.method.crops import grid_boxes, random_boxes, square_boxes, view_size
from pipeline.photos.images import cut
from pipeline.stages.score_crops import encode_crops


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
    ("box", "size"), [((0, 0, 100, 100), (320, 320)), ((0, 0, 100, 52), (160, 320)), ((0, 0, 5, 100), (320, 32))]
)
def test_view_keeps_the_aspect_to_a_multiple(box, size):
    assert view_size(torch.tensor(box).float(), 320) == size


def test_cut_takes_the_pixels_of_the_box():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 5:10, 12:20] = 255
    assert cut(image, torch.tensor([12.0, 5.0, 20.0, 10.0]), (5, 8)).min() == 255
    # edges are rounded outwards, and a box on the very border has at least one pixel
    assert cut(image, torch.tensor([11.5, 5.0, 20.0, 10.0]), (5, 9))[0, 2, 0] < 255
    assert cut(image, torch.tensor([30.0, 20.0, 30.0, 20.0]), (4, 4)).shape == (3, 4, 4)


def test_crops_of_mixed_shapes_come_back_in_order():
    class Mean:
        def __init__(self):
            self.batches = []

        def encode_images(self, images):
            self.batches.append(len(images))
            return images.float().mean(dim=(2, 3))

    shapes = [(4, 4), (8, 4), (4, 4), (4, 8), (8, 4), (4, 4)]
    crops = [torch.full((3, *shape), i, dtype=torch.uint8) for i, shape in enumerate(shapes)]
    teacher = Mean()
    assert encode_crops(teacher, crops, 2)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(teacher.batches) == [1, 1, 2, 2]
