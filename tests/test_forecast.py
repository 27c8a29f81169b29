"""The estimate of a run before its first long stage."""

from dataclasses import replace

import pytest
import torch
from worlds.commands import ccd, invoke
from worlds.teachers import ColourTeacher

from pipeline.runs.graph import STAGE_NAMES, STAGES
from pipeline.runs.settings import Settings, read_run
from pipeline.stages import forecast, probe
from pipeline.stages.forecast import DAY, Forecast, Pace, Sizes, estimate_run, stages_with_work
from pipeline.stages.probe import seconds_per_item

PACE = Pace(decode=0.01, teacher=0.1, classifier=0.05, step=0.001, overlaps=False)
SIZES = Sizes(train=100, test=50, missing=150, entry=1000, maps=2000, weights=10_000, view=320, side=320)
OWN = {"embed": {"teacher": "openai:RN50"}, "boxes": {"classes_per_image": 2.0}, "train": {"cross_fit_rounds": 2}}


def test_seconds_by_hand_of_a_frozen_backbone_that_is_not_the_teachers():
    found = estimate_run(Settings(OWN), STAGE_NAMES, PACE, SIZES)
    assert found.seconds == pytest.approx(
        {
            "embed": 150 * (0.01 + 0.1),
            "warmup": 100 * (0.01 + 0.05) + 2 * 100 * 0.001,
            "boxes": 0,
            "score-crops": 100 * 0.01 + 0.7 * 200 * 0.1,
            # eight epochs, and two rounds of three folds, each of two thirds of the photos; the test photos are new
            "train": (8 + 2 * 3 * 2 / 3 * 8) * 100 * 0.001 + 50 * (0.01 + 0.05),
        }
    )
    assert (found.kept, found.temporary) == (150 * 1000 + 2 * 10_000, 0)


def test_seconds_by_hand_of_a_trained_backbone_with_two_views():
    tables = {**OWN, "warmup": {"freeze_backbone": False}, "boxes": {"image_size": 320}}
    tables["train"] = {"freeze_backbone": False, "consistency": 1.0, "epochs": 3}
    found = estimate_run(Settings(tables), ["warmup", "boxes", "train"], PACE, replace(SIZES, side=160)).seconds
    assert found["warmup"] == pytest.approx(2 * 100 * (0.01 + 0.001))
    assert found["boxes"] == pytest.approx(100 * (0.01 + 4 * 0.05))
    assert found["train"] == pytest.approx(3 * 200 * (0.01 + 0.001) + 3 * 50 * (0.01 + 0.05))


def test_conse_and_its_own_backbone_need_one_pass_and_a_gpu_decodes_meanwhile():
    pace = Pace(decode=0.01, teacher=0.02, classifier=0.0, step=0.001, overlaps=True)
    found = estimate_run(Settings(), STAGE_NAMES, pace, SIZES).seconds
    assert found["embed"] == pytest.approx(150 * 0.02)
    assert found["warmup"] == pytest.approx(2 * 100 * 0.001)
    many = Sizes(train=100_000, test=0, missing=0, entry=0, maps=256_000, weights=0, view=320, side=320)
    assert estimate_run(Settings(), STAGE_NAMES, pace, many).temporary == 100_000 * 256_000
    assert estimate_run(Settings(), ["embed"], pace, many).seconds == {"embed": 0}


def test_batches_double_while_the_budget_lasts(monkeypatch):
    clock, calls = [0.0], []

    def work(count):
        calls.append(count)
        clock[0] += 0.1 + 0.01 * count

    monkeypatch.setattr(probe.time, "perf_counter", lambda: clock[0])
    assert seconds_per_item(work, most=64, budget=1.0) == pytest.approx((0.1 + 0.01 * 16) / 16)
    assert calls == [1, 1, 2, 4, 8, 16]
    calls.clear()
    assert seconds_per_item(work, most=4, budget=100.0) == pytest.approx((0.1 + 0.01 * 4) / 4)
    assert calls == [1, 1, 2, 4]


def test_a_batch_that_does_not_fit_ends_the_probe():
    def work(count):
        if count > fits:
            raise torch.OutOfMemoryError

    fits = 4
    assert 0 < seconds_per_item(work, most=64, budget=100.0) < 1
    fits = 0
    assert seconds_per_item(work, most=64) == 0


def test_the_probe_of_a_run_measures_every_part(run, monkeypatch):
    monkeypatch.setattr(probe, "load_teacher", lambda *arguments, **options: ColourTeacher())
    monkeypatch.setattr(forecast, "is_short", lambda own, images: False)
    kept = sum(path.stat().st_size for path in (run / "image_embeddings").iterdir())
    assert forecast.forecast(run, read_run(run), "cpu", STAGES[1:], force=False) is None
    for path in (run / "image_embeddings").iterdir():
        path.unlink()
    found = forecast.forecast(run, read_run(run), "cpu", STAGES[1:], force=True)
    assert all(found.seconds[name] > 0 for name in ("embed", "warmup", "score-crops", "train"))
    weights = sum((run / name).stat().st_size for name in ("warmup.pt", "classifier.pt"))
    assert 0.5 * (kept + weights) < found.kept < 2 * (kept + weights)
    only = forecast.forecast(run, read_run(run), "cpu", STAGES[1:2], force=True)
    assert set(only.seconds) == {"embed"}


def test_the_first_stage_with_work_and_all_later_ones_count(run):
    own = read_run(run)
    assert stages_with_work(run, own, STAGES[1:], force=False) == []
    (run / "boxes.h5").unlink()
    assert [each.name for each in stages_with_work(run, own, STAGES[1:], force=False)] == STAGE_NAMES[4:]


def test_more_than_a_day_needs_yes(run, colour_teacher, monkeypatch):
    long = Forecast({"embed": 1.5 * DAY, "train": 0.6 * DAY}, 3 * 10**9, 10**9)
    monkeypatch.setattr(forecast, "forecast", lambda *arguments: long)
    before = (run / "embeddings.h5").stat().st_mtime_ns
    for command in (("all", "--run", run), ("embed", run)):
        code, output = invoke(*command, "--force", "--device", "cpu")
        assert code == 1 and "Add --yes to start it" in output
    assert (run / "embeddings.h5").stat().st_mtime_ns == before
    output = ccd("embed", run, "--force", "--device", "cpu", "--yes")
    assert "50.4 h (embed 36.0 h, train 14.4 h) and 3.0 GB in" in output and "1.0 GB more while it runs" in output
    assert (run / "embeddings.h5").stat().st_mtime_ns > before


def test_a_short_run_starts_without_a_probe(run, colour_teacher):
    assert "Estimate" not in ccd("all", run, "--force", "--device", "cpu")
