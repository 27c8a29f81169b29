"""Rows of an ablation whose labels come from a published method."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from worlds.commands import ccd, refused
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.artifacts.manifest import read_manifest
from pipeline.evaluation.read import read
from pipeline.method import FORMULAS
from pipeline.photos.resize import crop, load_view
from pipeline.runs.graph import find_stage
from pipeline.runs.settings import read_run
from pipeline.runs.timings import keep_timing
from pipeline.study.ablation import Row, labelling_cost, read_plan, rows_of_methods
from pipeline.study.methods import METHODS, label_files
from pipeline.teachers.encoding import EncodedViews

PLAN = """
seeds = [0]
note = "Same teacher."

[[row]]
group = "ours"
name = "own"

[[row]]
group = "published"
name = "TaI-DPT"
method = "tai-dpt"
set = ["train.epochs=1"]
"""


class FlatTeacher(ColourTeacher):
    """A teacher without cells."""

    def encode_views(self, images):
        return EncodedViews(self.encode_images(images), None)


def labels_of(run, *names):
    """Labels, scores and costs of methods on the train images of a run."""
    found = label_files(run, read_manifest(run), read_run(run), names, "cpu")
    content = []
    for name in names:
        with h5py.File(found[name].path) as file:
            assert list(file["image_ids"].asstr("utf-8")) == read_manifest(run).split("train").image_ids
            content.append((file["labels"][()], file["scores"][()], found[name].cost))
    return content


def probabilities(teacher, view, text):
    encoded = teacher.encode_views(view[None])
    whole = teacher.logit_scale * encoded.images[0] @ text.T
    return whole, teacher.logit_scale * encoded.cells[0].flatten(0, 1) @ text.T


def test_labels_of_cdul_and_the_order_of_tai_dpt_by_loop(run, colour_teacher):
    (cdul, _, cost), (_, dense, _) = labels_of(run, "cdul", "tai-dpt")
    text = torch.from_numpy(read(run / "embeddings.h5").text)
    expected, order = [], []
    train = read_manifest(run).split("train")
    for path in train.paths:
        whole, cells = probabilities(colour_teacher, load_view(path, (32, 32), "bicubic"), text)
        order.append(whole + (cells.softmax(0) * cells).sum(0))
        boxes = [torch.tensor([64 * x, 48 * y, 64 * (x + 1), 48 * (y + 1)]) / 3 for y in range(3) for x in range(3)]
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image)).movedim(2, 0)
        tiles = [crop(pixels, box, (32, 32)) for box in boxes]
        tiles = torch.stack([colour_teacher.encode_images(tile[None])[0] @ text.T * 20 for tile in tiles]).softmax(1)
        local = torch.where(tiles.amax(0) >= 0.5, tiles.amax(0), tiles.amin(0))
        expected.append((whole.softmax(0) + local) / 2)
    np.testing.assert_allclose(cdul, torch.stack(expected), rtol=1e-3, atol=1e-5)
    for c in range(3):  # the cells are kept in half precision
        ranked = torch.stack(order)[np.argsort(dense[:, c], kind="stable"), c]
        assert (ranked[1:] - ranked[:-1] > -0.02).all()
    assert cost.views == 10


def test_scores_without_a_scale_get_the_distribution_of_the_global_labels(run, colour_teacher):
    embeddings = read(run / "embeddings.h5")
    reference = embeddings.probabilities[embeddings.is_train] / embeddings.bias
    for labels, scores, cost in labels_of(run, "tai-dpt", "tagclip", "sparc", "piaa", "frolic", "cdul-ranking"):
        np.testing.assert_allclose(np.sort(scores, 0).mean(0), reference.mean(0), rtol=1e-5)
        np.testing.assert_array_equal(labels, scores.clip(max=1))
        assert cost.views >= 1 and cost.seconds >= 0
    assert not list(run.glob("ablation/methods/*.partial*"))


def test_teacher_passes_are_counted_and_shared(run, colour_teacher):
    costs = {name: cost.views for name, (_, _, cost) in zip(METHODS, labels_of(run, *METHODS), strict=True)}
    crops = 8 * (costs["tagclip"] - 1)
    assert costs == {"cdul": 10, "cdul-ranking": 10, "tagclip": costs["tagclip"]} | dict.fromkeys(
        ["tai-dpt", "sparc", "piaa", "frolic"], 1
    )
    assert crops >= 8 and sum(colour_teacher.batches) == 8 + 72 + crops


def test_finished_label_files_are_kept_until_a_formula_changes(run, colour_teacher, monkeypatch):
    labels_of(run, "tai-dpt", "frolic")
    before = {path: path.stat().st_ino for path in run.glob("ablation/methods/*.h5")}
    seen = len(colour_teacher.batches)
    monkeypatch.setitem(FORMULAS, "sparc", FORMULAS["sparc"] + 1)
    labels_of(run, "tai-dpt", "frolic")
    assert len(colour_teacher.batches) == seen and all(path.stat().st_ino == inode for path, inode in before.items())
    monkeypatch.setitem(FORMULAS, "frolic", FORMULAS["frolic"] + 1)
    labels_of(run, "tai-dpt", "frolic")
    changed = [path.stem for path, inode in before.items() if path.stat().st_ino != inode]
    assert changed == ["frolic"]


def test_rows_train_on_the_labels_of_their_method(run, tmp_path, colour_teacher):
    pytest.importorskip("matplotlib")
    (tmp_path / "plan.toml").write_text(PLAN)
    ccd("ablation", run, "--plan", tmp_path / "plan.toml", "--device", "cpu")
    row = run / "ablation" / "published-tai-dpt-0"
    with h5py.File(run / "ablation/methods/tai-dpt.h5") as file:
        np.testing.assert_array_equal(read(row / "final_labels.h5").scores, file["scores"][()])
    assert len(read(row / "boxes.h5").box) == 0
    table = pd.read_csv(run / "ablation" / "plan.csv").set_index("name")
    assert table["views"]["TaI-DPT"] == 1 and table["views"]["own"] == 1 + len(read(run / "crop_scores.h5").entropy) / 8
    assert (table["seconds"] > 0).all()
    text = (run / "ablation" / "plan.md").read_text()
    assert "| teacher passes | labelling, s |" in text and text.endswith("\nSame teacher.\n")


def test_rows_of_methods_without_cells_are_left_out(run, tmp_path, monkeypatch):
    use_teacher(FlatTeacher(), monkeypatch)
    rows = [
        Row("published", "PIAA", read_run(run), "piaa"),
        Row("", "own", read_run(run)),
        Row("", "SPARC", read_run(run), "sparc"),
    ]
    possible, costs, left_out = rows_of_methods(run, read_manifest(run), read_run(run), rows, "cpu")
    assert [row.name for row in possible] == ["own", "SPARC"] and list(costs) == ["SPARC"]
    assert left_out == ["row left out: published: PIAA: conse has no cells."]


def test_rows_of_methods_are_left_out_where_scores_are_precomputed(run, tmp_path, colour_teacher):
    ids = read_manifest(run).image_ids
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["image_ids"], file["classes"] = ids, ["red", "green", "blue"]
        file["probabilities"] = np.full((len(ids), 3), 1 / 3, np.float32)
    ccd("embed", "--run", run, "--precomputed", tmp_path / "p.h5")
    rows = [Row("published", "PIAA", read_run(run), "piaa")]
    assert (
        "precomputed, so it has no teacher"
        in rows_of_methods(run, read_manifest(run), read_run(run), rows, "cpu")[2][0]
    )


@pytest.mark.parametrize("plan", ['set = ["embed.local=none"]\n{}', '{}set = ["embed.local=none"]\n'])
def test_labels_of_a_method_do_not_ignore_options_of_embed(plan, run, tmp_path):
    pytest.importorskip("matplotlib")
    row = '[[row]]\nname = "TaI-DPT"\nmethod = "tai-dpt"\n'
    (tmp_path / "plan.toml").write_text(plan.format(row))
    assert "'TaI-DPT' sets options of embed" in refused("ablation", run, "--plan", tmp_path / "plan.toml")


def test_an_unknown_method_is_refused(run, tmp_path, colour_teacher):
    pytest.importorskip("matplotlib")
    (tmp_path / "plan.toml").write_text(PLAN.replace('"tai-dpt"', '"tai-dtp"'))
    assert "no method 'tai-dtp'. Did you mean 'tai-dpt'" in refused("ablation", run, "--plan", tmp_path / "plan.toml")


def test_the_cost_of_labels_by_stages(run):
    before = json.loads((run / "timings.json").read_text())
    for name, seconds in (
        ("embed", 30),
        ("init-labels", 1),
        ("warmup", 10),
        ("boxes", 2),
        ("score-crops", 4),
        ("fuse", 0.5),
    ):
        keep_timing(run, find_stage(name), read_run(run), seconds)
    assert labelling_cost(run) == {
        "views": 1 + len(read(run / "crop_scores.h5").entropy) / 8,
        "seconds": 30 * 8 / 12 + 17.5,
    }
    del before["boxes"]
    (run / "timings.json").write_text(json.dumps(before))
    assert np.isnan(labelling_cost(run)["seconds"])


def test_the_shipped_plan_names_methods():
    plan = read_plan("methods")
    assert {row.method for row in plan.rows} == {"", *METHODS}
    for row in plan.rows:
        row.settings.check()
