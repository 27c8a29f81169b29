import hashlib
import json
import os

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts.boxes import CropScores
from pipeline.artifacts.checkpoints import (
    Checkpoint,
    load_pt,
    read_checkpoint,
    read_header,
    save_partial,
    write_checkpoint,
)
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.hdf5_file import put_attributes
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import COLUMNS, Manifest, manifest_provenance, read_manifest, write_manifest
from pipeline.artifacts.predictions import prediction_frame, write_predictions
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.artifacts.state import check_up_to_date, is_built, origin_of, read_provenance
from pipeline.evaluation.read import read
from pipeline.method import FORMULAS
from pipeline.runs.graph import VERSIONS, find_stage
from pipeline.runs.options import FuseConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing, write_json


def labels(ids=("a", "b"), classes=("cat", "dog", "cow"), inputs=None, schema="initial_labels", **config):
    values = np.arange(len(ids) * len(classes), dtype=np.float32).reshape(len(ids), -1) / 10
    return Labels(
        provenance=Provenance(schema, VERSIONS[schema], {"ratio": 0.5, **config}, inputs or {}),
        image_ids=list(ids),
        class_names=list(classes),
        labels=values.clip(0, 1),
        scores=values,
        confident=np.array([True] * len(ids)),
    )


def crop_scores(inputs=None, **config):
    return CropScores(
        provenance=Provenance("crop_scores", VERSIONS["crop_scores"], config, inputs or {}),
        image_ids=["a", "b"],
        class_names=["cat", "dog", "cow"],
        image_index=np.zeros(0, np.int64),
        class_index=np.zeros(0, np.int64),
        probabilities=np.zeros((0, 3), np.float32),
        entropy=np.zeros(0, np.float32),
        class_is_top1=np.zeros(0, bool),
        outcomes=3,
    )


def embeddings(**config):
    return Embeddings(
        provenance=Provenance("embeddings", VERSIONS["embeddings"], config, {}),
        image_ids=["a", "b"],
        class_names=["cat", "dog", "cow"],
        is_train=np.array([True, True]),
        probabilities=np.full((2, 3), 1 / 3, np.float32),
        entropy=np.ones(2, np.float32),
        class_is_top1=np.ones(2, bool),
        bias=np.ones(3, np.float32),
        bias_counts=np.ones(3, np.int64),
        logit_scale=10.0,
        outcomes=3,
        image_size=32,
        teacher="none",
        teacher_fingerprint="none",
    )


def manifest_of(tmp_path, names=("a", "b")):
    rows = [(n, str(tmp_path / "photos" / f"{n}.jpg"), "train", 10, 20, n * 64) for n in names]
    images = pd.DataFrame(rows, columns=COLUMNS)
    display_names = {"cat": {"cat": 1.0}, "dog": {"dog": 2.0, "puppy": 0.5}}
    return Manifest(
        provenance=manifest_provenance(images, display_names),
        dataset="photos",
        display_names=display_names,
        images=images,
        skipped={"c": "c.jpg is empty"},
    )


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "initial_labels.h5"
    written = labels(ids=("ä", "日本/1"), seed=3)
    write(path, written)
    found = read(path)
    assert found.image_ids == ["ä", "日本/1"] and found.class_names == written.class_names
    assert found.provenance == written.provenance and found.provenance.seed == 3
    for name in ("labels", "scores", "confident"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert found.frame().loc["ä", "dog"] == pytest.approx(0.1)
    assert list(tmp_path.iterdir()) == [path]


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "run").mkdir(parents=True)
        write(tmp_path / name / "run" / "initial_labels.h5", labels())
        save_partial(tmp_path / name / "run" / "last.pt", {"weights": {"w": load_safe()}})
    for file in ("initial_labels.h5", "last.pt"):
        assert (tmp_path / "one" / "run" / file).read_bytes() == (tmp_path / "two" / "run" / file).read_bytes()


def load_safe():
    import torch

    return torch.arange(5.0)


