import pytest
import torch

from pipeline.machine.errors import PipelineError
from pipeline.teachers.encoding import (
    batches_by_shape,
    compute_dtype,
    encode_in_chunks,
    find_batch_size,
    normalise_pixels,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_normalised_pixels_by_hand():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    pixels = normalise_pixels(image, (0.5, 0.1, 0.0), (0.5, 0.2, 2.0), CPU)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 0.5, 0.5]))


def test_a_cpu_always_computes_in_float32():
    assert compute_dtype("float16", CPU) == torch.float32
    assert compute_dtype("float16", CUDA) == torch.float16
    with pytest.raises(PipelineError, match="'half' does not exist"):
        compute_dtype("half", CPU)


def test_chunks_bound_the_batch_on_a_cpu_only():
    sizes = []

    def encode(images):
        sizes.append(len(images))
        return images.flatten(1)

    images = torch.arange(35).view(35, 1, 1, 1)
    assert torch.equal(encode_in_chunks(encode, images, CPU), images.flatten(1))
    encode_in_chunks(encode, images, CUDA)
    assert sizes == [16, 16, 3, 35]


def test_batches_hold_views_of_one_shape():
    shapes = [(32, 64), (64, 32), (32, 64), (96, 96), (32, 64)]
    assert batches_by_shape(shapes, 2) == [[3], [1], [0, 2], [4]]
    assert batches_by_shape([], 2) == []


def out_of_memory_above(limit):
    def encode(images):
        assert images.shape[1:] == (3, 8, 9)
        if len(images) > limit:
            raise torch.cuda.OutOfMemoryError

    return encode


@pytest.mark.parametrize(("limit", "found"), [(1, 1), (33, 32), (10**6, 512)])
def test_the_batch_size_doubles_until_memory_runs_out(limit, found):
    assert find_batch_size(out_of_memory_above(limit), (8, 9), "cuda") == found
    assert find_batch_size(out_of_memory_above(0), (8, 9), "cpu") == 16


def test_a_view_that_never_fits_is_refused():
    with pytest.raises(PipelineError, match="One 8x9 view does not fit the memory of cuda"):
        find_batch_size(out_of_memory_above(0), (8, 9), "cuda")
