"""Texts that teachers would cut off, change or not understand."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from worlds.random_clip import random_clip

from pipeline.system.errors import PipelineError
from pipeline.teachers.teacher import load_teacher
from pipeline.teachers.tokens import LongTextError, whole_tokens
from pipeline.teachers.vocabulary import is_latin, known_names, strangeness
from pipeline.teachers.zero_shot_head import zero_shot_head

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

from pipeline.teachers.open_clip import check_tokenizer  # noqa: E402


def letters(start=(), end=(), last=(), pad=0):
    """A tokenizer with a token per letter between a start and an end, padding, and a token in the last place."""

    def tokenize(texts, limit):
        rows = []
        for text in texts:
            room = limit - len(start) - len(end) - len(last)
            row = [*start, *map(ord, text[:room]), *end]
            rows.append([*row, *[pad] * (limit - len(last) - len(row)), *last])
        return torch.tensor(rows)

    return tokenize


KINDS = {
    "bare": ({}, 10),
    "CLIP": ({"start": [1], "end": [2]}, 8),
    "SigLIP, whose padding is the end": ({"end": [1], "pad": 1}, 9),
    "CLIPS": ({"start": [1], "end": [2], "last": [3]}, 7),
    "CLIPS with the end as padding": ({"start": [1], "end": [2], "last": [3], "pad": 2}, 7),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_whole_up_to_the_last_token(kind):
    parts, most = KINDS[kind]
    tokenizer = letters(**parts)
    texts = ["abcdefghijklmnop"[:count] for count in range(most + 1)]
    assert torch.equal(whole_tokens(tokenizer, texts, 10), tokenizer(texts, 10))
    for long in ("x" * (most + 1), "x" * (most + 2), "x" * 40):
        with pytest.raises(LongTextError, match=f"'{long}' has more tokens than the 10") as error:
            whole_tokens(tokenizer, [*texts, long, "x" * 50], 10)
        assert error.value.text == long


def saved(folder, text, tokenizer=None, width=8, **config):
    """Spec of a random open_clip model with this text_cfg."""
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
    towers = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text} | config
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": towers, "preprocess_cfg": preprocessing}))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    custom = "hf_model_name" in text or config.get("custom_text")
    own = {key: value for key, value in towers.items() if key != "custom_text"}
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**own)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    return f"open_clip:local-dir:{folder}"


TEXT = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}


@pytest.mark.parametrize("kind", ["openai", "open_clip", "conse"])
def test_a_prompt_that_is_too_long_names_its_class(kind, tmp_path):
    if kind == "openai":
        torch.save(random_clip("small vit").state_dict(), tmp_path / "weights.pt")
        spec, words = f"openai:{tmp_path / 'weights.pt'}", 77
    else:
        spec, words = (saved(tmp_path, TEXT), 12) if kind == "open_clip" else ("conse", 256)
    teacher = load_teacher(spec)
    longest = words - 2 - 4  # start and end, "a photo of the"
    groups = [{"cat": 1.0}, {"dog": 1.0, " ".join(["dog"] * longest): 1.0}]
    head = zero_shot_head(teacher, groups, ["felis", "canis"], "paper", "mean", "none")
    assert head.text.shape[0] == 2
    groups[1] = {"dog": 1.0, " ".join(["dog"] * (longest + 1)): 1.0}
    with pytest.raises(
        PipelineError, match=rf"Class 'canis': the prompt 'a photo of the dog dog.{{,120}}the {words} that"
    ):
        zero_shot_head(teacher, groups, ["felis", "canis"], "paper", "mean", "none")


def words(*known, unknown="<unk>"):
    """A tokenizer of whole words."""
    names = ["<s>", "<pad>", "</s>", unknown, *known]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token=unknown)


@pytest.mark.parametrize(
    ("length", "clean", "is_right"),
    [(64, "canonicalize", True), (64, "lower", True), (64, "whitespace", False), (77, "canonicalize", False)],
)
def test_siglip2_gets_lower_case_texts_of_64_tokens(tmp_path, length, clean, is_right):
    words("cat").save_pretrained(tmp_path)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=length, clean=clean)
    config = {"text_cfg": {"vocab_size": 256000, "context_length": length}}
    if is_right:
        check_tokenizer(tokenizer, config, "x")
        assert tokenizer(["Cat"])[0].tolist() == [4] + [1] * 63
    else:
        with pytest.raises(PipelineError, match=r"x is a SigLIP2.*64 tokens.*canonicalize"):
            check_tokenizer(tokenizer, config, "x")


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory):
    """A random CLIP with a small XLM-RoBERTa that has a token for the words of three languages."""
    folder = tmp_path_factory.mktemp("xlm")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.XLMRobertaConfig(vocab_size=250002, max_position_embeddings=80, pad_token_id=1, **sizes)
    config.save_pretrained(folder / "text")
    text = {"hf_model_name": str(folder / "text"), "hf_tokenizer_name": "xlm", "hf_pooler_type": "mean_pooler"}
    text["hf_model_pretrained"] = False
    tokenizer = words(*["a", "photo", "of", "the"], "собака", "кошка", "犬", "dog", "cat")
    return load_teacher(saved(folder, text, tokenizer))


def test_a_multilingual_clip_knows_names_in_other_scripts(xlm_roberta):
    assert xlm_roberta.multilingual
    names = [{"собака": 1.0}, {"кошка": 1.0}, {"犬": 1.0}]
    assert known_names(xlm_roberta, names).tolist() == [True] * 3
    text = zero_shot_head(xlm_roberta, names, ["a", "b", "c"], "paper", "mean", "none").text
    assert (text @ text.T).fill_diagonal_(0).max() < 0.9999


def test_other_teachers_know_no_name_in_another_script(tmp_path):
    clip = load_teacher(saved(tmp_path, TEXT))
    assert not clip.multilingual
    for teacher in (clip, load_teacher("conse")):
        groups = [{"собака": 1.0}, {"犬": 1.0}, {"собака": 1.0, "犬": 1.0}]
        assert not known_names(teacher, groups).any()


def test_names_that_are_too_long_for_the_vocabulary_check_are_not_doubted(tmp_path):
    clip = load_teacher(saved(tmp_path, TEXT))  # too short for some of the meaningless words
    long = " ".join(["dog"] * 8)
    values = strangeness(clip, ["dog", long, "zxqv"])
    assert values[1] == -2 and values[[0, 2]].tolist() == strangeness(clip, ["dog", "zxqv"]).tolist()
    assert strangeness(clip, [long]).tolist() == [-2]


def test_the_script_of_a_name():
    assert all(map(is_latin, ["dog", "café", "Ångström", "4 x 4", "№ 7 bus", "β-blocker pill"]))
    assert not any(map(is_latin, ["собака", "犬", "كلب", "개", "собака dog"]))


def test_vocabularies_of_open_clip_are_clearly_of_one_or_of_many_languages():
    sizes = [open_clip.get_model_config(name)["text_cfg"].get("vocab_size") for name in open_clip.list_models()]
    assert not [size for size in sizes if size and 100_000 < size < 250_000]
