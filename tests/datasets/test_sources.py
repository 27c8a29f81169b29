"""Which photos of a source are used: layouts, splits by name, junk, odd names, several sources."""

import errno
import json
import os
import zipfile
from pathlib import Path

import pytest
from PIL import features
from worlds.archives import write_parquet, write_tar
from worlds.photos import photo_bytes

from pipeline.datasets import folder
from pipeline.datasets.folder import Reading, prefixes
from pipeline.datasets.listing import ListedImage, excluded_by
from pipeline.datasets.scan import scan
from pipeline.datasets.splits import assign_splits, split_in_folders, split_in_shard
from pipeline.photos.formats import suffix_of
from pipeline.photos.images import load_image
from pipeline.system.errors import PipelineError

CLASSES = ["cat", "dog"]
_drawn = iter(range(10**6))


def encoded(format: str = "PNG", size: tuple[int, int] = (7, 9)) -> bytes:
    """A photo of noise that no other call gives."""
    return photo_bytes(size, format, seed=next(_drawn))


def put(root: Path, *names: str, content: bytes | None = None) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded() if content is None else content)
    return root


def put_tar(path: Path, *names: str) -> Path:
    return write_tar(path, {n: encoded() if n.endswith(".png") else b'{"caption": "a cat"}' for n in names})


def splits(dataset: folder.Dataset) -> dict[str, str]:
    return dict(zip(dataset.image_ids, dataset.splits, strict=True))


def test_a_stray_shard_does_not_hide_the_photos_next_to_it(tmp_path):
    root = put(tmp_path / "photos", *(f"{n}.png" for n in range(10)))
    put_tar(root / "deep" / "stray.tar", "a.png")
    write_parquet(root / "more.parquet", image=[encoded()])
    ids = folder.load(root, CLASSES).image_ids
    assert ids == [*(f"{n}.png" for n in range(10)), "more/0", "deep/stray/a.png"]


def test_the_layouts_of_img2dataset(tmp_path):
    for shard in ("00000", "00001"):
        put_tar(tmp_path / "tars" / f"{shard}.tar", f"{shard}0.png", f"{shard}0.json", f"{shard}0.txt")
        write_parquet(tmp_path / "tars" / f"{shard}.parquet", url=["http://a"], caption=["a cat"], key=[f"{shard}0"])
        put(tmp_path / "tars", f"{shard}_stats.json", content=b"{}")
        put(tmp_path / "files", f"{shard}/{shard}0.png")
        put(tmp_path / "files", f"{shard}/{shard}0.json", f"{shard}/{shard}0.txt", f"{shard}_stats.json", content=b"{}")
        write_parquet(tmp_path / "files" / f"{shard}.parquet", url=["http://a"], caption=["a cat"])
    for layout in ("tars", "files"):
        dataset = folder.load(tmp_path / layout, CLASSES)
        assert dataset.image_ids == ["00000/000000.png", "00001/000010.png"]
        assert "2 Parquet without photos (00000.parquet, 00001.parquet)" in dataset.notes[0]
    write_parquet(tmp_path / "bytes" / "00000.parquet", jpg=[encoded("JPEG")], caption=["a cat"])
    assert folder.load(tmp_path / "bytes", CLASSES).image_ids == ["00000/0"]


def test_a_folder_of_tables_says_that_they_hold_no_photos(tmp_path):
    write_parquet(tmp_path / "list.parquet", image=["a.png"])
    put(tmp_path, "photos.zip", content=b"PK")
    with pytest.raises(PipelineError, match=r"no images.*1 Parquet without photos \(list\.parquet\).*photos\.zip"):
        folder.load(tmp_path, CLASSES)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("imagenet-val-000001.tar", "validation"),
        ("test_0.tar", "test"),
        ("eval.tar", "test"),
        ("test/000.tar", "test"),
        ("constraint-0.tar", None),
        ("train-test-0.tar", None),
        ("latest.tar", None),
        ("000.tar", None),
    ],
)
def test_the_split_in_the_name_of_a_shard(name, split):
    assert split_in_shard(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train2017/a.jpg", "train"),
        ("images/val/a.jpg", "validation"),
        ("valid/images/a.jpg", "validation"),
        ("Test/a.jpg", "test"),
        ("test.jpg", None),
        ("steam train/a.jpg", None),
        ("test-drive/a.jpg", None),
    ],
)
def test_the_split_in_the_folders_of_a_photo(name, split):
    assert split_in_folders(name) == split


