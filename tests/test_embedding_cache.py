import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from worlds.commands import ccd, invoke, options, refused
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.evaluation.read import read
from pipeline.runs.options import EmbedConfig
from pipeline.system.errors import PipelineError
from pipeline.teachers.embedding_cache import ImageStore, StoreKey, check_reuse

KEY = StoreKey("teacher", 32, "float32")


def digest(n):
    return f"{n:064x}"


def rows(*numbers):
    return np.array([[n, n + 0.5] for n in numbers], np.float32)


def test_embeddings_come_back_in_the_order_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.teachers.embedding_cache.BLOCK", 2)
    store = ImageStore(tmp_path, KEY)
    assert store.missing([digest(2), digest(1), digest(2)]) == [digest(2), digest(1)]
    store.add([digest(2), digest(1)], [rows(2), rows(1)])
    ImageStore(tmp_path, KEY).add([digest(3)], [rows(3)])
    again = ImageStore(tmp_path, KEY)
    assert again.missing([digest(3), digest(4)]) == [digest(4)]
    wanted = [3, 1, 1, 2, 3]
    np.testing.assert_array_equal(np.concatenate(list(again.blocks([digest(n) for n in wanted]))), rows(*wanted))


def test_another_teacher_size_or_precision_has_a_store_of_its_own(tmp_path):
    ImageStore(tmp_path, KEY).add([digest(1)], [rows(1)])
    for other in (
        StoreKey("other", 32, "float32"),
        StoreKey("teacher", 64, "float32"),
        StoreKey("teacher", 32, "float16"),
    ):
        assert ImageStore(tmp_path, other).missing([digest(1)]) == [digest(1)]


def test_only_what_is_missing_is_taken_over(tmp_path):
    here, there = ImageStore(tmp_path / "here", KEY), ImageStore(tmp_path / "there", KEY)
    here.add([digest(1)], [rows(1)])
    there.add([digest(n) for n in (1, 2, 3)], [rows(10, 2, 3)])
    assert here.take_over(there, [digest(1), digest(3), digest(4)]) == 1
    np.testing.assert_array_equal(next(here.blocks([digest(1), digest(3)])), rows(1, 3))


