"""The training loop: its arithmetic, and its results after kills, interrupts and errors."""

import errno
import os
import shutil
import signal
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from worlds import commands
from worlds.commands import command, run_stage, start
from worlds.photos import COLOURS, square_photos
from worlds.runs import TRAIN, write_labelled_run

from pipeline.artifacts.checkpoints import load_pt, read_checkpoint
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier import training
from pipeline.classifier.backbones import Backbone
from pipeline.classifier.batches import plan_epoch
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import (
    Consistency,
    TrainingSet,
    exponent_of,
    fit,
    losses_of,
    read_epoch,
    set_learning_rates,
    start_training,
    targets_of,
)
from pipeline.evaluation.read import read
from pipeline.method.losses import mean_label_entropy
from pipeline.runs.options import BoxesConfig, TrainConfig, TrainingConfig, WarmupConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.stages import train
from pipeline.system.devices import widest_float
from pipeline.system.errors import PipelineError
from pipeline.system.precision import autocast_dtype

CPU = torch.device("cpu")
EPOCHS = 12
WHOLE = {
    "freeze_backbone": False,
    "freeze_norms": False,
    "schedule": "constant",
    "predict_size": 0,
    "precision": "float32",
}
"""Options that train every weight and keep the arithmetic plain."""
SMALL = TrainingConfig(image_size=32, batch_size=4, epochs=3, **WHOLE)