def decided(names: str, **options) -> str:
    """Initials of the splits of images; a dot for one that is left out, a capital for a split from a column."""
    called = {"t": "train", "v": "validation", "e": "test"}
    stated = {"T": "train", "E": "test"}
    images = [ListedImage(str(n), Path(str(n)), None, stated.get(c), called.get(c)) for n, c in enumerate(names)]
    kept, left_out, _ = assign_splits(images, **{"option": "train", **options})
    found = {image.image_id: image.split or "train" for image in kept}
    assert not set(found) & set(left_out)
    return "".join({"train": "t", "test": "e"}.get(found.get(str(n), ""), ".") for n in range(len(names)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [("tte", "tte"), ("tv", "te"), ("tve", "t.e"), ("t e", "tte"), (" e", "tt"), ("ee", "tt"), ("vve", "ttt"), ("tE", "te"), ("vET", "tet")],
)  # fmt: skip
def test_names_decide_where_they_name_train_photos_and_others(names, expected):
    assert decided(names) == expected


def test_names_do_not_make_test_photos_next_to_those_of_test_images():
    assert decided("tve", has_test=True) == "t.."
    kept, left_out, _ = assign_splits(
        [ListedImage("0", Path("0"), None, None, "train"), ListedImage("1", Path("1"), None, "test")], option="test"
    )
    assert [image.image_id for image in kept] == ["1"] and "split is train" in left_out["0"]


def test_photos_of_test_folders_and_shards_are_not_trained_on(tmp_path):
    put(tmp_path / "a", "train/1.png", "valid/2.png", "test/3.png")
    dataset = folder.load(tmp_path / "a", CLASSES)
    assert splits(dataset) == {"train/1.png": "train", "test/3.png": "test"}
    assert "validation" in dataset.left_out["valid/2.png"] and "1 photos are test photos" in dataset.notes[0]
    put_tar(tmp_path / "b" / "train-0.tar", "1.png")
    write_parquet(tmp_path / "b" / "data" / "validation-0.parquet", image=[encoded()])
    assert splits(folder.load(tmp_path / "b", CLASSES)) == {"data/validation-0/0": "test", "train-0/1.png": "train"}


def test_a_lone_folder_called_test_is_trained_on_and_named(tmp_path):
    put(tmp_path, "cats/1.png", "test/2.png")
    dataset = folder.load(tmp_path, CLASSES)
    assert set(dataset.splits) == {"train"}
    assert "test/2.png" in dataset.notes[0] and "--test-images" in dataset.notes[0]


def test_labels_of_minus_one_are_unknown(tmp_path):
    write_parquet(tmp_path / "test-0.parquet", image=[encoded(), encoded()], label=[-1, 1])
    assert folder.load(tmp_path, CLASSES).labels.tolist() == [[-1, -1], [0, 1]]


def test_photos_are_recognised_by_content(tmp_path):
    put(tmp_path, "a.jfif", "b.jpe", "none", "c.jpg_large", "d.PNG!thumb", content=encoded("JPEG"))
    put(tmp_path, "e.ppm", "e", content=encoded("PPM"))
    put(tmp_path, "BMW", content=b"BM and W, a maker of cars")
    put(tmp_path, "P3", content=b"P3 is a player")
    put(tmp_path, "empty", content=b"")
    put(tmp_path, "film.mp4", "notes.txt", content=b"x")
    dataset = folder.load(tmp_path, CLASSES)
    assert dataset.image_ids == ["a.jfif", "b.jpe", "c.jpg_large", "d.PNG!thumb", "e", "e.ppm", "none"]
    assert all(load_image(path).shape[0] == 3 for path in dataset.paths)
    assert "5 of other kinds (no ending, .mp4, .txt)" in dataset.notes[0]


FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm"}
FORMATS |= {"AVIF": ".avif"} if features.check("avif") else {}
FORMATS |= {"JPEG2000": ".jp2"} if features.check("jpg_2000") else {}


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_bytes_of_each_format(tmp_path, format):
    content = encoded(format, size=(48, 64))
    assert suffix_of(content) == FORMATS[format]
    put(tmp_path, "x", content=content)
    assert list(scan(tmp_path).photos) == ["x"] and load_image(tmp_path / "x").shape == (3, 48, 64)


def test_a_format_that_cannot_be_read_is_named_whatever_its_ending(tmp_path):
    put(tmp_path, "new", content=b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50))
    assert "JPEG XL" in scan(tmp_path).left_out["new"]


