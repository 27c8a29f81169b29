import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from worlds.commands import ccd, invoke, refused
from worlds.teachers import ColourTeacher

from pipeline.datasets import hdf5_probe
from pipeline.evaluation.read import read
from pipeline.system.errors import PipelineError
from pipeline.teachers.precomputed import align, read_precomputed

REAL = Path(__file__).resolve().parents[2] / "shared/data/clip_rn50x64_voc12_train.h5"
SEED = int(os.environ.get("CCD_FUZZ_SEED", "31"))
FLIPS = int(os.environ.get("CCD_FUZZ_ROUNDS", "12"))
PROBABILITIES = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], np.float32)


def write(path, attrs=None, **datasets):
    with h5py.File(path, "w") as file:
        file.attrs.update(attrs or {})
        for name, values in datasets.items():
            file[name] = np.array([value.encode() for value in values], "S") if isinstance(values, list) else values
    return path


def scores(path, **changes):
    datasets = {
        "image_ids": ["a", "b", "c"],
        "classes": ["cat", "dog"],
        "probabilities": PROBABILITIES,
    } | changes
    return write(path, **{name: values for name, values in datasets.items() if values is not None})


def test_probabilities_and_their_order(tmp_path):
    found = align(read_precomputed(scores(tmp_path / "p.h5")), ["c", "a"], ["dog", "cat"])
    assert (found.image_ids, found.class_names) == (["c", "a"], ["dog", "cat"])
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.5, 0.5], [0.1, 0.9]]))


def test_embeddings_become_unit_rows(tmp_path):
    path = write(
        tmp_path / "e.h5",
        {"logit_scale": 100.0, "teacher": "somebody's CLIP"},
        image_ids=["a", "b"],
        image=np.array([[3, 4], [0, 2]], np.float16),
        classes=["cat", "dog"],
        text=np.array([[1, 0], [0, 5]], np.float32),
    )
    found = read_precomputed(path)
    assert (found.logit_scale, found.teacher, found.probabilities) == (100, "somebody's CLIP", None)
    torch.testing.assert_close(found.image, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(align(found, ["b"], ["dog", "cat"]).text, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


LOGITS = np.array([[2.0, -1.0], [0.5, 1.5], [0.0, 0.0]], np.float32)
LOCAL = np.array([[2.5, 3.0], [0.5, 4.0], [1.0, 0.0]], np.float32)


@pytest.mark.parametrize("name", ["local_logits", "tile_max_logits"])
def test_logits_of_whole_images_and_of_their_parts(tmp_path, name):
    path = scores(tmp_path / "l.h5", probabilities=None, global_logits=LOGITS, **{name: LOCAL})
    found = align(read_precomputed(path), ["c", "a"], ["dog", "cat"])
    torch.testing.assert_close(found.logits, torch.tensor([[0.0, 0.0], [-1.0, 2.0]]))
    torch.testing.assert_close(found.local_logits, torch.tensor([[0.0, 1.0], [3.0, 2.5]]))
    assert found.probabilities is None


def test_logits_become_scores_at_the_scale_asked_for(run, tmp_path):
    run, _ = run
    manifest = read(run / "manifest.csv")
    rows = np.arange(len(manifest.image_ids))
    wide = np.stack([rows % 3, (rows + 1) % 3, -(rows % 2)], axis=1).astype(np.float32)
    path = write(
        tmp_path / "l.h5",
        {"logit_scale": 10.0},
        image_ids=list(manifest.image_ids),
        classes=manifest.class_names,
        global_logits=wide,
        local_logits=wide[::-1],
    )
    ccd("embed", "--run", run, "--device", "cpu", "--precomputed", path, "--logit-scale", 20, "--ranking-entropy", 0)
    embeddings = read(run / "embeddings.h5")
    for name, logits in (("probabilities", wide), ("cell_scores", wide[::-1])):
        expected = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
        np.testing.assert_allclose(getattr(embeddings, name), expected, rtol=1e-5)
    assert embeddings.best_cell is None and embeddings.grid_height == 0
    ccd("embed", "--run", run, "--device", "cpu", "--precomputed", path, "--local", "none")
    assert read(run / "embeddings.h5").cell_scores is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"probabilities": None, "image": np.ones((3, 2)), "local_logits": LOCAL},
            "local_logits without global_logits",
        ),
        ({"probabilities": None, "global_logits": LOGITS.T}, "global_logits of shape"),
        ({"global_logits": LOGITS / 0}, "expected finite numbers"),
        ({"image_ids": None}, "classes, probabilities, expected image_ids"),
        ({"classes": None}, "contains image_ids, probabilities, expected classes, the class name"),
        ({"image_ids": []}, "has no image_ids"),
        ({"image_ids": np.arange(3)}, "image_ids of int64, expected strings"),
        ({"image_ids": ["a", "b", "a"]}, "image_ids 'a' more than once"),
        ({"classes": ["cat", "cat"]}, "classes 'cat' more than once"),
        ({"probabilities": PROBABILITIES.T}, r"shape \(2, 3\), expected \(3, 2\)"),
        ({"probabilities": PROBABILITIES * 2}, "row sums from 2 to 2, expected a softmax"),
        ({"probabilities": PROBABILITIES * np.nan}, "expected a softmax"),
        ({"probabilities": PROBABILITIES * [[3, -17]]}, "probabilities from -11.9"),
        ({"probabilities": None, "image": np.zeros((2, 4))}, r"image of shape \(2, 4\), expected 3 rows"),
        ({"probabilities": None, "image": np.zeros((3, 4))}, "rows that are zero"),
        ({"image": np.ones((3, 4)), "text": np.ones((2, 3))}, r"image of shape \(3, 4\) and text of shape \(2, 3\)"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, changes, match):
    with pytest.raises(PipelineError, match=match):
        read_precomputed(scores(tmp_path / "p.h5", **changes))


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(PipelineError, match="is missing"):
        read_precomputed(tmp_path / "p.h5")
    (tmp_path / "p.h5").write_text("cat,dog")
    with pytest.raises(PipelineError, match="not an HDF5 file"):
        read_precomputed(tmp_path / "p.h5")
    whole = scores(tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PipelineError, match=r"cut\.h5 is damaged"):
        read_precomputed(tmp_path / "cut.h5")


