import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from worlds.commands import ccd, refused
from worlds.test_sets import Population, draw

from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.evaluation.intervals import gain_interval, leave_one_out
from pipeline.evaluation.read import read
from pipeline.photos import views
from pipeline.runs.graph import VERSIONS
from pipeline.runs.options import InitLabelsConfig
from pipeline.runs.settings import Settings
from pipeline.stages import init_labels
from pipeline.study.ablation import (
    FIGURES,
    add_differences,
    common_prefix,
    plot,
    read_plan,
    reasons_without_interval,
    start_row,
    summarise,
    to_markdown,
)
from pipeline.system.errors import PipelineError

PLAN = """
seeds = [0, 1]

[[row]]
group = "ratio"
name = "the run's own"

[[row]]
group = "ratio"
name = "half"
set = ["fuse.ratio=0.5", "train.epochs=1"]

[[row]]
group = "ratio"
name = "all"
set = ["fuse.ratio=1.0", "train.epochs=1"]

[[row]]
group = "reference"
name = "all labels"
set = ["init-labels.source=\\"ground-truth\\"", "fuse.ratio=1.0", "train.epochs=1"]
"""


def runs():
    lines = [("a", "x", 0, 0.5), ("a", "y", 0, 0.7), ("a", "x", 1, 0.6), ("a", "y", 1, 0.7)]
    frame = pd.DataFrame(lines, columns=["group", "name", "seed", "final_mAP"])
    frame = frame.assign(**{name: 0.25 for name in FIGURES if name != "final_mAP"})
    return frame.assign(views=1.5, seconds=[40.0, np.nan, 40.0, np.nan])


def test_prefix_ends_at_the_first_difference():
    first = [{"a": 1}, {"b": 1}, {"c": 1}]
    assert common_prefix(first, first) == 3
    assert common_prefix(first, [{"a": 1}, {"b": 2}, {"c": 1}]) == 1
    assert common_prefix(first, [{"a": 2}, {"b": 1}, {"c": 1}]) == 0


def test_summary_by_hand():
    table = summarise(runs())
    assert list(table["name"]) == ["x", "y"] and list(table["seeds"]) == [2, 2]
    np.testing.assert_allclose(table["final_mAP"], [0.55, 0.7])
    np.testing.assert_allclose(table["final_mAP_std"], [np.sqrt(0.005), 0.0], atol=1e-12)


def test_differences_by_hand():
    truth = np.array([[1], [0], [1], [0]], np.int8)
    right, wrong = (np.array(scores)[:, None] for scores in ([0.9, 0.1, 0.8, 0.2], [0.9, 0.8, 0.2, 0.1]))
    scores = {"a: x": [wrong, wrong], "a: y": [right, wrong]}  # AP 1 and (1 + 2/3) / 2
    table = add_differences(summarise(runs()), scores, truth, "a: x")
    assert np.isnan(table["difference"][0])
    assert table["difference"][1] == pytest.approx(0.15)  # of the summary's mAP
    assert np.isnan(table["difference_low"][1])  # four images
    text = to_markdown(table)
    assert "| a | x | 25.0 | 25.0 | 25.0 | 55.0 ± 7.1 | 25.0 to 25.0 |  | 1.5 | 40 | 2 |" in text
    assert "| 25.0 to 25.0 | +15.0 (no interval)" in text
    assert "| no interval |" in to_markdown(table.assign(low=np.nan, high=np.nan))
    assert reasons_without_interval(table) == ["No interval: too few images decide it."]
    unmeasured = add_differences(summarise(runs().assign(low=np.nan)), scores, truth, "")
    assert reasons_without_interval(unmeasured) == reasons_without_interval(table)
    assert add_differences(summarise(runs()), scores, truth, "")["difference"].isna().all()
    equal = summarise(runs().assign(final_mAP=0.5))
    assert "| the same | 1.5 |  | 2 |" in to_markdown(
        add_differences(equal, {"a: x": [right], "a: y": [right]}, truth, "a: x")
    )


def test_differences_have_the_interval_of_the_mean_over_seeds():
    population = Population("", 200, np.full(5, 0.3), (0.6, 0.8))
    truth, (first, second) = draw(population, population.shifts(), np.random.default_rng(0))
    table = add_differences(summarise(runs()), {"a: x": [first, first], "a: y": [first, second]}, truth, "a: x")
    found = [leave_one_out(each, truth) for each in (first, second)]
    interval = gain_interval(found[:1], found)
    assert (table["difference_low"][1], table["difference_high"][1]) == (interval.low, interval.high)
    assert 0 < interval.low < (found[1].value - found[0].value) / 2 < interval.high


