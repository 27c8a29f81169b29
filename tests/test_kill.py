"""Commands that are killed at random moments, or before they save a partial result, and repeated until they are done."""

import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from worlds.commands import ccd, command, killed_command, options, start
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.runs.partial_results import PartialResults

KILLS = int(os.environ.get("CCD_KILLS", "20"))
"""Kills of the chain; more take longer."""

TIMED = ["images_per_second", "data_wait"]
"""Columns of the tables of epochs that depend on speed."""


def with_colours(*arguments):
    """Body of a process: `ccd` with the colour teacher."""
    use_teacher(ColourTeacher())
    command(*arguments)


def content_of(folder):
    """Content of a run that does not depend on kills: file name to bytes or table."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in ("warmup.csv", "train.csv"):
            found[name] = pd.read_csv(path).drop(columns=TIMED).to_csv()
        elif path.is_file() and name not in ("timings.json", ".lock"):
            found[name] = path.read_bytes()
    return found


def finish(arguments, log):
    """Seconds that an unbroken run takes."""
    begun = time.monotonic()
    process = start(with_colours, *arguments, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return time.monotonic() - begun


def kill_and_go_on(photos, backbone, root, kills, seed):
    """Kill a run at random moments, and compare its final files with an unbroken run; returns how often it ended.

    A run that ends before its next kill is compared and started again.
    """
    rng = np.random.default_rng(seed)
    log = root / "log"
    seconds = finish(options(photos, backbone, root / "unbroken"), log)
    wanted = content_of(root / "unbroken")
    folder, ends = root / "killed", 0
    arguments = options(photos, backbone, folder)
    for _ in range(kills):
        while True:
            process = start(with_colours, *arguments, log=log)
            process.join(rng.uniform(0, seconds))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                break
            ends += 1
            assert process.exitcode == 0, log.read_text()
            check_same(content_of(folder), wanted)
            shutil.rmtree(folder)
    finish(arguments, log)
    check_same(content_of(folder), wanted)
    return ends + 1


def check_same(found, wanted):
    """Raise unless two runs hold the same, and no file is left over."""
    assert set(found) == set(wanted), set(found) ^ set(wanted)
    different = [name for name in wanted if found[name] != wanted[name]]
    assert not different, different


@pytest.mark.slow
def test_a_chain_killed_at_random_moments_ends_like_an_unbroken_one(photos, backbone, tmp_path):
    assert kill_and_go_on(photos, backbone, tmp_path, kills=KILLS, seed=0) >= 1


@pytest.mark.parametrize(("maps", "kept"), [("--half-maps", 3), ("--no-half-maps", 0)])
def test_killed_boxes_go_on_to_the_same_bytes(maps, kept, finished, tmp_path, monkeypatch):
    run, log = shutil.copytree(finished, tmp_path / "run"), tmp_path / "log"
    arguments = ("boxes", "--run", run, "--device", "cpu", "--batch-size", 2, maps)  # four pieces
    ccd(*arguments)
    unbroken = (run / "boxes.h5").read_bytes()
    (run / "boxes.h5").unlink()
    process = start(killed_command, kept, *arguments, log=log)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    partial = run / "boxes.h5.partial"
    names = {"fingerprint", "logits.pt", *(f"{n:08d}.npz" for n in range(kept))}
    assert {path.name for path in partial.rglob("*") if path.is_file()} == names
    made, save = [], PartialResults.save_arrays
    monkeypatch.setattr(PartialResults, "save_arrays", lambda *piece: made.append(piece[1]) or save(*piece))
    ccd(*arguments)
    assert made == list(range(kept, 4))
    assert (run / "boxes.h5").read_bytes() == unbroken
    assert not partial.exists()