def test_every_option_and_input_changes_the_fingerprint():
    base = Provenance("labels", 1, {"ratio": 0.5}, {"a.h5": "1"})
    others = [
        Provenance("labels", 2, {"ratio": 0.5}, {"a.h5": "1"}),
        Provenance("labels", 1, {"ratio": 0.5}, {"a.h5": "1"}, {"labels": 2}),
        Provenance("labels", 1, {"ratio": 0.6}, {"a.h5": "1"}),
        Provenance("labels", 1, {"ratio": 0.5}, {"a.h5": "2"}),
        Provenance("boxes", VERSIONS["boxes"], {"ratio": 0.5}, {"a.h5": "1"}),
    ]
    assert len({p.fingerprint for p in [base, *others]}) == 6


def damage_shape(file):
    del file["scores"]
    file["scores"] = np.zeros((2, 2), np.float32)


def damage_dtype(file):
    del file["scores"]
    file["scores"] = np.zeros((2, 3), np.float64)


def damage_attribute(file):
    put_attributes(file, {"config": json.dumps({"ratio": 0.9})})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_shape, r"scores in .* has shape \[2, 2\], expected \[N, C\] = \[2, 3\].*ccd init-labels"),
        (damage_dtype, r"scores in .* is float64, expected float32"),
        (lambda file: file.pop("scores"), r"has no scores|is incomplete"),
        (damage_attribute, r"fingerprint does not match"),
        (lambda file: file.attrs.pop("schema"), r"not an artifact.*lacks 'schema'"),
        (lambda file: file.attrs.update(version=99), r"fingerprint|cannot read"),
    ],
)
def test_a_file_that_is_not_as_specified_is_refused(tmp_path, damage, message):
    path = tmp_path / "initial_labels.h5"
    write(path, labels())
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(PipelineError, match=message):
        read(path)


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_truncated_file_names_the_command_that_rebuilds_it(tmp_path, size):
    path = tmp_path / "initial_labels.h5"
    write(path, labels())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(PipelineError, match=r"initial_labels.h5 is damaged.*`ccd init-labels .* --force`"):
        read(path)
    with pytest.raises(PipelineError, match="damaged"):
        read_provenance(path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(PipelineError, match=r"crop_scores.h5 is missing. Create it with `ccd score-crops "):
        read(tmp_path / "crop_scores.h5")


def test_arrays_that_do_not_fit_are_not_written(tmp_path):
    path = tmp_path / "initial_labels.h5"
    wrong = labels()
    object.__setattr__(wrong, "scores", np.zeros((5, 3), np.float32))
    with pytest.raises(PipelineError, match="scores"):
        write(path, wrong)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"mAP": 1})
    before = path.read_bytes()
    with pytest.raises(PipelineError, match=r"could not be written \(.*No space"), replacing(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_about_different_images_are_refused(tmp_path):
    first, second = labels(("a", "b")), labels(("a", "c"))
    with pytest.raises(PipelineError, match=r"different images; the first difference is b"):
        check_same_images(first, second, tmp_path / "final_labels.h5", tmp_path / "crop_scores.h5")
    with pytest.raises(PipelineError, match="different classes"):
        check_same_images(first, labels(classes=("x", "y", "z")), tmp_path / "a.h5", tmp_path / "b.h5")
    with pytest.raises(PipelineError, match="first difference is their order"):
        check_same_images(first, labels(("b", "a")), tmp_path / "a.h5", tmp_path / "b.h5")


FUSE = find_stage("fuse")


def chain(folder):
    """embeddings <- initial labels, crop scores: enough inputs for `fuse`."""
    write(folder / "embeddings.h5", embeddings())
    source = {"embeddings.h5": read_provenance(folder / "embeddings.h5").fingerprint}
    write(folder / "initial_labels.h5", labels(inputs=source))
    write(folder / "crop_scores.h5", crop_scores(inputs=source))


def test_a_stage_is_up_to_date_until_an_option_an_input_or_a_formula_changes(tmp_path, monkeypatch):
    chain(tmp_path)
    origin = origin_of(FUSE, tmp_path, FuseConfig(ratio=0.5))
    made = labels(schema="final_labels")
    object.__setattr__(made, "provenance", origin)
    write(tmp_path / "final_labels.h5", made)
    assert is_built(FUSE, tmp_path, origin_of(FUSE, tmp_path, FuseConfig(ratio=0.5)))
    assert not is_built(FUSE, tmp_path, origin_of(FUSE, tmp_path, FuseConfig(ratio=0.6)))
    monkeypatch.setitem(FORMULAS, "labels", FORMULAS["labels"] + 1)
    assert not is_built(FUSE, tmp_path, origin_of(FUSE, tmp_path, FuseConfig(ratio=0.5)))
    with pytest.raises(
        PipelineError, match=r"final_labels.h5 is out of date: the formulas of labels have changed.*ccd fuse"
    ):
        check_up_to_date(tmp_path / "final_labels.h5")


def test_a_stale_input_names_the_command_that_rebuilds_it(tmp_path):
    chain(tmp_path)
    write(tmp_path / "embeddings.h5", embeddings(new=1))
    with pytest.raises(
        PipelineError, match=r"initial_labels.h5 is out of date: embeddings.h5 has changed.*ccd init-labels"
    ):
        origin_of(FUSE, tmp_path, FuseConfig())


def test_ground_truth_in_an_input_marks_what_is_made_from_it(tmp_path):
    chain(tmp_path)
    assert not origin_of(FUSE, tmp_path, FuseConfig()).uses_ground_truth
    marked = labels()
    object.__setattr__(
        marked, "provenance", Provenance("initial_labels", VERSIONS["initial_labels"], {}, {}, uses_ground_truth=True)
    )
    write(tmp_path / "initial_labels.h5", marked)
    assert origin_of(FUSE, tmp_path, FuseConfig()).uses_ground_truth


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (crop_scores, "final_labels.h5", "final_labels.h5 contains crop_scores, expected final_labels"),
        (labels, "final_labels.h5", "final_labels.h5 contains initial_labels, expected final_labels"),
    ],
)
def test_another_artifact_under_a_name_is_refused(tmp_path, content, name, message):
    write(tmp_path / name, content())
    for look in (read, check_up_to_date, read_provenance):
        with pytest.raises(PipelineError, match=message):
            look(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "message"), [(1.5, "has a value of 1.5, expected at most 1"), (np.nan, "1 values that are not finite")]
)
def test_labels_out_of_range_are_refused(tmp_path, value, message):
    path = tmp_path / "initial_labels.h5"
    write(path, labels())
    with h5py.File(path, "r+") as file:
        file["labels"][0, 0] = value
    with pytest.raises(PipelineError, match=f"labels in .*{message}.*ccd init-labels"):
        read(path)


