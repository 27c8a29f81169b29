import csv
import json
import os
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner
from worlds.photos import write_photo

from pipeline import Classifier, cli
from pipeline.artifacts.predictions import prediction_frame, write_predictions
from pipeline.datasets import folder, remote
from pipeline.deploy.predict import find_images
from pipeline.photos.video import frames
from pipeline.system.errors import PipelineError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Folder `photos` with three photos, the working directory being its parent."""
    for seed, name in enumerate(("a.png", "deep/B.JPG", "deep/er/c [1].webp")):
        write_photo(tmp_path / "photos" / name, (40, 56), seed)
    (tmp_path / "photos" / "notes.md").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCD_CACHE", str(tmp_path / "cache"))
    return ["photos/a.png", "photos/deep/B.JPG", "photos/deep/er/c [1].webp"]


def ccd(*arguments, given=None):
    """Exit code, standard output and standard error of `ccd`."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], input=given)
    if isinstance(result.exception, PipelineError):
        return 1, result.stdout, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def names(sources):
    return [each.name for each in find_images(sources)]


def test_files_folders_and_globs_are_found_once_in_the_order_given(photos):
    assert names(["photos"]) == photos
    assert names(["photos/deep/er", "./photos/a.png", "photos"]) == [photos[2], photos[0], photos[1]]
    assert names(["photos/**/*.[pw]*"]) == [photos[0], photos[2]]
    assert names(["photos/deep/er/c [1].webp"]) == [photos[2]]
    assert names([f"{Path.cwd()}/photos/?.png"]) == [f"{Path.cwd()}/photos/a.png"]


def test_predict_and_prepare_find_the_same_photos(photos, tmp_path):
    root = tmp_path / "photos"
    for name in ("@eaDir/a.png/thumb.png", ".hidden.png", "none", os.fsdecode(b"\xff.png"), "b_thumb.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((root / "a.png").read_bytes())
    with tarfile.open(root / "s.tar", "w") as tar:
        tar.add(root / "a.png", "1.png")
    prepared = folder.load(root, ["cat", "dog"], reading=folder.Reading(exclude=("*_thumb.png",)))
    found = find_images(["photos"], exclude=["*_thumb.png"])
    assert sorted(each.name for each in found) == sorted(f"photos/{each}" for each in prepared.image_ids)
    assert len(found) == len(photos) + 2
    (odd,) = find_images([os.fsdecode(b"photos/\xff.png")])  # named itself
    assert odd.name == "photos/\\xff.png" and "not valid UTF-8" in str(odd.place)


def test_excluded_names_of_predict(photos, tiny_classifier):
    arguments = ("photos", "photos/a.png", "--exclude", "er", "--exclude", "a.*", "--exclude", "*.tif")
    code, output, said = ccd("predict", tiny_classifier, *arguments)
    assert code == 0 and [line.split(",")[0] for line in output.splitlines()[1:]] == ["photos/deep/B.JPG"]
    assert "1 by --exclude er (deep/er)" in said and "--exclude *.tif matches nothing" in said
    code, _, said = ccd("predict", tiny_classifier, "photos/a.png", "--exclude", "*.png")
    assert code == 1 and "leaves no photo" in said


def test_shards_of_one_name_in_two_folders_are_both_scored(photos, tmp_path):
    for name, photo in zip("xy", photos, strict=False):
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "0.tar", "w") as tar:
            tar.add(photo, "1.png")
    found = find_images(["x/0.tar", "y/0.tar", "x"])
    assert [each.name for each in found] == ["x/0/1.png", "y/0/1.png"]
    assert len({each.place.read_bytes() for each in found}) == 2


def test_an_unknown_engine_is_refused(photos):
    code, _, said = ccd("predict", "classifier.pt", "photos", "--engine", "tensorrt")
    assert code == 2 and "tensorrt" in said


@pytest.mark.parametrize("source", ["nothing.png", "nothing/*", "x" * 5000, ""])
def test_a_source_that_is_missing_is_refused(photos, source):
    with pytest.raises(PipelineError, match=r"is missing, expected a photo, a folder or a glob"):
        find_images(["photos", source])


def test_a_folder_without_photos_is_refused(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="empty has no images"):
        find_images(["photos", "empty"])


def test_predictions_go_to_standard_output_as_csv(photos, tiny_classifier):
    code, output, said = ccd("predict", tiny_classifier, "photos", "--batch-size", 2, "--device", "cpu")
    assert code == 0 and said == "photos: 3 photos. Ignored: 1 of other kinds (.md).\n"
    lines = output.splitlines()
    assert lines[0] == "image,labels,cat,dog,cow" and len(lines) == 4
    expected = Classifier.load(tiny_classifier).predict(photos)
    for line, photo, prediction in zip(lines[1:], photos, expected, strict=True):
        image, labels, *scores = line.split(",")
        assert image == photo and labels == ";".join(prediction.labels)
        assert [float(s) for s in scores] == pytest.approx(list(prediction.scores.values()), abs=1e-6)