def test_sixteen_bit_portable_grey_keeps_its_range(tmp_path):
    put(tmp_path, "a.pgm", content=b"P5 2 1 65535\n\x80\x00\xff\xff")
    assert load_image(tmp_path / "a.pgm")[0].tolist() == [[128, 255]]


def test_folders_of_nas_and_macos_and_our_own_are_passed_over(tmp_path):
    junk = ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "deep/@eaDir/x.jpg", "__MACOSX/._a.jpg", "#recycle/gone.jpg",
            ".Trashes/501/b.jpg", "lost+found/c.jpg", "$RECYCLE.BIN/d.jpg", "._a.png", ".DS_Store")  # fmt: skip
    put(tmp_path, "a.png", *junk)
    put(tmp_path, "artifacts/demo/manifest.csv", "artifacts/demo/manifest.json", content=b"{}")
    put(tmp_path, "artifacts/demo/scenes/0.jpg", "shards.unpacked/0/a.png", "b.unpacked/kept.png")
    put_tar(tmp_path / "shards" / "0.tar", "a.png")
    dataset = folder.load(tmp_path, CLASSES)
    assert dataset.image_ids == ["a.png", "b.unpacked/kept.png", "shards/0/a.png"]
    for word in ("@eaDir", "1 with a run of ccd (artifacts/demo)", "1 unpacked by ccd", "1 hidden (.Trashes)"):
        assert word in dataset.notes[0]
    assert folder.load(tmp_path / "@eaDir", CLASSES).image_ids == ["a.jpg/SYNOPHOTO_THUMB_M.jpg"]  # it was named


def test_what_was_unpacked_below_the_photos_is_not_taken_twice(tmp_path):
    put_tar(tmp_path / "s.tar", "1.png")
    for _ in range(2):
        dataset = folder.load(tmp_path, CLASSES, reading=Reading(unpack_to=tmp_path / "deep" / "out"))
        assert dataset.image_ids == ["s/1.png"]
    with pytest.raises(PipelineError, match="--unpack-to is the folder of the photos"):
        folder.load(tmp_path, CLASSES, reading=Reading(unpack_to=tmp_path))


