"""Full disks: every command that writes fails with one line that names the reason, and keeps the old files.

A limit on the size of files stands for the disk: each write beyond it fails, as on a full disk, but with another reason.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from worlds.archives import write_parquet
from worlds.commands import invoke, processes
from worlds.photos import write_photo
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.classifier.features import mapped
from pipeline.exchange.formats import FORMATS
from pipeline.photos.image_cache import ImageCache
from pipeline.runs.graph import STAGE_NAMES
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing

REASON = os.strerror(errno.EFBIG)

EXPORTS = [
    ("export-labels", "RUN", "--format", name, *["--boxes"] * kind.boxes, *["--copy"] * kind.photos)
    for name, kind in FORMATS.items()
]
COMMANDS = [
    *((stage, "RUN", "--force", *["--device", "cpu"][: 2 * (stage != "prepare")]) for stage in STAGE_NAMES),
    *EXPORTS,
    *(("export", "RUN", "--format", name) for name in ("onnx", "torch-export", "hub")),
    ("report", "RUN"),
    ("export-review", "RUN"),
    ("import-labels", "RUN", "SAID.csv"),
    ("calibrate", "RUN", "LABELLED.csv", "--folds", "2", "--device", "cpu"),
    *(("predict", "RUN", "PHOTO", "--device", "cpu", "--out", f"OUT{end}") for end in (".csv", ".jsonl", ".parquet")),
    ("predict", "RUN", "SHARD.parquet", "--device", "cpu"),
    ("inspect", "RUN", "--image", "0.png", "--show", "--out", "OUT.png"),
    ("prepare", "NEW", "--images", "SHARD.parquet", "--classes", "red,green"),
    ("prepare", "NEW", "--kind", "demo", "--root", "DEMO"),
]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def run_limited(sender, limit, commands, cache):
    """Body of a process whose files may have `limit` bytes: send the exit code and output of every command."""
    os.environ["CCD_CACHE"] = str(cache)
    use_teacher(ColourTeacher())
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for command in commands:
        try:
            sender.send(invoke(*command))
        except BaseException as error:
            sender.send((repr(error), f"Traceback: {error!r}"))


@pytest.mark.parametrize("limit", [0, 700])
def test_a_full_disk_is_one_line_that_says_so_and_keeps_the_old_files(limit, finished, photos, tmp_path):
    pytest.importorskip("onnx")
    run = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "SAID.csv").write_text("image_id,red\n0.png,0\n")
    (tmp_path / "LABELLED.csv").write_text(
        f"image,labels\n{photos}/train/0.png,red;green\n{photos}/test/2.png,blue\n{photos}/test/0.png,red\n"
    )
    write_parquet(tmp_path / "SHARD.parquet", image=[photo.read_bytes() for photo in (photos / "test").glob("*.png")])
    places = {"RUN": run, "PHOTO": photos / "train" / "0.png"}
    commands = [
        [places.get(word, tmp_path / word if word.isupper() or word.startswith(("OUT", "SAID", "LAB", "SHARD")) else word) for word in command]
        for command in COMMANDS
    ]  # fmt: skip
    before = contents(tmp_path)
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=run_limited, args=(sender, limit, commands, tmp_path / "cache"))
    process.start()
    sender.close()
    for command in commands:
        try:
            code, output = receiver.recv()
        except EOFError:
            process.join()
            pytest.fail(f"ccd {command} ended the process: {process.exitcode}")
        assert code in (0, 1), (command, output)
        if code == 1:
            assert REASON in output and "\n" not in output, (command, output)
        assert limit or code == 1, (command, output)
    process.join()
    after = contents(tmp_path)
    assert not set(before) - set(after) and not [path for path in after if path.name.endswith(".unfinished")]
    if not limit:
        assert [path for path in before if before[path] != after[path]] == []


def test_a_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "out.csv")
    with pytest.raises(PipelineError, match="it is a FIFO, not a file"), replacing(tmp_path / "out.csv"):
        pass
    assert (tmp_path / "out.csv").is_fifo()


def limited(function, limit):
    """Body of a process: call a function that has to fail with the reason."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        function()
    except PipelineError as error:
        os._exit(0 if REASON in str(error) else 3)
    os._exit(4)


@pytest.mark.parametrize("kind", ["feature maps", "resized photos"])
def test_caches_need_room(kind, tmp_path):
    if kind == "feature maps":  # a mapped file without room would kill the process
        process = processes.Process(target=limited, args=(FillMaps(tmp_path / "a.f16"), 5000))
    else:
        photo = write_photo(tmp_path / "a.png", (60, 60))
        process = processes.Process(target=limited, args=(KeepPhoto(str(photo), tmp_path / "cache"), 5000))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"]


class FillMaps:
    def __init__(self, path):
        self.path = path

    def __call__(self):
        mapped(self.path, (10, 1, 10, 10, 10))[:] = np.ones(1)


class KeepPhoto:
    def __init__(self, photo, folder):
        self.photo, self.folder = photo, folder

    def __call__(self):
        ImageCache(self.folder).load_view(self.photo, (60, 60))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("config", "RUN"), ("predict", "RUN", "PHOTOS", "--device", "cpu")])
def test_a_full_standard_output_is_named(arguments, finished, photos):
    places = {"RUN": finished, "PHOTOS": photos / "test"}
    command = [sys.executable, "-m", "pipeline", *(str(places.get(word, word)) for word in arguments)]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith("error: standard output could not be written (No space left on device).")
    )
    assert "Traceback" not in result.stderr and "ignored" not in result.stderr
