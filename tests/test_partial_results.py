"""A stage that was stopped continues only with partial results of the same work."""

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from worlds.commands import ccd, invoke, killed_command, run_stage, start
from worlds.photos import COLOURS, noise_photos
from worlds.runs import write_labelled_run
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.artifacts.checkpoints import load_partial, save_partial
from pipeline.artifacts.provenance import Provenance
from pipeline.evaluation.read import read
from pipeline.photos.resize import load_view
from pipeline.runs.partial_results import PartialResults, digest_of
from pipeline.stages.score_crops import CropRules, CropTeacher, score_crops
from pipeline.system.errors import PipelineError
from pipeline.teachers import photo_encoder
from pipeline.teachers.zero_shot_head import ZeroShotHead


@pytest.fixture
def many(tmp_path):
    """Folders of 12 photos of different colours and of 5 of these photos, each with a run."""
    generator = np.random.default_rng(0)
    for n in range(12):
        for folder in ("all", "some")[: 1 + (n in (0, 3, 4, 8, 11))]:
            (tmp_path / folder).mkdir(exist_ok=True)
            colour = np.random.default_rng(n).integers(0, 256, 3)
            pixels = np.clip(generator.integers(-20, 20, (40, 40, 3)) + colour, 0, 255).astype(np.uint8)
            path = tmp_path / "all" / f"{n:02d}.png"
            if not path.exists():
                Image.fromarray(pixels).save(path)
            else:
                shutil.copy(path, tmp_path / folder)
    for folder in ("all", "some"):
        arguments = ("--images", tmp_path / folder, "--classes", ",".join(COLOURS))
        ccd("prepare", "--run", tmp_path / f"run-{folder}", *arguments)
    return tmp_path


def embed_and_die(limit, *arguments):
    """Body of a process: `ccd embed` in partial results of four images, killed before it saves number `limit`."""
    use_teacher(ColourTeacher())
    photo_encoder.PART = 4
    killed_command(limit, "embed", *arguments, "--device", "cpu")


def killed_embed(run, limit, *arguments, log):
    process = start(embed_and_die, limit, "--run", run, *arguments, log=log)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    assert list((run / "embeddings.h5.partial").rglob("*.npz"))


def image_store(run):
    """The store of global embeddings."""
    stores = []
    for path in (run / "image_embeddings").glob("*.h5"):
        with h5py.File(path) as file:
            stores += [path] if "content" not in file.attrs else []
    (store,) = stores
    return store


def check_embeddings(run):
    """Every photo has its own embedding in the artifact's probabilities and in the store."""
    manifest = read(run / "manifest.csv")
    own = {
        digest: ColourTeacher().encode_images(load_view(Path(path), (32, 32), "bicubic")[None])[0].numpy()
        for digest, path in zip(manifest.digests, manifest.paths, strict=True)
    }
    with h5py.File(image_store(run)) as file:
        found = dict(zip(file["sha256"].asstr()[:], file["image"][:], strict=True))
    assert set(found) == set(own)
    for digest, row in found.items():
        np.testing.assert_allclose(row, own[digest], atol=1e-5)
    embeddings = read(run / "embeddings.h5")
    images = np.stack([own[digest] for digest in manifest.digests])
    joint = np.concatenate([embeddings.text, embeddings.background_text])
    logits = np.exp(embeddings.logit_scale * (images @ joint.T))
    expected = (logits / logits.sum(1, keepdims=True))[:, : len(embeddings.text)]
    np.testing.assert_allclose(embeddings.probabilities, expected, atol=1e-4)


def test_embeddings_taken_over_between_kill_and_resume_move_no_photo(many, colour_teacher, monkeypatch):
    whole, some = many / "run-all", many / "run-some"
    ccd("embed", "--run", some, "--device", "cpu")
    killed_embed(whole, 1, log=many / "log")
    monkeypatch.setattr(photo_encoder, "PART", 4)
    ccd("embed", "--run", whole, "--device", "cpu", "--reuse-embeddings", some)
    check_embeddings(whole)


def test_embeddings_deleted_between_kill_and_resume_move_no_photo(many, colour_teacher, monkeypatch):
    whole, some = many / "run-all", many / "run-some"
    ccd("embed", "--run", some, "--device", "cpu")
    killed_embed(whole, 1, "--reuse-embeddings", some, log=many / "log")
    shutil.rmtree(whole / "image_embeddings")
    monkeypatch.setattr(photo_encoder, "PART", 4)
    ccd("embed", "--run", whole, "--device", "cpu")
    check_embeddings(whole)


def test_partial_results_of_another_precision_are_not_taken(many, monkeypatch):
    class Negative(ColourTeacher):
        def encode_images(self, images):
            return -super().encode_images(images)

    run = many / "run-all"
    killed_embed(run, 1, log=many / "log")
    monkeypatch.setattr(photo_encoder, "PART", 4)
    use_teacher(Negative(dtype=torch.float16), monkeypatch)
    ccd("embed", "--run", run, "--device", "cpu")
    with h5py.File(image_store(run)) as file:
        assert file.attrs["precision"] == b"float16" and (file["image"][:] <= 0).all()