def test_every_format_holds_the_same(photos, tiny_classifier, tmp_path):
    for ending in (".csv", ".jsonl", ".parquet"):
        code, output, said = ccd("predict", tiny_classifier, "photos", "--out", tmp_path / f"out{ending}")
        assert code == 0 and output == "" and "3 images, 3 classes" in said
    table = pd.read_csv(tmp_path / "out.csv", na_filter=False)
    parquet = pd.read_parquet(tmp_path / "out.parquet")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert list(table["image"]) == list(parquet["image"]) == [line["image"] for line in lines] == photos
    labels = [line["labels"] for line in lines]
    assert [text.split(";") if text else [] for text in table["labels"]] == labels
    assert [list(names) for names in parquet["labels"]] == labels
    classes = ["cat", "dog", "cow"]
    scores = pd.DataFrame([line["scores"] for line in lines])
    np.testing.assert_allclose(scores[classes], parquet[classes], atol=1e-6)
    np.testing.assert_allclose(table[classes], parquet[classes], atol=1e-6)


def test_unreadable_images_are_skipped_counted_and_listed(photos, tiny_classifier, tmp_path):
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (tmp_path / "photos" / "empty.png").touch()
    code, output, said = ccd("predict", tiny_classifier, "photos", "--batch-size", 1)
    assert code == 0
    assert [line.split(",")[0] for line in output.splitlines()[1:]] == photos
    assert "2 of 5 images cannot be read and are skipped" in said
    assert "photos/broken.jpg" in said and "photos/empty.png cannot be read as an image: the file is empty" in said


def test_only_unreadable_images_are_an_error(photos, tiny_classifier, tmp_path):
    code, output, said = ccd("predict", tiny_classifier, "photos/notes.md", "--out", tmp_path / "out.csv")
    assert code == 1 and output == "" and "none of the 1 images can be read" in said
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt", "photos"], "missing.pt is missing"),
        (["photos/a.png", "photos"], "photos/a.png is not a classifier file. Name a run"),
        (["photos", "photos"], "artifacts/photos is not a run"),
    ],
)
def test_what_is_no_classifier_is_refused(photos, arguments, message):
    code, _, said = ccd("predict", *arguments)
    assert code == 1 and message in said


def test_an_unknown_table_format_is_refused_before_any_work(photos, tiny_classifier):
    code, _, said = ccd("predict", tiny_classifier, "photos", "--out", "out.xlsx")
    assert code == 1 and "out.xlsx ends in .xlsx, expected .csv, .jsonl, .parquet" in said


def test_a_class_may_be_called_labels_or_hold_no_ascii(tmp_path):
    frame = prediction_frame(["ä.jpg"], np.array([[0.9, 0.1]]), [0.5, 0.5], ["labels", "猫"], key="image")
    assert list(frame.columns) == ["image", "labels", "labels score", "猫"]
    for ending in (".csv", ".jsonl", ".parquet"):
        write_predictions(tmp_path / f"out{ending}", frame)
    assert (tmp_path / "out.csv").read_text() == "image,labels,labels score,猫\nä.jpg,labels,0.9,0.1\n"
    line = '{"image":"ä.jpg","labels":["labels"],"scores":{"labels score":0.9,"猫":0.1}}\n'
    assert (tmp_path / "out.jsonl").read_text() == line


def test_a_text_file_and_standard_input_list_photos(photos, tiny_classifier, tmp_path):
    (tmp_path / "photos" / "list.txt").write_text("a.png\n\n deep/er/c [1].webp\n")
    assert names(["photos/list.txt"]) == [photos[0], photos[2]]
    arguments = ["predict", str(tiny_classifier), "-"]
    result = CliRunner().invoke(cli.app, arguments, input="photos/deep/B.JPG\nphotos/a.png\n")
    assert [line.split(",")[0] for line in result.stdout.splitlines()[1:]] == [photos[1], photos[0]]
    result = CliRunner().invoke(cli.app, arguments, input="\n")
    assert "standard input is empty" in str(result.exception)


def test_tables_of_paths_parquet_with_images_and_tars_are_sources(photos, tmp_path):
    (tmp_path / "list.csv").write_text("image,labels\nphotos/a.png,cat\nphotos/deep/B.JPG,\n")
    assert [each.name for each in find_images(["list.csv"], ["cat"])] == photos[:2]
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add("photos/a.png", "1.png")
    pixels = (tmp_path / "photos" / "a.png").read_bytes()
    pd.DataFrame({"image": [pixels], "image_id": ["first"]}).to_parquet(tmp_path / "shard.parquet")
    assert names(["shard.tar", "shard.parquet"]) == ["shard/1.png", "first"]
    assert not list(tmp_path.glob("*.unpacked"))  # what is unpacked lies in the cache


@pytest.mark.parametrize("kind", ["txt", "csv", "standard input"])
def test_a_line_without_a_file_is_skipped_and_counted(photos, tiny_classifier, kind):
    lines = ["photos/gone.png", "photos/a.png"]
    source = "-"
    if kind != "standard input":
        source = f"list.{kind}"
        Path(source).write_text("\n".join(["image", *lines] if kind == "csv" else lines))
    code, output, said = ccd("predict", tiny_classifier, source, given="\n".join(lines))
    assert code == 0 and len(output.splitlines()) == 2
    assert "1 of 2 images cannot be read" in said and "photos/gone.png" in said