def small_model(norm=False):
    """A classifier of three classes with a few weights."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=4), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU()]
    return CamNet(Backbone(nn.Sequential(*layers), 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), class_count=3, boost=3.0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    colours = [[colour] for colour in COLOURS] * 4
    return square_photos(tmp_path_factory.mktemp("training"), {f"{n}.png": each for n, each in enumerate(colours)})


@pytest.fixture
def data(photos):
    labels = torch.eye(3).repeat(3, 1)[:TRAIN] * 0.8 + 0.1
    return TrainingSet(photos[:TRAIN], labels, torch.ones(TRAIN))


def fitted(data, folder, config, model=None, consistency=None):
    """A state after `fit`, and its rows."""
    state = start_training(model or small_model(), config, CPU)
    return state, fit(state, data, config, partial_of(folder), consistency=consistency)


def partial_of(folder):
    return PartialResults(folder / "model.pt", Provenance("classifier", 1, {}, {}))


def weights_of(state):
    return {name: value.clone() for name, value in state.model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def arguments(stage, folder, backbone, epochs=EPOCHS):
    given = [stage, "--run", folder, "--device", "cpu", "--epochs", epochs, "--image-size", 32, "--batch-size", 4]
    own = ["--backbone", "timm:test_resnet", "--weights", backbone] if stage == "warmup" else []
    return [
        *given,
        "--no-freeze-backbone",
        "--no-freeze-norms",
        "--backbone-lr",
        1e-3,
        "--predict-size",
        0,
        *own,
    ]


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, backbone):
    """A run with both trainings finished without interruption."""
    folder = write_labelled_run(tmp_path_factory.mktemp("unbroken") / "run")
    log = folder.parent / "log"
    for stage in ("warmup", "train"):
        process = start(command, *arguments(stage, folder, backbone), log=log)
        process.join()
        assert process.exitcode == 0, log.read_text()
    return folder


def break_off(process, folder, output, how):
    """Send a signal in the middle of the run, a few epochs after its start."""
    while process.is_alive() and not (folder / f"{output}.partial" / "epoch_003.pt").exists():
        time.sleep(0.002)
    os.kill(process.pid, how)
    process.join()


@pytest.mark.parametrize(("stage", "output"), [("warmup", "warmup.pt"), ("train", "classifier.pt")])
def test_a_killed_training_goes_on_to_the_same_bytes(stage, output, unbroken, backbone, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    (folder / output).unlink()
    process = start(command, *arguments(stage, folder, backbone), log=tmp_path / "log")
    break_off(process, folder, output, signal.SIGKILL)
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / output).exists()
    kept = len(load_pt(folder / f"{output}.partial" / "last.pt")["rows"])
    assert 2 <= kept < EPOCHS
    epochs_run = tmp_path / "epochs"
    again = start(count_epochs, epochs_run, *arguments(stage, folder, backbone), log=tmp_path / "log")
    again.join()
    assert again.exitcode == 0, (tmp_path / "log").read_text()
    assert (folder / output).read_bytes() == (unbroken / output).read_bytes()
    assert int(epochs_run.read_text()) == EPOCHS - kept


def count_epochs(path, *given):
    """Run a command and write the number of its epochs to a file."""
    count, original = [], training.train_one_epoch

    def counted(*args):
        count.append(1)
        return original(*args)

    training.train_one_epoch = counted
    try:
        command(*given)
    finally:
        path.write_text(str(len(count)))


def test_an_interrupted_training_names_the_command_that_continues_it(unbroken, backbone, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    (folder / "warmup.pt").unlink()
    # so many epochs that a machine which is busy elsewhere sends the signal before the last
    long = arguments("warmup", folder, backbone, epochs=500)
    process = start(command, *long, log=tmp_path / "log")
    break_off(process, folder, "warmup.pt", signal.SIGINT)
    assert process.exitcode == 130
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("interrupted") and f"`ccd warmup --run {folder} --device cpu" in line
    assert load_pt(folder / "warmup.pt.partial" / "last.pt")["rows"]


def run_stages(folder, backbone, **options):
    shared = {"image_size": 32, "batch_size": 4, "backbone_lr": 1e-3, **WHOLE, **options}
    config = WarmupConfig(backbone="timm:test_resnet", weights=str(backbone), epochs=1, **shared)
    run_stage("warmup", folder, config)
    run_stage("train", folder, TrainConfig(epochs=2, **shared))
    return folder


def test_the_seed_decides_the_bytes(backbone, tmp_path):
    runs = [run_stages(write_labelled_run(tmp_path / str(n)), backbone, seed=seed) for n, seed in enumerate((0, 0, 1))]
    assert (runs[0] / "classifier.pt").read_bytes() == (runs[1] / "classifier.pt").read_bytes()
    weights = [read_checkpoint(run / "classifier.pt").weights for run in runs[::2]]
    assert not same(*weights)


@pytest.mark.parametrize("options", [{"freeze_backbone": True}, {"freeze_norms": True}])
def test_final_training_may_be_set_otherwise_than_the_warmup(options, backbone, tmp_path):
    folder = write_labelled_run(tmp_path / "run")
    shared = {"image_size": 32, "epochs": 1, "backbone_lr": 1e-3, **WHOLE}
    run_stage("warmup", folder, WarmupConfig(backbone="timm:test_resnet", weights=str(backbone), **shared))
    run_stage("train", folder, TrainConfig(**{**shared, **options}))
    before, after = (read_checkpoint(folder / name).weights for name in ("warmup.pt", "classifier.pt"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("head.") for name in moved)
    assert any(name.startswith("stages.") and name.endswith("weight") for name in moved) != (
        "freeze_backbone" in options
    )


def test_what_was_frozen_in_the_warmup_may_be_trained_after_it(backbone, tmp_path):
    folder = write_labelled_run(tmp_path / "run")
    shared = {"image_size": 32, "epochs": 1, "backbone_lr": 1e-3, **WHOLE}
    config = WarmupConfig(backbone="timm:test_resnet", weights=str(backbone), **{**shared, "freeze_backbone": True})
    run_stage("warmup", folder, config)
    run_stage("train", folder, TrainConfig(**shared))
    before, after = (read_checkpoint(folder / name).weights for name in ("warmup.pt", "classifier.pt"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("stages.") and name.endswith("weight") for name in moved)


@pytest.mark.parametrize("options", [{}, {"freeze_backbone": True, "freeze_norms": True}])
def test_a_loss_that_is_not_finite_keeps_the_epochs_before(options, data, tmp_path, monkeypatch):
    config = SMALL.replace(**options)
    expected, _ = fitted(data, tmp_path / "unbroken", config)
    original, steps = training.losses_of, []

    def broken(*args):
        logits, losses = original(*args)
        steps.append(1)
        return logits, losses * (float("nan") if len(steps) == 3 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(training, "losses_of", broken)
        with pytest.raises(PipelineError, match=r"nan in epoch 2; .*kept"):
            fitted(data, tmp_path, config)
    content = load_pt(tmp_path / "model.pt.partial" / "last.pt")
    assert len(content["rows"]) == 1 and all(value.isfinite().all() for value in content["model"].values())
    state, rows = fitted(data, tmp_path, config)
    assert len(rows) == 3 and same(weights_of(state), weights_of(expected))


def test_a_full_disk_keeps_the_epochs_before(data, tmp_path, monkeypatch):
    config = SMALL
    expected, _ = fitted(data, tmp_path / "unbroken", config)
    original, saved = torch.save, []

    def save(content, file):
        saved.append(1)
        if len(saved) == 4:  # epoch 2's last.pt
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(PipelineError, match=r"last.pt could not be written \(.*No space left on device"):
            fitted(data, tmp_path, config)
    assert {p.name for p in (tmp_path / "model.pt.partial").iterdir()} == {
        *("fingerprint", "last.pt", "epoch_001.pt", "epoch_002.pt")
    }
    assert len(load_pt(tmp_path / "model.pt.partial" / "last.pt")["rows"]) == 1
    state, _ = fitted(data, tmp_path, config)
    assert same(weights_of(state), weights_of(expected))


@pytest.mark.parametrize(
    ("options", "position", "factor"),
    [
        ({}, 0.7, 1.0),
        ({"schedule": "cosine"}, 0.0, 1.0),
        ({"schedule": "cosine"}, 0.5, 0.5),
    ],
)
def test_rates_along_a_stage(options, position, factor):
    config = TrainingConfig(backbone_lr=1e-3, head_lr=1e-2, **{"schedule": "constant", **options})
    optimizer = start_training(small_model(), config, CPU).optimizer
    set_learning_rates(optimizer, config, position)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [1e-3 * factor, 1e-2 * factor, 1e-2 * factor]
    )


def test_nothing_flows_back_through_the_target_of_consistency():
    logits = torch.tensor([[0.3, -0.2]], requires_grad=True)
    views = (torch.tensor(0.0), torch.tensor(1.0))
    _, losses = losses_of(
        lambda view: logits if view == 0 else logits.detach() * 2,
        views, torch.zeros(1, 2), torch.zeros(1), Consistency(1.0, 0.5),
    )  # fmt: skip
    losses.sum().backward()
    assert logits.grad.tolist() == [[0.0, 0.0]]


def test_a_plan_covers_the_order():
    plan = plan_epoch(torch.tensor([4, 2, 0, 3, 1]), batch_size=2)
    assert [batch.own_rows.tolist() for batch in plan] == [[4, 2], [0, 3], [1]]
    assert [batch.share for batch in plan] == [1.0, 1.0, 1.0]


def test_precision_by_what_the_device_can(monkeypatch):
    for able, dtype in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr("pipeline.system.precision.has_bfloat16", lambda device, able=able: able)
        assert autocast_dtype("auto", CPU) is dtype
        assert autocast_dtype("float32", CPU) is None
        assert autocast_dtype("bfloat16", CPU) is torch.bfloat16


def test_training_in_bfloat16_keeps_float32_weights_and_comes_close(data, tmp_path):
    config = SMALL.replace(epochs=1)
    exact, exact_rows = fitted(data, tmp_path / "a", config)
    rough, rough_rows = fitted(data, tmp_path / "b", config.replace(precision="bfloat16"))
    assert {p.dtype for p in rough.model.parameters()} == {torch.float32}
    assert not same(weights_of(exact), weights_of(rough))
    assert rough_rows["loss"][0] == pytest.approx(exact_rows["loss"][0], rel=0.02)


def test_compile_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(CamNet, "compile", lambda self: asked.append(self))
    state = start_training(small_model(), TrainingConfig(compile=True), CPU)
    assert asked == [state.model]
    start_training(small_model(), TrainingConfig(), CPU)
    assert len(asked) == 1


def test_what_changes_only_speed_or_logs_is_no_part_of_the_identity():
    config = TrainingConfig()
    assert config.identity() == config.replace(compile=True, track="wandb").identity()
    assert config.identity() != config.replace(head_lr=1e-2).identity()


def test_curves_are_written_where_asked_for(data, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = SMALL.replace(epochs=2, track="tensorboard")
    _, rows = fitted(data, tmp_path, config)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
    points = events.Scalars("epoch/loss")
    assert [point.step for point in points] == [8, 16]
    assert [point.value for point in points] == pytest.approx(rows["loss"].tolist())
    assert {"epoch/data_wait", "batch/loss"} <= set(events.Tags()["scalars"])


def test_curves_go_to_wandb_without_a_server(data, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install '.[wandb]'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    points = []
    monkeypatch.setattr(
        wandb.Run, "log", lambda run, values, step: points.append((run.name, run.offline, values, step))
    )
    _, rows = fitted(data, tmp_path, SMALL.replace(epochs=2, track="wandb"))
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    losses = [point for point in points if "epoch/loss" in point[2]]
    assert [(name, offline, step) for name, offline, _, step in losses] == [
        (f"{tmp_path.name}/train", True, 8 * k) for k in (1, 2)
    ]
    assert [values["epoch/loss"] for *_, values, _ in losses] == pytest.approx(rows["loss"].tolist())


def test_curves_go_to_a_database_of_mlflow(data, tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="pip install '.[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, rows = fitted(data, tmp_path, SMALL.replace(epochs=2, track="mlflow"))
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("ccd").experiment_id])
    assert (run.info.run_name, run.info.status) == (f"{tmp_path.name}/train", "FINISHED")
    points = client.get_metric_history(run.info.run_id, "epoch/loss")
    assert [point.step for point in points] == [8, 16]
    assert [point.value for point in points] == pytest.approx(rows["loss"].tolist())


@pytest.mark.parametrize(
    ("track", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow.tracking")]
)
def test_curves_without_the_package_say_what_to_install(data, tmp_path, monkeypatch, track, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PipelineError, match=rf"pip install '\.\[{track}\]'"):
        fitted(data, tmp_path, SMALL.replace(track=track))


def test_every_row_of_the_history_is_plain_numbers(data, tmp_path):
    _, rows = fitted(data, tmp_path, SMALL.replace(epochs=2), consistency=Consistency(1.0, 0.5))
    assert isinstance(rows, pd.DataFrame) and rows["epoch"].tolist() == [1, 2]
    assert rows["loss"].tolist() == pytest.approx((rows["bce"] + rows["consistency"]).tolist())
    assert rows["data_wait"].between(0, 1).all() and (rows["consistency"] > 0).all()


def test_undecided_labels_are_made_steeper_and_decided_ones_are_not():
    certain = torch.eye(4)
    half = torch.tensor([[1.0, 1.0, 0, 0]])  # entropy log 2 of log 4
    assert (
        mean_label_entropy(certain) == 0
        and mean_label_entropy(half) == 1
        and mean_label_entropy(torch.zeros(3, 4)) == 0
    )
    mixed = torch.cat(
        [half] * 3 + [certain[:1]] * 2 + [torch.zeros(5, 4)]
    )  # 3/5 of the labelled rows have half of log C
    assert mean_label_entropy(mixed) == pytest.approx(5 * 0.3 - 1)
    assert exponent_of(mixed, TrainingConfig()) == pytest.approx(1.5)
    assert exponent_of(mixed, TrainingConfig(target_exponent=3.0)) == 3
    torch.testing.assert_close(targets_of(mixed, TrainingConfig(target_smoothing=0.0)), mixed**1.5)


@pytest.mark.parametrize(("truth", "options", "epochs"), [(True, {}, [0, 1, 2]), (False, {}, [0, 2])])
def test_test_images_are_scored_after_each_epoch_where_it_can_be_measured(truth, options, epochs, scored):
    found = scored(truth, **options)
    assert found.epochs.tolist() == epochs


def test_without_scoring_epochs_the_chosen_one_has_the_same_scores(scored):
    every, one = scored(True), scored(True, score_epochs=False)
    assert one.epochs.tolist() == [0, 2] and every.provenance == one.provenance
    np.testing.assert_array_equal(every.chosen, one.chosen)
    np.testing.assert_array_equal(every.of_epoch(0), one.of_epoch(0))


@pytest.mark.parametrize("truth", [False, True])
def test_a_resumed_training_scores_the_epochs_of_an_unbroken_one(truth, scored, monkeypatch):
    # ground truth came or went between the two commands
    expected = scored(truth)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "choose_epoch", interrupt)
        scored(not truth)
    found = scored(truth)
    assert found.epochs.tolist() == expected.epochs.tolist() == ([0, 1, 2] if truth else [0, 2])
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_trained_backbone_leaves_no_maps(backbone, tmp_path, monkeypatch):
    folder, store = write_labelled_run(tmp_path / "run"), FeatureStore()
    monkeypatch.setattr(commands, "FeatureStore", lambda: store)
    at_steps = []
    losses = training.losses_of
    monkeypatch.setattr(training, "losses_of", lambda *how: at_steps.append(store._used("cpu")) or losses(*how))
    shared = {"image_size": 32, "predict_size": 0, "epochs": 1, **WHOLE}
    run_stage("warmup", folder, WarmupConfig(backbone="timm:test_resnet", weights=str(backbone), **shared))
    run_stage("boxes", folder, BoxesConfig(image_size=64))
    assert store._used("cpu") > 0
    run_stage("train", folder, TrainConfig(**shared))
    assert set(at_steps) == {0} and store._used("cpu") == 0


class NoFloat64(TorchFunctionMode):
    """Fails if float64 is requested on a named device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") is not None and torch.float64 in (*args, kwargs.get("dtype")):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return func(*args, **kwargs)