@pytest.mark.parametrize("size", [1, 4, 16])
def test_boxes_resumed_in_other_batches_are_those_of_all_photos(size, run, monkeypatch):
    arguments = ("boxes", "--run", run, "--device", "cpu", "--force", "--batch-size")
    ccd(*arguments, size)
    unbroken = read(run / "boxes.h5")
    (run / "boxes.h5").unlink()
    save = PartialResults.save_arrays

    def save_two(pieces, index, arrays):
        if index == 2:
            raise KeyboardInterrupt
        save(pieces, index, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(PartialResults, "save_arrays", save_two)
        assert invoke(*arguments[:5], "--batch-size", 2)[0] == 130
    ccd(*arguments[:5], "--batch-size", size)
    found = read(run / "boxes.h5")
    np.testing.assert_array_equal(found.image_index, unbroken.image_index)
    np.testing.assert_allclose(found.box, unbroken.box, atol=0.5)


def test_crops_of_other_boxes_are_scored_again(tmp_path):
    photos = SimpleNamespace(paths=noise_photos(tmp_path, [(40, 40)] * 3), digest_of={})
    head = ZeroShotHead(torch.eye(3), torch.arange(3), torch.eye(3)[:0], 5.0)
    asked = CropTeacher(ColourTeacher(), head, CropRules(32, 0, "bicubic", "bicubic", "snapped"))
    first = torch.tensor([[0.0, 0, 20, 20]]).repeat(3, 1)

    def scores(name, boxes):
        pieces = PartialResults(tmp_path / name, Provenance("crop_scores", 1, {}, {}))
        return np.concatenate(list(score_crops(asked, photos, torch.arange(3), boxes, 2, pieces)))

    before = scores("resumed", first)
    np.testing.assert_array_equal(scores("resumed", first + 20), scores("afresh", first + 20))
    assert np.abs(scores("resumed", first + 20) - before).max() > 0


def test_an_input_with_another_content_and_the_same_fingerprint_makes_partial_results_stale(tmp_path):
    provenance = Provenance("boxes", 1, {}, {"manifest.csv": "a", "warmup.pt": "b"})
    (tmp_path / "manifest.csv").write_text("one place")
    (tmp_path / "warmup.pt").write_bytes(b"of a CPU")
    target = tmp_path / "boxes.h5"
    PartialResults(target, provenance).save_arrays(0, {"x": np.arange(2)})
    (tmp_path / "manifest.csv").write_text("the same photos in another place")
    assert PartialResults(target, provenance).has_arrays(0)
    (tmp_path / "warmup.pt").write_bytes(b"of a GPU")
    assert not PartialResults(target, provenance).has_arrays(0)


def test_what_cannot_be_removed_is_not_taken_for_new(tmp_path, monkeypatch):
    target = tmp_path / "boxes.h5"
    PartialResults(target, Provenance("boxes", 1, {}, {})).save_arrays(0, {"x": np.arange(2)})

    def busy(path, ignore_errors=False, **_):
        if not ignore_errors:
            raise OSError(39, "Directory not empty")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        with pytest.raises(PipelineError, match=r"boxes.h5.partial could not be removed .*Directory not empty"):
            PartialResults(target, Provenance("boxes", 1, {"x": 1}, {}))
    assert not PartialResults(target, Provenance("boxes", 1, {"x": 1}, {})).has_arrays(0)


def test_lists_that_differ_have_different_digests():
    lists = [["a", "b"], ["ab"], ["b", "a"], np.arange(2), np.arange(2.0), np.arange(2)[:, None], [0, 1], []]
    assert len({digest_of(each) for each in lists} | {digest_of("a", "b"), digest_of()}) == len(lists) + 2


def mapped_files():
    return Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_no_partial_result_is_mapped_when_its_folder_is_removed(tmp_path, backbone, monkeypatch):
    from pipeline.runs.options import TrainConfig, WarmupConfig

    folder, seen = write_labelled_run(tmp_path / "run"), []
    remove = PartialResults.remove

    def look_and_remove(pieces):
        seen.extend(line for line in mapped_files().splitlines() if ".partial/" in line)
        seen.append(pieces.folder.name)
        remove(pieces)

    monkeypatch.setattr(PartialResults, "remove", look_and_remove)
    shared = {"image_size": 32, "predict_size": 0, "batch_size": 4, "freeze_backbone": False}
    stages = [
        ("warmup", WarmupConfig(backbone="timm:test_resnet", weights=str(backbone), epochs=2, **shared)),
        ("train", TrainConfig(epochs=3, **shared)),
    ]
    for name, config in stages:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"pipeline.stages.{name}.fit", stopped_after_fit(name))
            run_stage(name, folder, config)
        run_stage(name, folder, config)  # goes on from the files of the epochs
    assert seen == ["warmup.pt.partial", "classifier.pt.partial"]


def stopped_after_fit(name):
    from pipeline.classifier.training import fit

    def stopped(*arguments, **options):
        fit(*arguments, **options)
        raise KeyboardInterrupt

    return stopped


def test_a_damaged_partial_result_of_a_part_names_the_stage(tmp_path):
    path = tmp_path / "run" / "classifier.pt.partial" / "round1_fold2" / "last.pt"
    save_partial(path, {"rows": []})
    assert load_partial(path, "rows") == {"rows": []}
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(PipelineError, match=r"last.pt is damaged .*`ccd train .*run --force`"):
        load_partial(path)
