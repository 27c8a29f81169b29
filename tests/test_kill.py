import os
import shutil
import signal

import pytest
from kills import kill_and_go_on
from worlds.commands import command, invoke, start

from pipeline.runs.partial_results import PartialResults


@pytest.mark.slow
def test_a_chain_killed_at_twenty_moments_ends_like_an_unbroken_one(photos, backbone, tmp_path):
    assert kill_and_go_on(photos, backbone, tmp_path, kills=20, seed=0) >= 1


def killed_at_piece(number, *arguments):
    """Body of a process: a command that is killed when it comes to keep its piece of this number."""
    save = PartialResults.save_arrays

    def save_or_die(pieces, index, arrays):
        if index == number:
            os.kill(os.getpid(), signal.SIGKILL)
        save(pieces, index, arrays)

    PartialResults.save_arrays = save_or_die
    command(*arguments)


@pytest.mark.parametrize(("maps", "kept"), [("--half-maps", 3), ("--no-half-maps", 0)])
def test_killed_boxes_go_on_to_the_same_bytes(maps, kept, finished, tmp_path, monkeypatch):
    run, log = shutil.copytree(finished, tmp_path / "run"), tmp_path / "log"
    arguments = ("boxes", "--run", run, "--device", "cpu", "--batch-size", 2, maps)  # four pieces
    code, output = invoke(*arguments)
    assert code == 0, output
    unbroken = (run / "boxes.h5").read_bytes()
    (run / "boxes.h5").unlink()
    process = start(killed_at_piece, kept, *arguments, log=log)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    partial = run / "boxes.h5.partial"
    names = {"fingerprint", "logits.pt", *(f"{n:08d}.npz" for n in range(kept))}
    assert {path.name for path in partial.rglob("*") if path.is_file()} == names
    made, save = [], PartialResults.save_arrays
    monkeypatch.setattr(PartialResults, "save_arrays", lambda *piece: made.append(piece[1]) or save(*piece))
    code, output = invoke(*arguments)
    assert code == 0, output
    assert made == list(range(kept, 4))
    assert (run / "boxes.h5").read_bytes() == unbroken
    assert not partial.exists()
