import json
import os
import socket
from pathlib import Path

import pytest
from worlds.archives import write_parquet, write_tar
from worlds.photos import photo_bytes, write_photo

from pipeline.datasets import folder
from pipeline.datasets.archives import Limit
from pipeline.datasets.folder import Reading
from pipeline.system.errors import PipelineError

CLASSES = ["cat", "dog"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b.JPG", "deep/er/a.png", "deep/c.WebP", ".hidden.png", ".cache/d.png"):
        write_photo(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_nested_folders_and_mixed_case(images: Path):
    dataset = folder.load(images, CLASSES)
    assert dataset.image_ids == ["b.JPG", "deep/c.WebP", "deep/er/a.png"]
    assert dataset.splits == ["train"] * 3
    assert dataset.labels is None
    assert all(path.is_absolute() for path in dataset.paths)


def test_test_folder_beside_and_within(images: Path):
    write_photo(images.parent / "more" / "b.JPG")
    beside = folder.load(images, CLASSES, test_images=images.parent / "more")
    assert beside.image_ids[-1] == "test/b.JPG"
    assert beside.splits == ["train"] * 3 + ["test"]
    within = folder.load(images, CLASSES, test_images=images / "deep")
    assert within.image_ids == ["b.JPG", "test/c.WebP", "test/er/a.png"]
    assert within.splits == ["train", "test", "test"]


def test_label_table_of_a_folder(images: Path):
    table = images.parent / "labels.csv"
    table.write_text("image,labels,split\nb.JPG,dog; cat,test\n./deep/c.WebP,,test\n")
    dataset = folder.load(images, CLASSES, labels=table)
    assert dataset.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert dataset.splits == ["test", "test", "train"]


def test_table_of_paths_with_labels_and_split(images: Path):
    table = images / "list.csv"
    table.write_text(f"\ufeffsplit,image,note,labels\ntest,b.JPG,x,cat\n,{images / 'deep/c.WebP'},y,dog\n")
    dataset = folder.load(table, CLASSES)
    assert dataset.image_ids == ["b.JPG", (images / "deep/c.WebP").as_posix()]
    assert dataset.splits == ["test", "train"]
    assert dataset.labels.tolist() == [[1, 0], [0, 1]]


def test_table_of_one_column_needs_no_header(images: Path):
    (images / "list.csv").write_text("deep/c.WebP\nb.JPG\n")
    assert folder.load(images / "list.csv", CLASSES).image_ids == ["deep/c.WebP", "b.JPG"]


def test_parquet(images: Path):
    rows = {"image": ["b.JPG", "deep/c.WebP"], "labels": [["cat"], []], "width": [8, 8]}
    write_parquet(images / "list.parquet", **rows)
    dataset = folder.load(images / "list.parquet", CLASSES)
    assert dataset.labels.tolist() == [[1, 0], [0, 0]]
    write_parquet(images / "other.parquet", path=["b.JPG"])
    with pytest.raises(PipelineError, match=r"columns path; expected .*image or image_id"):
        folder.load(images / "other.parquet", CLASSES)
    (images / "broken.parquet").write_text("no parquet")
    with pytest.raises(PipelineError, match=r"broken\.parquet cannot be read as Parquet"):
        folder.load(images / "broken.parquet", CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,labels\nb.JPG,cats\n", "names class 'cats'.*Did you mean 'cat'"),
        ("image,labels\nb.JPG,cat\nb.JPG,cat\n", r"row 3 .* names image b\.JPG, as row 2 does"),
        ("image,labels\nz.jpg,cat\n", r"lists image z\.jpg, but there is no file"),
        ("image,labels\nb.JPG,cat,dog\n", "row 2 of .* has 3 fields, expected 2"),
        ("image,split\nb.JPG,val\n", "row 2 of .* has split 'val', expected train or test"),
        ("image,labels\nb.JPG,cat\n\n,dog\n", "row 4 of .* has image ''"),
        ("file,labels\nb.JPG,cat\n", "has the columns file, labels; expected one named image or image_id"),
        ("image,labels\n", "has no images"),
        ("", "has no images"),
    ],
)
def test_broken_tables(images: Path, text: str, message: str):
    (images / "list.csv").write_text(text)
    with pytest.raises(PipelineError, match=message):
        folder.load(images / "list.csv", CLASSES)


def test_table_in_another_encoding(images: Path):
    (images / "list.csv").write_bytes("image\nü.jpg\n".encode("latin-1"))
    with pytest.raises(PipelineError, match=r"list\.csv, row 2: it is not UTF-8"):
        folder.load(images / "list.csv", CLASSES)


@pytest.fixture
def two_folders(images: Path) -> Path:
    """A folder of test photos next to `images`: b.JPG, as there, and sub/only.png."""
    for name in ("b.JPG", "sub/only.png"):
        write_photo(images.parent / "more" / name)
    return images.parent / "more"


def labelled(images: Path, test_images: Path | None, text: str) -> dict[str, list[int]]:
    """Labels by id, with a table of labels next to the photos' folder."""
    table = images.parent / "labels.csv"
    table.write_text(text)
    dataset = folder.load(images, CLASSES, test_images=test_images, labels=table)
    return dict(zip(dataset.image_ids, dataset.labels.tolist(), strict=True))


@pytest.mark.parametrize("name", ["test/sub/only.png", "sub/only.png", "only.png", "more/sub/only.png", "only", "{}"])
def test_a_label_table_names_a_test_photo_in_any_way_that_is_unambiguous(images: Path, two_folders: Path, name: str):
    name = name.format(two_folders / "sub/only.png")
    found = labelled(images, two_folders, f"image,labels\n{name},dog\n")
    assert found.pop("test/sub/only.png") == [0, 1]
    assert set(map(tuple, found.values())) == {(-1, -1)}  # whatever has labels is kept, and nothing else is known


def test_names_of_both_folders_are_told_apart(images: Path, two_folders: Path):
    for first, second in (("b.JPG", "test/b.JPG"), ("train/b.JPG", "test/b.JPG"), ("photos/b.JPG", "more/b.JPG")):
        found = labelled(images, two_folders, f"image_id,labels\n{first},cat\n{second},dog\n")
        assert (found["b.JPG"], found["test/b.JPG"]) == ([1, 0], [0, 1])
    found = labelled(images, two_folders, "image,labels,split\nb.JPG,dog,test\n")
    assert (found["b.JPG"], found["test/b.JPG"]) == ([-1, -1], [0, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,labels\nx,\nb.JPG,cat\n",
            r"row 2 of .*labels\.csv names image x, which is none .* test image is test/b\.JPG",
        ),
        (
            "image,labels\nonly.png,cat\nb.JPG,cat\n",
            r"row 3 .*b\.JPG, which fits 2 .*Write train/b\.JPG or test/b\.JPG",
        ),
        ("image,labels,split\nz.jpg,cat,train\n", r"row 2 .* z\.jpg, .*one train image is b\.JPG"),
        ("image,labels\nonly.png,\ntest/sub/only.png,\n", r"row 3 .* names image test/sub/only\.png, as row 2 does"),
        ("image,lables\nonly.png,cat\n", r"has no labels: its columns are image, lables; .*mean 'labels' by 'lables'"),
        ("image\nonly.png\n", "has no labels: its columns are image"),
        ("image,labels\n", "has no rows"),
        ("", "has the columns none; expected one named image or image_id"),
        ("image;labels\nonly.png;cat\n", r"row 1 of .* is 'image;labels', expected columns separated by commas"),
        ("only.png;cat\nb.JPG;dog\n", r"row 1 of .* is 'only\.png;cat', expected columns separated by commas"),
        ("image,cat,catt\nonly.png,1,0\n", r"column 'catt' of 1 and 0, .*Did you mean 'cat'"),
        ("image,cat,cat\nonly.png,1,0\n", "has the column 'cat' twice"),
        ("image,cat\nonly.png,maybe\n", "row 2 of .* has 'maybe' for cat, expected 1, 0 or nothing"),
        ('image,labels\n"only.png,cat\n', r"labels\.csv, row 2: it is not CSV"),
        ('image,labels\nonly.png,"{""choices"": 3}"\n', "row 2 of .* has labels"),
        ("image,labels\nonly.png,{" + "[" * 9999 + "\n", "row 2 of .* has labels"),
    ],
)
def test_wrong_label_tables_name_the_row_and_the_remedy(images: Path, two_folders: Path, text: str, message: str):
    with pytest.raises(PipelineError, match=message):
        labelled(images, two_folders, text)


