"""Photos that cannot be read, of every kind, in commands: each is skipped and named, and none ends or blocks a command."""

import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from damaged_photos import damaged, sound_photos
from PIL import Image, features
from worlds.commands import invoke
from worlds.photos import write_photo

from pipeline.artifacts.manifest import read_manifest


def avif_of_a_runtime_error():
    """A damaged AVIF file of which Pillow raises RuntimeError."""
    rng = np.random.default_rng(0)
    sound = sound_photos("AVIF", rng)[0]
    for _ in range(2000):
        content, _ = damaged(sound, rng)
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except RuntimeError:
            return content
        except (OSError, SyntaxError, ValueError):
            continue
    raise AssertionError("no AVIF of this Pillow raises RuntimeError")


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The working directory with `photos`: two sound ones, and one of each kind that cannot be read."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(("a.png", "deep/b.png")):
        write_photo(folder / name, seed=seed)
    if features.check("avif"):
        (folder / "bad.avif").write_bytes(avif_of_a_runtime_error())
    os.mkfifo(folder / "fifo.jpg")
    os.mknod(folder / "socket.jpg", stat.S_IFSOCK | 0o600)
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    (folder / "deep" / "loop").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    return folder


def bad_names(folder: Path):
    return {path.name for path in (*folder.iterdir(), folder / "deep" / "loop")} - {"a.png", "deep"}


def test_prepare_skips_and_names_them(hostile, tmp_path):
    code, output = invoke("prepare", "--images", "photos", "--classes", "cat,dog", "--run", "run")
    assert code == 0, output
    manifest = read_manifest(tmp_path / "artifacts" / "run")
    assert manifest.image_ids == ["a.png", "deep/b.png"]
    assert {Path(name).name for name in manifest.skipped} == bad_names(hostile)


def test_predict_skips_and_names_them(hostile, tiny_classifier, capfd):
    names = bad_names(hostile) - {"loop"}
    Path("list.txt").write_text("\n".join(f"photos/{name}" for name in (*names, "deep", "deep/loop", "x" * 300, "\0")))
    for sources in (["photos"], [f"photos/{name}" for name in names], ["list.txt"]):
        code, output = invoke("predict", tiny_classifier, "photos/a.png", *sources)
        output += capfd.readouterr().err
        assert code == 0 and all(name in output for name in names), output
        assert "photos/a.png," in output


def test_a_broken_archive_of_a_list_is_skipped_and_named(hostile, tiny_classifier, capfd):
    Path("broken.tar").write_bytes(b"no tar")
    Path("broken.parquet").write_bytes(b"no table")
    Path("list.txt").write_text("broken.tar\nphotos/a.png\nbroken.parquet\n")
    code, output = invoke("predict", tiny_classifier, "list.txt")
    output += capfd.readouterr().err
    assert code == 0 and "2 of 3 images" in output and "broken.parquet" in output
    assert "broken.tar is not a complete tar or zip archive" in output
    code, output = invoke("predict", tiny_classifier, "photos/a.png", "broken.tar")  # named on the command line
    assert code == 1 and "broken.tar is not a complete" in output


def test_lists_that_are_pipes_are_refused(hostile, tiny_classifier):
    for name in ("list.csv", "list.parquet", "list.tar", "list.txt", "list.mp4"):
        os.mkfifo(name)
        code, output = invoke("predict", tiny_classifier, name)
        assert code == 1 and "\n" not in output.strip(), output
        code, output = invoke("prepare", "--images", name, "--classes", "cat,dog", "--run", "run")
        assert code in (1, 2), output


def test_a_photo_that_became_a_pipe_stops_no_page_and_is_named_by_exports(run):
    manifest = read_manifest(run)
    first = Path(manifest.paths[0])
    other = run / "pipe.png"
    os.mkfifo(other)
    table = (run / "manifest.csv").read_text()
    (run / "manifest.csv").write_text(table.replace(str(first), str(other)))
    code, output = invoke("report", "--run", run)
    assert code == 0, output
    for arguments in (["score-crops", "--force", "--run", run], ["export-labels", run, "--format", "huggingface"]):
        code, output = invoke(*arguments)
        assert code == 1 and "pipe.png" in output and "not a file" in output, output
