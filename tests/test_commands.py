"""Locks, plans, names, settings and outputs of commands."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds.commands import ccd, command, invoke, options, refused, start
from worlds.runs import write_labelled_run

from pipeline import Classifier
from pipeline.artifacts.checkpoints import read_checkpoint, write_checkpoint
from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.cli.stages import is_measured
from pipeline.deploy.calibrate import calibrated
from pipeline.deploy.files import calibrated_file
from pipeline.runs.graph import VERSIONS
from pipeline.runs.lock import locked
from pipeline.runs.settings import assignments_to_settings, read_run, write_run
from pipeline.runs.timings import networks_of, read_timings
from pipeline.stages.plan import plan_run
from pipeline.system import files
from pipeline.system.errors import PipelineError


def hold(folder):
    """Body of a process that keeps a run locked."""
    with locked(Path(folder)):
        time.sleep(60)


@pytest.fixture
def holder(run, tmp_path):
    """A process that keeps a run locked."""
    process = start(hold, str(run), log=tmp_path / "holder.log")
    lock = run / ".lock"
    for _ in range(600):
        if str(process.pid) in lock.read_text():
            break
        time.sleep(0.1)
    yield process
    process.kill()
    process.join()


def test_the_second_command_in_a_run_says_who_is_there(run, holder):
    before = (run / "run.toml").read_text()
    assert f"{run} is in use by process {holder.pid}" in refused("fuse", "--run", run)
    assert invoke("prepare", "--run", run, "--classes", "red,blue")[0] == 1
    assert (run / "run.toml").read_text() == before
    assert invoke("status", "--run", run)[0] == 0  # looks, and writes nothing


def test_a_killed_command_leaves_no_lock(run, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert str(holder.pid) in (run / ".lock").read_text()
    ccd("fuse", "--run", run)
    assert (run / ".lock").read_text() == ""


def test_plan_says_what_would_be_built_and_why(run):
    assert [step.why for step in plan_run(run, read_run(run))] == [""] * 9
    assert "everything is up to date" in ccd("status", "--run", run)
    with (run / "run.toml").open("a") as file:
        file.write("[fuse]\nratio = 0.6\n")
    steps = {step.stage: step for step in plan_run(run, read_run(run))}
    assert steps["score-crops"].why == "" and "ratio 0.8 -> 0.6" in steps["fuse"].why
    assert steps["train"].why == "after fuse"
    taken = json.loads((run / "timings.json").read_text())["train"]["seconds"]
    assert steps["train"].seconds == pytest.approx(taken)
    assert f"`ccd all {run}`" in ccd("status", "--run", run)
    (run / "boxes.h5").unlink()
    assert {step.stage: step.why for step in plan_run(run, read_run(run))}["boxes"] == "boxes.h5 is missing"


def reasons(run):
    return {step.stage: step.why for step in plan_run(run, read_run(run))}


@pytest.fixture
def own_photos(run, photos, tmp_path):
    """The run with photos that a test may change."""
    shutil.copytree(photos, tmp_path / "photos")
    sources = ("--images", tmp_path / "photos/train", "--test-images", tmp_path / "photos/test")
    ccd("prepare", run, *sources, "--labels", tmp_path / "photos/labels.csv")
    assert set(reasons(run).values()) == {""}
    return tmp_path / "photos"


def test_plan_looks_at_the_photos(run, own_photos):
    photo = min((own_photos / "train").iterdir())
    shutil.copy(photo, own_photos / "train" / "new.png")
    assert reasons(run)["prepare"] == "1 photos are new" and reasons(run)["train"] == "after prepare"
    (own_photos / "train" / "new.png").unlink()
    os.utime(photo, ns=(1, 1))
    assert "1 photos may have changed" in reasons(run)["prepare"]
    ccd("prepare", run, "--labels", "")
    photo.unlink()
    assert reasons(run)["prepare"] == "1 photos are missing"
    status = invoke("status", run)[1]
    assert status.count("after prepare") == 7 and "left out: there is no ground truth" in status
    own_photos.rename(own_photos.with_name("elsewhere"))
    assert str(own_photos / "train") in refused("status", run)


def test_plan_looks_at_labels_and_settings(run, own_photos):
    (run / "ground_truth.h5").unlink()
    assert reasons(run)["prepare"] == "ground_truth.h5 is missing"
    assert invoke("prepare", run)[0] == 0 and set(reasons(run).values()) == {""}
    text = (own_photos / "labels.csv").read_text()
    (own_photos / "labels.csv").write_text(text.replace("red", "blue"))
    assert reasons(run)["prepare"] == "the labels have changed"
    (own_photos / "labels.csv").write_text(text)
    (run / "run.toml").write_text((run / "run.toml").read_text() + "[classes]\nred = ['scarlet']\n")
    assert reasons(run)["prepare"] == "the classes have changed (other display names: red)"
    (run / "run.toml").unlink()
    assert "no photos are named" in refused("status", run)


def test_plan_after_other_classes_counts_no_pass_of_the_teacher(run):
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(text.replace("red,green,blue", "red,pink,blue") + "[classes]\nblue = 'azure'\n")
    steps = {step.stage: step for step in plan_run(run, read_run(run))}
    assert steps["prepare"].why == "the classes have changed (new: pink; removed: green; other display names: blue)"
    assert steps["embed"].why == "after prepare" and steps["embed"].seconds is None


def test_an_edited_display_name_makes_every_file_out_of_date(run):
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(f"{text}[classes]\nred = 'scarlet'\ngren = 'lime'\n")
    wrong = "run.toml has other display names of red since it was made"
    assert f"{wrong}. Run every stage up to fuse with `ccd all {run} --to fuse`." in refused("fuse", run)
    assert f"{wrong}. Rebuild the run with `ccd all {run}`." in " ".join(ccd("inspect", run).split())
    typo = "run.toml has 'gren' under [classes], which is not a class and has no effect. Did you mean 'green'"
    assert typo in " ".join(ccd("status", run).split())
    assert typo in " ".join(ccd("all", run, "--to", "prepare").split())
    (run / "run.toml").write_text(text)
    ccd("prepare", run)
    assert "everything is up to date" in ccd("status", run)


def test_names_of_a_recipe_that_are_no_classes_are_no_typing_errors(run):
    assert "under [classes]" not in ccd("all", run, "--to", "prepare", "--recipe", "ccd")


def test_plan_tries_photos_again_that_could_not_be_read(run, own_photos):
    broken = own_photos / "train" / "broken.png"
    broken.write_bytes(b"nothing")
    ccd("prepare", run)
    assert reasons(run)["prepare"] == ""
    shutil.copy(own_photos / "train" / "0.png", broken)
    assert "1 photos that could not be read can be read now" in reasons(run)["prepare"]


def test_plan_knows_of_copies_and_of_forgotten_photos(run, own_photos):
    shutil.copy(own_photos / "train" / "0.png", own_photos / "test" / "copy.png")
    ccd("prepare", run)
    assert reasons(run)["prepare"] == ""
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(text.replace("[prepare]", "[prepare]\nkeep_test_copies = true"))
    assert reasons(run)["prepare"] == "1 test photos are also train photos"
    ccd("prepare", run)
    assert reasons(run)["prepare"] == ""
    (run / "run.toml").write_text(text)
    assert reasons(run)["prepare"] == "1 test photos are also train photos"
    ccd("prepare", run)
    (run / "photos.csv").unlink()
    assert "12 photos may have changed" in reasons(run)["prepare"]


def test_plan_names_what_it_does_not_look_into(photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(photos / "train" / "0.png", "0.png")
    given = ("--images", tmp_path / "photos.zip", "--classes", "red,blue")
    ccd("prepare", tmp_path / "run", *given)
    assert "does not check archives" in ccd("status", tmp_path / "run")


def test_plan_without_ground_truth_ends(run):
    ccd("prepare", run, "--labels", "")
    code, output = invoke("status", run)
    assert code == 0 and "left out: there is no ground truth" in output and "everything is up to date" in output


def test_plan_of_a_run_that_has_done_nothing_knows_no_times(run):
    for path in run.iterdir():
        if path.name not in ("run.toml", "manifest.csv", "manifest.json", ".lock"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    steps = {step.stage: step for step in plan_run(run, read_run(run))}
    assert steps["embed"].seconds is None and steps["evaluate"].why == "after prepare"


def cells_of(line):
    return [cell.strip() for cell in re.split(r"[│┃]", line) if cell.strip()]


def test_config_says_where_each_option_comes_from(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, output = invoke("config", "--run", run)
    assert code == 0
    found = {cells[0]: cells[1:] for cells in map(cells_of, output.splitlines()) if len(cells) == 3}
    assert found["train.epochs"] == ["3", "given"]
    assert found["train.seed"] == ["0", "default"]
    assert found["prepare.kind"] == ["'folder'", "preset folder"]


def test_config_shows_a_recipe_before_its_run_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def settings_of(*arguments):
        lines = map(cells_of, ccd("config", *arguments).splitlines())
        return {cells[0]: cells[1:] for cells in lines if len(cells) == 3}

    both = settings_of("--preset", "voc12", "--recipe", "ccd")
    assert both["fuse.ratio"] == ["0.2", "recipe ccd"] and both["prepare.year"] == ["2012", "preset voc12"]
    assert both["classes.car"] == ["['car']", "recipe ccd"] and both["classes.dog"] == ["['dog']", "preset voc12"]
    assert both["train.seed"] == ["0", "default"]
    assert settings_of("--recipe", "ccd")["prepare.kind"] == ["''", "default"]
    assert not list(tmp_path.iterdir())
    Path("artifacts/voc12").mkdir(parents=True)
    Path("artifacts/voc12/run.toml").write_text("[fuse]\nratio = 0.4\nboxless = 'erase'\n")
    changed = settings_of("--preset", "voc12")
    assert changed["fuse.ratio"] == ["0.4", "given"] and changed["classes.car"] == [
        "['car', 'automobile']",
        "preset voc12",
    ]
    assert len(list(Path("artifacts/voc12").iterdir())) == 1


def test_runs_lists_what_is_under_artifacts(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run" in ccd("list")
    shutil.copytree(run, tmp_path / "artifacts" / "first")
    code, output = invoke("list")
    assert code == 0 and "first" in output and "evaluate" in output


def begin(run, photos, *more):
    return invoke("prepare", "--run", run, "--images", photos / "train", "--classes", "red,green,blue", *more)


def test_a_run_in_the_working_directory_is_named_by_a_path(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert f"write ./{run.name}" in " ".join(refused("status", "--run", run.name).split())
    (run / "metrics.json").unlink()
    assert f"`ccd all ./{run.name}`" in " ".join(ccd("status", "--run", f"./{run.name}").split())
    assert "There are none" in invoke("status", "--run", "nowhere")[1]


@pytest.fixture
def beside_photos(finished, photos, tmp_path, monkeypatch):
    """A working directory with a folder of photos and, under artifacts/, the run of the same name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(photos / "test", tmp_path / "photos")
    return shutil.copytree(finished, tmp_path / "artifacts" / "photos")


