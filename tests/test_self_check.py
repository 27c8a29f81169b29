"""The self-check of teachers: what passes, and which fault each failure names."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from worlds.commands import ccd, refused
from worlds.random_clip import random_clip

from pipeline.evaluation.read import read
from pipeline.system.errors import PipelineError
from pipeline.teachers import check_objects, openai_clip, self_check
from pipeline.teachers.activations import QuickGELU, other_gelu
from pipeline.teachers.check_objects import STATISTICS, check_cutouts, demo_cutouts
from pipeline.teachers.check_package import check_images, check_texts
from pipeline.teachers.encoding import EncodedViews, ViewRules
from pipeline.teachers.self_check import check_at_first_use, check_teacher
from pipeline.teachers.teacher import load_teacher

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
TOWERS = {
    "open_clip ViT": {"vision_cfg": {"image_size": [24, 40], "layers": 1, "width": 64, "patch_size": 8}},
    "open_clip QuickGELU": {
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "quick_gelu": True,
    },
    "open_clip SigLIP": {
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "init_logit_scale": math.log(10),
        "init_logit_bias": -10.0,
        "custom_text": True,
    },
}
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def conse():
    return load_teacher("conse")


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """Specs of teachers with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for shape in ("small resnet", "small vit"):
        torch.save(random_clip(shape).state_dict(), folder / f"{shape}.pt")
        found[shape] = f"openai:{folder / shape}.pt"
    open_clip = pytest.importorskip("open_clip")
    for name, towers in TOWERS.items():
        torch.manual_seed(0)
        config = {"embed_dim": 24, "text_cfg": TEXT} | towers
        own = {key: value for key, value in config.items() if key != "custom_text"}
        model = (open_clip.CustomTextCLIP if "custom_text" in config else open_clip.CLIP)(**own)
        (folder / name).mkdir()
        settings = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING})
        (folder / name / "open_clip_config.json").write_text(settings)
        save_file(model.state_dict(), folder / name / "open_clip_model.safetensors")
        found[name] = f"open_clip:local-dir:{folder / name}"
    return found