def external_link(file, folder):
    del file["scores"]
    file["scores"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def external_storage(file, folder):
    del file["scores"]
    (folder / "secret.txt").write_text("secret text of another file, long enough")
    file.create_dataset("scores", (2, 3), np.float32, external=[(str(folder / "secret.txt"), 0, 24)])


def soft_link(file, folder):
    del file["scores"]
    file["scores"] = h5py.SoftLink("/labels")


def claims_terabytes(file, folder):
    del file["scores"]
    file.create_dataset("scores", (2**20, 2**20), np.float32, chunks=(1024, 1024))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (external_link, "scores is a link"),
        (external_storage, "scores is in another file"),
        (soft_link, "scores is a link"),
        (claims_terabytes, r"scores claims 4,398,046,511,104 bytes"),
    ],
)
def test_content_that_lies_elsewhere_or_nowhere_is_refused(tmp_path, damage, message):
    path = tmp_path / "initial_labels.h5"
    write(path, labels())
    with h5py.File(path, "r+") as file:
        damage(file, tmp_path)
    with pytest.raises(PipelineError, match=message):
        read(path)


def test_manifest_survives_and_its_paths_may_move_with_the_run(tmp_path):
    written = manifest_of(tmp_path)
    write_manifest(tmp_path, written)
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    found = read_manifest(moved)
    assert found.paths == [str(moved / "photos" / f"{n}.jpg") for n in ("a", "b")]
    assert found.display_names == written.display_names and found.skipped == written.skipped
    assert found.sizes.tolist() == [[10, 20], [10, 20]]
    assert found.split("test").image_ids == []
    assert found.digest_of is found.digest_of  # not made again for each photo
    moved.rename(tmp_path)