@pytest.mark.parametrize(
    "named", [["photos"], ["artifacts/photos"], ["--run", "photos"], ["--run", "artifacts/photos"]]
)
@pytest.mark.parametrize(
    ("command", "rest", "shown"),
    [
        ("inspect", [], "final_labels.h5"),
        ("predict", ["photos", "--device", "cpu"], "red"),
        ("export", ["--format", "torch-export"], "classifier.pt2"),
        ("export-labels", ["--out", "labels.csv"], "labels.csv"),
        ("calibrate", ["thresholds.json"], "calibrated.pt"),
        ("report", ["--images", "0"], "report.html"),
        ("status", [], "everything is up to date"),
        ("config", [], "train.epochs"),
        ("export-review", [], "review.json"),
        ("fuse", ["--device", "cpu"], "up to date"),
    ],
)
def test_a_run_has_one_name_in_every_command_whatever_lies_here(command, rest, shown, named, beside_photos):
    classes = read_manifest(beside_photos).class_names
    Path("thresholds.json").write_text(json.dumps(dict.fromkeys(classes, 0.5)))
    code, output = invoke(command, *named, *rest)
    assert code == 0 and shown in output, output


def test_the_line_after_a_run_names_commands_that_work(beside_photos, monkeypatch):
    monkeypatch.setattr("pipeline.web.server.serve", lambda *_, **__: None)  # which would wait for requests
    output = ccd("all", "photos", "--device", "cpu")
    commands = re.findall(r"`ccd ([^`]*)`", " ".join(output.split("Next:")[1].split()))
    assert len(commands) == 3
    for text in commands:
        code, output = invoke(*text.replace("PHOTOS", "photos").split())
        assert code == 0, (text, output)