def test_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    plot(summarise(runs()), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_the_shipped_plan_is_valid():
    plan = read_plan("paper")
    assert len({(row.group, row.name) for row in plan.rows}) == len(plan.rows)
    for row in plan.rows:
        row.settings.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[row]]\nset = []", "not a plan.* a name"),
        ("seeds = [", "not valid TOML"),
        ("seeds = [0]", "not a plan"),
        ("[[row]]\nname = 3", "found 3, expected a text"),
        ("[[row]]\nname = 'x'\nset = [1]", "found 1, expected a text"),
        ("seeds = ['x']\n[[row]]\nname = 'x'", "not a plan"),
        (f"a = {'[' * 5000}", "not valid TOML"),
        ("row = [3]", "not a plan"),
        ("[row]\nname = 'x'", "not a plan"),
        ("[[row]]\nname = 'x'\nsets = []", "unknown key 'sets'. Did you mean 'set'"),
        ("seed = 1\n[[row]]\nname = 'x'", "unknown key 'seed'"),
        ("[[row]]\nname = 'x'\n[[row]]\nname = 'x'", "the row 'x' more than once"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path, text, message):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(PipelineError, match=message):
        read_plan(str(path))
    with pytest.raises(PipelineError, match=r"no plan 'papre'\. Choose methods, paper"):
        read_plan("papre")


def test_a_further_row_shows_no_photo_to_the_backbone(finished, tmp_path, colour_teacher, monkeypatch):
    pytest.importorskip("matplotlib")
    decoded, load_view = [], views.load_view
    monkeypatch.setattr(views, "load_view", lambda *given: decoded.append(given) or load_view(*given))
    counts = []
    for ratios in ([0.3], [0.3, 0.6]):
        run = shutil.copytree(finished, tmp_path / str(len(ratios)))
        rows = [f'[[row]]\nname = "{ratio}"\nset = ["fuse.ratio={ratio}"]\n' for ratio in ratios]
        (tmp_path / "plan.toml").write_text("".join(rows))
        decoded.clear()
        ccd("ablation", run, "--plan", tmp_path / "plan.toml", "--device", "cpu")
        assert not list(run.glob("ablation/*.partial"))
        counts.append(len(decoded))
    assert counts[0] == counts[1] > 0


