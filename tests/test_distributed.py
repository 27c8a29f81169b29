"""Two processes that share the work give the results of one."""

import shutil
import socket
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from worlds.commands import start
from worlds.runs import write_labelled_run
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.artifacts.manifest import read_manifest
from pipeline.classifier import view_sources
from pipeline.classifier.inference import load_classifier, shares
from pipeline.evaluation.read import read
from pipeline.method import cam
from pipeline.runs.graph import STAGES, find_stage
from pipeline.runs.options import BoxesConfig
from pipeline.runs.settings import Settings
from pipeline.stages import boxes, chain, score_crops
from pipeline.stages.chain import run_stage
from pipeline.system import distributed
from pipeline.system.errors import PipelineError
from pipeline.teachers import photo_encoder

# Statistics of a batch depend on who sees what of it: without them two processes do the arithmetic of one.
TRAINING = {
    "image_size": 32,
    "predict_size": 0,
    "epochs": 2,
    "freeze_backbone": False,
    "freeze_norms": True,
    "backbone_lr": 1e-3,
    "precision": "float32",
}


def run_stages(folder, backbone):
    """Every stage that processes share, and one that they do not, in partial results of three images."""
    use_teacher(ColourTeacher())
    photo_encoder.PART = score_crops.PART = 3
    given = {
        "embed": {},
        # of eight images the last is a batch of its own, of which one process gets nothing
        "warmup": {
            **TRAINING,
            "freeze_backbone": True,  # each process has the features of half of the images
            "batch_size": 7,
            "init_head_bias": False,
            "backbone": "timm:test_resnet",
            "weights": str(backbone),
        },
        "boxes": {"view": "grid", "tiles": 2},
        "score-crops": {},
        "train": {**TRAINING, "batch_size": 7},
    }
    distributed.join()
    for stage in STAGES:
        if stage.name in given:
            run_stage(stage, folder, Settings(given), "cpu", force=False)
    distributed.leave()


def run_boxes(folder):
    """Boxes from CAMs, with `shares` of one batch of three images."""
    distributed.join()
    given = {"image_size": 64, "batch_size": 3, "classes_per_image": 1.5, "threshold": 0.7}
    run_stage(find_stage("boxes"), folder, Settings({"boxes": given}), "cpu", force=False)
    distributed.leave()


def record_search(folder):
    """The scores that the search for tau uses, in windows of four images and batches of two."""
    distributed.join()
    cam.SEARCH_WINDOW = 3
    seen = []

    def look(windows, bound):
        seen.extend(windows)
        return cam.Search(bound, True, bound)

    boxes.search_threshold = look
    config = BoxesConfig(select="score", tau_rule="search", batch_size=2)
    train = read_manifest(folder).split("train")
    boxes.search_tau(load_classifier(read_checkpoint(folder / "warmup.pt")), train.paths, 64, config)
    np.save(folder / f"windows{distributed.rank()}.npy", torch.cat(seen).numpy())
    distributed.leave()


class SlowTeacher(ColourTeacher):
    def encode_images(self, *arguments, **options):
        time.sleep(1)
        return super().encode_images(*arguments, **options)


def embed_in_pieces(folder, teacher):
    """`embed` with a partial result per image, so that a kill falls between two."""
    use_teacher(teacher())
    photo_encoder.PART = 1
    distributed.join()
    run_stage(find_stage("embed"), folder, Settings({"embed": {"batch_size": 1}}), "cpu", force=False)
    distributed.leave()


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, backbone):
    """The folder of one process, that of two, and the output of the two."""
    root = tmp_path_factory.mktemp("distributed")
    folders = [write_labelled_run(root / name / "run") for name in ("one", "two")]
    return *folders, run_alone_and_together(run_stages, folders, [backbone], root)


def torchrun(count):
    """Environments of so many processes of torchrun."""
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    return [{**common, "TORCHELASTIC_RUN_ID": "test", "RANK": n, "LOCAL_RANK": n} for n in range(count)]