def test_printed_commands_work_for_a_name_with_a_space(finished, photos, tmp_path, monkeypatch):
    """The shell splits names that are not quoted."""
    monkeypatch.setattr("pipeline.web.server.serve", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("my photos", "-x"):
        shutil.copytree(photos / "test", name)
        shutil.copytree(finished, Path("artifacts", name))
        output = ccd("all", "--run", f"artifacts/{name}", "--device", "cpu")
        commands = re.findall(r"`ccd ([^`]*)`", " ".join(output.split("Next:")[1].split()))
        assert len(commands) == 3
        for text in commands:
            words = [f"./{name}" if word == "PHOTOS" else word for word in shlex.split(text)]
            code, output = invoke(*words)
            assert code == 0, (text, output)


def test_two_different_names_are_refused(beside_photos):
    assert "two runs are named" in refused("fuse", "photos", "--run", "others")
    assert "IMAGES is missing after 'photos'" in refused("predict", "photos")


def test_a_file_of_a_run_is_named_by_its_path(beside_photos, monkeypatch):
    ccd("inspect", "artifacts/photos/boxes.h5")
    monkeypatch.chdir(beside_photos)
    ccd("inspect", "boxes.h5")
    assert "nothing.h5 is missing" in refused("inspect", "artifacts/photos/nothing.h5")


def test_what_a_run_was_given_stays_and_a_change_is_shown(photos, tmp_path):
    folder = tmp_path / "run"
    assert begin(folder, photos, "--set", "train.epochs=5")[0] == 0
    code, output = begin(folder, photos, "--set", "fuse.ratio=0.4")
    assert code == 0 and "changed for this run: fuse.ratio: default -> 0.4" in output
    assert read_run(folder).tables["train"] == {"epochs": 5}
    code, output = begin(folder, photos, "--set", "train.epochs=7")
    assert "changed for this run: train.epochs: 5 -> 7" in output
    code, output = begin(folder, photos, "--reset")
    assert code == 0 and "train" not in read_run(folder).tables


def test_a_run_of_a_recipe_has_a_name_of_its_own_and_many_changes_are_counted(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("--images", photos / "train", "--classes", "red,green,blue", "--to", "prepare")
    ccd("all", *given)
    ccd("all", *given, "--recipe", "ccd")
    assert {path.name for path in Path("artifacts").iterdir()} == {"train", "train-ccd"}
    output = ccd("all", "train", "--to", "prepare", "--recipe", "ccd")
    assert output.count("changed for this run: ") == 11 and "more; `ccd config train`" in " ".join(output.split())


@pytest.mark.parametrize(
    ("stage", "option"),
    [("embed", "embed.image_size=640"), ("boxes", "boxes.image_size=96"), ("score-crops", "score-crops.view_size=640")],
)
def test_a_duration_with_other_networks_is_no_estimate(stage, option, run):
    own = read_run(run)
    timing = read_timings(run)[stage]
    assert timing.networks == networks_of(stage, own)
    changed = own.merged(assignments_to_settings([option], "--set"))
    assert timing.networks != networks_of(stage, changed)
    assert timing.networks == networks_of(stage, own.merged(assignments_to_settings(["fuse.ratio=0.3"], "--set")))
    write_run(run, changed)
    [step] = [step for step in plan_run(run, changed) if step.stage == stage]
    assert step.is_built and step.seconds != pytest.approx(timing.seconds)


def test_an_option_of_a_stage_stays_with_the_run(run):
    assert "changed for this run: fuse.ratio: default -> 0.2" in ccd("fuse", run, "--ratio", 0.2)
    text = (run / "run.toml").read_text() + "# a note\n"
    (run / "run.toml").write_text(text)
    assert "up to date" in ccd("fuse", run) and read_run(run).tables["fuse"] == {"ratio": 0.2}
    assert (run / "run.toml").read_text() == text
    before = (run / "run.toml").read_bytes()
    assert invoke("fuse", run, "--ratio", 7)[0] != 0 and (run / "run.toml").read_bytes() == before


def test_paths_mean_the_same_from_every_directory(photos, tmp_path, monkeypatch):
    """The same command in another directory names other photos there; the run keeps its own and refuses them."""
    for place in ("here", "there"):
        shutil.copytree(photos / "train", tmp_path / place / "photos")
        name = min(path.name for path in (photos / "train").iterdir())
        (tmp_path / place / "labels.csv").write_text(f"image,labels\n{name},red\n")
        (tmp_path / place / "classes.txt").write_text("red\ngreen\nblue\n")
    given = ["--images", "photos", "--classes", "classes.txt", "--labels", "labels.csv", "--set", "train.cache=cache"]
    monkeypatch.setenv("CCD_RUN", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path / "here")
    ccd("prepare", *given, "--set", "embed.teacher=open_clip:local-dir:photos")
    tables, here = read_run(tmp_path / "run").tables, tmp_path / "here"
    assert tables["prepare"]["images"] == str(here / "photos") and tables["prepare"]["labels"] == str(
        here / "labels.csv"
    )
    assert tables["prepare"]["classes"] == str(here / "classes.txt") and tables["train"]["cache"] == str(here / "cache")
    assert tables["embed"]["teacher"] == f"open_clip:local-dir:{here / 'photos'}"
    monkeypatch.chdir(tmp_path / "there")
    assert "up to date" in ccd("prepare")
    code, output = invoke("prepare", *given)
    assert code == 0 and f"prepare.images: {str(here / 'photos')!r} -> {str(tmp_path / 'there' / 'photos')!r}" in output


def test_a_preset_file_stays_below_what_the_run_was_given_since(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"[prepare]\nkind = 'folder'\nimages = '{photos}/train'\nclasses = 'red,blue'\n[train]\nepochs = 3\n"
    (tmp_path / "mine.toml").write_text(text)
    ccd("prepare", "--preset", "mine.toml", "--set", "train.epochs=5")
    for name in ("mine.toml", tmp_path / "mine.toml"):
        ccd("prepare", "--preset", name)
        assert read_run(Path("artifacts/mine")).tables["train"]["epochs"] == 5


def test_the_run_whose_embeddings_are_reused_is_the_same_from_every_directory(finished, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "artifacts/first")
    ccd("prepare", "--run", "second", "--images", photos / "train", "--classes", "red,green,blue")
    ccd("prepare", "--run", "second", "--set", "embed.reuse_embeddings=first")
    assert read_run(Path("artifacts/second")).tables["embed"]["reuse_embeddings"] == str(tmp_path / "artifacts/first")


def test_a_first_run_that_fails_leaves_no_folder(photos, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "broken.jpg").write_text("no photo")
    for images in (tmp_path / "notes", tmp_path / "nowhere"):
        for run in ("run", "artifacts/deep/run"):
            code, output = invoke("prepare", tmp_path / run, "--images", images, "--classes", "red,blue")
            assert code == 1 and [path.name for path in tmp_path.iterdir()] == ["notes"], output
    assert begin(tmp_path / "run", photos)[0] == 0
    assert invoke("prepare", tmp_path / "run", "--images", tmp_path / "notes")[0] == 1
    assert (tmp_path / "run" / "manifest.csv").exists()


def test_a_failing_command_leaves_the_settings_alone(photos, tmp_path):
    folder = tmp_path / "run"
    assert begin(folder, photos)[0] == 0
    before = (folder / "run.toml").read_text()
    assert invoke("prepare", "--run", folder, "--images", tmp_path / "gone")[0] == 1
    assert invoke("prepare", "--run", folder, "--set", "train.epochs=-1")[0] == 1
    assert (folder / "run.toml").read_text() == before


def test_two_folders_of_one_name_do_not_share_a_run_silently(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for parent in ("a", "b"):
        shutil.copytree(photos / "train", tmp_path / parent / "holiday")
    ccd("prepare", "--images", "a/holiday", "--classes", "red,blue")
    code, output = invoke("prepare", "--images", "b/holiday", "--classes", "red,blue")
    assert code == 1 and f"artifacts/holiday is the run of {tmp_path}/a/holiday" in output and "--run holiday" in output
    ccd("prepare", "--images", "b/holiday", "--classes", "red,blue", "--run", "holiday")


def test_options_of_another_kind_of_dataset_are_refused(photos, tmp_path):
    code, output = begin(tmp_path / "run", photos, "--year", "2007")
    assert code == 1 and "--year is for datasets of kind voc" in output and "kind folder" in output
    assert not (tmp_path / "run").exists()


def test_all_stops_after_the_stage_that_was_named(photos, backbone, tmp_path, colour_teacher):
    folder = tmp_path / "run"
    ccd(*options(photos, backbone, folder), "--to", "init-labels")
    assert (folder / "initial_labels.h5").exists() and not (folder / "warmup.pt").exists()
    assert "init-labels" in refused("all", "--run", folder, "--to", "inti-labels")


def test_labels_of_test_photos_alone_measure_what_they_can(photos, run):
    lines = (photos / "labels.csv").read_text().splitlines()
    table = run.parent / "labels.csv"
    table.write_text("\n".join([lines[0], *(line for line in lines if line.startswith("test/"))]))
    ccd("prepare", "--run", run, "--labels", table)
    output = ccd("evaluate", "--run", run)
    assert "8 train images have no labels, so pseudo-labels are not measured" in output
    assert set(json.loads((run / "metrics.json").read_text())["test"]) >= {"final classifier"}


def test_figures_of_labels_that_were_taken_away_are_not_shown(run):
    assert is_measured(run)
    (run / "ground_truth.h5").unlink()
    assert (run / "metrics.json").exists() and not is_measured(run)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "RUN", "PHOTO", "--out", "OUT.csv"),
        ("export", "RUN", "--format", "torch-export", "--out", "OUT.pt2"),
        ("export-labels", "RUN", "--out", "OUT.csv"),
        ("export-review", "--run", "RUN", "--out", "OUT.json"),
        ("inspect", "RUN", "--image", "0.png", "--show", "--out", "OUT.png"),
        ("calibrate", "RUN", "LABELS", "--out", "OUT.pt"),
    ],
)
def test_nothing_that_is_there_is_overwritten_without_force(arguments, run, photos, tmp_path):
    ending = Path(arguments[arguments.index("--out") + 1]).suffix
    out = tmp_path / f"mine{ending}"
    out.write_text("precious")
    places = {"RUN": run, "PHOTO": photos / "train" / "0.png", "LABELS": photos / "labels.csv", f"OUT{ending}": out}
    code, output = invoke(*(places.get(each, each) for each in arguments))
    assert code == 1 and f"{out} exists already" in output and "--force" in output
    assert out.read_text() == "precious"
    if arguments[0] in ("predict", "inspect"):
        code, output = invoke(*(places.get(each, each) for each in arguments), "--force")
        assert code == 0 and out.read_bytes() != b"precious"


def test_a_picture_does_not_take_the_place_of_a_photo_here(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.png").write_text("my photo")
    code, output = invoke("inspect", run, "--image", "0.png", "--show")
    assert code == 1 and "0.png exists already" in output and (tmp_path / "0.png").read_text() == "my photo"


def test_calibrated_thresholds_take_effect_until_the_classifier_changes(run):
    assert calibrated_file(run) == run / "classifier.pt"
    checkpoint = read_checkpoint(run / "classifier.pt")
    origin = Provenance("classifier", VERSIONS["classifier"], {}, {"classifier.pt": checkpoint.provenance.fingerprint})
    write_checkpoint(run / "calibrated.pt", calibrated(checkpoint, np.full(3, 1.0), origin))
    photo = read_manifest(run).paths[0]
    code, output = invoke("predict", run, photo)
    assert code == 0 and "thresholds set by" in output
    assert "no class reaches its threshold in any photo" in output
    assert "thresholds set by" not in ccd("predict", run / "classifier.pt", photo)
    stale = Provenance("classifier", VERSIONS["classifier"], {}, {"classifier.pt": "another"})
    write_checkpoint(run / "calibrated.pt", calibrated(checkpoint, np.full(3, 1.0), stale))
    code, output = invoke("predict", run, photo)
    assert code == 0 and "is not used: its thresholds were made with an earlier classifier.pt" in output
    for arguments in (("all", run), ("train", run)):
        assert f"`ccd calibrate {run} TABLE`" in " ".join(ccd(*arguments, "--device", "cpu").split())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(run, value):
    checkpoint = read_checkpoint(run / "classifier.pt")
    head = checkpoint.weights["head.weight"]
    head[(0,) * head.ndim] = value
    write_checkpoint(run / "classifier.pt", checkpoint)
    code, output = invoke("predict", run / "classifier.pt", read_manifest(run).paths[0])
    assert code == 1 and "are not all finite" in output and "`ccd train" in output


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.update({"head.weight": weights["head.weight"][:1]}),
        lambda weights: weights.pop("head.weight"),
        lambda weights: weights.update(other=torch.zeros(2)),
    ],
    ids=["shape", "missing", "surplus"],
)
def test_weights_that_do_not_fit_are_one_line(run, change):
    checkpoint = read_checkpoint(run / "classifier.pt")
    change(checkpoint.weights)
    write_checkpoint(run / "classifier.pt", checkpoint)
    code, output = invoke("predict", run / "classifier.pt", read_manifest(run).paths[0])
    assert code == 1 and "do not fit its architecture" in output and "ccd train" in output and "\n" not in output