def test_rows_share_their_common_stages(finished, tmp_path, colour_teacher, monkeypatch):
    pytest.importorskip("matplotlib")
    from pipeline.stages import warmup
    from pipeline.teachers import local_scores

    calls = {"encode_missing": 0, "fit": 0}

    def counted(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counted(local_scores, "encode_missing")
    counted(warmup, "fit")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (tmp_path / "plan.toml").write_text(PLAN)
    ccd("ablation", run, "--plan", tmp_path / "plan.toml", "--device", "cpu")
    # the embedding and the warm-up of seed 0 are the run's own; one more for seed 1, two for the supervised row
    assert calls == {"encode_missing": 0, "fit": 3}
    table = pd.read_csv(run / "ablation" / "plan.csv")
    assert len(table) == 8 and table["final_mAP"].between(0, 1).all()
    supervised = run / "ablation" / "reference-all-labels-0"
    assert read(supervised / "final_labels.h5").provenance.uses_ground_truth
    assert not read(run / "ablation" / "ratio-half-0" / "final_labels.h5").provenance.uses_ground_truth
    truth, labels = read(run / "ground_truth.h5"), read(supervised / "final_labels.h5")
    rows = [truth.image_ids.index(i) for i in labels.image_ids]
    np.testing.assert_array_equal(labels.scores, truth.labels[rows].clip(0, 1))
    assert (run / "ablation" / "plan.md").read_text().splitlines()[6:] == [
        "",
        "No interval: too few images decide it.",
    ]
    own, half = (run / "ablation" / "plan.md").read_text().splitlines()[2:4]
    assert "own" in own and own.split("|")[-5].strip() == ""
    assert "half" in half and half.split("|")[-5].strip()


def test_the_plan_of_the_guide_runs_and_takes_labels_from_a_file(finished, tmp_path, colour_teacher, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).resolve().parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    [plan] = re.findall(r"^```toml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    mine = '[[row]]\ngroup = "labels"\nname = "my method"\nset = ["init-labels.labels_file=my-labels.h5", "boxes.view=none"]'
    Path("plan.toml").write_text(f"{plan}\n{mine}\n")
    run = shutil.copytree(finished, tmp_path / "run")
    initial = read(run / "initial_labels.h5")
    with h5py.File("my-labels.h5", "w") as file:
        file["image_ids"], file["classes"] = initial.image_ids, initial.class_names
        file["labels"] = 1 - initial.labels
    output = ccd("ablation", "--run", run, "--plan", "plan.toml", "--device", "cpu")
    made = read(run / "ablation" / "labels-my-method-1" / "final_labels.h5")
    np.testing.assert_allclose(made.labels, 1 - initial.labels, rtol=1e-6)
    table = pd.read_csv(run / "ablation" / "plan.csv", keep_default_na=False)
    assert set(table["name"]) == {"the run's own settings", "no crops", "all labels", "my method"}
    assert set(table["seed"]) == {0, 1} and set(table.loc[table["name"] == "all labels", "label_mAP"]) == {1.0}
    assert set(table.loc[table["name"] == "my method", "views"]) == {""}
    report = (run / "ablation" / "plan.md").read_text()
    assert "|  | the run's own settings |" in report and ": : " not in output
    assert "No interval: " in output and "No interval: " in report


COMMON = """
set = ["train.epochs=1"]

[[row]]
name = "other ratio"
set = ["fuse.ratio=0.5", "train.epochs=2"]

[[row]]
name = "nothing of its own"
"""


def test_settings_of_all_rows_make_the_reference_and_a_row_may_change_them(finished, tmp_path, colour_teacher):
    pytest.importorskip("matplotlib")
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("first", "second"):
        (tmp_path / f"{name}.toml").write_text(COMMON)
        ccd("ablation", run, "--plan", tmp_path / f"{name}.toml", "--device", "cpu")
    rows = {path.name: read(path / "classifier.pt") for path in (run / "ablation").glob("*-0")}
    assert {name: row.provenance.config["epochs"] for name, row in rows.items()} == {
        "other-ratio-0": 2,
        "nothing-of-its-own-0": 1,
    }
    first, second = ((run / "ablation" / f"{name}.md").read_text() for name in ("first", "second"))
    assert first == second
    changed, reference = (line.split("|")[-5].strip() for line in first.splitlines()[2:4])
    assert changed and not reference


def test_an_ablation_without_labels_of_train_photos_leaves_their_figures_empty(
    finished, photos, tmp_path, colour_teacher
):
    pytest.importorskip("matplotlib")
    run = shutil.copytree(finished, tmp_path / "run")
    lines = (photos / "labels.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join([lines[0], *(line for line in lines if line.startswith("test/"))]))
    ccd("prepare", "--run", run, "--labels", tmp_path / "test.csv")
    (tmp_path / "plan.toml").write_text('[[row]]\nname = "own"\n')
    ccd("ablation", run, "--plan", tmp_path / "plan.toml", "--device", "cpu")
    cells = [cell.strip() for cell in (run / "ablation" / "plan.md").read_text().splitlines()[2].split("|")]
    assert cells[2:5] == ["own", "", ""] and float(cells[6]) > 0


def test_rows_have_the_corrections_and_the_truth_that_the_run_has_now(small_run, tmp_path):
    (tmp_path / "a.csv").write_text("image_id,labels\ntrain/0.png,cat\n")
    row = small_run / "ablation" / "row-0"
    for _ in range(2):
        ccd("import-labels", tmp_path / "a.csv", "--run", small_run)
        start_row(small_run, row, read_manifest(small_run), Settings())
        assert (row / "corrections.h5").samefile(small_run / "corrections.h5")
        assert (row / "ground_truth.h5").samefile(small_run / "ground_truth.h5")
        (tmp_path / "a.csv").write_text("image_id,labels\ntrain/1.png,dog\n")
    (small_run / "corrections.h5").unlink()
    start_row(small_run, row, read_manifest(small_run), Settings())
    assert not (row / "corrections.h5").exists()


def test_a_study_without_ground_truth_is_refused(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "ground_truth.h5").unlink()
    assert "no ground truth" in refused("ablation", "--run", run)


def test_a_study_under_torchrun_is_refused(finished, monkeypatch):
    monkeypatch.setattr("pipeline.system.distributed.world_size", lambda: 2)
    assert "one process" in refused("ablation", "--run", finished)
    assert not (finished / "ablation").exists()


def test_labels_of_ground_truth_are_refused_where_some_are_unknown(small_run):
    truth = read(small_run / "ground_truth.h5")
    truth.labels[0, 1] = UNKNOWN
    truth.labels[1, 1] = DIFFICULT
    write(small_run / "ground_truth.h5", truth)
    origin = Provenance("initial_labels", VERSIONS["initial_labels"], {}, {})
    config = InitLabelsConfig(source="ground-truth")
    with pytest.raises(PipelineError, match="lacks 1 labels of train images"):
        init_labels.run(small_run, config, origin)
    truth.labels[0, 1] = 1
    write(small_run / "ground_truth.h5", truth)
    init_labels.run(small_run, config, origin)
    assert read(small_run / "initial_labels.h5").labels[:2, 1].tolist() == [1, 0]
