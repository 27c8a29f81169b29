"""The pipeline from Python."""

import inspect
import re
import shutil
import tomllib
import traceback
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds.commands import ccd
from worlds.photos import COLOURS
from worlds.runs import IDS, write_labelled_run, write_large_run, write_run
from worlds.teachers import ColourTeacher, use_teacher

from pipeline import Classifier, PipelineError, Run, fit, read
from pipeline.report.summary import PHOTOS
from pipeline.runs.graph import MAKERS, STAGES, options_of
from pipeline.runs.options import FuseConfig
from pipeline.runs.settings import SHORT
from pipeline.stages.forecast import Forecast

PREPARED = ("manifest.csv", "ground_truth.h5")


def train_colours(photos, backbone, out, classes=tuple(COLOURS), **changes):
    """`fit` with the options of `worlds.commands.options`."""
    arguments = {
        "test_images": [photos / "test"],
        "labels": photos / "labels.csv",
        "backbone": "timm:test_resnet",
        "epochs": 3,
        "batch_size": 4,
        "image_size": 64,
        "device": "cpu",
    }
    settings = {"warmup.weights": backbone, "warmup.predict_size": 64, "train.predict_size": 80}
    settings |= {"boxes.classes_per_image": 2} | changes.pop("settings", {})
    return fit(photos / "train", classes, out=out, settings=settings, **arguments | changes)


def contents(folder):
    """The bytes of every artifact of a run."""
    return {name: (folder / name).read_bytes() for name in MAKERS if (folder / name).exists()}


def times(folder):
    """When each artifact of a run was written, except those of `prepare`, which always runs."""
    return {
        name: (folder / name).stat().st_mtime_ns for name in MAKERS if name not in PREPARED and (folder / name).exists()
    }


def stored(run):
    """The settings of a run."""
    return tomllib.loads((run.folder / "run.toml").read_text())


def test_fit_makes_the_files_of_ccd_all(photos, backbone, colour_teacher, finished, tmp_path):
    run = train_colours(photos, backbone, tmp_path / "run")
    assert contents(run.folder) == contents(finished)
    assert run.labels.frame().columns.tolist() == list(COLOURS)
    assert set(run.metrics["test"]) >= {"final classifier"}


def test_fit_trains_on_a_few_demo_scenes(tmp_path, capsys):
    small = {"prepare.train_scenes": 12, "prepare.test_scenes": 6, "embed.image_size": 64, "train.cross_fit_rounds": 0}
    run = fit(preset="demo", out=tmp_path / "run", epochs=1, image_size=64, device="cpu", settings=small)
    assert run.labels.labels.shape == (12, 16) and run.metrics["gain"]
    assert "12 train and 6 test photos, 16 classes" in repr(run) and run._repr_html_().count("<img ") == 6
    scenes = sorted((tmp_path / "run" / "scenes" / "test").glob("*.jpg"))
    assert [sorted(each.scores) for each in run.classifier.predict(scenes)] == [sorted(run.labels.class_names)] * 6
    assert run.report(images=0) == tmp_path / "run" / "report.html"
    assert "report.html: 0 of 18 images" in capsys.readouterr().err


def test_fit_again_rebuilds_what_a_changed_argument_makes_out_of_date(photos, backbone, colour_teacher, run):
    before = times(run)
    train_colours(photos, backbone, run)
    assert times(run) == before
    train_colours(photos, backbone, run, epochs=2)
    changed = {name for name, time in times(run).items() if time != before[name]}
    assert changed == {"classifier.pt", "epoch_scores.h5", "cross_fitted_labels.h5", "metrics.json"}
    assert stored(Run(run))["train"]["epochs"] == 2


def test_an_interrupted_fit_continues(photos, backbone, monkeypatch, finished, tmp_path):
    use_teacher(ColourTeacher(limit=16), monkeypatch)  # of 12 photos, and then some of their crops
    with pytest.raises(KeyboardInterrupt):
        train_colours(photos, backbone, tmp_path / "run")
    before = times(tmp_path / "run")
    assert "next stage: score-crops" in repr(Run(tmp_path / "run"))
    use_teacher(ColourTeacher(), monkeypatch)
    run = train_colours(photos, backbone, tmp_path / "run")
    assert before and before.items() <= times(run.folder).items()
    assert contents(run.folder) == contents(finished)


