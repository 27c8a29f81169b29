import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from pipeline.system.errors import PipelineError
from pipeline.teachers.teacher import Teacher, load_teacher
from pipeline.teachers.zero_shot_head import zero_shot_head

open_clip = pytest.importorskip("open_clip")
from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402

TOWERS = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
SIGLIP = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0, "custom_text": True}
PREPROCESSING = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.6, 0.7],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def save_model(folder, **sigmoid):
    """A random model as open_clip's own `push_to_hf_hub.save_for_hf` lays it out."""
    torch.manual_seed(0)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TOWERS | sigmoid, "preprocess_cfg": PREPROCESSING})
    )
    model_class = open_clip.CustomTextCLIP if sigmoid else open_clip.CLIP
    model = model_class(**TOWERS, **{key: value for key, value in sigmoid.items() if key != "custom_text"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.eval()


def test_embeddings_equal_the_package(tmp_path):
    model = save_model(tmp_path)
    teacher = load_teacher(f"open_clip:local-dir:{tmp_path}")
    assert isinstance(teacher, Teacher)
    assert (teacher.input_size, teacher.logit_bias) == (32, None)
    assert teacher.logit_scale == pytest.approx(1 / 0.07)
    torch.manual_seed(1)
    noise = torch.randint(256, (45, 61, 3), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    transform = image_transform_v2(PreprocessCfg(size=32, **PREPROCESSING), is_train=False)
    with torch.no_grad():
        expected = F.normalize(model.encode_image(transform(image)[None]), dim=1)
        texts = F.normalize(model.encode_text(open_clip.tokenize(["a photo of the dog"])), dim=1)
    got = teacher.encode_images(pil_to_tensor(image)[None])
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)  # PIL and torch round pixels differently
    torch.testing.assert_close(teacher.encode_texts(["a photo of the dog"]), texts, atol=1e-5, rtol=0)


def test_sigmoid_models_state_scale_and_bias(tmp_path):
    model = save_model(tmp_path, **SIGLIP)
    teacher = load_teacher(f"open_clip:local-dir:{tmp_path}")
    assert (teacher.logit_scale, teacher.logit_bias) == (pytest.approx(10), -10)
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(PREPROCESSING[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = model.get_logits((image / 255 - mean) / std, open_clip.tokenize(["a cat", "a dog"]))[0]
    cosines = teacher.encode_images(image) @ teacher.encode_texts(["a cat", "a dog"]).T
    torch.testing.assert_close(teacher.logit_scale * cosines + teacher.logit_bias, logits, atol=1e-4, rtol=0)


def test_classes_of_a_sigmoid_model_are_scored_as_the_package_does_each_on_its_own(tmp_path):
    model = save_model(tmp_path, **SIGLIP)
    teacher = load_teacher(f"open_clip:local-dir:{tmp_path}")
    names, background = ["cat", "dog", "cow"], "sky,rock"
    asked = zero_shot_head(teacher, [{name: 1.0} for name in names], names, "a {}", "mean", background)
    assert asked.outcomes == 3 and asked.background == []
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(PREPROCESSING[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = model.get_logits((images / 255 - mean) / std, open_clip.tokenize([f"a {name}" for name in names]))[0]
    image = teacher.encode_images(images)
    torch.testing.assert_close(
        asked.probabilities(asked.logits(image)).probabilities, logits.sigmoid(), atol=1e-5, rtol=1e-3
    )
    fewer = zero_shot_head(
        teacher, [{"cat": 1.0}, {"dog": 1.0}], names[:2], "a {}", "mean", "none"
    )  # a class less changes no other
    torch.testing.assert_close(fewer.logits(image), asked.logits(image)[:, :2])
    doubled = zero_shot_head(
        teacher, [{name: 1.0} for name in names], names, "a {}", "mean", "none", 2 * teacher.logit_scale
    )
    torch.testing.assert_close(doubled.logits(image), 2 * asked.logits(image))


def test_the_fingerprint_follows_the_weights(tmp_path):
    spec = f"open_clip:local-dir:{tmp_path}"
    model = save_model(tmp_path)
    before = load_teacher(spec).fingerprint
    assert before == load_teacher(spec).fingerprint
    model.state_dict()["logit_scale"] += 0.1
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    assert load_teacher(spec).fingerprint != before


def test_the_fingerprint_does_not_depend_on_the_precision(tmp_path, monkeypatch):
    save_model(tmp_path)
    spec = f"open_clip:local-dir:{tmp_path}"
    exact = load_teacher(spec)
    # as on CUDA: on a CPU every precision is float32
    monkeypatch.setattr("pipeline.teachers.open_clip.compute_dtype", lambda *_: torch.bfloat16)
    rough = load_teacher(spec, precision="bfloat16")
    images = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert rough.fingerprint == exact.fingerprint
    assert not torch.equal(rough.encode_images(images), exact.encode_images(images))
    torch.testing.assert_close(rough.encode_images(images), exact.encode_images(images), atol=0.05, rtol=0)


@pytest.mark.parametrize("vision", [{}, {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}])
def test_the_scale_in_half_precision_is_that_of_the_weights(tmp_path, monkeypatch, vision):
    towers = TOWERS | {"vision_cfg": {"image_size": 32, **vision} if vision else TOWERS["vision_cfg"]}
    model = open_clip.CustomTextCLIP(**towers, init_logit_scale=math.log(100.003), init_logit_bias=-16.49)
    config = {"model_cfg": towers | SIGLIP, "preprocess_cfg": PREPROCESSING}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr("pipeline.teachers.open_clip.compute_dtype", lambda *_: torch.bfloat16)
    teacher = load_teacher(f"open_clip:local-dir:{tmp_path}", precision="bfloat16")
    assert teacher.logit_scale == pytest.approx(100.003, abs=1e-3)
    assert teacher.logit_bias == pytest.approx(-16.49, abs=1e-5)


@pytest.fixture
def registry(monkeypatch):
    """A model "tiny" of open_clip, with three tags of which two share their settings."""
    plain, siglip = open_clip.pretrained._pcfg("url"), open_clip.pretrained._slpcfg("url", interpolation="bilinear")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TOWERS)
    tags = {"openai": plain | {"quick_gelu": True}, "laion": plain, "laion_long": plain | {"resize_mode": "squash"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "even", TOWERS)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "even", {"webli": siglip, "webli_long": dict(siglip)})
    return open_clip.pretrained._PRETRAINED


@pytest.mark.parametrize(
    ("spec", "tag"),
    [("tiny/openai@", "openai"), ("tiny/laion@", "laion"), ("even/", "webli"), ("even/webli@", "webli")],
)
def test_a_file_is_loaded_with_the_preprocessing_and_the_activation_of_its_tag(tmp_path, registry, spec, tag):
    settings = registry[spec.partition("/")[0]][tag]
    torch.manual_seed(0)
    model = open_clip.CLIP(**TOWERS, quick_gelu=settings.get("quick_gelu", False)).eval()
    torch.save(model.state_dict(), tmp_path / "a@b.pt")
    teacher = load_teacher(f"open_clip:{spec}{tmp_path / 'a@b.pt'}")
    noise = torch.randint(256, (45, 61, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = Image.fromarray(noise.numpy())
    keys = {key: settings[key] for key in ("mean", "std", "interpolation")}
    transform = image_transform_v2(PreprocessCfg(size=32, resize_mode="squash", **keys), is_train=False)
    with torch.no_grad():
        expected = F.normalize(model.encode_image(transform(image)[None]), dim=1)
        texts = F.normalize(model.encode_text(open_clip.tokenize(["a photo of the dog"])), dim=1)
    got = teacher.encode_images(pil_to_tensor(image)[None])
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)  # PIL and torch round pixels differently
    native = noise[:32, :32].permute(2, 0, 1)[None]
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = F.normalize(model.encode_image((native / 255 - mean) / std), dim=1)
    torch.testing.assert_close(teacher.encode_images(native), expected, atol=1e-5, rtol=0)  # activations differ by 7e-4
    torch.testing.assert_close(teacher.encode_texts(["a photo of the dog"]), texts, atol=1e-5, rtol=0)


def test_a_file_whose_tag_is_not_clear_is_refused(tmp_path, registry):
    torch.save(open_clip.CLIP(**TOWERS).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(PipelineError, match=r"tiny differ in .*QuickGELU.* open_clip:tiny/TAG@.* openai, laion"):
        load_teacher(f"open_clip:tiny/{tmp_path / 'weights.pt'}")


def test_activations_are_part_of_the_fingerprint(tmp_path, registry):
    torch.save(open_clip.CLIP(**TOWERS).state_dict(), tmp_path / "weights.pt")
    quick, plain, resized = (
        load_teacher(f"open_clip:tiny/{tag}@{tmp_path / 'weights.pt'}").fingerprint
        for tag in ("openai", "laion", "laion_long")
    )
    assert quick != plain == resized


class Sketch(nn.Module):
    """The model that open_clip would build, without weights."""

    def __init__(self, vision_cfg, quick_gelu=False, init_logit_bias=None, **_):
        super().__init__()
        self.quick_gelu = quick_gelu
        self.visual = nn.Module()
        self.visual.image_size = vision_cfg["image_size"]
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.logit_bias = None if init_logit_bias is None else nn.Parameter(torch.tensor(-1.0))


@pytest.mark.parametrize("form", ["{name}/{tag}", "{name}/{tag}@{file}", "{name}/{file}"])
def test_every_tag_of_open_clip_gets_its_own_settings_or_an_error(tmp_path, monkeypatch, form):
    file = tmp_path / "weights.pt"
    file.touch()
    made = []
    for kind in ("CLIP", "CustomTextCLIP", "CoCa"):
        monkeypatch.setattr(f"open_clip.factory.{kind}", lambda **config: made.append(Sketch(**config)) or made[-1])
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(file))
    monkeypatch.setattr("open_clip.factory.load_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr("open_clip.get_tokenizer", lambda *_, **__: None)
    refused = []
    for name, tag in open_clip.list_pretrained():
        wanted = open_clip.get_pretrained_cfg(name, tag)
        try:
            teacher = load_teacher("open_clip:" + form.format(name=name, tag=tag, file=file))
        except PipelineError as error:
            refused.append((name, "differ" if "differ" in str(error) else "QuickGELU"))
            continue
        assert teacher.resize_filter == {"bicubic": "bicubic", "bilinear": "pillow-bilinear"}[wanted["interpolation"]]
        got = made[-1].visual.preprocess_cfg | {"quick_gelu": made[-1].quick_gelu}
        keys = ("mean", "std", "interpolation", "quick_gelu")
        assert [got[key] for key in keys] == [wanted.get(key, False) for key in keys], (name, tag)
    # its config and its tag contradict each other, which only its own folder settles
    expected = {("roberta-ViT-B-32", "QuickGELU")}
    if form == "{name}/{file}":
        expected |= {(name, "differ") for name in ("ViT-B-16", "ViT-B-32", "ViT-H-14", "ViT-L-14", "ViT-bigG-14")}
    assert set(refused) == expected


def test_folders_without_preprocessing_are_refused(tmp_path):
    save_model(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TOWERS}))
    with pytest.raises(PipelineError, match=r"open_clip_config\.json has no preprocess_cfg with mean and std"):
        load_teacher(f"open_clip:local-dir:{tmp_path}")


def test_weights_without_the_bias_of_their_sigmoid_are_refused(tmp_path):
    model = save_model(tmp_path, **SIGLIP)
    weights = {name: value for name, value in model.state_dict().items() if name != "logit_bias"}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(PipelineError, match="no logit_bias"):
        load_teacher(f"open_clip:local-dir:{tmp_path}")


def test_weights_of_a_sigmoid_for_a_model_without_one_are_refused(tmp_path, registry):
    file = tmp_path / "weights.pt"
    torch.save(open_clip.CLIP(**TOWERS, init_logit_bias=-10.0).state_dict(), file)
    with pytest.raises(PipelineError, match="could not be loaded"):
        load_teacher(f"open_clip:even/{file}")


def test_a_vocabulary_that_is_not_clips_needs_a_tokenizer_of_its_own(tmp_path):
    towers = TOWERS | {"text_cfg": TOWERS["text_cfg"] | {"vocab_size": 60000}}
    config = {"model_cfg": towers, "preprocess_cfg": PREPROCESSING}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(open_clip.CLIP(**towers).state_dict(), tmp_path / "open_clip_model.safetensors")
    with pytest.raises(PipelineError, match="hf_tokenizer_name"):
        load_teacher(f"open_clip:local-dir:{tmp_path}")


def test_folders_that_do_not_load(tmp_path):
    with pytest.raises(PipelineError, match=r"could not be loaded .*not found.* Expected open_clip_config\.json"):
        load_teacher(f"open_clip:local-dir:{tmp_path / 'missing'}")
    save_model(tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PipelineError, match="could not be loaded"):
        load_teacher(f"open_clip:local-dir:{tmp_path}")
    weights.unlink()
    with pytest.raises(PipelineError, match="could not be loaded"):
        load_teacher(f"open_clip:local-dir:{tmp_path}")


def test_names_that_do_not_exist():
    with pytest.raises(PipelineError, match=r"no model 'ViT-B-17'.*ViT-B-16"):
        load_teacher("open_clip:ViT-B-17/openai")
    with pytest.raises(PipelineError, match=r"no weights 'laion'.* laion2b_s34b_b88k"):
        load_teacher("open_clip:ViT-B-16/laion")
    with pytest.raises(PipelineError, match="no weights ''"):
        load_teacher("open_clip:ViT-B-16")
