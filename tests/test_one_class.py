"""A single class: the background classes are what it competes with."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from web_server import Running
from worlds.bad_requests import FORM, form
from worlds.commands import ccd, options, refused
from worlds.photos import labelled_photos
from worlds.teachers import ColourTeacher, use_teacher

from pipeline import Classifier
from pipeline.artifacts.manifest import read_manifest
from pipeline.deploy import serve
from pipeline.evaluation.read import read
from pipeline.method.labels import debias
from pipeline.method.losses import mean_label_entropy
from pipeline.review.server import build_app
from pipeline.review.session import open_review
from pipeline.runs.options import ServeConfig
from pipeline.runs.settings import read_run
from pipeline.study.ablation import Row, rows_of_methods
from pipeline.study.methods import METHODS


def one_class(photos, backbone, folder, *more):
    """Arguments of `ccd all` for the class green."""
    given = options(photos, backbone, folder)
    given[given.index("--classes") + 1] = "green"
    return [*given, *more]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The photos of `labelled_photos`; their labels have the class green alone."""
    root = labelled_photos(tmp_path_factory.mktemp("green"))
    rows = [line.split(",") for line in (root / "labels.csv").read_text().splitlines()[1:]]
    own = [f"{image},{'green' if 'green' in labels else ''}" for image, labels in rows]
    (root / "labels.csv").write_text("\n".join(["image,labels", *own]) + "\n")
    return root


@pytest.fixture(scope="module")
def folder(photos, backbone, tmp_path_factory):
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("one") / "green"
    with pytest.MonkeyPatch.context() as patch:
        use_teacher(ColourTeacher(), patch)
        patch.setattr("pipeline.teachers.background.TOO_NEAR", 2)
        output = ccd(*one_class(photos, backbone, folder, "--set", "embed.background=red,blue"))
    assert "nan" not in output
    return folder


def test_the_class_competes_with_the_background(folder):
    embeddings, truth = read(folder / "embeddings.h5"), read(folder / "ground_truth.h5")
    assert embeddings.probabilities.shape == (12, 1) and embeddings.outcomes == 3
    probabilities, present = embeddings.probabilities[:, 0], truth.labels[:, 0] == 1
    assert probabilities[present].min() > probabilities[~present].max()
    assert 0 < embeddings.class_is_top1.sum() < 12  # a background class wins elsewhere
    final = read(folder / "final_labels.h5")
    own = present[embeddings.is_train]
    assert final.labels[own].min() > final.labels[~own].max()
    assert np.isfinite(final.scores).all() and "nan" not in (folder / "predictions.csv").read_text()
    figures = json.loads((folder / "metrics.json").read_text())["test"]
    assert figures["teacher, whole photos"]["mAP"] == 1 and 0 < figures["final classifier"]["mAP"] <= 1