def run_alone_and_together(target, folders, arguments, root):
    """Call `target` on the first folder in one process and on the second in two; returns the output of the three."""
    logs = [root / name for name in ("one.log", "two0.log", "two1.log")]
    started = [start(target, folders[0], *arguments, log=logs[0])]
    started += [
        start(target, folders[1], *arguments, log=log, **environment)
        for log, environment in zip(logs[1:], torchrun(2), strict=True)
    ]
    for process in started:
        process.join()
    texts = [log.read_text() for log in logs]
    assert [process.exitcode for process in started] == [0, 0, 0], "\n".join(texts)
    return texts


@pytest.mark.parametrize("name", ["embeddings.h5", "boxes.h5", "crop_scores.h5"])
def test_artifacts_of_image_stages_have_the_same_bytes(runs, name):
    one, two, _ = runs
    assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize(("name", "history"), [("warmup.pt", "warmup.csv"), ("classifier.pt", "train.csv")])
def test_training_is_that_of_one_process(runs, name, history):
    one, two, _ = runs
    first, second = (read_checkpoint(folder / name) for folder in (one, two))
    assert first.provenance == second.provenance
    assert first.training["steps"] == second.training["steps"]
    for key, value in first.training["model"].items():
        # Adam makes a step of a gradient that is all but zero, whatever the sign of the rounding error
        torch.testing.assert_close(second.training["model"][key], value, atol=2e-4, rtol=1e-3)
    columns = ["epoch", "loss", "bce", "consistency", "pseudo_label_mAP"]
    tables = [pd.read_csv(folder / history)[columns] for folder in (one, two)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)


def test_these_trainings_move_the_weights_further_than_they_may_differ(runs):
    before, after = (read_checkpoint(runs[0] / name).weights for name in ("warmup.pt", "classifier.pt"))
    moved = [key for key in before if (before[key] - after[key]).abs().max() > 1e-3]
    assert "head.weight" in moved and len(moved) > 10


def test_scores_of_the_test_images_are_in_their_places(runs):
    one, two, _ = runs
    first, second = (read(folder / "epoch_scores.h5").scores for folder in (one, two))
    assert first.std(axis=1).min() > 0
    torch.testing.assert_close(torch.from_numpy(second), torch.from_numpy(first), atol=1e-4, rtol=0)


def test_one_process_talks_and_nothing_unfinished_is_left(runs):
    _, two, logs = runs
    assert not list(two.glob("*partial*"))
    assert logs[1].count("embeddings.h5:") == logs[1].count("classifier.pt:") == 1
    assert logs[2] == ""


def test_boxes_of_one_classifier_have_the_same_bytes(runs, tmp_path):
    folders = [shutil.copytree(runs[0], tmp_path / name) for name in ("one", "two")]
    run_alone_and_together(run_boxes, folders, [], tmp_path)
    one, two = (folder / "boxes.h5" for folder in folders)
    assert read(one).cam is not None and len(read(one).box) == 12
    assert one.read_bytes() == two.read_bytes()
    assert not list(tmp_path.glob("*/*.partial"))


def test_the_search_for_tau_sees_the_same_scores(runs, tmp_path):
    folders = [shutil.copytree(runs[0], tmp_path / name) for name in ("one", "two")]
    run_alone_and_together(record_search, folders, [], tmp_path)
    one, *two = (np.load(tmp_path / name) for name in ("one/windows0.npy", "two/windows0.npy", "two/windows1.npy"))
    assert len(one) == 4 + 3 and one.min() > 0
    for windows in two:
        np.testing.assert_array_equal(windows, one)


