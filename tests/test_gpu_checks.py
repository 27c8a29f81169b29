"""A rehearsal on the CPU of what `make check-gpu` does on a GPU."""

import pytest
import torch
from benchmarks import gpu
from benchmarks.gpu import CHECKS, CPU_LOAD, RATES, Bench
from gpu_checks import REHEARSAL, NotHere, Rig

LONG = ("training in bfloat16", "processes of torchrun", "the demo", "rate of training")


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in names]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(Rig("cpu", REHEARSAL, tmp_path_factory.mktemp("rig")), CPU_LOAD)


@pytest.mark.parametrize("name", marked(CHECKS))
def test_a_check_passes_in_a_rehearsal(name, bench):
    assert CHECKS[name](bench.rig)


@pytest.mark.parametrize("name", marked(RATES))
def test_a_rate_can_be_measured(name, bench):
    assert "images/s" in RATES[name](bench)


def test_a_failure_is_a_line_of_the_table_and_the_rest_goes_on(capsys):
    def fails():
        raise AssertionError("off by 3")

    def is_not_here():
        raise NotHere("needs two GPUs")

    assert gpu.run_all({"one": lambda: "fine", "two": is_not_here}, "here")
    assert "not here" in capsys.readouterr().out
    assert not gpu.run_all({"one": fails, "two": lambda: "fine"}, "here")
    said = capsys.readouterr().out
    assert "FAILED" in said and "off by 3" in said and "fine" in said


def test_without_a_gpu_the_command_says_how_to_rehearse(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit, match=r"no CUDA device; `make check-gpu DEVICE=cpu`"):
        gpu.main()