@pytest.mark.parametrize("damage", ["attribute", "flip", "text", "group", "float64"])
def test_a_damaged_store_counts_as_empty(tmp_path, damage, capfd):
    store = ImageStore(tmp_path, KEY)
    store.add([digest(1), digest(2)], [rows(1, 2)])
    if damage == "flip":
        content = bytearray(store.path.read_bytes())
        content[len(content) // 2] ^= 255
        store.path.write_bytes(content)
    else:
        with h5py.File(store.path, "r+") as file:
            if damage == "attribute":
                file.attrs["teacher_fingerprint"] = "another"
            else:
                del file["image"]
                file["image"] = {"text": ["a", "b"], "float64": np.ones((2, 3))}.get(damage, 0)
            if damage == "group":
                del file["image"]
                file.create_group("image")
    again = ImageStore(tmp_path, KEY)
    assert again.missing([digest(1)]) == [digest(1)] and "encoded again" in capfd.readouterr().err
    again.add([digest(1)], [rows(1)])
    np.testing.assert_array_equal(next(ImageStore(tmp_path, KEY).blocks([digest(1)])), rows(1))


def test_an_embedding_that_is_not_finite_is_missing(tmp_path):
    store = ImageStore(tmp_path, KEY)
    store.add([digest(n) for n in (1, 2, 3)], [rows(1, 2, 3)])
    with h5py.File(store.path, "r+") as file:
        file["image"][1, 0] = np.nan
    again = ImageStore(tmp_path, KEY)
    assert again.missing([digest(n) for n in (1, 2, 3)]) == [digest(2)]
    again.add([digest(2)], [rows(2)])
    found = np.concatenate(list(ImageStore(tmp_path, KEY).blocks([digest(n) for n in (1, 2, 3)])))
    np.testing.assert_array_equal(found, rows(1, 2, 3))


@pytest.mark.parametrize("stage", ["embed", "score-crops", "warmup"])
def test_a_photo_that_changes_after_the_check_is_not_stored_under_its_old_hash(
    stage, finished, tmp_path, colour_teacher
):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "image_embeddings")
    scored = read(run / "crop_scores.h5").image_index  # photos that all three stages read
    path = Path(read(run / "manifest.csv").split("train").paths[scored[0]])
    before, content = path.stat(), path.read_bytes()
    # same size and time, so that the check of all photos does not notice
    path.write_bytes(content[:-20] + bytes(20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    try:
        code, output = invoke(stage, "--run", run, "--force", "--device", "cpu")
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert code == 1 and "has changed since it was prepared" in output and "ccd prepare" in output
    assert not list(run.glob("image_embeddings/*"))


@pytest.fixture
def seen(colour_teacher):
    """Numbers of images that the teacher encodes."""
    return colour_teacher.batches


@pytest.mark.parametrize(
    "arguments",
    [
        ["--templates", "a bad photo of the {}"],
        ["--logit-scale", 5],
        ["--entropy-limit", 0.3],
        ["--bias-shrinkage", 2],
        ["--synonyms", "max"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_does_not_concern_the_images_asks_the_teacher_about_none(arguments, run, seen):
    before = read(run / "embeddings.h5").provenance
    ccd("embed", "--run", run, *arguments)
    assert seen == [] and read(run / "embeddings.h5").provenance != before


def test_photos_that_are_added_are_the_only_ones_that_are_encoded(finished, photos, backbone, tmp_path, seen):
    folder, run = tmp_path / "photos", shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(photos, folder)
    Image.fromarray(np.full((40, 50, 3), (220, 30, 30), np.uint8)).save(folder / "train" / "added.png")
    output = ccd(*options(folder, backbone, run), "--to", "embed")
    assert sum(seen) == 1 and "1 of 13 images were encoded" in output
    before, after = (read(path / "embeddings.h5") for path in (finished, run))
    kept = [after.image_ids.index(i) for i in before.image_ids]
    np.testing.assert_allclose(after.probabilities[kept], before.probabilities, atol=1e-6)


def test_another_run_that_is_named_spares_the_teacher_its_photos(finished, photos, backbone, tmp_path, seen):
    told = ["--set", f"embed.reuse_embeddings={finished}", "--to", "embed"]
    output = ccd(*options(photos, backbone, tmp_path / "new"), *told)
    assert seen == [] and "12 images reused from" in output
    first, second = (read(folder / "embeddings.h5") for folder in (finished, tmp_path / "new"))
    assert first.provenance == second.provenance
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        (
            ["--set", "embed.teacher=openai:RN50"],
            "no image embeddings of openai:RN50 at its own size, but of conse at 32 px",
        ),
        (["--set", "embed.image_size=64"], "no image embeddings of conse at 64 px, but of conse at 32 px"),
        (["--set", "embed.reuse_embeddings=nowhere"], "nowhere is not a run"),
    ],
)
def test_an_unsuitable_run_is_refused_before_photos_are_read(
    finished, photos, backbone, tmp_path, monkeypatch, told, match
):
    monkeypatch.setattr("pipeline.stages.prepare.run", lambda *_, **__: pytest.fail("read the photos"))
    source = ["--set", f"embed.reuse_embeddings={finished}"]
    code, output = invoke(*options(photos, backbone, tmp_path / "new"), *source, *told)
    assert code == 1 and match in " ".join(output.split()) and not (tmp_path / "new").exists()


def test_an_unsuitable_run_is_refused_before_the_teacher_is_loaded(run, finished, tmp_path, monkeypatch):
    for stage in ("embed", "score_crops"):
        monkeypatch.setattr(f"pipeline.stages.{stage}.load_teacher", lambda *_, **__: pytest.fail("loaded"))
    empty = shutil.copytree(finished, tmp_path / "empty", ignore=shutil.ignore_patterns("image_embeddings"))
    assert "empty has no image embeddings" in refused("embed", "--run", run, "--force", "--reuse-embeddings", empty)
    code, output = invoke("embed", "--run", run, "--force", "--reuse-embeddings", tmp_path / "nowhere")
    assert code == 1 and "nowhere is not a run" in output
    code, output = invoke("embed", "--run", run, "--force", "--teacher", "openai:RN50", "--reuse-embeddings", finished)
    assert code == 1 and "but of conse at 32 px" in output


def test_weights_that_differ_are_found_once_they_are_loaded(run, finished, monkeypatch):
    class Newer(ColourTeacher):
        def encode_texts(self, texts):
            pytest.fail("went on")

    use_teacher(Newer(fingerprint="colour-2"), monkeypatch)
    code, output = invoke("embed", "--run", run, "--force", "--reuse-embeddings", finished)
    assert code == 1 and "other weights or options" in output


def test_a_source_that_was_taken_over_may_be_gone_later(finished, photos, backbone, tmp_path, colour_teacher):
    source = shutil.copytree(finished, tmp_path / "source")
    first = options(photos, backbone, tmp_path / "new")
    ccd(*first, "--set", f"embed.reuse_embeddings={source}", "--to", "embed")
    shutil.rmtree(source)
    ccd(*first, "--to", "embed")


@pytest.mark.parametrize(
    ("mine", "theirs", "fits"),
    [
        ("openai:RN50", "openai:RN50", True),
        ("openai:RN50", "", True),
        ("openai:RN50", "openai:RN101", False),
        ("openai:RN50", "openai:{file}", True),
        ("openai:{file}", "openai:RN50", True),
        ("open_clip:RN50/{file}", "openai:{file}", False),
        ("conse", "openai:{file}", False),
    ],
)
def test_a_file_may_hold_the_weights_of_a_name(tmp_path, mine, theirs, fits):
    (tmp_path / "run.toml").touch()
    (tmp_path / "weights.pt").touch()
    mine, theirs = (spec.format(file=tmp_path / "weights.pt") for spec in (mine, theirs))
    ImageStore(tmp_path, KEY, theirs).add([digest(1)], [rows(1)])
    config = EmbedConfig(teacher=mine, reuse_embeddings=str(tmp_path))
    if fits:
        check_reuse(config)
    else:
        with pytest.raises(PipelineError, match="has no image embeddings of"):
            check_reuse(config)