def test_a_killed_process_ends_the_others_and_the_next_command_goes_on(tmp_path):
    whole, broken = (write_labelled_run(tmp_path / name / "run") for name in ("whole", "broken"))
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    started = [
        start(embed_in_pieces, broken, SlowTeacher, log=log, **environment)
        for log, environment in zip(logs, torchrun(2), strict=True)
    ]
    partial = broken / "embeddings.h5.partial"
    deadline = time.monotonic() + 120
    while len(list(partial.rglob("*.npz"))) < 2:
        assert time.monotonic() < deadline and started[0].is_alive(), logs[0].read_text()
        time.sleep(0.05)
    started[1].kill()
    started[0].join(60)
    assert started[0].exitcode not in (None, 0)
    assert not (broken / "embeddings.h5").exists()
    kept = {path: path.stat().st_mtime_ns for path in partial.rglob("*.npz")}
    assert kept
    for folder, log in ((whole, logs[0]), (broken, logs[1])):
        process = start(embed_in_pieces, folder, ColourTeacher, log=log)
        process.join()
        assert process.exitcode == 0, log.read_text()
    assert (broken / "embeddings.h5").read_bytes() == (whole / "embeddings.h5").read_bytes()


PROMPT, SLOW = 4.0, 5.5
"""Seconds that a process waits in the middle of a step, and that another works before one."""


def run_with_slow_processes(folder, backbone):
    """`warmup` and `boxes`: one process is slow to check photos, the other to decode its share of them."""
    distributed.PROMPTNESS = timedelta(seconds=PROMPT)
    Path(f"{folder}/ready{distributed.rank()}").touch()
    while len(list(folder.glob("ready*"))) < distributed.world_size():
        time.sleep(0.01)  # until all have imported torch, which may take longer
    distributed.join()
    slept = []

    def slow(function, rank):
        def slowed(*arguments, **options):
            if distributed.world_size() > 1 and distributed.rank() == rank:
                slept.append(function)
                time.sleep(SLOW)
            return function(*arguments, **options)

        return slowed

    check_photos, chain.check_photos = chain.check_photos, slow(chain.check_photos, 0)
    view_sources.FrozenSource.fill = slow(view_sources.FrozenSource.fill, 1)
    warmup = {
        **TRAINING,
        "freeze_backbone": True,
        "epochs": 1,
        "backbone": "timm:test_resnet",
        "weights": str(backbone),
    }
    run_stage(find_stage("warmup"), folder, Settings({"warmup": warmup}), "cpu", force=False)
    chain.check_photos = check_photos
    boxes.predict_together = slow(boxes.predict_together, 1)
    boxes.feature_batches = slow(boxes.feature_batches, 0)
    run_stage(find_stage("boxes"), folder, Settings({"boxes": {"image_size": 64}}), "cpu", force=False)
    Path(f"{folder}/slept{distributed.rank()}").write_text(str(len(slept)))
    distributed.leave()


def test_processes_wait_for_work_that_grows_with_the_photos(tmp_path, backbone):
    folders = [write_labelled_run(tmp_path / name / "run") for name in ("one", "two")]
    run_alone_and_together(run_with_slow_processes, folders, [backbone], tmp_path)
    assert [(folders[1] / f"slept{rank}").read_text() for rank in range(2)] == ["2", "2"]
    one, two = (read(folder / "boxes.h5") for folder in folders)
    np.testing.assert_array_equal(one.image_index, two.image_index)


@pytest.mark.parametrize("count", [0, 1, 7, 1000, 100_000])
def test_groups_are_whole_batches_and_cover_everything_once(count):
    groups = shares(count, 16)
    assert [row for rows in groups for row in rows] == list(range(count))
    assert all(rows.start % 16 == 0 and len(rows) <= 256 for rows in groups)


def test_shares_cover_everything_once(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(list(distributed.shard(range(7))))
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_alone_nothing_happens():
    distributed.join()
    values = torch.tensor([1.0, 2.0])
    distributed.all_reduce_sum(values)
    distributed.all_reduce_max(values)
    distributed.all_reduce_mean([values])
    distributed.barrier()
    model = torch.nn.Linear(1, 1)
    assert values.tolist() == [1.0, 2.0] and distributed.is_main() and distributed.parallel(model) is model


def test_the_end_of_another_process_is_one_line(monkeypatch):
    def lost(values, operation, group=None):
        raise RuntimeError("Connection closed by peer\nmore")

    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(PipelineError, match=r"another process .*\(Connection closed by peer\)"):
        distributed.barrier()
