"""A file that the operating system refuses to open is not damaged: no stage replaces it."""

import errno
import fcntl
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from worlds.commands import invoke, refused

from pipeline.artifacts.damage import reporting_damage
from pipeline.evaluation.read import read
from pipeline.runs.graph import find_stage
from pipeline.runs.options import FuseConfig
from pipeline.runs.settings import Settings
from pipeline.stages.plan import reason
from pipeline.system.errors import PipelineError, UnreadableError
from pipeline.system.files import replacing
from pipeline.teachers.embedding_cache import ImageStore, StoreKey
from pipeline.teachers.precomputed import read_precomputed

NO_LOCKS = "Unable to synchronously open file (unable to lock file, errno = {0}, error message = '{1}')"
"""Errors of h5py on a file system without locks: 37 on Linux, 77 on macOS, 95 on some mounts."""

HOLDER = "import h5py, sys\nfile = h5py.File(sys.argv[1], 'r+')\nprint('held', flush=True)\nsys.stdin.read()"


@pytest.fixture
def hold():
    """Body of a process that keeps an HDF5 file open, like a notebook."""
    started = []

    def open_there(path):
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=pipe, stdout=pipe))
        assert started[-1].stdout.readline() == b"held\n"

    yield open_there
    for process in started:
        process.communicate()


def test_a_locked_artifact_names_the_lock_and_is_read_once_it_is_gone(small_run, hold):
    path = small_run / "final_labels.h5"
    hold(path)
    with pytest.raises(UnreadableError, match=r"final_labels.h5 cannot be read .*another program.*Close it") as caught:
        read(path)
    assert "ebuild" not in str(caught.value) and "damaged" not in str(caught.value)


def test_a_locked_artifact_is_not_built_again(small_run, hold):
    path = small_run / "final_labels.h5"
    before = path.stat().st_ino  # HDF5 marks in the file itself that it is open
    hold(path)
    for command in ("fuse", "export-labels"):
        assert "another program has locked it" in refused(command, "--run", small_run), command
    assert path.stat().st_ino == before


def test_a_plan_does_not_take_a_locked_file_for_one_to_build(small_run, hold):
    hold(small_run / "final_labels.h5")
    with pytest.raises(UnreadableError, match="another program has locked it"):
        reason(find_stage("fuse"), small_run, FuseConfig(), Settings())


def test_locked_embeddings_are_neither_deleted_nor_computed_again(tmp_path, hold):
    key = StoreKey("teacher", 32, "float32")
    store = ImageStore(tmp_path, key)
    store.add(["0" * 64], [np.ones((1, 4), np.float32)])
    hold(store.path)
    for look in (lambda: ImageStore(tmp_path, key), lambda: list(store.blocks(["0" * 64]))):
        with pytest.raises(UnreadableError, match="another program"):
            look()


def test_locked_precomputed_scores(tmp_path, hold):
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        file["image_ids"] = ["a"]
    hold(tmp_path / "scores.h5")
    with pytest.raises(UnreadableError, match=r"scores.h5 cannot be read .*another program"):
        read_precomputed(tmp_path / "scores.h5")


@pytest.mark.parametrize("number", [37, 77, 95])
def test_a_file_system_without_locks_is_named_with_its_remedy(tmp_path, number):
    path = tmp_path / "final_labels.h5"
    path.touch()
    error = OSError(number, NO_LOCKS.format(number, os.strerror(number)))
    with pytest.raises(UnreadableError, match=r"no locks.*HDF5_USE_FILE_LOCKING=FALSE"), reporting_damage(path):
        raise error
    with (
        pytest.raises(PipelineError, match=r"not be written .*HDF5_USE_FILE_LOCKING=FALSE.*unchanged"),
        replacing(path),
    ):
        raise error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_failing_disk_is_no_damage(tmp_path, number):
    path = tmp_path / "final_labels.h5"
    path.touch()
    with pytest.raises(UnreadableError, match=os.strerror(number)), reporting_damage(path):
        raise OSError(number, "file read failed")


def test_what_points_outside_the_file_is_damage(tmp_path):
    path = tmp_path / "final_labels.h5"
    path.touch()
    with pytest.raises(PipelineError, match="damaged"), reporting_damage(path):
        raise OSError(errno.EINVAL, "Invalid argument")


def test_a_command_goes_on_without_locks_and_warns(small_run, monkeypatch, capfd):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    code, output = invoke("fuse", "--run", small_run, "--force")
    told = " ".join((output + capfd.readouterr().err).split())
    assert code == 0 and "file system without locks" in told and "one command at a time" in told
