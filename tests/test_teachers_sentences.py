"""The shipped sentence embeddings are those of the encoder; `python tests/test_teachers_sentences.py` makes them again."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from timm.data import ImageNetInfo

from pipeline.teachers import sentences
from pipeline.teachers.background import EVERYDAY, KINDS
from pipeline.teachers.conse import Conse
from pipeline.teachers.minilm import MiniLM, get_model_path
from pipeline.teachers.prompts import PAPER_TEMPLATES
from pipeline.teachers.sentences import imagenet_prompts, shipped_embeddings
from pipeline.teachers.vocabulary import COMMON, NONSENSE

CPU = torch.device("cpu")
LISTS = {
    "imagenet": imagenet_prompts(),
    **{
        name: [PAPER_TEMPLATES[0].format(each) for each in names]
        for name, names in {"common": COMMON, "nonsense": NONSENSE, "everyday": EVERYDAY, "kinds": KINDS}.items()
    },
}


@pytest.fixture(scope="module")
def encoder():
    return MiniLM(CPU)


def test_prompts_have_all_names_and_the_gloss_of_each_imagenet_class():
    info = ImageNetInfo()
    expected = [f"a photo of the {info.index_to_description(i, detailed=True)}" for i in range(1000)]
    assert imagenet_prompts() == expected


@pytest.mark.parametrize("texts", LISTS.values(), ids=LISTS)
def test_shipped_embeddings_are_those_of_the_encoder(encoder, texts):
    shipped = shipped_embeddings(texts)
    assert shipped.dtype == torch.float32 and shipped.shape == (len(texts), 384)
    # padding changes the last digits, so a part of the list is enough
    torch.testing.assert_close(encoder.encode(texts[:40]), shipped[:40], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.encode(texts[-3:]), shipped[-3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "texts",
    [["dog"], ["same", "same"], ["", "a"], ["long " * 250, "é ß собака 漢字", "x" * 3000], LISTS["imagenet"][:70]],
    ids=["one", "equal", "empty", "odd", "three batches"],
)
def test_embeddings_have_the_bits_of_sentence_transformers(encoder, texts):
    theirs = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    expected = theirs.encode(texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
    assert torch.equal(encoder.encode(texts), expected)


def test_other_texts_and_other_weights_have_no_shipped_embeddings(monkeypatch):
    texts = LISTS["everyday"]
    assert shipped_embeddings(texts[:-1]) is None and shipped_embeddings(texts[::-1]) is None
    monkeypatch.setattr(sentences, "weights_digest", lambda: "other")
    assert shipped_embeddings(texts) is None


def test_a_teacher_embeds_a_list_of_texts_once_and_loads_the_encoder_for_unknown_ones_only():
    teacher = Conse()
    teacher.encode_texts(LISTS["everyday"])
    assert "_sentences" not in vars(teacher)
    first = teacher.encode_texts(["a cat", "a dog"])
    teacher._sentences = None
    assert torch.equal(teacher.encode_texts(["a cat", "a dog"]), first)


def test_texts_need_no_package_that_takes_seconds_to_import():
    code = """
import sys
from pipeline.teachers.teacher import load_teacher
load_teacher("conse").encode_texts(["a cat"])
assert not {"sentence_transformers", "transformers", "timm", "torchvision", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


if __name__ == "__main__":
    for old in sentences.FOLDER.glob("*.f32"):
        old.unlink()
    for texts in LISTS.values():
        rows = MiniLM(CPU).encode(texts).numpy().astype("<f4")
        (sentences.FOLDER / f"{sentences.key(texts)}.f32").write_bytes(rows.tobytes())
