import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from pipeline.machine.errors import PipelineError
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.question import ask

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
    names, others = ["cat", "dog", "cow"], "sky,rock"
    asked = ask(teacher, [{name: 1.0} for name in names], names, "a {}", "mean", others)
    assert asked.outcomes == 3 and asked.others == []
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(PREPROCESSING[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = model.get_logits((images / 255 - mean) / std, open_clip.tokenize([f"a {name}" for name in names]))[0]
    image = teacher.encode_images(images)
    torch.testing.assert_close(asked.answers(asked.logits(image)).probabilities, logits.sigmoid(), atol=1e-5, rtol=1e-3)
    fewer = ask(
        teacher, [{"cat": 1.0}, {"dog": 1.0}], names[:2], "a {}", "mean", "none"
    )  # a class less changes no other
    torch.testing.assert_close(fewer.logits(image), asked.logits(image)[:, :2])
    doubled = ask(teacher, [{name: 1.0} for name in names], names, "a {}", "mean", "none", 2 * teacher.logit_scale)
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