def test_apples_gpus_have_no_float64_and_train_without(data, tmp_path, monkeypatch):
    assert widest_float(torch.device("mps")) == torch.float32 and widest_float(CPU) == torch.float64
    expected, rows = fitted(data, tmp_path / "cpu", SMALL)
    monkeypatch.setattr(training, "widest_float", lambda device: widest_float(torch.device("mps")))
    with NoFloat64():
        state, found = fitted(data, tmp_path / "mps", SMALL)
    assert same(weights_of(state), weights_of(expected))
    np.testing.assert_allclose(found["loss"], rows["loss"], rtol=1e-5)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def scored(unbroken, tmp_path):
    """`epoch_scores.h5` of a training of two epochs, with or without a file of ground truth."""
    folder = shutil.copytree(unbroken, tmp_path / "scored")

    def run(truth, **options):
        (folder / "ground_truth.h5").unlink(missing_ok=True)
        if truth:
            (folder / "ground_truth.h5").write_bytes(b"nobody reads this")
        run_stage("train", folder, TrainConfig(image_size=32, predict_size=0, epochs=2, head_lr=0.1, **options))
        return read(folder / "epoch_scores.h5")

    return run


def test_a_frozen_backbone_is_not_written_with_every_epoch(data, tmp_path):
    config = WarmupConfig(epochs=2, image_size=32, batch_size=4)
    state, _ = fitted(data, tmp_path, config)
    assert {"head.weight", "head.bias"} <= set(read_epoch(partial_of(tmp_path), 2, "weights"))
    for weights in (read_epoch(partial_of(tmp_path), 1, "weights"), state.to_content()["model"]):
        assert not any(name.startswith("stages.") for name in weights)
    goes_on, _ = fitted(data, tmp_path, config)  # from the last epoch
    assert same(weights_of(goes_on), weights_of(state))
    trained, _ = fitted(data, tmp_path / "trained", config.replace(freeze_backbone=False, freeze_norms=False))
    assert any(name.startswith("stages.") for name in trained.to_content()["model"])


def test_a_state_without_a_head_is_refused(data, tmp_path):
    state, _ = fitted(data, tmp_path, WarmupConfig(epochs=1, image_size=32, batch_size=4))
    content = state.to_content()
    del content["model"]["head.bias"]
    with pytest.raises(PipelineError, match="lacks weights of the head"):
        state.restore(content)
