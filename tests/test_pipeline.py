"""All stages on small photos with a fake teacher: results, errors and reproducibility."""

import hashlib
import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from worlds.commands import ccd, invoke, options, refused
from worlds.teachers import ColourTeacher, use_teacher

from pipeline import Classifier
from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.artifacts.manifest import read_manifest
from pipeline.classifier.inference import load_classifier, predict_together
from pipeline.evaluation.read import read
from pipeline.method.extras.calibration import fit_calibration
from pipeline.method.losses import mean_label_entropy
from pipeline.runs.graph import MAKERS

STAGES = ["prepare", "embed", "init-labels", "warmup", "boxes", "score-crops", "fuse", "train", "evaluate"]
MADE = [name for name in MAKERS if name != "corrections.h5"]  # those of a person do not come from the stages
BINARY = [name for name in MADE if name.endswith((".h5", ".pt"))]


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in BINARY}


def test_every_artifact_is_there_and_nothing_else(finished):
    expected = {*MADE, "manifest.json", "run.toml", "warmup.csv", "train.csv", "predictions.csv"}
    expected |= {"image_embeddings", "photos.csv", "timings.json", ".lock"}
    assert {path.name for path in finished.iterdir()} == expected


def test_teacher_and_labels_see_the_colours(finished):
    embeddings, final = read(finished / "embeddings.h5"), read(finished / "final_labels.h5")
    truth = read(finished / "ground_truth.h5")
    assert embeddings.is_train.sum() == 8 and len(final.image_ids) == 8
    rows = [truth.image_ids.index(i) for i in final.image_ids]
    first = truth.labels[rows].argmax(1)
    single = truth.labels[rows].sum(1) == 1
    assert (final.scores.argmax(1) == first)[single].all()


def test_bias_is_estimated_on_train_images_alone(finished):
    embeddings = read(finished / "embeddings.h5")
    assert embeddings.bias_counts.sum() <= embeddings.is_train.sum()
    train = embeddings.probabilities[embeddings.is_train]
    for c in range(3):
        top1 = train[train.argmax(1) == c, c]
        if embeddings.bias_counts[c] == len(top1) > 0:
            assert embeddings.bias[c] == pytest.approx(top1.mean(), abs=1e-5)


def test_boxes_lie_in_the_original_photos(finished):
    boxes = read(finished / "boxes.h5")
    assert len(boxes.box) > 0
    assert (boxes.box[:, :2] >= 0).all()
    assert (boxes.box[:, 2] <= 64).all() and (boxes.box[:, 3] <= 48).all()
    assert (boxes.box[:, 2:] > boxes.box[:, :2]).all()
    assert (np.diff(boxes.image_index) >= 0).all()
    # 64 px at stride 32; each map spans its whole range, and is flat or else would give no box
    assert boxes.cam.shape == (len(boxes.box), 2, 2)
    assert (boxes.cam.min((1, 2)) == 0).all() and (boxes.cam.max((1, 2)) == 255).all()


def test_scores_are_calibrated_on_the_train_images_and_the_labels_trained_on(finished):
    checkpoint = read_checkpoint(finished / "classifier.pt")
    assert checkpoint.thresholds == [0.5] * 3
    plain = {"scale": torch.ones(3), "offset": torch.zeros(3)}
    raw = load_classifier(replace(checkpoint, weights=checkpoint.weights | plain))
    manifest = read_manifest(finished)
    # at the size of prediction, which is not that of training here
    logits = predict_together(raw, manifest.split("train").paths, checkpoint.image_size).numpy()
    scale, offset = fit_calibration(logits, read(finished / "cross_fitted_labels.h5").labels)
    np.testing.assert_allclose(checkpoint.weights["scale"], scale, rtol=1e-3)
    np.testing.assert_allclose(checkpoint.weights["offset"], offset, rtol=1e-3, atol=1e-3)
    classifier, kept = Classifier.load(finished / "classifier.pt"), read(finished / "epoch_scores.h5")
    for split, scores in (("test", kept.chosen), ("train", kept.train)):
        np.testing.assert_allclose(classifier.scores(manifest.split(split).paths), scores, atol=2e-3)
    for state in (read_checkpoint(finished / "warmup.pt").weights, checkpoint.training["model"]):
        assert torch.equal(state["scale"], plain["scale"]) and torch.equal(state["offset"], plain["offset"])


