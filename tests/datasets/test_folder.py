import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets import folder
from pipeline.datasets.class_names import read_class_names
from pipeline.machine.errors import PipelineError

CLASSES = ["cat", "dog"]


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, path.suffix[1:].lower().replace("jpg", "jpeg").replace("tif", "tiff"))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b.JPG", "deep/er/a.png", "deep/c.WebP", ".hidden.png", ".cache/d.png"):
        write_image(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_nested_folders_and_mixed_case(images: Path):
    dataset = folder.load(images, CLASSES)
    assert dataset.image_ids == ["b.JPG", "deep/c.WebP", "deep/er/a.png"]
    assert dataset.splits == ["train"] * 3
    assert dataset.labels is None
    assert all(path.is_absolute() for path in dataset.paths)


def test_test_folder_beside_and_within(images: Path):
    write_image(images.parent / "more" / "b.JPG")
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
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = {"image": ["b.JPG", "deep/c.WebP"], "labels": [["cat"], []], "width": [8, 8]}
    pq.write_table(pa.table(rows), images / "list.parquet")
    dataset = folder.load(images / "list.parquet", CLASSES)
    assert dataset.labels.tolist() == [[1, 0], [0, 0]]
    pq.write_table(pa.table({"path": ["b.JPG"]}), images / "other.parquet")
    with pytest.raises(PipelineError, match="has the columns path, expected one named image"):
        folder.load(images / "other.parquet", CLASSES)
    (images / "broken.parquet").write_text("no parquet")
    with pytest.raises(PipelineError, match=r"broken\.parquet cannot be read as Parquet"):
        folder.load(images / "broken.parquet", CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,labels\nb.JPG,cats\n", "names class 'cats'.*Did you mean 'cat'"),
        ("image,labels\nb.JPG,cat\nb.JPG,dog\n", r"lists image b\.JPG 2 times"),
        ("image,labels\nz.jpg,cat\n", r"lists image z\.jpg, but there is no file"),
        ("image,labels\nb.JPG,cat,dog\n", "row 2 of .* has 3 fields, expected 2"),
        ("image,split\nb.JPG,val\n", "row 2 of .* has split 'val', expected train or test"),
        ("image,labels\nb.JPG,cat\n\n,dog\n", "row 4 of .* has image ''"),
        ("file,labels\nb.JPG,cat\n", "has the columns file, labels, expected one named image"),
        ("image,labels\n", "holds no image"),
        ("", "holds no image"),
    ],
)
def test_broken_tables(images: Path, text: str, message: str):
    (images / "list.csv").write_text(text)
    with pytest.raises(PipelineError, match=message):
        folder.load(images / "list.csv", CLASSES)


def test_table_in_another_encoding(images: Path):
    (images / "list.csv").write_bytes("image\nü.jpg\n".encode("latin-1"))
    with pytest.raises(PipelineError, match=r"list\.csv is no CSV file in UTF-8"):
        folder.load(images / "list.csv", CLASSES)


def test_label_table_with_an_unknown_image_or_an_unlabelled_test_image(images: Path):
    table = images.parent / "labels.csv"
    table.write_text("image,labels\nc.WebP,cat\n")
    with pytest.raises(PipelineError, match=r"lists image c\.WebP, .* for example b\.JPG"):
        folder.load(images, CLASSES, labels=table)
    table.write_text("image,labels\nb.JPG,cat\n")
    with pytest.raises(PipelineError, match=r"2 test images have no labels .* first test/c\.WebP"):
        folder.load(images, CLASSES, test_images=images / "deep", labels=table)


def test_missing_or_empty_folder(tmp_path: Path):
    with pytest.raises(PipelineError, match="absent cannot be read: No such file"):
        folder.load(tmp_path / "absent", CLASSES)
    with pytest.raises(PipelineError, match=r"holds no image, expected files ending in \.jpg"):
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


def test_loop_of_links_is_an_error(images: Path):
    (images / "deep" / "loop").symlink_to(images)
    with pytest.raises(PipelineError, match="loop is a link to a folder that it lies in"):
        folder.load(images, CLASSES)


def test_names_of_any_script_and_length(tmp_path: Path):
    names = ["猫 на крыше.jpg", "a;b,c\nd.jpg", "x" * 240 + ".jpg"]
    for name in names:
        write_image(tmp_path / name)
    assert sorted(folder.load(tmp_path, CLASSES).image_ids) == sorted(names)


def test_name_that_is_no_unicode(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(path)).write_bytes(b"")
    with pytest.raises(PipelineError, match=r"xff\.jpg.* no valid UTF-8"):
        folder.load(tmp_path, CLASSES)


def test_class_names(tmp_path: Path):
    (tmp_path / "classes.txt").write_text("cat\n\ntv monitor \r\n")
    assert read_class_names(tmp_path / "classes.txt") == ["cat", "tv monitor"]
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(PipelineError, match="'cat' and 'cat' are the same"):
        read_class_names(tmp_path / "classes.txt")
    with pytest.raises(PipelineError, match="Found 1 class names"):
        folder.load(tmp_path, ["cat"])


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_webdataset_shards(tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    first = {"x/01.left.png": png(), "x/01.json": json.dumps({"labels": "cat;dog"}).encode()}
    write_shard(shards / "000.tar", {**first, "02.png": png(), "02.cls": b"1\n"})
    write_shard(shards / "001.tar", {"02.png": png(), "02.cls": b"cat", "03.png": png(), "03.json": b"{}"})
    dataset = folder.load(shards, CLASSES, cache=tmp_path / "cache")
    assert dataset.image_ids == ["000/02.png", "000/x/01.left.png", "001/02.png", "001/03.png"]
    assert dataset.labels.tolist() == [[0, 1], [1, 1], [1, 0], [-1, -1]]
    assert all(path.is_file() for path in dataset.paths)
    assert folder.load(shards / "001.tar", CLASSES).image_ids == ["001/02.png", "001/03.png"]


def test_shard_is_unpacked_once_until_it_changes(tmp_path: Path):
    shard = write_shard(tmp_path / "a.tar", {"1.png": png()})
    first = folder.load(shard, CLASSES)
    before = first.paths[0].stat().st_mtime_ns
    assert folder.load(shard, CLASSES).paths[0].stat().st_mtime_ns == before
    write_shard(shard, {"1.png": png(), "2.png": png(), "3.txt": b"x" * 20_000})
    assert folder.load(shard, CLASSES).image_ids == ["a/1.png", "a/2.png"]


def test_broken_shards(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(PipelineError, match=r"a\.tar is no whole tar or zip archive"):
        folder.load(tmp_path / "a.tar", CLASSES)
    with pytest.raises(PipelineError, match=r"b\.tar is missing"):
        folder.load(tmp_path / "b.tar", CLASSES)
    for label in (b"7", b"\xff"):
        write_shard(tmp_path / "c.tar", {"1.png": png(), "1.cls": label, "pad": label * 9_000})
        with pytest.raises(PipelineError, match=r"1\.cls holds no labels of the 2 classes"):
            folder.load(tmp_path / "c.tar", CLASSES)
    write_shard(tmp_path / "d.tar", {"1.png": png(), "1.json": b'{"labels": 3}'})
    with pytest.raises(PipelineError, match=r"1\.json holds no labels"):
        folder.load(tmp_path / "d.tar", CLASSES)
