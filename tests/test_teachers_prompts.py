import tomllib
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline.datasets.class_names import prompt_names
from pipeline.method.probabilities import class_logits
from pipeline.runs import settings
from pipeline.system.errors import PipelineError
from pipeline.teachers.prompts import (
    OPENAI_IMAGENET_TEMPLATES,
    check_embeddings,
    class_embeddings,
    find_templates,
    same_embeddings,
)
from pipeline.teachers.teacher import load_teacher

VECTORS = {"a cat": (1, 0), "the cat": (0, 1), "a dog": (-1, 0), "the dog": (-1, 0), "a hound": (0, -1)}
VECTORS["the hound"] = (0, -1)


class FakeTeacher:
    def encode_texts(self, texts):
        return torch.tensor([VECTORS[text] for text in texts], dtype=torch.float32)


def embed(synonyms, hound=1.0):
    return class_embeddings(FakeTeacher(), [{"cat": 1.0}, {"dog": 1.0, "hound": hound}], ("a {}", "the {}"), synonyms)


def test_mean_over_templates_then_over_synonyms():
    text, class_index = embed("mean")
    torch.testing.assert_close(text, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]) / 2**0.5)
    assert class_index.tolist() == [0, 1]


def test_synonyms_count_by_their_weights():
    text, _ = embed("mean", hound=3.0)
    dog, hound = embed("max")[0][1:]
    torch.testing.assert_close(text[1], torch.nn.functional.normalize(dog + 3 * hound, dim=0))
    with pytest.raises(PipelineError, match="weights have no effect"):
        embed("max", hound=3.0)


def test_max_over_synonyms():
    text, class_index = embed("max")
    torch.testing.assert_close(text[1:], torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))
    assert class_index.tolist() == [0, 1, 1]
    images = torch.tensor([[0.0, -1.0], [-0.6, -0.8], [0.6, 0.8]])
    expected = torch.tensor([[-10 / 2**0.5, 10.0], [-14 / 2**0.5, 8.0], [14 / 2**0.5, -6.0]])
    torch.testing.assert_close(class_logits(images, text, 10, class_index), expected)


def test_unknown_way_to_join_synonyms():
    with pytest.raises(PipelineError, match="combined by 'sum'"):
        embed("sum")


def test_templates_by_name():
    assert find_templates("paper") == ("a photo of the {}",)
    assert find_templates("a sketch of a {}") == ("a sketch of a {}",)
    with pytest.raises(PipelineError, match="Did you mean 'openai-imagenet-80'"):
        find_templates("imagenet-80")


def test_the_imagenet_templates_are_openais():
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    theirs = [template("{}") for template in metadata.OPENAI_IMAGENET_TEMPLATES]
    assert sorted(find_templates("openai-imagenet-80")) == sorted(theirs)
    assert len(OPENAI_IMAGENET_TEMPLATES) == 80


def test_classes_with_the_same_embedding_are_found():
    text = torch.nn.functional.normalize(torch.randn(1500, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    text[1400] = text[3] * (1 + 1e-7)
    text[7] = text[6]  # synonyms of one class
    classes = torch.arange(1500)
    classes[7:] -= 1
    assert same_embeddings(text, classes) == [(3, 1399)]


def test_names_that_the_teacher_does_not_know_are_refused():
    teacher = load_teacher("conse")
    names = ["cat", "\U00013080", "\U00013081"]
    text, classes = class_embeddings(teacher, [{name: 1.0} for name in names])
    with pytest.raises(PipelineError, match=r"same embedding \(1 .*display names"):
        check_embeddings(text, classes, names)
    text, classes = class_embeddings(teacher, [{"cat": 1.0}, {"cats": 1.0}, {"kitten": 1.0}])
    check_embeddings(text, classes, ["cat", "cats", "kitten"])
    text[2, 0] = torch.nan
    with pytest.raises(PipelineError, match="embedding of class 'kitten' is not finite"):
        check_embeddings(text, classes, ["cat", "cats", "kitten"])


@pytest.mark.parametrize(("preset", "count"), [("voc07", 20), ("voc12", 20), ("coco14", 80), ("nuswide", 81)])
def test_presets_name_every_class(preset, count):
    path = Path(pipeline.__file__).parent / f"presets/{preset}.toml"
    table = tomllib.loads(path.read_text())["classes"]
    assert len(prompt_names(list(table), table)) == count


AUTHORS = {"voc07": "ccd", "voc12": "ccd", "coco14": "ccd-coco14", "nuswide": "ccd-nuswide"}


@pytest.mark.parametrize("preset", AUTHORS)
def test_the_authors_recipe_has_the_datasets_own_name_for_every_class(preset):
    words = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
    ours = settings.load("presets", preset)
    merged = ours.merged(settings.load("recipes", AUTHORS[preset]))
    assert merged.classes == {name: [words.get(name, name)] for name in ours.classes}
    assert ours.classes["person"] == ["person", "people", "human", "person with clothes"]