def test_inspect_of_a_finished_run_ends_with_its_map_and_the_report(finished):
    code, output = invoke("inspect", finished)
    *_, measured, _, following = output.strip().splitlines()
    figure = json.loads((finished / "metrics.json").read_text())["test"]["final classifier"]["mAP"]
    assert code == 0 and f"{100 * figure:.1f}" in measured and f"ccd report {finished}" in following


def test_labels_are_refined_as_far_as_they_are_undecided(run):
    ccd("train", "--run", run, "--cross-fit-rounds", "2")
    final, refined = (read(run / f"{name}_labels.h5") for name in ("final", "cross_fitted"))
    share = 0.5 * mean_label_entropy(torch.from_numpy(final.labels))
    changed = np.abs(refined.labels - final.labels)
    assert 0 < changed.max() <= share + 1e-6
    np.testing.assert_allclose(refined.scores - refined.labels, (1 - share) * (final.scores - final.labels), atol=1e-6)
    ccd("train", "--run", run, "--cross-fit-rounds", "0")
    np.testing.assert_array_equal(read(run / "cross_fitted_labels.h5").labels, final.labels)


def test_what_people_said_is_not_refined(finished, run):
    image_id = read(finished / "final_labels.h5").image_ids[0]
    names = read(finished / "final_labels.h5").class_names
    (run.parent / "said.csv").write_text(f"image_id,labels\n{image_id},{names[1]}\n")
    undecided = ("all", "--to", "score-crops", "--device", "cpu", "--set", "embed.logit_scale=3")
    training = ("train", "--cross-fit-rounds", "2")
    for command in (undecided, ("import-labels", run.parent / "said.csv"), ("fuse",), training):
        ccd(*command, "--run", run)
    refined = read(run / "cross_fitted_labels.h5")
    assert refined.corrected_entries == 3
    assert refined.labels[0].tolist() == [0, 1, 0]
    assert np.abs(refined.labels[1:] - read(run / "final_labels.h5").labels[1:]).max() > 0


def test_scores_stay_as_they_are_trained_without_calibration(finished, run):
    ccd("train", "--run", run, "--no-calibrate")
    weights = read_checkpoint(run / "classifier.pt").weights
    assert torch.equal(weights["scale"], torch.ones(3)) and torch.equal(weights["offset"], torch.zeros(3))
    chosen = [read(folder / "epoch_scores.h5").chosen for folder in (run, finished)]
    for plain, calibrated in zip(chosen[0].T, chosen[1].T, strict=True):
        assert (np.argsort(plain) == np.argsort(calibrated)).all()


def test_evaluate_says_how_far_the_classifier_is_above_its_teacher(finished):
    content = json.loads((finished / "metrics.json").read_text())
    maps = [content["test"][name]["mAP"] for name in ("final classifier", "teacher, photos and parts")]
    gain = content["gain"]
    assert gain["mAP"] == pytest.approx(maps[0] - maps[1])
    assert ("mAP_interval" in gain) != ("no_interval" in gain)
    code, output = invoke("inspect", finished / "metrics.json")
    assert code == 0 and f"teacher: {100 * gain['mAP']:+.1f} mAP" in output
    assert ("no 95 % interval" in output) == any("no_interval" in each for each in (gain, *content["test"].values()))


def test_a_second_run_elsewhere_has_the_same_bytes(finished, photos, backbone, tmp_path, colour_teacher):
    ccd(*options(photos, backbone, tmp_path / "again"))
    assert digests(finished) == digests(tmp_path / "again")


