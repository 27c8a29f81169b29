"""Every flipped byte of an HDF5 file of a run is noticed, and none hangs or crashes a reader."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.artifacts.hdf5_file import creating, put_attributes, put_texts, take_attributes, take_texts
from pipeline.runs.graph import MAKERS

STEP = int(os.environ.get("CCD_FLIP_STEP", "61"))
"""Every so many bytes one is flipped; 1 for all, which takes about a minute per file."""


@pytest.mark.parametrize("name", [name for name in MAKERS if name.endswith(".h5") and name != "corrections.h5"])
def test_a_flipped_byte_is_refused_or_in_unused_space(name, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    script = Path(__file__).with_name("flips.py")
    command = [sys.executable, script, run / name, "0", "16384", str(STEP)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 20_000 / STEP)
    outcomes = Counter(line.partition(" ")[2] for line in done.stdout.splitlines())
    assert done.returncode == 0, f"after {done.stdout.splitlines()[-1]}: {done.stderr}"
    assert set(outcomes) <= {"refused", "same"} and outcomes["refused"] > outcomes["same"] / 4, outcomes


def test_texts_survive_and_those_of_variable_length_are_refused(tmp_path):
    texts = ["", "é" * 90, "a\tb", "狗"]
    with creating(tmp_path / "new.h5") as file:
        put_texts(file, "ids", texts)
        put_texts(file, "none", [])
        put_attributes(file, {"empty": "", "text": "ü" * 40_000, "number": 3, "flag": True})
        file.attrs["variable"] = "text"
        file["variable"] = np.array(["a"], dtype=object)
    with h5py.File(tmp_path / "new.h5") as file:
        assert take_texts(file, "ids") == texts and take_texts(file, "none") == []
        with pytest.raises(ValueError, match="variable length"):
            take_texts(file, "variable")
        with pytest.raises(ValueError, match="variable length"):
            take_attributes(file)
