"""Ctrl-C ends a command at any moment, and the last line names what is kept."""

import gc
import os
import shutil
import signal
import sys
import time
import weakref

import pytest
from worlds.commands import command, start

from pipeline import cli
from pipeline.cli import entry
from pipeline.runs.graph import STAGE_NAMES


class Doomed:
    """Sends Ctrl-C while it is destroyed, where Python drops every exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def drop_in_a_weak_reference():
    """Send Ctrl-C in the callback of a weak reference."""
    doomed = type("Plain", (), {})()
    reference = weakref.ref(doomed, lambda _: Doomed.__del__(None))
    del doomed
    assert reference() is None


def interrupted_boxes(drop, *arguments):
    """Body of a process: `ccd boxes`, interrupted at its first boxes where Python drops the exception."""
    from pipeline.stages import boxes

    find = boxes.find_boxes

    def interrupted(*how):
        boxes.find_boxes = find
        drop()
        gc.collect()
        return find(*how)

    boxes.find_boxes = interrupted
    command("boxes", *arguments)


@pytest.mark.parametrize("drop", [Doomed, drop_in_a_weak_reference])
def test_ctrl_c_that_python_drops_ends_the_command_all_the_same(drop, finished, tmp_path):
    run, log = shutil.copytree(finished, tmp_path / "run"), tmp_path / "log"
    before = (run / "boxes.h5").stat().st_mtime_ns
    arguments = ("--run", run, "--device", "cpu", "--batch-size", 2, "--force", "--no-half-maps")
    process = start(interrupted_boxes, drop, *arguments, log=log)
    process.join()
    assert process.exitcode == 130, log.read_text()
    assert "interrupted; finished work is kept. Continue with `ccd boxes" in log.read_text()
    assert (run / "boxes.h5").stat().st_mtime_ns == before


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("tool", "arguments", "kept"),
    [
        ("pipeline.deploy.predict.run", ["predict", "classifier.pt", "."], False),
        ("pipeline.deploy.calibrate.run", ["-q", "calibrate", "classifier.pt", "labels.csv"], False),
        ("pipeline.deploy.export.run", ["export", "classifier.pt"], False),
        ("pipeline.datasets.benchmarks.fetch", ["download", "voc07", "--root", "voc"], True),
    ],
)
def test_only_what_is_kept_is_said_to_be_kept(tool, arguments, kept, tiny_classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_classifier, tmp_path / "classifier.pt")
    monkeypatch.setattr(tool, interrupt)
    monkeypatch.setattr(sys, "argv", ["ccd", *arguments])
    monkeypatch.setattr(entry.interrupts, "watch", lambda: None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    said = " ".join(capsys.readouterr().err.split())
    if "-q" not in arguments:
        assert ("finished work is kept" in said) == kept
        assert ("no work is kept" in said) != kept and f"`ccd {' '.join(arguments)}`" in said


def test_every_stage_with_partial_results_keeps_its_work():
    assert {name for name in STAGE_NAMES if "finished work is kept" in entry.next_step([name])} == {
        *("prepare", "embed", "warmup", "boxes", "score-crops", "train")
    }
    assert "finished work is kept" in entry.next_step(["--verbose", "all", "--run", "demo"])