def test_a_stage_runs_with_its_option_and_after_those_that_are_out_of_date(run, colour_teacher):
    opened = Run(run, device="cpu")
    labels, before = opened.labels.labels, times(run)
    assert opened.fuse(ratio=0.1) is opened
    assert stored(opened)["fuse"]["ratio"] == 0.1 and not (opened.labels.labels == labels).all()
    assert {name for name, time in times(run).items() if time != before[name]} == {"final_labels.h5"}
    assert "next stage: train" in repr(opened)
    ccd("fuse", "--run", run, "--ratio", 0.8)
    assert (opened.labels.labels == labels).all()

    opened.boxes(classes_per_image=3)
    opened.fuse()
    assert times(run)["crop_scores.h5"] > before["crop_scores.h5"]
    assert stored(opened)["boxes"]["classes_per_image"] == 3


def test_a_long_run_starts_with_its_estimate(run, colour_teacher, monkeypatch, capsys):
    estimate = Forecast({"train": 7200.0}, kept=10**9, temporary=0)
    monkeypatch.setattr("pipeline.stages.forecast.forecast", lambda *_, **__: estimate)
    Run(run, device="cpu").fuse(ratio=0.2)
    lines = capsys.readouterr().err
    assert 0 < lines.find("2.0 h (train 2.0 h)") < lines.find("final_labels.h5: 8 images")


def test_the_classifier_of_a_run_is_that_of_its_last_training(run, photos, colour_teacher):
    opened, photo = Run(run, device="cpu"), photos / "test" / "0.png"
    before = opened.classifier.scores(photo)
    opened.train(epochs=1)
    after = opened.classifier.scores(photo)
    assert (after != before).all() and (after == Classifier.load(run, "cpu").scores(photo)).all()
    with pytest.warns(UserWarning, match="metrics.json is out of date"):
        assert opened.metrics["test"]


def test_a_path_a_pillow_image_and_an_array_get_the_same_prediction(finished, photos):
    path = photos / "test" / "0.png"
    with Image.open(path) as image:
        predictions = Run(finished).classifier.predict([path, str(path), image, np.asarray(image)])
    assert all(each == predictions[0] for each in predictions)
    assert predictions == Classifier.load(finished).predict([path] * 4)


def test_the_settings_of_a_run_have_the_arguments(photos, colour_teacher, tmp_path):
    classes = {"warm": ["red", "dark red"], "cold": {"blue": 1.0, "green": 0.5}, "red_thing": "thing in green"}
    run = fit(photos / "train", classes, out=tmp_path / "run", to="prepare", seed=5, settings={"train.seed": 6})
    assert stored(run)["train"] == {"seed": 6} and stored(run)["boxes"] == {"seed": 5}
    assert stored(run)["classes"] == {**classes, "red_thing": ["thing in green"]}
    assert stored(run)["prepare"]["classes"] == "warm,cold,red_thing"
    assert "3 classes (warm, cold, red_thing)" in repr(run) and run.metrics == {}
    again = fit(photos / "train", {**classes, "warm": "red"}, out=tmp_path / "run", to="prepare")
    assert stored(again)["classes"]["warm"] == ["red"]


