import json
import os

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline.machine.errors import PipelineError
from pipeline.runs.artifacts import (
    MANIFEST_COLUMNS,
    Checkpoint,
    CropScores,
    Labels,
    Manifest,
    Partial,
    Provenance,
    begin,
    check_current,
    check_same_images,
    digest_images,
    load_pt,
    read,
    read_checkpoint,
    read_manifest,
    read_provenance,
    save_pt,
    write,
    write_checkpoint,
    write_manifest,
)
from pipeline.runs.files import replacing, write_json
from pipeline.stages.fuse import FuseConfig


def labels(ids=("a", "b"), classes=("cat", "dog", "cow"), inputs=None, **config):
    values = np.arange(len(ids) * len(classes), dtype=np.float32).reshape(len(ids), -1) / 10
    return Labels(
        provenance=Provenance("labels", 1, {"ratio": 0.5, **config}, inputs or {}),
        image_ids=list(ids),
        class_names=list(classes),
        labels=values.clip(0, 1),
        scores=values,
        confident=np.array([True] * len(ids)),
    )


def crop_scores(inputs=None):
    return CropScores(
        provenance=Provenance("crop_scores", 1, {}, inputs or {}),
        image_ids=["a", "b"],
        class_names=["cat", "dog", "cow"],
        image_index=np.zeros(0, np.int64),
        probabilities=np.zeros((0, 3), np.float32),
        local=np.zeros((2, 3), np.float32),
        votes=np.zeros((2, 3), np.int64),
    )