@pytest.mark.parametrize(
    ("images", "classes", "match"),
    [
        (["a", "x"], ["cat", "dog"], "lack 1 of 2 images, the first 'x'; .* 'a'"),
        (["a"], ["cat", "horse"], "lack 1 of 2 class names, the first 'horse'"),
        (["a"], ["cat"], "1 classes more than the dataset, the first 'dog'"),
    ],
)
def test_scores_of_another_dataset_are_refused(tmp_path, images, classes, match):
    found = read_precomputed(scores(tmp_path / "p.h5"))
    with pytest.raises(PipelineError, match=match):
        align(found, images, classes)


@pytest.mark.parametrize(
    ("theirs", "ours", "rows"),
    [
        (["a", "b", "c"], ["c.jpg", "a.PNG"], [2, 0]),
        (["a.jpg", "b", "c"], ["a", "b.jpg"], [0, 1]),
        (["x/a.jpg", "y/b.jpg", "c"], ["a.jpg", "test/b.jpg"], [0, 1]),
        (["x/1.jpg", "y/1.jpg", "c"], ["y/1.jpg", "x/1.png"], [1, 0]),
        (["a", "b", "c.d"], ["a.jpg", "c.d"], [0, 2]),
        (["a", "b", "c"], ["deep/a.jpg", "b"], [0, 1]),
        (["a", "b", "c"], ["a.jpg", "test/a.jpg"], [0, None]),  # the train photo's id without extension is nearer
        (["a", "b", "c"], ["a.jpg", "test/b.jpg"], [0, 1]),
        (["/data/x/1.jpg", "/data/y/1.jpg", "c"], ["y/1.jpg", "x/1.jpg"], [1, 0]),
        (["./x/1.jpg", "./y/1.jpg", "c"], ["y/1.jpg", "x/1.jpg"], [1, 0]),
        (["a", "a.jpg", "c"], ["a.jpg", "a"], [1, 0]),  # as ids, before the extension is looked at
        (["cafe\u0301.jpg", "b", "c"], ["caf\u00e9.jpg", "b"], [0, 1]),
    ],
)
def test_names_match_with_and_without_extension_and_folder(tmp_path, theirs, ours, rows):
    found = read_precomputed(scores(tmp_path / "p.h5", image_ids=theirs))
    aligned = align(found, ours, ["cat", "dog"], [True, False])
    expected = [[0.5, 0.5] if row is None else PROBABILITIES[row].tolist() for row in rows]
    torch.testing.assert_close(aligned.probabilities, torch.tensor(expected))