@pytest.mark.parametrize("rows", [1, 2, 65_536])
def test_the_images_of_a_manifest_are_hashed_row_by_row_whatever_the_block(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.artifacts.manifest.BLOCK", rows)
    text = "".join(f"{n}\ttrain\t10\t20\t{n * 64}\n" for n in "abc")
    found = manifest_of(tmp_path, names=("a", "b", "c")).provenance.config["images"]
    assert found == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_manifest_edited_by_hand_is_refused(tmp_path):
    write_manifest(tmp_path, manifest_of(tmp_path))
    path = tmp_path / "manifest.csv"
    path.write_text(path.read_text().replace("train", "test", 1))
    with pytest.raises(PipelineError, match=r"manifest.csv was changed.*ccd prepare"):
        read_manifest(tmp_path)


def test_ids_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    write_manifest(tmp_path, manifest_of(tmp_path, names=("007", "NA")))
    assert read_manifest(tmp_path).image_ids == ["007", "NA"]


def test_a_checkpoint_is_read_back_and_a_broken_one_refused(tmp_path):
    path = tmp_path / "warmup.pt"
    checkpoint = Checkpoint(
        provenance=Provenance("warmup", VERSIONS["warmup"], {}, {}),
        image_ids=["a"],
        class_names=["cat", "dog"],
        architecture={"backbone": "lite0", "class_count": 2, "boost": 3.0, "resize_filter": "bicubic"},
        image_size=64,
        weights={"w": load_safe()},
        training={"steps": 3},
        steps=3,
        thresholds=[0.5, 0.5],
    )
    write_checkpoint(path, checkpoint)
    found = read_checkpoint(path)
    assert found.weights["w"].tolist() == [0, 1, 2, 3, 4] and found.training == {"steps": 3}
    assert check_up_to_date(path) == checkpoint.provenance
    assert read_header(path).thresholds == [0.5, 0.5]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PipelineError, match=r"warmup.pt is damaged.*ccd warmup"):
        read_checkpoint(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    import torch

    path = tmp_path / "warmup.pt"
    torch.save({"attributes": os.path.join}, path)
    with pytest.raises(PipelineError, match="damaged or not an artifact"):
        read_checkpoint(path)


def test_unfinished_work_is_kept_for_the_same_provenance_alone(tmp_path):
    target = tmp_path / "embeddings.h5"
    first, other = Provenance("embeddings", 1, {}, {}), Provenance("embeddings", 1, {"x": 1}, {})
    PartialResults(target, first).save_arrays(3, {"image": np.arange(4)})
    again = PartialResults(target, first)
    assert again.has_arrays(3) and not again.has_arrays(2)
    assert again.load_arrays(3)["image"].tolist() == [0, 1, 2, 3]
    assert not PartialResults(target, first, fresh=True).has_arrays(3)
    again.save_arrays(3, {"image": np.arange(4)})
    assert not PartialResults(target, other).has_arrays(3)
    PartialResults(target, other).remove()
    assert not list(tmp_path.iterdir())


def test_unfinished_checkpoints_load_without_pickle(tmp_path):
    save_partial(tmp_path / "last.pt", {"rows": [{"loss": 0.5}], "average": None})
    assert load_pt(tmp_path / "last.pt") == {"rows": [{"loss": 0.5}], "average": None}


def test_every_healthy_file_of_a_run_is_read_and_a_folder_is_named(small_run):
    scores = read(small_run / "epoch_scores.h5")
    frame = prediction_frame(scores.image_ids, scores.chosen, [0.5] * 3, scores.class_names, key="image_id")
    write_predictions(small_run / "predictions.csv", frame)
    found = {name: read(small_run / name) for name in ("predictions.csv", "warmup.csv", "train.csv", "metrics.json")}
    assert len(found["predictions.csv"]) == 4 and "epoch" in found["train.csv"].columns
    with pytest.raises(PipelineError, match="is a folder"):
        read(small_run)
    (small_run / "notes.txt").write_text("x")
    with pytest.raises(PipelineError, match="not a file that `read` knows"):
        read(small_run / "notes.txt")
    with pytest.raises(PipelineError, match=r"train\.csv is missing"):
        (small_run / "train.csv").unlink()
        read(small_run / "train.csv")
