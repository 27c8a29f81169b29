"""Damaged partial results are computed again: the stage ends with the bytes of an unbroken one."""

import os
import shutil

import numpy as np
import pytest
import torch
from worlds.commands import ccd, invoke

from pipeline.runs.partial_results import PartialResults
from pipeline.system.sealed import check_seal, seal

ROUNDS = int(os.environ.get("CCD_FUZZ_ROUNDS", "12")) // 2
"""Damaged partial results per stage."""
SEED = int(os.environ.get("CCD_FUZZ_SEED", "17"))


def flip(path, rng, others):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= int(rng.integers(1, 256))
    path.write_bytes(content)


def truncate(path, rng, others):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def swap(path, rng, others):
    shutil.copy(others[rng.integers(len(others))], path)


def other_content(path, rng, others):
    if path.suffix == ".pt":
        torch.save({"rows": [{"epoch": 1}], "logits": torch.zeros(2, 2)}, path)
    else:
        np.savez(path, rows=np.zeros((3, 3)))


def pipe(path, rng, others):
    path.unlink()
    os.mkfifo(path)


DAMAGES = (flip, flip, truncate, swap, other_content, pipe)


def stop_before_removal(monkeypatch):
    def stop(partial):
        raise KeyboardInterrupt

    monkeypatch.setattr(PartialResults, "remove", stop)


@pytest.mark.parametrize(
    ("stage", "name", "options"),
    [
        ("score-crops", "crop_scores.h5", []),
        ("boxes", "boxes.h5", ["--batch-size", "2"]),
        ("train", "classifier.pt", []),
    ],
)
def test_a_damaged_partial_result_is_computed_again(
    stage, name, options, finished, tmp_path, colour_teacher, monkeypatch
):
    run = shutil.copytree(finished, tmp_path / "stopped")
    command = (stage, "--device", "cpu", "--force", *options, "--run")
    ccd(*command, run)
    unbroken = (run / name).read_bytes()
    with monkeypatch.context() as patch:
        stop_before_removal(patch)
        assert invoke(*command, run)[0] == 130
    (run / name).unlink()
    rng = np.random.default_rng(SEED)
    for number in range(ROUNDS):
        damaged = shutil.copytree(run, tmp_path / str(number))
        files = sorted(path for path in (damaged / f"{name}.partial").rglob("*") if path.is_file())
        path = files[rng.integers(len(files))]
        DAMAGES[number % len(DAMAGES)](path, rng, [each for each in files if each != path])
        ccd(stage, "--device", "cpu", *options, "--run", damaged)
        assert (damaged / name).read_bytes() == unbroken, (path, DAMAGES[number % len(DAMAGES)])
        shutil.rmtree(damaged)


def test_a_seal_covers_content_and_place(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb+") as stream:
        np.savez(stream, rows=np.arange(5))
        seal(stream, "place")
    check_seal(path, "place")
    with np.load(path) as content:
        assert content["rows"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="does not match"):
        check_seal(path, "another place")
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(ValueError, match="does not match"):
            check_seal(path, "place")
