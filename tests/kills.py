"""`ccd all` on the tiny world of colours, killed at random moments and typed again until it is done."""

import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
from worlds.commands import command, options, start
from worlds.teachers import ColourTeacher, use_teacher

TIMED = ["images_per_second", "data_wait"]
"""Columns of the tables of epochs that say how fast it was."""


def with_colours(*arguments):
    """Body of a process: `ccd` with the colour teacher."""
    use_teacher(ColourTeacher())
    command(*arguments)


def content_of(folder):
    """What a run holds, as far as it has to be the same however often it was killed."""
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
    """Kill a run so many times, at moments drawn from its length, and check what it ends with; returns how often it ended.

    A run that ends before its next kill is compared and begun anew.
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