def test_later_commands_work(folder, photos, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    ccd("predict", folder, photos / "test", "--out", tmp_path / "out.csv", "--device", "cpu")
    header, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert len(rows) == 4 and "green" in header
    ccd("export", folder, "--out", tmp_path / "green.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "green.onnx")
    (given,) = session.get_inputs()
    (scores,) = session.run(None, {given.name: np.zeros((1, 3, 80, 80), np.float32)})
    assert scores.shape == (1, 1) and 0 < scores < 1
    ccd("inspect", folder)
    ccd("report", "--run", folder)
    ccd("export-review", "--run", folder, "--out", tmp_path / "tasks.json")
    ccd("export-labels", folder, "--out", tmp_path / "labels.csv")
    assert "green" in (folder / "report.html").read_text()
    ccd(
        "calibrate", folder / "classifier.pt", photos / "labels.csv", "--out", tmp_path / "better.pt", "--device", "cpu"
    )


def test_pages_are_served(folder, photos):
    with Running(build_app(open_review(folder, 100), "token")) as page:
        status, _, content = page.ask("GET", "/token/")
        assert status == 200 and b"green" in content
    photo = next((photos / "test").rglob("*.png")).read_bytes()
    with Running(serve.build_app(Classifier.load(folder), "green", ServeConfig())) as service:
        status, _, content = service.ask("POST", "/predict", form({"a.png": photo}), **{"Content-Type": FORM})
        assert status == 200 and b"green" in content


@pytest.mark.parametrize(
    ("teacher", "background", "match"),
    [
        (ColourTeacher(), "none", "background is 'none'"),
        (ColourTeacher(colours={}), "everyday", "all background classes are too similar to it"),
        (ColourTeacher(logit_bias=-10.0), "everyday", "colour scores each class independently"),
    ],
)
def test_nothing_to_compete_with(teacher, background, match, photos, backbone, tmp_path, monkeypatch):
    use_teacher(teacher, monkeypatch)
    output = refused(*one_class(photos, backbone, tmp_path / "run", "--set", f"embed.background={background}"))
    assert f"'green' is the only class, and {match}, so every photo would have it" in output
    assert "--background everyday" in output and "\n" not in output


def test_a_run_without_labels_ends_with_warnings(photos, backbone, tmp_path, monkeypatch):
    """Every background class is red to the teacher, as the class is."""
    use_teacher(ColourTeacher(), monkeypatch)
    monkeypatch.setattr("pipeline.stages.embed.known_names", lambda *_: np.array([False]))
    monkeypatch.setattr("pipeline.teachers.background.TOO_NEAR", 2)
    monkeypatch.setattr("pipeline.teachers.zero_shot_head.SAME_WITHIN", -2)
    given = one_class(photos, backbone, tmp_path / "run")
    given[given.index("green")] = "red"
    place = given.index("--labels")
    output = ccd(*given[:place], *given[place + 2 :])
    assert not read(tmp_path / "run/embeddings.h5").name_is_known.any()
    during, after = output.split("classifier.pt:")
    assert "warning: the teacher probably does not know: red." in during
    assert "final_labels.h5 has no label" not in during  # `init-labels` said so
    assert during.count("initial_labels.h5 has no label of 0.5 or more of: red.") == 1
    assert "\nwarning: No class has a label. " in after
    assert after.rstrip().splitlines()[-1].startswith("The classifier is not measured")
    assert "\nwarning: The teacher probably does not know: red. Under [classes] in" in after


@pytest.mark.parametrize("kind", ["probabilities", "global_logits"])
def test_scores_of_the_class_alone(kind, folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    known = read(run / "embeddings.h5")
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        for name, texts in (("image_ids", known.image_ids), ("classes", known.class_names)):
            file.create_dataset(name, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
        file[kind] = np.ones_like(known.probabilities)
    output = refused("embed", "--run", run, "--precomputed", tmp_path / "scores.h5", "--background", "everyday")
    assert "'green' is the only class, and" in output and "contains scores or texts of the classes alone" in output


def test_published_methods_are_left_out(folder):
    rows = [Row("published", name, read_run(folder), name) for name in METHODS]
    _, costs, left_out = rows_of_methods(folder, read_manifest(folder), read_run(folder), rows, "cpu")
    assert not costs and len(left_out) == len(METHODS)
    assert left_out[0].endswith("it compares the classes of the run with one another, and there is only one.")


def test_one_label_is_one_of_two_outcomes():
    assert mean_label_entropy(torch.tensor([[1.0], [1.0], [0.0]])) == 0
    assert mean_label_entropy(torch.tensor([[0.5], [0.5]])) == 1
    both = torch.tensor([[0.9, 0.1], [0.95, 0.05]])
    assert mean_label_entropy(both[:, :1]) == pytest.approx(mean_label_entropy(both))
    assert debias(np.array([[0.1], [0.9]], np.float32), None, 1.0).tolist() == [[0.5], [np.float32(0.9)]]
