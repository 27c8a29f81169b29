import io
import sys

from rich.console import Console

from pipeline.system import progress


def terminal(monkeypatch):
    """Text on the terminal from now on."""
    written = io.StringIO()
    written.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=True, width=140))
    return written


def test_a_terminal_shows_count_rate_and_note(monkeypatch):
    screen = terminal(monkeypatch)
    with progress.bar("train", 100, done=20) as bar:
        for _ in range(4):
            bar.advance(10, "loss 0.5")
            bar.advance(10)
    last = screen.getvalue().rpartition("train")[2]
    assert "100/100" in last and "/s" in last and "loss 0.5" in last


def test_a_bar_inside_a_bar(monkeypatch):
    screen = terminal(monkeypatch)
    with progress.bar("train", 2) as outer:
        with progress.bar("test images", 3) as inner:
            inner.advance(3)
        outer.advance(2)
    assert "3/3" in screen.getvalue() and "2/2" in screen.getvalue()


def test_no_terminal_no_bar(capsys):
    with progress.bar("train", 10) as bar:
        bar.advance(10, "loss 0.5")
        bar.record({"loss": 0.5}, "batch")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_messages_come_from_the_first_process_alone(capsys, monkeypatch):
    progress.log("one [line] only")
    monkeypatch.setattr("pipeline.system.distributed.rank", lambda: 1)
    progress.log("not this")
    assert capsys.readouterr().err == "one [line] only\n"
