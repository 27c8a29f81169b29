import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds.photos import photo_bytes

from pipeline.datasets import folder
from pipeline.datasets.archives import Limit
from pipeline.datasets.folder import Reading
from pipeline.photos.images import image_size
from pipeline.system.errors import PipelineError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CLASSES = ["cat", "dog"]


def encoded(side: int, format: str = "PNG") -> bytes:
    return photo_bytes((8, side), format)


def write(path: Path, images: list, **columns: list) -> Path:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(images, kind), **columns}), path)
    return path


def cell(side: int, path: str | None = None, format: str = "PNG") -> dict[str, object]:
    return {"bytes": encoded(side, format), "path": path}


def test_images_are_written_once_under_their_content(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [cell(3, "x/1.png"), cell(4, "x/2.png"), cell(3, "3.png")])
    dataset = folder.load(path, CLASSES)
    assert dataset.image_ids == ["a/x/1.png", "a/x/2.png", "a/3.png"]
    assert dataset.paths[0] == dataset.paths[2] and dataset.paths[0].parent.parent == tmp_path / "a.parquet.unpacked"
    assert [image_size(each) for each in dataset.paths] == [(8, 3), (8, 4), (8, 3)]
    written = dataset.paths[0].stat().st_mtime_ns
    again = folder.load(path, CLASSES)
    assert again.paths == dataset.paths and again.paths[0].stat().st_mtime_ns == written


def test_a_folder_of_shards_with_labels_splits_and_without_paths(tmp_path: Path):
    shards = tmp_path / "shards"
    write(shards / "b.parquet", [cell(3), cell(4, format="JPEG")], labels=[["cat", "dog"], []], split=["train", "test"])
    write(shards / "a.parquet", [cell(5)], labels=[[1]], image_id=["mine"])
    dataset = folder.load(shards, CLASSES, reading=Reading(unpack_to=tmp_path / "out"))
    assert dataset.image_ids == ["mine", "b/0", "b/1"] and dataset.splits == ["train", "train", "test"]
    assert dataset.labels.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert [each.suffix for each in dataset.paths] == [".png", ".png", ".jpg"]
    assert all(each.is_relative_to(tmp_path / "out") for each in dataset.paths)


def test_a_numbered_id_may_be_0(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [cell(3), cell(4), cell(5)], image_id=pa.array([1, 0, None]))
    assert folder.load(path, CLASSES).image_ids == ["1", "0", "a/2"]


def test_what_hugging_face_datasets_write(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    pictures = [Image.fromarray(np.full((8, side, 3), side, np.uint8)) for side in (3, 4)]
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    dataset = folder.load(tmp_path / "a.parquet", CLASSES)
    assert [image_size(each) for each in dataset.paths] == [(8, 3), (8, 4)]
    assert dataset.labels.tolist() == [[0, 1], [1, 0]]


def test_plain_bytes_in_a_column_of_any_name(tmp_path: Path):
    pq.write_table(pa.table({"jpg": [encoded(3, "JPEG")], "caption": ["a cat"]}), tmp_path / "a.parquet")
    dataset = folder.load(tmp_path / "a.parquet", CLASSES)
    assert dataset.image_ids == ["a/0"] and dataset.labels is None and image_size(dataset.paths[0]) == (8, 3)


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        ([{"bytes": None, "path": "a.png"}], {}, r"row 0 of .*a\.parquet has no image bytes"),
        ([None], {}, "row 0 of .* has no image bytes"),
        ([cell(3)], {"labels": [["cats"]]}, "row 0 of .* names class 'cats'.*Did you mean 'cat'"),
        ([cell(3)], {"labels": [[2]]}, r"row 0 of .* has labels \[2\], expected numbers below 2"),
        ([cell(3)], {"label": [1.5]}, r"row 0 of .* has label 1\.5"),
        ([cell(3)], {"split": ["val"]}, "row 0 of .* has split 'val', expected train or test"),
        ([cell(3), cell(4)], {"image_id": ["x", "x"]}, "lists image x 2 times"),
        ([], {}, "has no images"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, images: list, columns: dict[str, list], message: str):
    with pytest.raises(PipelineError, match=message):
        folder.load(write(tmp_path / "a.parquet", images, **columns), CLASSES)


def test_files_that_do_not_fit(tmp_path: Path):
    shards = tmp_path / "shards"
    write(shards / "a.parquet", [cell(3)])
    (shards / "b.parquet").write_bytes((shards / "a.parquet").read_bytes()[:-20] + os.urandom(20))
    with pytest.raises(PipelineError, match=r"b\.parquet cannot be read as Parquet") as caught:
        folder.load(shards, CLASSES)
    assert len(str(caught.value)) < 500  # raw bytes are no part of it
    pq.write_table(pa.table({"left": [b"x"], "right": [b"y"]}), shards / "b.parquet")
    with pytest.raises(PipelineError, match="images in the columns left, right, expected one"):
        folder.load(shards / "b.parquet", CLASSES)


def test_no_more_is_unpacked_than_the_limit_allows(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [cell(3), cell(4)])
    for limit in (Limit(files=1), Limit(gigabytes=1e-7)):
        with pytest.raises(PipelineError, match=r"a\.parquet unpacks to more than"):
            folder.load(path, CLASSES, reading=Reading(limit=limit))