def manifest_of(tmp_path, names=("a", "b")):
    rows = [(n, str(tmp_path / "photos" / f"{n}.jpg"), "train", 10, 20, n * 64) for n in names]
    images = pd.DataFrame(rows, columns=MANIFEST_COLUMNS)
    provenance = Provenance("manifest", 1, {"images": digest_images(images)}, {})
    return Manifest(
        provenance=provenance,
        class_names=["cat", "dog"],
        display_names={"cat": ["cat"], "dog": ["dog", "puppy"]},
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
        (tmp_path / name).mkdir()
        write(tmp_path / name / "initial_labels.h5", labels())
        save_pt(tmp_path / name / "warmup.pt", {"weights": {"w": load_safe()}})
    for file in ("initial_labels.h5", "warmup.pt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def load_safe():
    import torch

    return torch.arange(5.0)


def test_every_option_and_input_changes_the_fingerprint():
    base = Provenance("labels", 1, {"ratio": 0.5}, {"a.h5": "1"})
    others = [
        Provenance("labels", 2, {"ratio": 0.5}, {"a.h5": "1"}),
        Provenance("labels", 1, {"ratio": 0.6}, {"a.h5": "1"}),
        Provenance("labels", 1, {"ratio": 0.5}, {"a.h5": "2"}),
        Provenance("boxes", 1, {"ratio": 0.5}, {"a.h5": "1"}),
    ]
    assert len({p.fingerprint for p in [base, *others]}) == 5


def damage_shape(file):
    del file["scores"]
    file["scores"] = np.zeros((2, 2), np.float32)


def damage_dtype(file):
    del file["scores"]
    file["scores"] = np.zeros((2, 3), np.float64)


def damage_attribute(file):
    file.attrs["config"] = json.dumps({"ratio": 0.9})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_shape, r"scores in .* has shape \[2, 2\], expected \[N, C\] = \[2, 3\].*ccd init-labels"),
        (damage_dtype, r"scores in .* is float64, expected float32"),
        (lambda file: file.pop("scores"), r"has no scores|is incomplete"),
        (damage_attribute, r"fingerprint does not fit its attributes"),
        (lambda file: file.attrs.pop("schema"), r"damaged or not an artifact"),
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
    with pytest.raises(PipelineError, match=r"initial_labels.h5 is damaged.*`ccd init-labels --run .* --force`"):
        read(path)
    with pytest.raises(PipelineError, match="damaged"):
        read_provenance(path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(PipelineError, match=r"crop_scores.h5 is missing. Create it with `ccd score-crops --run"):
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


def chain(folder):
    """embeddings <- initial labels, crop scores: enough inputs for `fuse`."""
    write(folder / "embeddings.h5", crop_scores())
    source = {"embeddings.h5": read_provenance(folder / "embeddings.h5").fingerprint}
    write(folder / "initial_labels.h5", labels(inputs=source))
    write(folder / "crop_scores.h5", crop_scores(inputs=source))
    return ["embeddings.h5", "initial_labels.h5", "crop_scores.h5"]


def test_a_stage_is_up_to_date_until_an_option_or_an_input_changes(tmp_path):
    sources = chain(tmp_path)
    output = tmp_path / "final_labels.h5"
    first = begin(tmp_path, output.name, FuseConfig(ratio=0.5), sources)
    made = labels()
    object.__setattr__(made, "provenance", first)
    write(output, made)
    assert begin(tmp_path, output.name, FuseConfig(ratio=0.5), sources) is None
    assert begin(tmp_path, output.name, FuseConfig(ratio=0.5), sources, force=True) == first
    assert begin(tmp_path, output.name, FuseConfig(ratio=0.6), sources) != first


def test_a_stale_input_names_the_command_that_rebuilds_it(tmp_path):
    sources = chain(tmp_path)
    changed = crop_scores(inputs={})
    object.__setattr__(changed, "provenance", Provenance("crop_scores", 1, {"new": 1}, {}))
    write(tmp_path / "embeddings.h5", changed)
    with pytest.raises(PipelineError, match=r"initial_labels.h5 is stale: embeddings.h5 has changed.*ccd init-labels"):
        begin(tmp_path, "final_labels.h5", FuseConfig(), sources)


def test_ground_truth_in_an_input_marks_what_is_made_from_it(tmp_path):
    write(tmp_path / "embeddings.h5", crop_scores())
    marked = labels()
    object.__setattr__(marked, "provenance", Provenance("labels", 1, {}, {}, uses_ground_truth=True))
    write(tmp_path / "initial_labels.h5", marked)
    made = begin(tmp_path, "final_labels.h5", FuseConfig(), ["embeddings.h5", "initial_labels.h5"])
    assert made.uses_ground_truth
    assert not begin(tmp_path, "final_labels.h5", FuseConfig(), ["embeddings.h5"]).uses_ground_truth


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
    moved.rename(tmp_path)


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
        provenance=Provenance("classifier", 1, {}, {}),
        image_ids=["a"],
        class_names=["cat", "dog"],
        architecture={"backbone": "lite0"},
        image_size=64,
        weights={"w": load_safe()},
        training={"steps": 3},
        thresholds=[0.5, 0.5],
    )
    write_checkpoint(path, checkpoint)
    found = read_checkpoint(path)
    assert found.weights["w"].tolist() == [0, 1, 2, 3, 4] and found.training == {"steps": 3}
    assert check_current(path) == checkpoint.provenance
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
    Partial(target, first).save_arrays(3, {"image": np.arange(4)})
    again = Partial(target, first)
    assert again.has_arrays(3) and not again.has_arrays(2)
    assert again.load_arrays(3)["image"].tolist() == [0, 1, 2, 3]
    assert not Partial(target, first, fresh=True).has_arrays(3)
    again.save_arrays(3, {"image": np.arange(4)})
    assert not Partial(target, other).has_arrays(3)
    Partial(target, other).remove()
    assert not list(tmp_path.iterdir())


def test_unfinished_checkpoints_load_without_pickle(tmp_path):
    save_pt(tmp_path / "last.pt", {"rows": [{"loss": 0.5}], "average": None})
    assert load_pt(tmp_path / "last.pt") == {"rows": [{"loss": 0.5}], "average": None}