def test_a_label_table_with_a_column_per_class_leaves_the_rest_unknown(images: Path):
    found = labelled(images, None, "image_id,dog,note\nb.JPG,1,blurred\nc.WebP,,\na,0,\n")
    assert found == {"b.JPG": [-1, 1], "deep/c.WebP": [-1, -1], "deep/er/a.png": [-1, 0]}


def test_a_table_with_an_id_and_a_path(images: Path):
    (images / "list.csv").write_text("image,image_id,labels\nb.JPG,first,cat\n")
    dataset = folder.load(images / "list.csv", CLASSES)
    assert dataset.image_ids == ["first"] and dataset.paths == [images / "b.JPG"]


def test_what_looks_like_a_photo_and_is_none_is_left_out_and_named(images: Path):
    os.mkfifo(images / "pipe.jpg")
    (images / "gone.png").symlink_to(images / "nowhere.png")
    (images / "null.gif").symlink_to("/dev/null")
    for name in ("raw.NEF", "new.jxl"):
        (images / name).write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(images / "s.jpg"))
        dataset = folder.load(images, CLASSES)
    assert dataset.image_ids == ["b.JPG", "deep/c.WebP", "deep/er/a.png"]
    assert dataset.left_out == {
        "gone.png": "it is a link to a file that is missing",
        "new.jxl": "JPEG XL files cannot be read; convert the file to JPEG or PNG",
        "null.gif": "it is a device, not a file",
        "pipe.jpg": "it is a FIFO, not a file",
        "raw.NEF": "camera raw files cannot be read; convert the file to JPEG or TIFF",
        "s.jpg": "it is a socket, not a file",
    }


