"""Tables of labels in common forms."""

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import voc
from pipeline.datasets.folder import match_rows
from pipeline.datasets.image_names import ImageNames
from pipeline.datasets.tables import read_table
from pipeline.system.errors import PipelineError

CLASSES = ["cat", "dog", "traffic light"]


def labels_of(path, text):
    path.write_text(text)
    return {row.name: row.labels.tolist() for row in read_table(path, CLASSES)}


@pytest.mark.parametrize(
    "cell",
    ["cat;traffic light", "cat|traffic light", '"cat,traffic light"', '"cat, traffic light"', "\"['cat', 'traffic light']\"",
     '"[""cat"", ""traffic light""]"'],
)  # fmt: skip
def test_labels_may_be_joined_by_any_mark_that_is_unmistakable(tmp_path, cell):
    assert labels_of(tmp_path / "a.csv", f"image,labels\na.jpg,{cell}\n") == {"a.jpg": [1, 0, 1]}
    assert labels_of(tmp_path / "a.csv", "image,labels\na.jpg,cat dog\nb.jpg,traffic light\n") == {
        "a.jpg": [1, 1, 0],
        "b.jpg": [0, 0, 1],
    }


def test_a_column_called_label_has_labels(tmp_path):
    assert labels_of(tmp_path / "a.csv", "image,label\na.jpg,cat\n") == {"a.jpg": [1, 0, 0]}
    with pytest.raises(PipelineError, match=r"row 2 .* 'cow'"):
        labels_of(tmp_path / "a.csv", "image,label\na.jpg,cow\n")


@pytest.mark.parametrize("cell", ["cat|cow", '"dog,cow"'])
def test_another_mark_is_named_where_not_every_name_is_a_class(tmp_path, cell):
    with pytest.raises(PipelineError, match=r"row 2 .* joined by '[|,]', .* expected names joined with ';'"):
        labels_of(tmp_path / "a.csv", f"image,labels\na.jpg,{cell}\n")


def test_a_row_per_label_is_joined(tmp_path):
    text = "image,labels,x\na.jpg,cat,1\nb.jpg,dog,2\na.jpg,traffic light,3\n"
    assert labels_of(tmp_path / "a.csv", text) == {"a.jpg": [1, 0, 1], "b.jpg": [0, 1, 0]}


@pytest.mark.parametrize("rows", ["a.jpg,cat\na.jpg,cat\n", "a.jpg,cat\na.jpg,\n", "a.jpg,\na.jpg,cat\n"])
def test_rows_that_contradict_each_other_are_refused(tmp_path, rows):
    with pytest.raises(PipelineError, match=r"row 3 of .* names image a\.jpg, as row 2 does"):
        labels_of(tmp_path / "a.csv", f"image,labels\n{rows}")


def test_windows_paths_find_their_photos(tmp_path):
    (tmp_path / "a.csv").write_text("image,labels\nsub\\deep\\a.jpg,cat\n")
    names = ImageNames(["sub/deep/a.jpg", "b.jpg"], [tmp_path / "sub/deep/a.jpg", tmp_path / "b.jpg"], ["train"] * 2)
    assert list(match_rows(read_table(tmp_path / "a.csv", CLASSES), names, tmp_path / "a.csv")) == [0]
    (tmp_path / "odd\\name.jpg").touch()  # a file of this very name wins
    assert list(labels_of(tmp_path / "b.csv", "image,labels\nodd\\name.jpg,cat\n")) == ["odd\\name.jpg"]


def test_row_numbers_of_pandas_are_not_a_class(tmp_path):
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "cat": [1, 0], "dog": [0, 1], "traffic light": [0, 0]})
    frame.to_csv(tmp_path / "a.csv")
    frame.reset_index().to_csv(tmp_path / "b.csv", index=False)
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "c.csv")  # twice: "Unnamed: 0"
    frame.set_index("image").reset_index().set_index(pd.Index([0, 1])).to_parquet(tmp_path / "d.parquet", index=True)
    for name in ("a.csv", "b.csv", "c.csv", "d.parquet"):
        rows = read_table(tmp_path / name, CLASSES)
        assert [row.labels.tolist() for row in rows] == [[1, 0, 0], [0, 1, 0]], name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,labels\na.jpg,cat\nb\xff.jpg,dog\n", r"a\.csv, row 3: it is not UTF-8"),
        (b'image,labels\na.jpg,cat\nb.jpg,"do"g\n', r"a\.csv, row 3: it is not CSV"),
        (b"image,labels\na.jpg,cat\nb.jpg,cow\n", "row 3 of"),
        (b"image,labels\na.jpg,cat,dog\n", "row 2 of .* has 3 fields"),
    ],
)
def test_errors_name_the_row(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        read_table(tmp_path / "a.csv", CLASSES)


BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


@pytest.mark.parametrize(
    ("inside", "tag"),
    [
        (f"<name/>{BOX}", "an empty name"),
        (BOX, "no name"),
        ("<name>cat</name>", "no bndbox/xmin"),
        (f"<name>cat</name>{BOX.replace('<xmax>9</xmax>', '<xmax></xmax>')}", "an empty bndbox/xmax"),
        (f"<name>cat</name>{BOX.replace('<ymin>1</ymin>', '')}", "no bndbox/ymin"),
    ],
)
def test_missing_and_empty_tags_of_an_annotation_are_named(tmp_path, inside, tag):
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation><size/><object>{inside}</object></annotation>")
    with pytest.raises(PipelineError, match=rf"a\.xml is not a VOC annotation \(an object has {tag}\)"):
        voc._read_annotation(path)


def test_empty_optional_tags_are_as_if_they_were_missing(tmp_path):
    path = tmp_path / "a.xml"
    size = "<size><width></width><height/></size>"
    path.write_text(f"<annotation>{size}<object><name>cat</name><difficult/>{BOX}</object></annotation>")
    ((kind, box, difficult),) = voc._read_annotation(path)
    assert (kind, difficult) == (voc.CLASS_NAMES.index("cat"), False) and np.allclose(box, [0, 0, 9, 9])