def test_one_class_is_not_the_file_of_its_name(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("red").write_text("green\nblue\n")
    assert "1 class (red)" in repr(fit(photos / "train", ["red"], out="./run", to="prepare"))
    assert "2 classes (green, blue)" in repr(fit(photos / "train", "red", out="./run", to="prepare"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"classes": ["ram, tup", "dog"]}, "class name 'ram, tup' has a comma"),
        ({"classes": {"dog": 3}}, "`classes` has dog = 3, expected a text, a list of texts"),
        ({"classes": ["dog", "Dog"]}, "are the same to the teacher"),
        ({"settings": {"epochs": 3}}, "'epochs' does not have the form STAGE.OPTION"),
        ({"settings": {"trian.epochs": 3}}, "Did you mean 'train'"),
        ({"settings": {"train.epoch": 3}}, "unknown option 'epoch'. Did you mean 'epochs'"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"to": "training"}, "`to` is 'training', expected one of prepare"),
        ({"preset": "voc13"}, "there is no preset 'voc13'"),
    ],
)
def test_wrong_arguments_leave_no_run(photos, tmp_path, arguments, error):
    arguments = {"classes": ["red"], "to": "prepare"} | arguments
    with pytest.raises(PipelineError, match=re.escape(error)):
        fit(photos / "train", out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_wrong_option_of_a_stage_changes_nothing(run):
    before = (run / "run.toml").read_bytes()
    with pytest.raises(PipelineError, match=r"unknown option 'rato'\. Did you mean 'ratio'"):
        Run(run).fuse(rato=0.3)
    with pytest.raises(PipelineError, match="ratio is 2, expected at most 1"):
        Run(run).fuse(ratio=2)
    assert (run / "run.toml").read_bytes() == before


def test_an_error_is_raised_at_the_call_without_its_causes(finished, tmp_path):
    run = Run(finished, device="cpu")
    empty = write_run(tmp_path / "run")
    (empty / "metrics.json").write_text("{")
    for call, message in (
        (
            lambda: run.classifier.predict([tmp_path / "missing.jpg"]),
            f"{tmp_path}/missing.jpg is missing. Check the path.",
        ),
        (lambda: fit(tmp_path / "missing", ["a", "b"], out=tmp_path / "new"), "missing cannot be read: No such file"),
        (lambda: run.fuse(ratio=7), "ratio is 7"),
        (lambda: Classifier.load(empty / "metrics.json"), "is not a classifier file"),
        (lambda: Run(tmp_path / "missing"), "is not a run"),
        (lambda: read(empty / "metrics.json"), "is damaged"),
    ):
        with pytest.raises(PipelineError, match=re.escape(message)) as raised:
            call()
        frames = [frame.name for frame in traceback.extract_tb(raised.tb)]
        assert frames[1:] == ["<lambda>", "call"]
        assert "".join(traceback.format_exception(raised.value)).count("Traceback") == 1


def test_a_path_is_never_a_name_under_artifacts(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("colours", "artifacts/colours"):
        shutil.copytree(finished, place)
    assert Run("colours").folder == Path("artifacts/colours")
    assert Run(Path("colours")).folder == Path("colours")
    assert repr(Run(Path("colours"))).startswith(
        "Run('colours'): 8 train and 4 test photos, 3 classes (red, green, blue)"
    )
    Path("colours/classifier.pt").unlink()
    assert Classifier.load("colours").class_names == list(COLOURS)
    with pytest.raises(PipelineError, match=r"^colours/classifier\.pt is missing"):
        Classifier.load(Path("colours"))


def test_every_stage_has_a_method_with_its_options():
    for stage in STAGES:
        method = getattr(Run, stage.name.replace("-", "_"))
        assert [*inspect.signature(method).parameters] == ["self", *(each.name for each in fields(options_of(stage)))]
    assert inspect.signature(Run.fuse).parameters["ratio"].default == FuseConfig.ratio
    assert {*SHORT, "device", "recipe", "preset", "to", "reset"} <= {*inspect.signature(fit).parameters}


def test_the_html_shows_photos_and_escapes_every_text(tmp_path):
    ids = ["<i>0</i>.png", *IDS[1:8], "<i>8</i>.png", *IDS[9:]]
    run = Run(write_run(tmp_path / "<u>run", ids, ["<b>bold", "dog & cat", "plain"]))
    html = run._repr_html_()
    assert html.count("<img ") == html.count("<figure ") == 4  # the test photos
    for text in ("<b>bold", "<i>8", "<u>run", "dog & cat"):
        assert text not in html
    assert "&lt;b&gt;bold 0.80" in html and 'title="&lt;i&gt;8&lt;/i&gt;.png"' in html
    result = repr(run).splitlines()[1]
    assert "mAP" in result and f"<p>{result}</p>" in html


def test_the_html_without_test_photos_shows_train_photos(tmp_path):
    run = Run(write_labelled_run(tmp_path / "run"))
    html = run._repr_html_()
    assert html.count("<img ") == 8 and "Train photos with" in html
    assert "next stage: embed" in html and "measured" not in html and run.metrics == {}


def test_the_html_of_a_large_run_is_small_and_of_a_broken_one_names_the_error(tmp_path):
    write_large_run(tmp_path / "run", 5000, [f"class {n}" for n in range(100)])
    html = Run(tmp_path / "run")._repr_html_()
    assert html.count("<figure ") == PHOTOS and len(html) < 20_000 and "Test photos with" in html
    (tmp_path / "run" / "manifest.json").unlink()
    assert "is missing" in Run(tmp_path / "run")._repr_html_() and "is missing" in repr(Run(tmp_path / "run"))