def test_labels_of_photos_that_are_left_out_are_passed_over(images: Path):
    (images / "raw.NEF").write_bytes(b"x")
    assert labelled(images, None, "image,labels\nraw.NEF,cat\nb.JPG,dog\n")["b.JPG"] == [0, 1]


def test_a_folder_of_nothing_but_raw_files_says_why(tmp_path: Path):
    (tmp_path / "a.CR2").write_bytes(b"x")
    with pytest.raises(PipelineError, match=r"no images.* 1 .*a\.CR2: camera raw"):
        folder.load(tmp_path, CLASSES)


def test_missing_photos_of_a_table_can_be_skipped(images: Path):
    (images / "list.csv").write_text("image,labels\nb.JPG,cat\nz.jpg,dog\n")
    with pytest.raises(PipelineError, match=r"1 of 2 are missing.*--skip-missing"):
        folder.load(images / "list.csv", CLASSES)
    dataset = folder.load(images / "list.csv", CLASSES, reading=Reading(skip_missing=True))
    assert (dataset.image_ids, dataset.left_out) == (["b.JPG"], {"z.jpg": "it is missing"})
    (images / "list.csv").write_text("image\ny.jpg\nz.jpg\n")
    with pytest.raises(PipelineError, match="2 of 2 are missing"):
        folder.load(images / "list.csv", CLASSES, reading=Reading(skip_missing=True))


def test_missing_or_empty_folder(tmp_path: Path):
    with pytest.raises(PipelineError, match=r"absent cannot be read: No such file or directory\. Check the path\.$"):
        folder.load(tmp_path / "absent", CLASSES)
    with pytest.raises(PipelineError, match="has no images, expected JPEG, PNG"):
        folder.load(tmp_path, CLASSES)


@pytest.mark.parametrize("as_root", [True, False])
def test_unreadable_subfolder_stops_instead_of_shrinking_the_dataset(
    images: Path, monkeypatch: pytest.MonkeyPatch, as_root: bool
):
    locked = images / "deep" / "er"
    if as_root:  # whom no mode keeps out
        scandir = os.scandir

        def refuse(path: str) -> object:
            if Path(path) == locked:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    elif os.geteuid() == 0:
        pytest.skip("root reads every folder")
    else:
        locked.chmod(0)
    try:
        with pytest.raises(PipelineError, match="deep/er cannot be read: Permission denied"):
            folder.load(images, CLASSES)
    finally:
        locked.chmod(0o755)


def test_a_loop_of_links_is_left_out_and_named(images: Path):
    before = folder.load(images, CLASSES).image_ids
    (images / "deep" / "loop").symlink_to(images)
    (images / "self").symlink_to(images / "self")
    (images / "one").mkdir()
    (images / "two").mkdir()
    (images / "one" / "to").symlink_to(images / "two")
    (images / "two" / "fro").symlink_to(images / "one")
    dataset = folder.load(images, CLASSES)
    assert dataset.image_ids == before
    loops = {"deep/loop", "one/to/fro", "two/fro/to"}
    assert {name for name, why in dataset.left_out.items() if "link to a folder that contains it" in why} == loops


