"""The embeddings of the ImageNet prompts are computed once, and a damaged file is never used."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.teachers import sentences
from pipeline.teachers.sentences import remembered_embeddings

CPU = torch.device("cpu")
PROMPTS = ["a cat", "a dog", "a cow"]


class Encoder:
    """Random unit vectors, always the same, and the number of calls."""

    calls = 0

    def __call__(self, texts):
        self.calls += 1
        return F.normalize(torch.randn(len(texts), 5, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sentences, "_of_process", {})
    return Encoder()


def next_process(encoder, prompts=PROMPTS):
    """The embeddings, as in a process that has computed none."""
    sentences._of_process.clear()
    return remembered_embeddings(prompts, CPU, encoder)


def test_prompts_are_embedded_once_and_the_bits_are_the_same(encoder):
    first = remembered_embeddings(PROMPTS, CPU, encoder)
    assert remembered_embeddings(PROMPTS, CPU, encoder) is first
    assert torch.equal(next_process(encoder), first) and torch.equal(first, Encoder()(PROMPTS))
    assert encoder.calls == 1
    next_process(encoder, PROMPTS[:2])
    assert encoder.calls == 2


def test_other_weights_are_embedded_again(encoder, monkeypatch):
    next_process(encoder)
    monkeypatch.setattr(sentences, "weights_digest", lambda: "other")
    next_process(encoder)
    assert encoder.calls == 2


def cached():
    [path] = sentences.cache_folder().glob("sentences/*.h5")
    return path


@pytest.mark.parametrize("damage", ["nan", "rows", "float64", "fingerprint", "group", "missing", "text", "empty"])
def test_a_file_with_another_content_is_replaced(encoder, damage):
    expected = next_process(encoder)
    path = cached()
    if damage in ("text", "empty"):
        path.write_text("no HDF5" if damage == "text" else "")
    else:
        with h5py.File(path, "a") as file:
            values = file["embeddings"][()]
            if damage == "fingerprint":
                file.attrs["fingerprint"] = np.bytes_("0" * 64)
            else:
                del file["embeddings"]
            if damage == "nan":
                values[1, 2] = np.nan
            if damage == "group":
                file.create_group("embeddings")
            elif damage not in ("missing", "fingerprint"):
                file["embeddings"] = {"rows": values[:2], "float64": values.astype(np.float64)}.get(damage, values)
    assert torch.equal(next_process(encoder), expected) and encoder.calls == 2
    assert torch.equal(next_process(encoder), expected) and encoder.calls == 2


def test_flipped_bytes_never_change_an_embedding(encoder):
    expected = next_process(encoder)
    sound, rng = cached().read_bytes(), np.random.default_rng(5)
    for place in rng.choice(len(sound), size=200, replace=False):
        damaged = bytearray(sound)
        damaged[place] ^= int(rng.integers(1, 256))
        cached().write_bytes(damaged)
        assert torch.equal(next_process(encoder), expected)


def test_a_folder_that_cannot_be_written_to_changes_nothing(encoder, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert torch.equal(next_process(encoder), Encoder()(PROMPTS))


def test_images_of_a_second_process_need_no_sentence_encoder(encoder):
    code = """
import sys, torch
from pipeline.teachers.teacher import load_teacher
from pipeline.teachers.sentences import cache_folder, fingerprint, write_embeddings
from pipeline.teachers.conse import imagenet_prompts
teacher = load_teacher("conse")
rows = torch.nn.functional.normalize(torch.randn(1000, 384), dim=1)
key = fingerprint(imagenet_prompts(), teacher.device)
write_embeddings(cache_folder() / "sentences" / f"{key[:16]}.h5", key, rows.numpy())
teacher.encode_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
assert torch.equal(teacher._imagenet, rows)
assert "sentence_transformers" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