NAMES = ["small resnet", "small vit", *TOWERS]


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_agree_with_the_package_and_name_nothing(specs, name, tmp_path, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    teacher = load_teacher(specs[name])
    result = check_teacher(teacher)
    cosines, named = result.checks[:2], result.checks[2:]
    assert [(each.name, each.suspect) for each in cosines] == [("image tower", ""), ("texts", "")]
    assert all(each.value > 0.99999 for each in cosines)
    assert named[0].value < 0.3 and {each.suspect for each in named} == {"weights"}
    with pytest.raises(
        PipelineError, match=r"cut-outs: .*needs 60%\. Likely wrong: weights\. Download .*embed\.self_check"
    ):
        check_at_first_use(teacher)
    assert not list(tmp_path.rglob("*.json"))


def test_conse_passes(conse):
    result = check_teacher(conse)
    assert not result.failed
    cosines, named = result.checks[:2], result.checks[2:]
    assert all(each.value > 0.99999 for each in cosines)
    assert [round(87 * each.value) for each in named] == [75, 76]
    assert check_at_first_use(conse) == ""


@pytest.mark.parametrize("name", NAMES)
def test_other_statistics(specs, name):
    teacher = load_teacher(specs[name])
    own = teacher.statistics
    for statistics in (STATISTICS[1], STATISTICS[2] if name.startswith("small") else STATISTICS[0]):
        teacher.statistics = statistics
        assert check_images(teacher, teacher.package()).suspect == "preprocessing"
        assert not check_texts(teacher, teacher.package()).suspect
    teacher.statistics = own
    assert not check_images(teacher, teacher.package()).suspect


def test_mean_and_deviation_in_each_others_place(specs, monkeypatch):
    monkeypatch.setattr(openai_clip, "MEAN", openai_clip.STD)
    monkeypatch.setattr(openai_clip, "STD", (0.48145466, 0.4578275, 0.40821073))
    teacher = load_teacher(specs["small vit"])
    assert check_images(teacher, teacher.package()).suspect == "preprocessing"


@pytest.mark.parametrize("name", ["small vit", "open_clip ViT"])
def test_statistics_that_the_user_chose_are_right(specs, name):
    teacher = load_teacher(specs[name], rules=ViewRules(statistics="imagenet"))
    check = check_images(teacher, teacher.package())
    assert not check.suspect and check.value > 0.99999


@pytest.mark.parametrize("name", NAMES)
def test_the_other_gelu(specs, name):
    teacher = load_teacher(specs[name])
    with other_gelu(teacher.model):
        assert check_images(teacher, teacher.package()).suspect == "activation"
        assert check_texts(teacher, teacher.package()).suspect == "activation"
    assert not check_texts(teacher, teacher.package()).suspect


@pytest.mark.parametrize("name", NAMES)
def test_texts_in_another_order(specs, name, monkeypatch):
    teacher = load_teacher(specs[name])
    encode = teacher.encode_texts
    monkeypatch.setattr(teacher, "encode_texts", lambda texts: encode(texts).roll(1, dims=0))
    assert check_texts(teacher, teacher.package()).suspect == "text"


def test_other_tokens(specs, monkeypatch):
    teacher = load_teacher(specs["open_clip ViT"])
    tokens = teacher.tokens
    monkeypatch.setattr(teacher, "tokens", lambda texts: tokens([text.replace("cat", "dog") for text in texts]))
    assert check_texts(teacher, teacher.package()).suspect == "text"


@pytest.mark.parametrize("part", ["image", "text"])
@pytest.mark.parametrize("value", [0.3, math.nan])
def test_damaged_weights(specs, part, value):
    teacher = load_teacher(specs["small vit"])
    damaged = teacher.model.visual.proj if part == "image" else teacher.model.text_projection
    with torch.no_grad():
        damaged[:, :8] = value
    checks = [check(teacher, teacher.package()).suspect for check in (check_images, check_texts)]
    assert checks == (["weights", ""] if part == "image" else ["", "weights"])


class Changed:
    """A teacher with some of its parts replaced."""

    def __init__(self, teacher, **parts):
        self.teacher, self.parts = teacher, parts

    def __getattr__(self, name):
        return self.parts[name] if name in self.parts else getattr(self.teacher, name)


@pytest.fixture(scope="module")
def cutouts():
    """Two cut-outs of each class."""
    return {name: images[:2] for name, images in demo_cutouts().items()}


@pytest.fixture(scope="module")
def quick(conse):
    """`conse`, which encodes the same views once, whatever the statistics."""
    encoded = {}

    def encode_views(images):
        key = images.numpy().tobytes()
        if key not in encoded:
            encoded[key] = conse.encode_views(images)
        return encoded[key]

    return Changed(conse, encode_views=encode_views)


def suspects(teacher, cutouts):
    return [check.suspect for check in check_cutouts(teacher, cutouts)]


def test_texts_that_do_not_fit_a_good_image_tower(quick, cutouts):
    permuted = Changed(quick, encode_texts=lambda texts: quick.encode_texts(texts).roll(1, dims=0))
    assert suspects(permuted, cutouts) == ["text"] * 2


def test_cells_that_do_not_fit(quick, cutouts):
    def encode_views(images):
        views = quick.encode_views(images)
        return EncodedViews(views.images, 0 * views.cells + quick.encode_texts(["a photo of the jug"]))

    assert suspects(Changed(quick, encode_views=encode_views), cutouts) == ["", "cells"]


def test_a_teacher_without_cells_is_tested_on_whole_images(quick, cutouts):
    blind = Changed(quick, encode_views=lambda images: EncodedViews(quick.encode_views(images).images, None))
    assert suspects(blind, cutouts) == [""]


class Fragile(Changed):
    """Embeds images with noise unless it has the right statistics and activation."""

    def __init__(self, teacher, noise, own, needs_quick):
        super().__init__(teacher)
        self.noise, self.statistics = noise, own
        self.model = nn.Sequential(nn.GELU())
        self.needs_quick = needs_quick

    def encode_views(self, images):
        views = self.teacher.encode_views(images)
        right = isinstance(self.model[0], QuickGELU) == self.needs_quick and self.statistics == STATISTICS[0]
        noise = torch.randn(views.images.shape, generator=torch.Generator().manual_seed(0))
        return EncodedViews(views.images + (0 if right else self.noise) * noise, None)


@pytest.mark.parametrize(
    ("noise", "own", "needs_quick", "suspect"),
    [
        (1.0, STATISTICS[0], False, ""),
        (1.0, STATISTICS[0], True, "activation"),
        (0.2, STATISTICS[0], True, "activation"),  # names more than 60 %, and yet many more with the other one
        (1.0, STATISTICS[2], False, "preprocessing"),
    ],
)
def test_faults_that_the_package_has_too(quick, cutouts, noise, own, needs_quick, suspect):
    teacher = Fragile(quick, noise, own, needs_quick)
    checks = check_cutouts(teacher, cutouts)
    assert [check.suspect for check in checks] == [suspect]
    assert (checks[0].value > 0.6) == (noise < 1 or not suspect)
    assert type(teacher.model[0]) is nn.GELU and teacher.statistics == own


def test_a_teacher_that_names_nearly_all_is_not_tried_with_the_other_gelu(quick, cutouts, monkeypatch):
    monkeypatch.setattr(check_objects, "GAIN", 0.2)
    monkeypatch.setattr(check_objects, "other_gelu", lambda _: pytest.fail("tried"))
    assert not check_cutouts(Fragile(quick, 0.0, STATISTICS[0], True), cutouts)[0].suspect


@pytest.fixture
def passing(specs, tmp_path, monkeypatch):
    """A random teacher whose check passes, and the list of its checks."""
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    monkeypatch.setattr(check_objects, "NAMED", 0.0)
    monkeypatch.setattr(check_objects, "GAIN", 1.0)
    runs, check = [], self_check.check_teacher
    monkeypatch.setattr(self_check, "check_teacher", lambda teacher: runs.append(teacher) or check(teacher))
    return load_teacher(specs["small vit"]), runs


def test_a_teacher_that_passed_is_not_checked_again(passing, specs, tmp_path):
    teacher, runs = passing
    figures = json.loads(check_at_first_use(teacher))
    assert list(figures) == ["image tower", "texts", "cut-outs", "cut-outs with cells"] and figures["texts"] == 1.0
    assert json.loads(check_at_first_use(load_teacher(specs["small vit"]))) == figures and len(runs) == 1
    (file,) = tmp_path.rglob("*.json")
    for content in ("", "{}", file.read_text()[:-9], file.read_text().replace('"key": "', '"key": "0')):
        file.write_text(content)
        runs.clear()
        assert json.loads(check_at_first_use(teacher)) == figures and len(runs) == 1
    check_at_first_use(load_teacher(specs["small resnet"]))
    assert len(runs) == 2 and len(list(tmp_path.rglob("*.json"))) == 2


def test_without_the_cutouts_they_are_skipped_with_a_line(passing, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.datasets.demo._cutout_root", lambda: tmp_path / "none")
    figures = json.loads(check_at_first_use(passing[0]))
    assert list(figures) == ["image tower", "texts"]
    assert "cut-outs are not installed" in capsys.readouterr().err


def test_a_failed_check_on_request_fits_a_bug_report(specs, monkeypatch):
    monkeypatch.setattr("pipeline.teachers.speed.SECONDS", 0.0)
    spec = specs["small vit"]
    output = refused("check", "--teacher", spec, "--device", "cpu")
    lines = dict(line.split(maxsplit=1) for line in output.splitlines() if line[0] != " ")
    assert max(map(len, output.splitlines())) <= 80
    assert spec.rpartition("/")[0] not in output and "openai:small vit.pt, 32 px, 4 x 4 cells" in output
    assert {"ccd", "packages", "weights", "device", "precision", "speed"} < set(lines)
    assert "torch " in lines["packages"] and lines["texts"] == "passed: cosine 1.000000, needs 0.9999"
    assert "cut-outs             FAILED: " in output and "likely wrong         weights." in output


def test_stages_refuse_a_teacher_that_fails_unless_the_check_is_off(specs, run, colour_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path / "cache"))
    for stage in ("embed", "score_crops"):
        monkeypatch.setattr(f"pipeline.stages.{stage}.load_teacher", load_teacher)
    arguments = ("--run", run, "--device", "cpu", "--teacher", specs["small vit"])
    assert "--set score-crops.self_check=false" in refused("score-crops", *arguments)
    ccd("score-crops", *arguments, "--no-self-check")
    assert "--set embed.self_check=false" in refused("embed", *arguments)
    ccd("embed", *arguments, "--no-self-check")
    assert read(run / "embeddings.h5").self_check == "off"
