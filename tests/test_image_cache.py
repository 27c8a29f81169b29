import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from worlds.photos import write_photo

from pipeline.photos.image_cache import ImageCache, cache_bytes, open_cache
from pipeline.photos.images import UnreadableImage
from pipeline.photos.resize import load_view
from pipeline.system.errors import PipelineError

SIZE = (24, 32)


def write(path: Path, seed: int) -> Path:
    return write_photo(path, (40, 50), seed)


def test_second_load_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, cache = write(tmp_path / "a.png", 0), ImageCache(tmp_path / "cache")
    expected = load_view(path, SIZE)
    assert torch.equal(cache.load_view(path, SIZE), expected)
    monkeypatch.setattr("pipeline.photos.image_cache.load_view", lambda *_: pytest.fail("decoded again"))
    again = cache.load_view(path, SIZE)
    assert torch.equal(again, expected)
    assert again.dtype == torch.uint8


def test_another_size_and_a_changed_image_are_loaded_anew(tmp_path: Path):
    path, cache = write(tmp_path / "a.png", 0), ImageCache(tmp_path / "cache")
    cache.load_view(path, SIZE)
    assert cache.load_view(path, (8, 8)).shape == (3, 8, 8)
    write(path, 1)
    os.utime(path, ns=(1, 1))
    assert torch.equal(cache.load_view(path, SIZE), load_view(path, SIZE))


def test_pixels_of_an_earlier_decoder_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, cache = write(tmp_path / "a.png", 0), ImageCache(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.photos.image_cache.DECODING", 1)
        patch.setattr("pipeline.photos.image_cache.load_view", lambda *_: torch.zeros((3, *SIZE), dtype=torch.uint8))
        cache.load_view(path, SIZE)
    assert torch.equal(cache.load_view(path, SIZE), load_view(path, SIZE))


def test_cut_file_in_the_cache_is_replaced(tmp_path: Path):
    path, cache = write(tmp_path / "a.png", 0), ImageCache(tmp_path / "cache")
    cache.load_view(path, SIZE)
    (kept,) = (tmp_path / "cache").rglob("*.rgb")
    kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(cache.load_view(path, SIZE), load_view(path, SIZE))
    assert kept.stat().st_size == cache_bytes(1, SIZE)


def test_size_on_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [write(tmp_path / f"{i}.png", i) for i in range(3)]
    cache = ImageCache(tmp_path / "cache" / "deep")
    assert cache.check_room(paths, SIZE) == cache_bytes(3, SIZE) == 3 * 3 * 24 * 32
    cache.load_view(paths[0], SIZE)
    assert cache.check_room(paths, SIZE) == cache_bytes(2, SIZE)
    for path in paths:
        cache.load_view(path, SIZE)
    kept = [p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert sum(kept) == cache_bytes(3, SIZE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(PipelineError, match=r"has 0\.0 GB free, expected .* GB for 3 photos at 99x99"):
        cache.check_room(paths, (99, 99))


def test_missing_and_broken_images_raise_as_without_the_cache(tmp_path: Path):
    cache = ImageCache(tmp_path / "cache")
    with pytest.raises(UnreadableImage, match="No such file"):
        cache.load_view(tmp_path / "absent.png", SIZE)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match="the file is empty"):
        cache.load_view(tmp_path / "empty.png", SIZE)
    assert not (tmp_path / "cache").exists()


def test_views_of_other_resize_filters_are_kept_apart(tmp_path: Path):
    path, cache = write(tmp_path / "a.png", 0), ImageCache(tmp_path / "cache")
    kept = {rule: cache.load_view(path, (7, 9), rule) for rule in ("bicubic", "pillow-bilinear")}
    for rule, image in kept.items():
        assert torch.equal(cache.load_view(path, (7, 9), rule), image)
        assert torch.equal(load_view(path, (7, 9), rule), image)
    assert not torch.equal(kept["bicubic"], kept["pillow-bilinear"])


def test_a_cache_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(PipelineError, match="file is a file, expected a folder for the cache"):
            open_cache(str(folder), {}, 8)


def test_a_moved_photo_of_known_content_is_not_decoded_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", 0)
    expected = ImageCache(tmp_path / "cache", {str(path): "0" * 64}).load_view(path, SIZE)
    moved = path.rename(tmp_path / "b.png")
    monkeypatch.setattr("pipeline.photos.image_cache.load_view", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(ImageCache(tmp_path / "cache", {str(moved): "0" * 64}).load_view(moved, SIZE), expected)