def test_names_that_are_not_utf8_are_left_out(tmp_path):
    put(tmp_path, "a.png", os.fsdecode(b"\xff.jpg"), os.fsdecode(b"caf\xe9/b.jpg"), os.fsdecode(b"\xfe.txt"))
    put_tar(tmp_path / os.fsdecode(b"\xfd.tar"), "a.png")
    dataset = folder.load(tmp_path, CLASSES)
    assert dataset.image_ids == ["a.png"]
    assert set(dataset.left_out) == {"\\xff.jpg", "caf\\xe9/b.jpg", "\\xfd.tar"}
    assert all("not valid UTF-8" in reason for reason in dataset.left_out.values())
    json.dumps([dataset.left_out, dataset.notes]).encode()
    with pytest.raises(PipelineError, match=r"caf\\xe9 is not valid UTF-8"):
        folder.load(tmp_path / os.fsdecode(b"caf\xe9"), CLASSES)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*_thumb.jpg", "a_thumb.jpg raw/a_thumb.jpg"),
        ("raw", "raw raw deep/raw"),
        ("raw/", "raw deep/raw"),
        ("**/raw/**", "raw deep/raw"),
        ("/raw", "raw"),
        ("raw/*.jpg", "raw/a.jpg deep/raw/a.jpg"),
        ("[ab]?.png", "a1.png b2.png"),
        ("cafe\u0301*", "caf\u00e9.jpg"),
    ],
)
def test_patterns_of_exclude(pattern, names):
    for name in names.split():
        assert excluded_by(name, [pattern]) == f"by --exclude {pattern}"
    for name in ("drawing.png", "a/rawhide", "photo.jpg", "raw.png"):
        assert excluded_by(name, [pattern]) is None
    assert (excluded_by("deep/raw", [pattern]) is None) == (pattern not in ("raw", "raw/", "**/raw/**"))


def test_excluded_names_of_folders_shards_and_lists(tmp_path):
    put(tmp_path, "photos/a.png", "photos/a_thumb.png", "photos/raw/b.png")
    put_tar(tmp_path / "photos" / "s.tar", "c.png", "c_thumb.png")
    write_parquet(tmp_path / "photos" / "t.parquet", image=[encoded(), encoded()], image_id=["d", "d_thumb.png"])
    put(tmp_path, "list.txt", content=b"photos/a.png\nphotos/a_thumb.png\n")
    reading = Reading(exclude=("*_thumb.png", "raw", "nothing"))
    dataset = folder.load(tmp_path / "photos", CLASSES, reading=reading)
    assert dataset.image_ids == ["a.png", "d", "s/c.png"]
    assert dataset.notes[-1] == "--exclude nothing matches nothing"
    assert folder.load(tmp_path / "list.txt", CLASSES, reading=reading).image_ids == ["photos/a.png"]
    with pytest.raises(PipelineError, match=r"no images.*by --exclude \*\.png"):
        folder.load(tmp_path / "list.txt", CLASSES, reading=Reading(exclude=("*.png",)))