def test_addresses_are_fetched_and_dead_ones_are_listed(photos, tiny_classifier, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(remote, "SCHEMES", ("memory",))
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name in ("/shop/a.png", "/other/b.png"):  # one file at a time: fsspec's memory shares its position
        system.pipe(name, (tmp_path / "photos" / "a.png").read_bytes())
    (tmp_path / "list.csv").write_text("image\nmemory://other/b.png\nphotos/a.png\nmemory://shop/dead.png\n")
    code, output, said = ccd("predict", tiny_classifier, "list.csv", "memory://shop")
    system.store.clear()
    rows = [line.split(",") for line in output.splitlines()[1:]]
    assert code == 0, said
    assert [row[0] for row in rows] == ["memory://other/b.png", "photos/a.png", "memory://shop/a.png"]
    assert rows[0][1:] == rows[1][1:] == rows[2][1:]
    assert "1 of 4 images cannot be read" in said and "memory://shop/dead.png has no photos" in said


def write_video(path, seconds=3, rate=10):
    """A video of one colour per second: red, green, blue."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = 64, 48
        for n in range(seconds * rate):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[..., n // rate] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                video.mux(packet)
        for packet in stream.encode():
            video.mux(packet)


class Photos(BaseHTTPRequestHandler):
    """A web server with one photo and with several kinds of errors."""

    photo = b""

    def do_GET(self):
        name = self.path.split("?")[0]
        if name in ("/loop.png", "/moved.png"):
            self.send_response(302)
            self.send_header("Location", {"/loop.png": "/loop.png", "/moved.png": "/a.png"}[name])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = {
            "/a.png": self.photo,
            "/broken-off.png": self.photo,
            "/page.png": b"<html>no photo</html>",
        }.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + (name == "/broken-off.png")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_addresses_of_a_web_server(photos, tiny_classifier, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(Photos, "photo", Path(photos[0]).read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    web = f"http://127.0.0.1:{server.server_port}"
    good = [f"{web}/a.png", f"{web}/a.png?width=60&signed=a/b", f"{web}/moved.png"]
    bad = ("gone.png", "loop.png", "page.png", "broken-off.png")
    (tmp_path / "list.txt").write_text("\n".join([*good, *(f"{web}/{name}" for name in bad)]))
    try:
        code, alone, _ = ccd("predict", tiny_classifier, good[0])
        assert code == 0
        code, _, refused = ccd("predict", tiny_classifier, photos[0], tmp_path / "list.txt")
        assert code == 0 and "7 of 8 images" in refused
        assert "127.0.0.1 is a private address; to trust it, name an address of its host" in refused
        code, listed, told = ccd("predict", tiny_classifier, tmp_path / "list.txt", good[0])
    finally:
        server.shutdown()
        server.server_close()
    assert code == 0 and "4 of 7 images cannot be read and are skipped" in told
    for reason in (
        f"{web}/gone.png could not be fetched (not found)",
        f"{web}/loop.png could not be fetched",
        f"{web}/page.png: {tmp_path / 'cache'}",
        "page.png cannot be read as an image: its format is none of JPEG",
        f"{web}/broken-off.png broke off",
    ):
        assert reason in told
    (local,) = Classifier.load(tiny_classifier).scores(photos[0]).tolist()
    (row,) = csv.DictReader(alone.splitlines())
    rows = list(csv.DictReader(listed.splitlines()))
    assert [each["image"] for each in rows] == good
    for each in (row, *rows):
        assert [float(each[name]) for name in ("cat", "dog", "cow")] == pytest.approx(local, abs=1e-6)


def test_a_frame_of_a_video_every_so_many_seconds(photos, tiny_classifier, tmp_path):
    write_video(tmp_path / "clip.mp4")
    code, output, said = ccd("predict", tiny_classifier, "clip.mp4", "photos/a.png")
    assert code == 0 and said == ""
    assert [line.split(",")[0] for line in output.splitlines()[1:]] == [
        *("clip.mp4#t=0.0", "clip.mp4#t=1.0", "clip.mp4#t=2.0"),
        "photos/a.png",
    ]
    colours = [pixels.mean((0, 1)).argmax() for _, pixels in frames(tmp_path / "clip.mp4", 0.5)]
    assert colours == [0, 0, 1, 1, 2, 2]
    assert [round(time, 3) for time, _ in frames(tmp_path / "clip.mp4", 0.75)] == [0, 0.8, 1.5, 2.3]


def test_a_broken_video_is_skipped_and_listed(photos, tiny_classifier, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    code, output, said = ccd("predict", tiny_classifier, "broken.mp4", "list.mp4", "photos/a.png")
    assert code == 0 and len(output.splitlines()) == 2
    assert "broken.mp4 cannot be read as a video" in said and "2 of 3 images" in said


def test_a_video_without_its_package_names_the_extra(photos, tiny_classifier, tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, said = ccd("predict", tiny_classifier, "clip.mp4")
    assert code == 1 and "pip install '.[video]'" in said
