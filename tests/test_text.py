"""Text that is not UTF-8, NUL bytes, and terminals of other encodings: one line or a replacement character."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from worlds.commands import ccd, invoke
from worlds.photos import write_photo

from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.voc import CLASS_NAMES, load
from pipeline.runs.settings import parse
from pipeline.system.errors import PipelineError

BYTES = os.fsdecode(b"x\xe9y")
"""A name in latin1, as Python decodes it on a system with UTF-8."""


@pytest.mark.parametrize(
    "command",
    [
        ("prepare", "./new", "--images", "x", "--classes", f"red,{BYTES}"),
        ("prepare", f"./{BYTES}", "--images", "x", "--classes", "red,green"),
        ("prepare", "./new", "--images", "x", "--set", f"embed.teacher={BYTES}"),
        ("prepare", "./new", "--images", "x", "--classes", "red,green", "--exclude", BYTES),
        ("inspect", "RUN", "--image", BYTES),
        ("export-labels", "RUN", "--out", f"{BYTES}-hf", "--format", "huggingface"),
        ("predict", "RUN", "x", "--out", f"{BYTES}.parquet"),
        ("export", "RUN", "--format", "hub", "--out", BYTES),
        ("export", "RUN", "--format", "onnx", "--out", BYTES),
        ("download", "voc07", "--root", "x", "--mirror", f"http://{BYTES}"),
    ],
)
def test_an_argument_that_is_not_utf8_is_one_line(command, written_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = invoke(*(written_run if word == "RUN" else word for word in command))
    assert code == 1 and "not valid UTF-8" in output and "x\\udce9y" in output and "\n" not in output
    assert not list(tmp_path.iterdir())


def test_a_run_of_the_environment_that_is_not_utf8_is_one_line(monkeypatch):
    monkeypatch.setenv("CCD_RUN", BYTES)
    code, output = invoke("status")
    assert code == 1 and "CCD_RUN has x\\udce9y, which is not valid UTF-8" in output


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_class_names_and_settings_are_text(name):
    with pytest.raises(PipelineError, match="not valid UTF-8"):
        check_class_names(["cat", name])
    if name != "\ud800":  # which no TOML file can have
        with pytest.raises(PipelineError, match="not valid UTF-8"):
            parse(f"[prepare]\nlabels = {json.dumps(name)}\n", "own.toml").check()


def test_an_annotation_of_an_unknown_encoding_is_one_line(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    write_photo(folder / "JPEGImages" / "0.jpg")
    write_photo(folder / "JPEGImages" / "1.jpg")
    for path, text in (
        ("ImageSets/Main/train.txt", "0\n"),
        ("ImageSets/Main/val.txt", "1\n"),
        ("Annotations/0.xml", f"<?xml version='1.0' encoding='x-y'?><annotation>{CLASS_NAMES[0]}</annotation>"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    with pytest.raises(PipelineError, match=r"0\.xml is not a VOC annotation \(unknown encoding"):
        load(tmp_path)


@pytest.mark.parametrize(
    "cells",
    [{"epoch": "nan"}, {"loss": "x"}, {"pseudo_label_mAP": "1_0"}, {"epoch": "1e999"}, {"loss": '"' + "9" * 140_000}],
)
def test_odd_cells_of_the_epochs_leave_the_curves_out(cells, written_run, tmp_path):
    run = shutil.copytree(written_run, tmp_path / "run")
    row = {"epoch": "1", "loss": "0.5", "pseudo_label_mAP": "0.5"} | cells
    (run / "train.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    ccd("report", run)
    code, output = invoke("inspect", run / "train.csv")
    assert code == 0 or "train.csv is damaged" in output


@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin1", "C"],
)
def test_terminals_of_other_encodings_get_replacements(settings, written_run, tmp_path):
    run = shutil.copytree(written_run, tmp_path / "run")
    (run / "train.csv").write_text("epoch,na\u00efve \u72ac\n1,0.5\n", encoding="utf-8")
    environment = os.environ | settings
    for arguments in (("inspect", run / "train.csv"), ("inspect", run / "\u72ac.h5"), ("--help",)):
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, timeout=120)
        output = (result.stdout + result.stderr).decode("latin1")
        assert result.returncode in (0, 1) and "Traceback" not in output, output


def test_a_working_directory_that_is_not_utf8_is_one_line(written_run, tmp_path):
    here = tmp_path / BYTES
    shutil.copytree(written_run, here / "run")
    for arguments in (("inspect", "./run"), ("export-labels", "./run", "--format", "huggingface"), ("report", "./run")):
        command = [sys.executable, "-m", "pipeline", *arguments]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        result = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode in (0, 1) and "Traceback" not in result.stderr, result.stderr
        assert result.returncode == 0 or "x\\udce9y" in result.stderr