def test_an_excluded_folder_may_be_unreadable(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "b/c.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PipelineError, match=r"b cannot be read: Permission denied.*--exclude"):
        folder.load(tmp_path, CLASSES)
    assert folder.load(tmp_path, CLASSES, reading=Reading(exclude=("b",))).image_ids == ["a.png"]


def test_several_folders(tmp_path):
    put(tmp_path, "a/images/1.png", "b/images/1.png", "c/1.png", "c/deep/2.png")
    many = [tmp_path / name for name in ("a/images", "b/images", "c")]
    dataset = folder.load(many, CLASSES, test_images=tmp_path / "c" / "deep")
    assert splits(dataset) == {
        "a/images/1.png": "train", "b/images/1.png": "train", "c/1.png": "train", "test/2.png": "test"
    }  # fmt: skip
    overlapping = folder.load([tmp_path / "c", tmp_path / "a" / ".." / "c" / "deep"], CLASSES)
    assert overlapping.image_ids == ["c/1.png", "c/deep/2.png"]
    assert prefixes(["s3://x/cats", tmp_path / "c", tmp_path / "d" / "cats"]) == ["x/cats", "c", "d/cats"]


def test_files_next_to_folders_keep_their_names(tmp_path):
    put(tmp_path, "c/1.png", "one.png")
    put(tmp_path, "list.csv", content=b"image,labels\nc/1.png,cat\n")
    put_tar(tmp_path / "s.tar", "2.png")
    sources = [tmp_path / name for name in ("one.png", "list.csv", "s.tar")]
    dataset = folder.load(sources, CLASSES)
    assert dataset.image_ids == ["one.png", "c/1.png", "s/2.png"] and dataset.name == "one and list and s"


def test_test_photos_within_are_found_however_the_folder_is_written(tmp_path, monkeypatch):
    put(tmp_path, "photos/1.png", "photos/deep/2.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    for test in ("deep", "../photos/deep", "../link/deep", f"{tmp_path}/photos/deep/"):
        for train in (".", "../link", "../photos/"):
            assert splits(folder.load(Path(train), CLASSES, test_images=Path(test))) == {"1.png": "train", "test/2.png": "test"}  # fmt: skip


def test_a_test_shard_within_is_not_trained_on(tmp_path):
    put_tar(tmp_path / "shards" / "a.tar", "1.png")
    test = put_tar(tmp_path / "shards" / "b.tar", "2.png")
    dataset = folder.load(tmp_path / "shards", CLASSES, test_images=test)
    assert splits(dataset) == {"a/1.png": "train", "test/b/2.png": "test"}


@pytest.mark.parametrize("source", [".", "./", "../photos", "../photos/", "deep/..", "../link", "../link/."])
def test_every_way_to_name_a_folder_finds_its_shards_and_name(tmp_path, monkeypatch, source):
    put(tmp_path, "photos/1.png", "photos/deep/2.png")
    put_tar(tmp_path / "photos" / "s.tar", "3.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    dataset = folder.load(Path(source), CLASSES)
    name = "link" if "link" in source else "photos"
    assert dataset.image_ids == ["1.png", "deep/2.png", "s/3.png"] and dataset.name == name
    assert dataset.paths[2].is_relative_to(tmp_path / f"{name}.unpacked")


def test_the_name_of_a_folder_with_a_dot_is_whole(tmp_path):
    put(tmp_path, "photos.v2/1.png")
    assert folder.load(tmp_path / "photos.v2", CLASSES).name == "photos.v2"


def test_one_photo_a_list_and_a_zip(tmp_path):
    put(tmp_path, "photos/1.png", "photos/none")
    put(tmp_path, "list.txt", content=b"photos/1.png\n\nphotos/none\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for name in ("x/1.png", "__MACOSX/x/._1.png", "notes.txt"):
            zipped.writestr(name, encoded())
    assert folder.load(tmp_path / "photos" / "none", CLASSES).image_ids == ["none"]
    assert folder.load(tmp_path / "list.txt", CLASSES).image_ids == ["photos/1.png", "photos/none"]
    assert folder.load(tmp_path / "a.zip", CLASSES).image_ids == ["a/x/1.png"]
    put(tmp_path, "list.txt", content=b"photos/2.png\n")
    with pytest.raises(PipelineError, match=r"list\.txt .*photos/2\.png.* no file"):
        folder.load(tmp_path / "list.txt", CLASSES)
    put(tmp_path, "a.bin", content=b"x")
    for name, message in (("a.bin", "not a source of photos.*a folder, a photo, an archive"), ("gone", "No such file")):
        with pytest.raises(PipelineError, match=message):
            folder.load(tmp_path / name, CLASSES)


def test_shards_of_one_name_size_and_time_are_told_apart(tmp_path):
    for name in ("a", "b"):
        shard = put_tar(tmp_path / name / "0.tar", "1.png")
        os.utime(shard, (1, 1))
    reading = Reading(unpack_to=tmp_path / "cache")
    first, second = (folder.load(tmp_path / name, CLASSES, reading=reading).paths[0] for name in ("a", "b"))
    assert (tmp_path / "a" / "0.tar").stat().st_size == (tmp_path / "b" / "0.tar").stat().st_size
    assert first.read_bytes() != second.read_bytes()
