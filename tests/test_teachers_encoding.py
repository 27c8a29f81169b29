import re
import shutil
from pathlib import Path

import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from worlds.commands import ccd
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.artifacts.manifest import read_manifest
from pipeline.photos.resize import load_view
from pipeline.system.errors import PipelineError
from pipeline.teachers.encoding import (
    PATIENCE,
    EncodedViews,
    OutOfMemoryBackoff,
    ViewRules,
    compute_dtype,
    encode_in_chunks,
    encode_stream,
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


def views_of(images):
    """Global embeddings of two numbers and a grid of 2 x 1 cells that tell the views apart."""
    return EncodedViews(images.flatten(1), images.flatten(1)[:, None, None].expand(-1, 2, 1, -1))


def test_cells_of_chunks_and_of_smaller_batches_stay_with_their_views():
    images = torch.arange(70).view(35, 2, 1, 1)

    def encode(images):
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return views_of(images)

    for found in (encode_in_chunks(views_of, images, CPU), OutOfMemoryBackoff(encode)(images)):
        assert torch.equal(found.images, images.flatten(1))
        assert torch.equal(found.cells, views_of(images).cells)
    without = encode_in_chunks(lambda images: EncodedViews(images.flatten(1), None), images, CPU)
    assert torch.equal(without.images, images.flatten(1)) and without.cells is None


def mean_encoder(sizes):
    def encode(images):
        sizes.append(tuple(images.shape))
        return images.double().mean(dim=(2, 3))

    return encode


def test_views_share_batches_by_shape_across_photos_and_every_one_is_answered():
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 64), (64, 32), (96, 96)]
    views = [
        (n, torch.randint(256, (3, *shapes[n % 3 if n % 7 else 2]), dtype=torch.uint8, generator=generator))
        for n in range(100)
    ]
    sizes, found = [], {}
    for keys, rows in encode_stream(mean_encoder(sizes), iter(views), 8):
        found |= dict(zip(keys, rows, strict=True))
    assert sorted(found) == list(range(100))
    for key, view in views:
        torch.testing.assert_close(found[key], view.double().mean(dim=(1, 2)).float())
    assert max(size[0] for size in sizes) == 8
    assert sum(size[0] < 8 for size in sizes) <= 3  # only what is left of each shape at the end


def test_a_rare_shape_is_answered_before_long_and_little_is_held():
    rare = (-1, torch.zeros(3, 9, 9, dtype=torch.uint8))
    usual = torch.zeros(3, 8, 8, dtype=torch.uint8)
    taken = []

    def views():
        yield rare
        for n in range(1000):
            taken.append(n)
            yield n, usual

    for keys, _ in encode_stream(mean_encoder([]), views(), 4):
        if keys == [-1]:
            break
    assert len(taken) <= 4 * PATIENCE + 1


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
    with pytest.raises(PipelineError, match=r"One 8x9 view does not fit .*cuda"):
        find_batch_size(out_of_memory_above(0), (8, 9), "cuda")


def test_fractions_of_pixels_are_kept_and_the_views_left_as_they_are():
    views = torch.full((1, 3, 1, 1), 25.5)
    pixels = normalise_pixels(views, (0.0,) * 3, (1.0,) * 3, CPU)
    assert pixels.flatten().tolist() == pytest.approx([0.1] * 3)
    assert views.flatten().tolist() == [25.5] * 3


def test_rules_that_change_nothing_leave_the_fingerprint():
    assert ViewRules().mark("a") == "a"
    marks = {
        ViewRules(**rule).mark("a")
        for rule in (
            {"statistics": "imagenet"},
            {"positions": "bilinear"},
            {"snap": False},
            {"cell_attention": "sclip"},
        )
    }
    assert len(marks | {"a"}) == 5
    # embeddings on disk were stored by this
    rules = ViewRules("imagenet", "bilinear", False, "pillow-bilinear")
    assert rules.mark("a") == "1e57b4f62f4db07e2905bfb6bfdfc9f28a51634a5fb3dc7e5799a30bf83e95f1"
    assert ViewRules(statistics="imagenet").statistics_of((0.5,), (0.5,)) == (
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
    )
    assert ViewRules().statistics_of((0.5,), (0.4,)) == ((0.5,), (0.4,))


def test_a_batch_that_no_longer_fits_is_halved_for_good_and_every_view_answered(capsys):
    sizes = []

    def encode(images):
        sizes.append(len(images))
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.flatten(1)

    halving = OutOfMemoryBackoff(encode)
    images = torch.arange(19).view(19, 1, 1, 1)
    assert torch.equal(halving(images), images.flatten(1))
    assert torch.equal(halving(images[:6]), images[:6].flatten(1))
    assert sizes == [19, 9, 4, 4, 4, 4, 3, 4, 2]
    said = capsys.readouterr()
    assert re.search("9 views no longer fit .* 4 at a time", said.out + said.err)


def test_one_view_that_does_not_fit_is_one_line():
    with pytest.raises(PipelineError, match="one view of 8x9 pixels no longer fits"):
        OutOfMemoryBackoff(out_of_memory_above(0))(torch.zeros(2, 3, 8, 9))


@pytest.mark.parametrize(
    ("told", "own", "wanted"),
    [
        ([], "bicubic", "bicubic"),
        ([], "pillow-bilinear", "pillow-bilinear"),
        (["--resize-filter", "bicubic"], "pillow-bilinear", "bicubic"),
        (["--resize-filter", "pillow-bilinear"], "bicubic", "pillow-bilinear"),
    ],
)
def test_photos_are_resized_with_the_teachers_own_filter(run, monkeypatch, told, own, wanted):
    shown = []

    class Recording(ColourTeacher):
        def encode_images(self, images):
            shown.extend(images)
            return super().encode_images(images)

    use_teacher(Recording(resize_filter=own, fingerprint=f"colour {own}"), monkeypatch)
    shutil.rmtree(run / "image_embeddings")
    ccd("embed", "--run", run, "--force", *told)
    paths = [Path(path) for path in dict.fromkeys(read_manifest(run).paths)]
    blank, *views = shown  # a blank view shows the grid of the cells
    assert not blank.any() and len(views) == len(paths)
    for path, view in zip(paths, views, strict=True):
        assert torch.equal(view, load_view(path, (32, 32), wanted))
        assert not torch.equal(view, load_view(path, (32, 32), "bicubic" if wanted != "bicubic" else "pillow-bilinear"))