@pytest.mark.parametrize(
    ("theirs", "ours", "lacking"),
    [
        (["a", "b", "c"], ["x/a.jpg", "y/a.jpg"], 2),
        # each of these gave an image the scores of another one
        (["cats/1.jpg", "birds/1.jpg", "c"], ["cats/1.jpg", "dogs/1.jpg"], 1),
        (["cats/1.jpg", "birds/2.jpg", "c"], ["cats/1.jpg", "dogs/2.jpg"], 1),
        (["a.jpg", "a.png", "c"], ["a.jpg", "a.webp"], 1),
        (["a.jpg", "sub/b.jpg", "c"], ["a.jpg", "b.jpg"], 1),
        (["x/a.jpg", "y/a.jpg", "b"], ["x/a.jpg", "a.png"], 1),
    ],
)
def test_names_that_mean_several_images_match_none(tmp_path, theirs, ours, lacking):
    found = read_precomputed(scores(tmp_path / "p.h5", image_ids=theirs))
    with pytest.raises(PipelineError, match=f"lack {lacking} of 2 images"):
        align(found, ours, ["cat", "dog"])


def test_scores_of_the_train_photos_alone_suffice(tmp_path):
    found = read_precomputed(scores(tmp_path / "p.h5"))
    ids = ["a", "test/x", "b"]
    aligned = align(found, ids, ["dog", "cat"], [True, False, True])
    assert aligned.known.tolist() == [True, False, True] and aligned.image_ids == ids
    torch.testing.assert_close(aligned.probabilities, torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.7, 0.3]]))
    assert align(found, ["a", "b"], ["dog", "cat"], [True, True]).known is None
    with pytest.raises(PipelineError, match="lack 1 of 2 images, the first 'y'"):
        align(found, ["a", "test/x", "y"], ["dog", "cat"], [True, False, True])
    path = write(tmp_path / "e.h5", image_ids=["a"], image=np.array([[3, 4]], np.float32))
    aligned = align(read_precomputed(path), ["test/x", "a"], ["cat", "dog"], [False, True])
    torch.testing.assert_close(aligned.image, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"probabilities": ["a", "b", "c"]}, {}),
        ({"probabilities": np.zeros((3, 2), complex)}, {}),
        ({"image_ids": np.float32(3)}, {}),
        ({}, {"logit_scale": "hundred"}),
        ({}, {"logit_scale": np.zeros(3)}),
        ({}, {"logit_scale": np.nan}),
        ({}, {"logit_scale": -1.0}),
    ],
)
def test_files_that_are_wrong_inside_are_refused(tmp_path, changes, attributes):
    path = scores(tmp_path / "p.h5", **changes)
    with h5py.File(path, "a") as file:
        file.attrs.update(attributes)
    with pytest.raises(PipelineError, match=r"p\.h5 (is damaged or|has)"):
        read_precomputed(path)


