"""The catalog of teachers: its figures against the packages, and each of its specs constructed with random weights."""

from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from worlds.commands import ccd
from worlds.random_clip import random_clip

from pipeline.classifier.lite import build_lite
from pipeline.teachers import openai_clip
from pipeline.teachers.catalog import CATALOG
from pipeline.teachers.minilm import get_model_path
from pipeline.teachers.teacher import load_teacher

open_clip = pytest.importorskip("open_clip")

from pipeline.classifier.towers.open_clip import cell_head_of  # noqa: E402

BY_SPEC = {entry.spec: entry for entry in CATALOG}
SPECS = [spec for spec in BY_SPEC if spec.startswith("open_clip:")]
OPENAI = {  # open_clip has the same architectures under other names
    "openai:RN50x64": "RN50x64-quickgelu",
    "openai:ViT-B/32": "ViT-B-32-quickgelu",
    "openai:ViT-L/14@336px": "ViT-L-14-336-quickgelu",
}


def architecture(spec):
    """The model of a spec without memory for its weights."""
    name = OPENAI.get(spec) or spec.removeprefix("open_clip:").partition("/")[0]
    with torch.device("meta"), patch("open_clip.factory._set_model_device_and_precision", lambda *_: None):
        return open_clip.create_model(name, load_weights=False).eval()


def operations(encode, size):
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        encode(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("spec", [*OPENAI, *SPECS])
def test_size_parameters_operations_and_cells_are_those_of_the_architecture(spec):
    entry, model = BY_SPEC[spec], architecture(spec)
    assert model.visual.image_size in (entry.size, (entry.size, entry.size))
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(entry.parameters, abs=0.05)
    assert operations(model.encode_image, entry.size) == pytest.approx(entry.gigaflops, abs=0.05)
    assert (cell_head_of(model.visual, "values") is not None) == entry.cells


def test_figures_of_conse():
    entry = BY_SPEC["conse"]
    with torch.device("meta"):
        network = build_lite("lite2")
    sentences = load_file(get_model_path() / "model.safetensors").values()
    count = sum(each.numel() for each in [*network.parameters(), *sentences])
    assert count / 1e6 == pytest.approx(entry.parameters, abs=0.05)
    assert operations(network, entry.size) == pytest.approx(entry.gigaflops, abs=0.06)


def words(texts):
    """A tokenizer of whole words, in place of those that are downloaded."""
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "tv": 2, "monitor": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return pytest.importorskip("transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    )


CONTEXT = {"PE-Core": 32, "SigLIP2": 64}


@pytest.mark.parametrize("spec", SPECS)
def test_every_spec_of_open_clip_is_constructed_with_its_own_settings(spec, tmp_path, monkeypatch):
    name, _, tag = spec.removeprefix("open_clip:").partition("/")
    published, config = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name)
    assert published["hf_hub"].rstrip("/") == BY_SPEC[spec].repository
    # towers of one layer
    config["vision_cfg"] = {"image_size": config["vision_cfg"]["image_size"], "layers": 1, "width": 64}
    config["vision_cfg"]["patch_size"] = 32
    config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    torch.manual_seed(0)
    model = open_clip.create_model(name, load_weights=False)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(tmp_path / "weights.pt"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: words(None))
    teacher = load_teacher(spec)
    assert (teacher.name, teacher.input_size) == (spec, BY_SPEC[spec].size)
    assert teacher.statistics == (published["mean"], published["std"])
    assert teacher.resize_filter == {"bicubic": "bicubic", "bilinear": "pillow-bilinear"}[published["interpolation"]]
    assert (teacher.logit_bias is not None) == ("SigLIP" in name)
    context = next((length for part, length in CONTEXT.items() if part in name), 77)
    lower, capital = (teacher.tokens([text]) for text in ("a tv monitor", "A TV Monitor"))
    assert lower.shape == (1, context)
    assert torch.equal(lower, capital)
    if "SigLIP2" in name:  # unknown, tv, monitor, and padding up to 64
        assert capital[0].tolist() == [1, 2, 3] + [0] * 61
    torch.testing.assert_close(teacher.encode_texts(["a tv monitor"]).norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("spec", OPENAI)
def test_every_spec_of_openai_is_constructed(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    asked = []

    def download(url, path, sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(random_clip("small vit").state_dict(), path)
        asked.append((url, sha256))
        return path

    monkeypatch.setattr(openai_clip, "download", download)
    assert not BY_SPEC[spec].is_here
    teacher = load_teacher(spec)
    assert BY_SPEC[spec].is_here  # both know the same place
    assert asked[0][0] == openai_clip.URLS[spec.removeprefix("openai:")] and asked[0][1] in asked[0][0]
    assert teacher.name == spec and teacher.tokens(["a TV Monitor"]).shape == (1, 77)
    assert torch.equal(teacher.tokens(["a TV Monitor"]), teacher.tokens(["a tv monitor"]))


def test_what_open_clip_has_downloaded_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    entry = BY_SPEC["open_clip:ViT-B-32/datacomp_xl_s13b_b90k"]
    folder = tmp_path / "open_clip/models--laion--CLIP-ViT-B-32-DataComp.XL-s13B-b90K/snapshots/f0e2"
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text("{}")
    assert not entry.is_here
    (folder / "open_clip_model.safetensors").touch()
    assert entry.is_here


def test_the_catalog_fits_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    monkeypatch.setattr("pipeline.teachers.speed.images_per_second", lambda *_: (1234.56, 16))
    for options in ((), ("--measure",)):
        output = ccd("teachers", "--device", "cpu", *options)
        lines = output.splitlines()
        assert max(map(len, lines)) <= 80
        assert all(any(line.startswith(f"{spec} ") for line in lines) for spec in BY_SPEC)
        assert ("1234.6" in output) == bool(options)
        assert output.count("ships with ccd") == 1
