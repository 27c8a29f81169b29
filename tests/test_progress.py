import io
import sys
from types import ModuleType, SimpleNamespace

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


class Notebook:
    """The output of a notebook's cell, in place of IPython."""

    def __init__(self, monkeypatch):
        self.tables, self.drawn = [], 0
        modules = {"IPython": ModuleType("IPython"), "IPython.display": ModuleType("IPython.display")}
        modules["IPython.display"].display = self.display
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(progress, "console", Console(force_jupyter=True))

    def display(self, table, display_id):
        self.tables.append(table)
        place = len(self.tables) - 1
        return SimpleNamespace(update=lambda table: self.update(place, table))

    def update(self, place, table):
        self.tables[place] = table
        self.drawn += 1

    def text(self, place):
        lines = io.StringIO()
        Console(file=lines, width=140).print(self.tables[place])
        return lines.getvalue()


def test_a_notebook_shows_each_bar_once_and_redraws_it(monkeypatch):
    notebook = Notebook(monkeypatch)
    with progress.bar("train", 200) as outer:
        with progress.bar("test images", 3) as inner:
            inner.advance(3)
        for _ in range(200):
            outer.advance(1, "loss 0.5")
    assert len(notebook.tables) == 2 and notebook.drawn < 20
    assert "200/200" in notebook.text(1) and "loss 0.5" in notebook.text(1) and "3/3" in notebook.text(0)


def test_a_quiet_notebook_shows_no_bar(monkeypatch):
    notebook = Notebook(monkeypatch)
    progress.console.quiet = True
    with progress.bar("train", 2) as bar:
        bar.advance(2)
    assert not notebook.tables


def test_messages_come_from_the_first_process_alone(capsys, monkeypatch):
    progress.log("one [line] only")
    monkeypatch.setattr("pipeline.system.distributed.rank", lambda: 1)
    progress.log("not this")
    assert capsys.readouterr().err == "one [line] only\n"