def test_groups_in_the_place_of_data_are_refused(tmp_path):
    for name in ("image_ids", "classes", "probabilities"):
        path = scores(tmp_path / f"{name}.h5", **{name: None})
        with h5py.File(path, "a") as file:
            file.create_group(name)
        with pytest.raises(PipelineError, match=rf"{name} that is not a dataset"):
            read_precomputed(path)


def test_links_out_of_the_file_are_refused(tmp_path):
    path = scores(tmp_path / "p.h5", probabilities=None)
    scores(tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        file["probabilities"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/probabilities")
    with pytest.raises(PipelineError, match="probabilities that is not a dataset"):
        read_precomputed(path)


def clip_retrieval_folder(folder):
    """Twelve images in parts 0 to 11, whose names sort differently as numbers and as text."""
    pytest.importorskip("pyarrow")
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir()
    for i in range(12):
        np.save(folder / f"img_emb/img_emb_{i}.npy", np.array([[i + 1, 0], [0, i + 1]], np.float16))
        paths = [f"photos/{i}_x.jpg", f"photos/{i}_y.jpg"]
        pd.DataFrame({"image_path": paths, "width": 9}).to_parquet(folder / f"metadata/metadata_{i}.parquet")
    return folder


def test_clip_retrieval_folders_are_joined_by_part(tmp_path):
    found = align(read_precomputed(clip_retrieval_folder(tmp_path)), ["10_y", "2_x"], ["cat", "dog"])
    assert found.class_names is None and found.text is None
    torch.testing.assert_close(found.image, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_incomplete_clip_retrieval_folders_are_refused(tmp_path):
    with pytest.raises(PipelineError, match="no img_emb/img_emb"):
        read_precomputed(tmp_path)
    clip_retrieval_folder(tmp_path)
    np.save(tmp_path / "img_emb/img_emb_4.npy", np.ones((2, 3), np.float16))
    with pytest.raises(PipelineError, match=r"img_emb_4\.npy has embeddings of 3 numbers, img_emb_0\.npy of 2"):
        read_precomputed(tmp_path)
    (tmp_path / "img_emb/img_emb_4.npy").unlink()
    (tmp_path / "img_emb/img_emb_5.npy").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"img_emb_5\.npy or its metadata is damaged"):
        read_precomputed(tmp_path)
    (tmp_path / "metadata/metadata_3.parquet").unlink()
    with pytest.raises(PipelineError, match=r"metadata_3\.parquet is missing"):
        read_precomputed(tmp_path)


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    loaded = []

    def load_teacher(spec, *_, **__):
        loaded.append(spec)
        return ColourTeacher()

    monkeypatch.setattr("pipeline.stages.embed.load_teacher", load_teacher)
    return shutil.copytree(finished, tmp_path / "run"), loaded


def embeddings(run, path, teacher=None, size=3):
    """A file with an embedding of each photo of a run, with the name of its teacher."""
    image_ids = read(run / "embeddings.h5").image_ids
    image = np.random.default_rng(0).normal(size=(len(image_ids), size))
    return write(path, {"teacher": teacher} if teacher else {}, image_ids=image_ids, image=image)


@pytest.mark.parametrize("named_by", ["file", "option"])
def test_classes_are_embedded_by_the_model_that_made_the_embeddings(run, tmp_path, named_by):
    folder, loaded = run
    path = embeddings(folder, tmp_path / "e.h5", "open_clip:A/b" if named_by == "file" else "somebody's CLIP")
    told = [] if named_by == "file" else ["--precomputed-teacher", "open_clip:A/b"]
    ccd("embed", "--run", folder, "--precomputed", path, *told)
    assert loaded == ["open_clip:A/b"] and read(folder / "embeddings.h5").teacher == "open_clip:A/b"


@pytest.mark.parametrize(
    ("teacher", "told", "match"),
    [
        (None, [], "does not name the model that made it.*--precomputed-teacher"),
        (None, ["--teacher", "open_clip:A/b"], "does not name the model that made it"),
        ("somebody's CLIP", [], '"somebody\'s CLIP", which is not the spec'),
        ("open_clip:A/b", ["--teacher", "openai:RN50"], "made by open_clip:A/b, but the teacher is openai:RN50"),
        (None, ["--precomputed-teacher", "conse", "--teacher", "openai:RN50"], "made by conse, but the teacher"),
    ],
)
def test_embeddings_of_a_model_that_is_not_named_or_another_one_are_refused(run, tmp_path, teacher, told, match):
    folder, loaded = run
    code, output = invoke(
        "embed", "--run", folder, "--precomputed", embeddings(folder, tmp_path / "e.h5", teacher), *told
    )
    assert code == 1 and re.search(match, output) and loaded == []


def test_embeddings_of_another_size_than_the_texts_are_refused_in_one_line(run, tmp_path):
    folder, _ = run
    path = embeddings(folder, tmp_path / "e.h5", "conse", size=512)
    code, output = invoke("embed", "--run", folder, "--precomputed", path)
    assert code == 1 and "embeddings of size 512" in output and "of conse have size 3" in output


@pytest.mark.skipif(not REAL.is_file(), reason="needs the RN50x64 scores in shared/data")
def test_real_scores_of_the_papers_teacher():
    found = read_precomputed(REAL)
    with h5py.File(REAL) as file:
        labels = file["ground_truth"][()]
    assert found.probabilities.shape == (5717, 20) and found.logit_scale == 100
    precision = [average_precision_score(labels[:, c] == 1, found.probabilities[:, c]) for c in range(20)]
    assert 100 * sum(precision) / 20 == pytest.approx(85.34, abs=0.005)
    entropy = torch.special.entr(found.probabilities).sum(1)
    assert 100 * (entropy > 2).float().mean() == pytest.approx(2.45, abs=0.005)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "reading it crashes"),
        ("import time; time.sleep(60)", "takes longer than 1 s"),
    ],
    ids=["crash", "hang"],
)
def test_a_file_that_crashes_or_stops_a_reader_is_refused(behaviour, message, tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(behaviour)
    monkeypatch.setattr(hdf5_probe, "__file__", str(tmp_path / "probe.py"))
    monkeypatch.setattr(hdf5_probe, "SECONDS", 1)
    with pytest.raises(PipelineError, match=f"p.h5 is damaged .*{message}"):
        read_precomputed(scores(tmp_path / "p.h5"))


def test_flipped_bytes_of_a_file_of_scores_are_one_line(tmp_path):
    path = scores(tmp_path / "p.h5", image_ids=np.array(["a", "b", "c"], dtype=object))
    sound, rng = path.read_bytes(), np.random.default_rng(SEED)
    for place in rng.choice(len(sound), size=FLIPS, replace=False):
        damaged = bytearray(sound)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_precomputed(path)
        except PipelineError as error:
            assert "\n" not in str(error)


def test_crops_without_a_teacher_stop_the_chain_before_it_trains(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    image_ids = read(run / "manifest.csv").image_ids
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), len(image_ids))
    names = read(run / "manifest.csv").class_names
    path = write(tmp_path / "p.h5", {}, image_ids=image_ids, classes=names, probabilities=probabilities)
    command = ("all", "--run", run, "--device", "cpu")
    before = (run / "embeddings.h5").read_bytes()
    output = refused(*command, "--set", f"embed.precomputed={path}")
    assert f"`ccd all {run} --set boxes.view=none`" in output and "score-crops.teacher=conse" in output
    assert (run / "embeddings.h5").read_bytes() == before
    ccd(*command, "--to", "init-labels")  # needs no crops
    assert (run / "embeddings.h5").read_bytes() != before
    ccd(*command, "--set", "boxes.view=none")
    assert len(read(run / "crop_scores.h5").image_index) == 0
    np.testing.assert_array_equal(read(run / "final_labels.h5").labels, read(run / "initial_labels.h5").labels)
    photo = read(run / "manifest.csv").paths[0]
    assert "Leave --with-teacher out." in refused("predict", run, photo, "--with-teacher", "--device", "cpu")