def test_links_that_multiply_are_followed_a_hundred_times(tmp_path: Path):
    """Two links in each of twenty folders lead to a million copies of the last one."""
    for level in range(20):
        (tmp_path / "photos" / str(level)).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "photos" / str(level) / name).symlink_to(tmp_path / "photos" / str(level + 1))
    write_photo(tmp_path / "photos" / "20" / "a.png")
    dataset = folder.load(tmp_path / "photos", CLASSES)
    assert len(dataset.image_ids) == 101 and "more than 100 links lead to its folder" in dataset.left_out.values()


def test_names_of_any_script_and_length(tmp_path: Path):
    names = ["猫 на крыше.jpg", "a;b,c\nd.jpg", "x" * 240 + ".jpg"]
    for name in names:
        write_photo(tmp_path / name)
    assert sorted(folder.load(tmp_path, CLASSES).image_ids) == sorted(names)


def test_name_that_is_no_unicode(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(path)).write_bytes(b"")
    with pytest.raises(PipelineError, match=r"xff\.jpg.* not valid UTF-8"):
        folder.load(tmp_path, CLASSES)


def test_webdataset_shards(tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    first = {"x/01.left.png": photo_bytes(), "x/01.json": json.dumps({"labels": "cat;dog"}).encode()}
    write_tar(shards / "000.tar", {**first, "02.png": photo_bytes(), "02.cls": b"1\n"})
    write_tar(
        shards / "001.tar", {"02.png": photo_bytes(), "02.cls": b"cat", "03.png": photo_bytes(), "03.json": b"{}"}
    )
    dataset = folder.load(shards, CLASSES, reading=Reading(unpack_to=tmp_path / "cache"))
    assert dataset.image_ids == ["000/02.png", "000/x/01.left.png", "001/02.png", "001/03.png"]
    assert dataset.labels.tolist() == [[0, 1], [1, 1], [1, 0], [-1, -1]]
    assert all(path.is_file() for path in dataset.paths)
    assert folder.load(shards / "001.tar", CLASSES).image_ids == ["001/02.png", "001/03.png"]


def test_shard_is_unpacked_once_until_it_changes(tmp_path: Path):
    shard = write_tar(tmp_path / "a.tar", {"1.png": photo_bytes()})
    first = folder.load(shard, CLASSES)
    before = first.paths[0].stat().st_mtime_ns
    assert folder.load(shard, CLASSES).paths[0].stat().st_mtime_ns == before
    write_tar(shard, {"1.png": photo_bytes(), "2.png": photo_bytes(), "3.txt": b"x" * 20_000})
    assert folder.load(shard, CLASSES).image_ids == ["a/1.png", "a/2.png"]


def test_a_shard_unpacks_within_the_limit_and_to_the_folder_that_is_named(tmp_path: Path):
    shard = write_tar(tmp_path / "in" / "a.tar", {"1.png": photo_bytes(), "2.png": photo_bytes()})
    with pytest.raises(PipelineError, match=r"a\.tar .* 1 files"):
        folder.load(shard, CLASSES, reading=Reading(tmp_path / "out", Limit(files=1)))
    assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "in").glob("*.unpacked"))
    assert len(folder.load(shard, CLASSES, reading=Reading(tmp_path / "out")).paths) == 2
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_broken_shards(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(PipelineError, match=r"a\.tar is not a complete tar or zip archive"):
        folder.load(tmp_path / "a.tar", CLASSES)
    with pytest.raises(PipelineError, match=r"b\.tar is missing"):
        folder.load(tmp_path / "b.tar", CLASSES)
    for label in (b"7", b"\xff"):
        write_tar(tmp_path / "c.tar", {"1.png": photo_bytes(), "1.cls": label, "pad": label * 9_000})
        with pytest.raises(PipelineError, match=r"1\.cls has (no labels|labels 7, expected numbers below 2)"):
            folder.load(tmp_path / "c.tar", CLASSES)
    write_tar(tmp_path / "d.tar", {"1.png": photo_bytes(), "1.json": b'{"labels": 3}'})
    with pytest.raises(PipelineError, match=r"1\.json has labels 3"):
        folder.load(tmp_path / "d.tar", CLASSES)
    for number, sidecar in enumerate((b"[" * 100_000, b"[]", b'{"labels": [1]}', b'{"labels": ["cats"]}', b"NaN")):
        write_tar(tmp_path / f"e{number}.tar", {"1.png": photo_bytes(), "1.json": sidecar})
        with pytest.raises(PipelineError, match=r"1\.json (has no labels|has labels \[1\]|names class 'cats')"):
            folder.load(tmp_path / f"e{number}.tar", CLASSES)