def test_other_ground_truth_changes_the_figures_and_no_weight(run, colour_teacher):
    before = digests(run)
    figures = (run / "metrics.json").read_text()
    with h5py.File(run / "ground_truth.h5", "r+") as file:
        file["labels"][()] = file["labels"][()][::-1, ::-1]
    for stage in ("embed", "init-labels", "warmup", "boxes", "score-crops", "fuse", "train", "evaluate"):
        ccd(stage, "--run", run, "--force", "--device", "cpu")
    assert (run / "metrics.json").read_text() != figures
    after = digests(run)
    assert {name for name in after if after[name] != before[name]} == {"ground_truth.h5"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_up_to_date_and_force_gives_the_same(stage, run, colour_teacher):
    before = digests(run)
    device = [] if stage == "prepare" else ["--device", "cpu"]
    code, output = invoke(stage, "--run", run, *device)
    assert code == 0
    assert "up to date" in output
    ccd(stage, "--run", run, *device, "--force")
    assert digests(run) == before


@pytest.mark.parametrize("stage", ["warmup", "train"])
def test_a_cache_of_resized_photos_changes_nothing_but_the_decoding(stage, run, tmp_path, monkeypatch):
    before = digests(run)
    arguments = (stage, "--run", run, "--device", "cpu", "--force", "--cache", tmp_path / "cache")
    assert f"{tmp_path}/cache: 8 resized photos will add 0.1 MB" in ccd(*arguments)
    kept = [path.stat().st_size for path in (tmp_path / "cache").rglob("*.rgb")]
    assert kept == [3 * 64 * 64] * 8
    monkeypatch.setattr("pipeline.photos.image_cache.load_view", lambda *_: pytest.fail("decoded again"))
    assert "8 resized photos will add 0.0 MB" in ccd(*arguments)
    assert digests(run) == before


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_missing_input_names_the_command(stage, run, colour_teacher):
    missing = {"embed": "manifest.json", "init-labels": "embeddings.h5", "warmup": "initial_labels.h5"}
    missing |= {"boxes": "warmup.pt", "score-crops": "boxes.h5", "fuse": "crop_scores.h5", "train": "final_labels.h5"}
    name = missing.get(stage, "classifier.pt")
    (run / name).unlink()
    before = digests_of_present(run)
    code, output = invoke(stage, "--run", run)
    assert code == 1
    end = "" if stage == "evaluate" else f" --to {stage}"
    assert f"{run / name} is missing. Run every stage up to {stage} with `ccd all {run}{end}`." in output
    assert digests_of_present(run) == before


def digests_of_present(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_changing_an_option_makes_later_stages_stale(run, colour_teacher):
    code, _ = invoke("init-labels", "--run", run, "--label-floor", 1)
    assert code == 0
    code, output = invoke("train", "--run", run)
    assert code == 1
    assert "warmup.pt is out of date: initial_labels.h5 has changed" in output
    assert f"`ccd all {run} --to train`" in output


def test_a_truncated_input_is_one_line_and_nothing_is_damaged(run, colour_teacher):
    path = run / "embeddings.h5"
    path.write_bytes(path.read_bytes()[:1000])
    before = digests_of_present(run)
    code, output = invoke("init-labels", "--run", run)
    assert code == 1 and "embeddings.h5 is damaged" in output and "\n" not in output
    assert digests_of_present(run) == before


def test_an_unreadable_image_is_skipped_and_listed(photos, backbone, tmp_path, colour_teacher):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "train", folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    output = ccd("all", "--run", tmp_path / "run", "--images", folder, "--classes", "red,blue", "--set",
                          "warmup.backbone=timm:test_resnet", "--set", f"warmup.weights={backbone}", "--device", "cpu",
                          "--set", "warmup.epochs=1", "--set", "train.epochs=1")  # fmt: skip
    manifest = read_manifest(tmp_path / "run")
    assert len(manifest.image_ids) == 8 and list(manifest.skipped) == ["broken.jpg"]
    assert "1 images cannot be read" in output and "broken.jpg" in output
    assert output.count("not measured") == 1 and "is measured" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "red,red"], "red"),
        (["--classes", ""], "--classes"),
        (["--classes", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_class_lists_are_refused(photos, tmp_path, arguments, message):
    assert message in refused("all", "--run", tmp_path / "run", "--images", photos / "train", *arguments)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    code, output = invoke("all", "--run", tmp_path / "run", "--images", tmp_path / "empty", "--classes", "a,b")
    assert code == 1 and "has no images" in output


def test_another_teacher_for_the_crops_is_refused(run, monkeypatch):
    use_teacher(ColourTeacher(fingerprint="colour-2"), monkeypatch)
    code, output = invoke("score-crops", "--run", run, "--force")
    assert code == 1 and "weights of conse" in output and "ccd embed" in output


@pytest.mark.parametrize("block", [1, 7])
def test_labels_fused_in_blocks_of_images_are_those_of_all_at_once(run, monkeypatch, block):
    monkeypatch.setattr("pipeline.stages.fuse.BLOCK", block)
    before = (run / "final_labels.h5").read_bytes()
    (run / "final_labels.h5").unlink()
    ccd("fuse", "--run", run)
    assert (run / "final_labels.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("probabilities", lambda values: values[:-1], "has shape"),
        ("probabilities", lambda values: np.concatenate([values, values[:1]]), "has shape"),
        ("image_index", lambda values: values[::-1], "is not ascending"),
    ],
)
def test_crop_scores_that_do_not_fit_together_are_refused(run, name, change, message):
    with h5py.File(run / "crop_scores.h5", "r+") as file:
        values = change(file[name][:])
        del file[name]
        file[name] = values
    code, output = invoke("fuse", "--run", run, "--force")
    assert (
        code == 1
        and f"{name} in" in output
        and message in output
        and "ccd score-crops" in output
        and "--force`" in output
    )


def test_a_skipped_box_keeps_the_score_of_its_class_and_changes_no_other(run, colour_teacher):
    ccd("score-crops", "--run", run, "--skip-above", 1)
    ccd("fuse", "--run", run)
    every, all_final = read(run / "crop_scores.h5"), read(run / "final_labels.h5")
    initial = read(run / "initial_labels.h5")
    own = initial.labels[every.image_index, every.class_index]
    limit = float(np.median(own))
    kept = own <= limit
    assert len(every.class_index) == len(read(run / "boxes.h5").class_index) and 0 < kept.sum() < len(kept)
    assert f"{(~kept).sum()} boxes" in ccd("score-crops", "--run", run, "--skip-above", limit)
    ccd("fuse", "--run", run)
    some, final = read(run / "crop_scores.h5"), read(run / "final_labels.h5")
    np.testing.assert_array_equal(some.class_index, every.class_index[kept])
    np.testing.assert_allclose(some.probabilities, every.probabilities[kept], atol=1e-6)
    skipped = np.zeros(final.scores.shape, bool)
    skipped[every.image_index[~kept], every.class_index[~kept]] = True
    np.testing.assert_array_equal(final.scores[skipped], initial.scores[skipped])
    np.testing.assert_allclose(final.scores[~skipped], all_final.scores[~skipped], atol=1e-6)
    ccd("fuse", "--run", run, "--crop-scope", "all", "--boxless", "erase")
    np.testing.assert_array_equal(read(run / "final_labels.h5").scores[skipped], initial.scores[skipped])


def test_two_files_about_different_images_are_refused(run, colour_teacher):
    with h5py.File(run / "crop_scores.h5", "r+") as file:
        ids = file["image_ids"][()]
        ids[0] = b"elsewhere.png"
        file["image_ids"][()] = ids
    assert "have different images" in refused("fuse", "--run", run, "--force")


def test_study_views_are_stamped_as_using_ground_truth(run, colour_teacher):
    for arguments in (["boxes", "--view", "gt"], ["score-crops"], ["fuse"], ["train", "--epochs", "1"]):
        ccd(*arguments, "--run", run)
    for name in ("boxes.h5", "crop_scores.h5", "final_labels.h5"):
        assert read(run / name).provenance.uses_ground_truth
    assert read(run / "boxes.h5").cam is None
    assert not read(run / "initial_labels.h5").provenance.uses_ground_truth


@pytest.mark.parametrize("name", [n for n in MADE if n != "metrics.json"])
def test_inspect_prints_every_artifact(finished, name):
    code, output = invoke("inspect", finished / name)
    assert code == 0
    for word in ("fingerprint", "blue"):
        assert word in output


def test_inspect_shows_one_image(finished):
    code, output = invoke("inspect", finished, "--image", "0.png")
    assert code == 0 and "crops" in output and "boxes" in output
    code, output = invoke("inspect", finished / "boxes.h5", "--image", "00.png")
    assert code == 1 and "no image '00.png'" in output and "0.png" in output


def test_the_run_of_a_photo_folder_lies_under_artifacts_and_not_among_the_photos(photos, tmp_path, monkeypatch):
    shutil.copytree(photos / "train", tmp_path / "holiday")
    before = sorted(path.name for path in (tmp_path / "holiday").rglob("*"))
    monkeypatch.chdir(tmp_path)
    ccd("prepare", "--images", "holiday", "--classes", "red,green,blue")
    assert (tmp_path / "artifacts" / "holiday" / "manifest.csv").exists()
    assert sorted(path.name for path in (tmp_path / "holiday").rglob("*")) == before
    assert read_manifest(tmp_path / "artifacts" / "holiday").paths[0].startswith(str(tmp_path / "holiday"))


def test_evaluate_says_that_the_best_epoch_is_unknown_where_epochs_were_not_scored(run, colour_teacher):
    assert "epochs" in json.loads((run / "metrics.json").read_text())
    invoke("train", "--run", run, "--force", "--no-score-epochs")
    _, said = invoke("evaluate", "--run", run, "--force")
    metrics = json.loads((run / "metrics.json").read_text())
    assert "epochs" not in metrics and metrics["test"]["final classifier"]["mAP"] > 0
    assert "the best epoch is unknown" in " ".join(said.split())
