import json
import runpy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from worlds.commands import invoke

from pipeline import Classifier
from pipeline.artifacts.checkpoints import read_checkpoint, write_checkpoint
from pipeline.deploy import export


def run_export(*arguments):
    return invoke("export", *arguments)


@pytest.fixture
def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def scores_of(path, images):
    with torch.inference_mode():
        return Classifier.load(path).net(images).sigmoid().numpy()


@pytest.fixture(scope="module")
def onnx_file(tiny_classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    code, output = run_export(tiny_classifier, "--out", path)
    assert code == 0, output
    return path


def test_onnxruntime_gives_the_classifiers_scores_for_any_batch(onnx_file, tiny_classifier, images):
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        found = session.run(["scores"], {"images": images[:count].numpy()})[0]
        np.testing.assert_allclose(found, scores_of(tiny_classifier, images[:count]), atol=1e-4)


def test_onnx_metadata_describe_classes_thresholds_and_preprocessing(onnx_file, tiny_classifier):
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == ["cat", "dog", "cow"]
    assert json.loads(metadata["thresholds"]) == [0.5, 0.4, 0.6]
    assert metadata["image_size"] == "32" and "RGB in [0, 1]" in metadata["input"]
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    assert [path.name for path in onnx_file.parent.iterdir()] == ["model.onnx"]  # weights inside


def test_the_dynamic_dimension_is_called_batch(onnx_file):
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    assert session.get_outputs()[0].shape == ["batch", 3]


def test_pillow_and_numpy_alone_follow_the_metadata_to_the_classifiers_scores(onnx_file, tiny_classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), np.uint8)
    photo = Image.fromarray(pixels, "RGBA").resize((140, 90), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    steps = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert steps["transparency"] == "composite over white" and steps["resample"] == "BICUBIC"
    opened = ImageOps.exif_transpose(Image.open(tmp_path / "photo.png")).convert("RGBA")
    white = Image.new("RGBA", opened.size, "white")
    square = Image.alpha_composite(white, opened).convert("RGB").resize(steps["size"][::-1], Image.Resampling.BICUBIC)
    batch = (np.asarray(square, np.float32) / 255 - steps["mean"]) / steps["std"]
    found = session.run(["scores"], {"images": batch.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    (wanted,) = Classifier.load(tiny_classifier).predict(tmp_path / "photo.png")
    np.testing.assert_allclose(found, list(wanted.scores.values()), atol=2e-3)


@pytest.fixture(scope="module", params=["bicubic", "pillow-bilinear"])
def filtered(request, tiny_classifier, tmp_path_factory):
    """A classifier whose photos are resized by one of the two filters."""
    checkpoint = read_checkpoint(tiny_classifier)
    path = tmp_path_factory.mktemp("resize_filter") / "classifier.pt"
    write_checkpoint(
        path, replace(checkpoint, architecture={**checkpoint.architecture, "resize_filter": request.param})
    )
    return path


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    return export.write_probes(tmp_path_factory.mktemp("probes"))


def test_the_code_in_the_metadata_gives_the_classifiers_scores_on_photos_of_every_kind(filtered, probes, tmp_path):
    """Uses Pillow, numpy and the ONNX file, and nothing of this package."""
    assert run_export(filtered, "--out", tmp_path / "model.onnx")[0] == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    steps = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    code = {}
    exec(steps["code"], code)
    assert "import torch" not in steps["code"] and "pipeline" not in steps["code"].split('"""')[2]
    wanted = Classifier.load(filtered).predict(probes)
    for path, prediction in zip(probes, wanted, strict=True):
        batch = code["load_square"](path, steps["size"][0], steps["resample"])[None]
        found = session.run(["scores"], {"images": batch})[0][0]
        np.testing.assert_allclose(found, list(prediction.scores.values()), atol=5e-3, err_msg=path.name)


def test_load_py_gives_the_classifiers_scores_on_photos_of_every_kind(filtered, probes, tmp_path):
    assert run_export(filtered, "--format", "hub", "--out", tmp_path / "hub")[0] == 0
    scores = runpy.run_path(str(tmp_path / "hub" / "load.py"))["scores"]
    for path, prediction in zip(probes, Classifier.load(filtered).predict(probes), strict=True):
        found = list(scores(path).values())
        np.testing.assert_allclose(found, list(prediction.scores.values()), atol=5e-3, err_msg=path.name)


@pytest.mark.parametrize("format", ["onnx", "torch-export", "hub"])
def test_a_recipe_that_gives_other_scores_is_refused(tiny_classifier, tmp_path, monkeypatch, format):
    monkeypatch.setitem(export.FILTERS, "bicubic", "NEAREST")
    monkeypatch.setattr(export, "RECIPE_TOLERANCE", 1e-4)
    code, output = run_export(tiny_classifier, "--format", format, "--out", tmp_path / "model")
    assert code == 1 and "photo scores that differ" in output and not list(tmp_path.iterdir())


def test_torch_export_gives_the_classifiers_scores_for_any_batch(tiny_classifier, tmp_path, images):
    code, output = run_export(tiny_classifier, "--format", "torch-export", "--out", tmp_path / "model.pt2")
    assert code == 0, output
    files = {export.DESCRIPTION_FILE: ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    for count in (1, 5):
        found = module(images[:count]).numpy()
        np.testing.assert_allclose(found, scores_of(tiny_classifier, images[:count]), atol=1e-4)
    description = json.loads(files[export.DESCRIPTION_FILE])
    assert description["class_names"] == ["cat", "dog", "cow"] and description["image_size"] == 32


def test_other_scores_than_the_classifiers_are_refused_and_not_written(tiny_classifier, tmp_path, monkeypatch):
    load = export.load_torch_export
    monkeypatch.setattr(export, "load_torch_export", lambda path: lambda images: load(path)(images) + 2e-4)
    code, output = run_export(tiny_classifier, "--format", "torch-export", "--out", tmp_path / "model.pt2")
    assert code == 1 and "differ by 2.0e-04" in output and "Nothing was written" in output
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    code, output = run_export(tmp_path / "missing.pt")
    assert code == 1 and "ONNX needs onnxscript. Install with `pip install '.[onnx]'`" in output
    code, output = run_export(tmp_path / "missing.pt", "--format", "torch-export")
    assert code == 1 and "missing.pt is missing" in output


def test_an_unknown_format_is_refused(tiny_classifier):
    assert run_export(tiny_classifier, "--format", "tflite")[0] == 2