def test_the_same_scores_for_all_photos_are_a_warning(run):
    checkpoint = read_checkpoint(run / "classifier.pt")
    for value in checkpoint.weights.values():
        value.zero_()
    write_checkpoint(run / "classifier.pt", checkpoint)
    assert "all photos have the same scores" in ccd("predict", run / "classifier.pt", *read_manifest(run).paths[:3])


def test_a_training_state_that_does_not_fit_is_one_line(run):
    checkpoint = read_checkpoint(run / "warmup.pt")
    checkpoint.training["optimizer"]["param_groups"].pop()
    write_checkpoint(run / "warmup.pt", checkpoint)
    code, output = invoke("train", "--run", run, "--force", "--device", "cpu")
    assert code == 1 and "training cannot continue" in output and "ccd warmup" in output


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "--run", "RUN"),
        ("export-labels", "RUN"),
        ("export-review", "--run", "RUN"),
        ("fuse", "--run", "RUN", "--ratio", "0.4"),
        ("predict", "RUN", "PHOTO", "--out", "OUT.csv"),
        ("inspect", "RUN", "--image", "0.png", "--show", "--out", "OUT.png"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(arguments, run, photos, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    places = {
        "RUN": run,
        "PHOTO": photos / "train" / "0.png",
        "OUT.csv": tmp_path / "o.csv",
        "OUT.png": tmp_path / "o.png",
    }
    monkeypatch.setattr(files.os, "fsync", full_disk)
    code, output = invoke(*(places.get(each, each) for each in arguments))
    assert code == 1 and "No space left" in output and "\n" not in output
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "RUN", "PHOTO", "--out", "BELOW/o.csv"),
        ("export-labels", "RUN", "--out", "BELOW/o.csv"),
        ("export-labels", "RUN", "--format", "huggingface", "--out", "BELOW/o"),
        ("export-review", "--run", "RUN", "--out", "BELOW/o.json"),
        ("inspect", "RUN", "--image", "0.png", "--show", "--out", "BELOW/o.png"),
        ("warmup", "--run", "RUN", "--force", "--device", "cpu", "--cache", "BELOW"),
        ("prepare", "--run", "BELOW/run", "--images", "PHOTO", "--classes", "a,b"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_one_line(arguments, run, photos, tmp_path):
    (tmp_path / "file").write_text("")
    places = {"RUN": str(run), "PHOTO": str(photos / "train" / "0.png")}
    given = [places.get(each, each).replace("BELOW", str(tmp_path / "file")) for each in arguments]
    code, output = invoke(*given)
    assert code == 1 and str(tmp_path / "file") in output and "\n" not in output


def test_the_command_line_turns_a_failing_disk_into_one_line(run, tmp_path, monkeypatch):
    log = tmp_path / "log"
    process = start(below_a_file, log=log)
    process.join()
    assert process.exitcode == 1
    assert "error: " in log.read_text() and "Traceback" not in log.read_text()


def below_a_file():
    from pipeline.cli import entry

    entry.app = full_disk
    entry.main()


MAKE_CLEAN = ("", "..", ".", "a/../..", "/", "artifacts/x", ".hidden")


@pytest.mark.parametrize("name", MAKE_CLEAN)
def test_make_clean_removes_no_more_than_one_run(name, tmp_path):
    makefile = Path(__file__).parents[1] / "Makefile"
    (tmp_path / "artifacts" / "demo").mkdir(parents=True)
    (tmp_path / "artifacts" / "other").mkdir()
    done = subprocess.run(["make", "-f", makefile, "clean", f"RUN={name}"], cwd=tmp_path, capture_output=True)
    assert done.returncode != 0
    assert (tmp_path / "artifacts" / "demo").is_dir()
    done = subprocess.run(["make", "-f", makefile, "clean", "RUN=demo"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["other"]


def test_one_photo_is_enough_or_says_what_is_missing(photos, backbone, tmp_path, colour_teacher):
    (tmp_path / "photos").mkdir()
    shutil.copy(photos / "train" / "0.png", tmp_path / "photos")
    ccd("all", "--run", tmp_path / "run", "--images", tmp_path / "photos", "--classes",
                          "red,green,blue", "--device", "cpu", "--set", "warmup.backbone=timm:test_resnet",
                          "--set", f"warmup.weights={backbone}", "--set", "warmup.epochs=1",
                          "--set", "train.epochs=1")  # fmt: skip
    assert (tmp_path / "run" / "classifier.pt").exists()


def test_the_photos_of_a_written_run_are_checked_too(tmp_path):
    folder = write_labelled_run(tmp_path / "run")
    (folder / "photos" / "train" / "0.png").unlink()
    process = start(command, "warmup", "--run", folder, "--device", "cpu", log=tmp_path / "log")
    process.join()
    assert process.exitcode == 1 and "1 of the 12 photos" in (tmp_path / "log").read_text()


def test_a_run_is_loaded_as_ccd_predict_takes_it(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "artifacts" / "colours")
    monkeypatch.chdir(tmp_path)
    names = read_checkpoint(run / "classifier.pt").class_names
    Path("thresholds.json").write_text(json.dumps(dict.fromkeys(names, 0.25)))
    ccd("calibrate", "colours", "thresholds.json")
    assert "`ccd predict " in ccd("calibrate", "colours", "thresholds.json")  # as often as the user likes
    for name in ("colours", "artifacts/colours", run):
        assert Classifier.load(name).thresholds.tolist() == [0.25] * len(names)
    assert Classifier.load(run / "classifier.pt").thresholds.tolist() == [0.5] * len(names)
    with pytest.raises(PipelineError, match="elsewhere is not a run"):
        Classifier.load("elsewhere")
