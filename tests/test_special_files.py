"""A pipe, a socket or a device in the place of a file is refused in one line; a reader that opened it would wait for ever."""

import os
import shutil
import signal
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
from worlds.commands import ccd, invoke

from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.state import file_states
from pipeline.evaluation.read import read
from pipeline.evaluation.run_files import read_run
from pipeline.runs.graph import MAKERS
from pipeline.runs.lock import FILE
from pipeline.system.errors import PipelineError

NAMES = [
    *MAKERS,
    "manifest.json",
    "run.toml",
    "timings.json",
    "warmup.csv",
    "train.csv",
    "photos.csv",
    "predictions.csv",
]


@contextmanager
def no_hang(seconds=20):
    """Fail instead of waiting for ever."""

    def stop(*_):
        raise AssertionError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def make_device(path):
    path.symlink_to(os.ttyname(terminal[1]))


terminal = os.openpty()
"""A device that a reader waits for, where /dev/zero would fill the memory."""


KINDS = pytest.mark.parametrize("make", [make_pipe, make_socket, make_device], ids=["pipe", "socket", "device"])


@KINDS
@pytest.mark.parametrize("name", NAMES)
def test_a_special_file_in_a_run_is_refused(name, make, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    make(run / name)
    with no_hang():
        for reader in (read_manifest, file_states, read_run):
            try:
                reader(run)
            except PipelineError as error:
                assert "\n" not in str(error)
        with pytest.raises(PipelineError):
            read(run / name)
        for command in (("inspect", run), ("status", "--run", run), ("list",)):
            code, output = invoke(*command)
            assert code in (0, 1) and "Traceback" not in output, output


@KINDS
def test_a_lock_that_is_not_a_file_is_refused(make, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / FILE).unlink(missing_ok=True)
    make(run / FILE)
    with no_hang():
        code, output = invoke("fuse", "--run", run, "--force")
    assert (code == 1 and "cannot be the lock" in output) or "cannot be written" in output


def test_a_lock_that_is_a_link_keeps_its_target(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "letter.txt").write_text("dear")
    (run / FILE).unlink(missing_ok=True)
    (run / FILE).symlink_to(tmp_path / "letter.txt")
    code, output = invoke("fuse", "--run", run, "--force")
    assert code == 1 and "is a link" in output and (tmp_path / "letter.txt").read_text() == "dear"


@KINDS
@pytest.mark.parametrize(
    "command",
    [
        (
            "all",
            "--run",
            "NEW",
            "--images",
            "PHOTOS",
            "--classes",
            "red,green",
            "--labels",
            "FILE.csv",
            "--to",
            "prepare",
        ),
        ("all", "--run", "NEW", "--images", "PHOTOS", "--classes", "FILE.txt", "--to", "prepare"),
        ("all", "--run", "NEW", "--images", "FILE.csv", "--classes", "red,green", "--to", "prepare"),
        ("all", "--run", "NEW", "--images", "FILE.tar", "--classes", "red,green", "--to", "prepare"),
        ("all", "--run", "NEW", "--images", "FILE.zip", "--classes", "red,green", "--to", "prepare"),
        ("all", "--run", "NEW", "--images", "FILE.parquet", "--classes", "red,green", "--to", "prepare"),
        ("all", "--run", "NEW", "--preset", "FILE.toml", "--to", "prepare"),
        ("embed", "--run", "RUN", "--precomputed", "FILE.h5"),
        ("init-labels", "--run", "RUN", "--labels-file", "FILE.h5"),
        ("embed", "--run", "RUN", "--teacher", "openai:FILE.pt"),
        ("warmup", "--run", "RUN", "--weights", "FILE.pt", "--force"),
        ("import-labels", "FILE.csv", "--run", "RUN"),
        ("import-labels", "FILE.json", "--run", "RUN"),
        ("calibrate", "RUN", "FILE.csv"),
        ("predict", "RUN", "FILE.jpg"),
        ("predict", "RUN", "FILE.txt"),
        ("predict", "FILE.pt", "PHOTOS"),
        ("inspect", "FILE.h5"),
        ("ablation", "RUN", "--plan", "FILE.toml"),
    ],
    ids=" ".join,
)
def test_a_special_file_as_an_argument_is_refused(command, make, finished, photos, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    name = next(part.rpartition(":")[2] for part in command if "FILE" in part)
    make(tmp_path / name)
    words = {"RUN": run, "NEW": tmp_path / "new", "PHOTOS": photos / "train"}
    arguments = [words.get(part, part.replace(name, str(tmp_path / name))) for part in command]
    with no_hang():
        code, output = invoke(*arguments)
    assert code in (1, 2) and "\n" not in output.strip(), output


@KINDS
def test_a_special_file_among_photos_is_skipped(make, photos, tmp_path):
    shutil.copytree(photos / "train", tmp_path / "photos")
    make(tmp_path / "photos" / "odd.png")
    with no_hang():
        output = ccd("prepare", "--run", tmp_path / "run", "--images", tmp_path / "photos", "--classes", "red,green")
    assert "odd.png" in output
