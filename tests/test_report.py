import base64
import json
import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from browser import browse, need_browser, violations
from PIL import Image
from worlds.commands import ccd, invoke, refused
from worlds.runs import CLASSES, TRAIN
from worlds.test_sets import Population, draw

from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.artifacts.hdf5 import write
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.evaluation.metrics import average_precision, precision_recall
from pipeline.evaluation.read import read
from pipeline.evaluation.run_files import read_run, thresholds_of
from pipeline.report import build as report
from pipeline.report import versus
from pipeline.report.content import (
    conditional,
    content_of,
    curves,
    distribution,
    mean_curve,
    slider_points,
    sliders,
    thin_curve,
    truth_of,
)
from pipeline.report.gallery import entry, gallery, split_view
from pipeline.report.verdict import closing_lines, verdict
from pipeline.runs.options import ReportConfig
from pipeline.system.errors import PipelineError
from pipeline.web.page import script_json

MADE = [
    *("ground_truth.h5", "embeddings.h5", "initial_labels.h5", "warmup.pt", "boxes.h5", "crop_scores.h5"),
    *("final_labels.h5", "classifier.pt", "epoch_scores.h5", "metrics.json"),
]

# What a person would do, and what they would then see.
DRIVER = r"""(() => {
  const count = () => document.querySelectorAll(".photo").length;
  const choose = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("input")); };
  const found = { all: count(), marks: {} };
  choose("filter-split", "train"); found.train = count();
  choose("filter-class", "cat"); found.address = location.hash; found.cats = [...document.querySelectorAll(".open")].map((p) => p.dataset.id);
  choose("filter-class", ""); choose("filter-split", "");
  const wrong = document.querySelector("[data-view=wrong]");
  if (wrong) { wrong.click(); found.wrong = [...document.querySelectorAll(".open")].map((p) => p.dataset.id); }
  document.querySelector(".open").click();
  found.rows = [...document.querySelectorAll("#detail tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
  found.open = byId("detail").open; found.crops = document.querySelectorAll(".crop").length;
  document.querySelector(".crop")?.click();
  const heat = document.querySelector("#detail canvas");
  found.hottest = heat && [...heat.getContext("2d").getImageData(0, 0, 2, 2).data].filter((_, k) => k % 4 === 3);
  byId("detail").close();
  const head = document.querySelectorAll("#class-table th:not(.more) button")[1];
  head?.focus(); head?.click(); found.kept = document.activeElement === (head ?? document.activeElement);
  document.querySelector(".pick input")?.click(); found.picked = byId("picked-count")?.textContent;
  const moved = byId("cut");
  if (moved) {
    choose("cut-class", "1"); byId("cut-class").dispatchEvent(new Event("change"));
    moved.value = 0; moved.dispatchEvent(new Event("input"));
    found.lowest = byId("cut-figures").innerText.split(/\s*\n\s*/);
    saveText = (...saved) => { found.saved = saved; };
    byId("cut-save").click();
  }
  found.sorted = [...document.querySelectorAll("#class-table tbody tr")].map((row) => Number(row.cells[head?.closest("th").cellIndex]?.textContent));
  found.svgs = document.querySelectorAll(".chart svg").length;
  found.fetched = performance.getEntriesByType("resource").map((e) => e.name);
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  return found;
})()"""


def browse_page(page, folder, width=1280):
    """The findings of DRIVER on a page, and what the browser wrote to its console."""
    return browse(page.as_uri(), folder, width, DRIVER)


@pytest.fixture
def browser():
    need_browser()
    return browse_page


@pytest.mark.parametrize("width", [1280, 390])
def test_page_works_in_a_browser_and_fetches_nothing(small_run, tmp_path, browser, width):
    found, console = browser(report.run(small_run, ReportConfig()), tmp_path, width)
    assert console == [] and found["fetched"] == []
    assert (found["all"], found["train"]) == (12, 8)
    # the cats by ground truth, although the labels miss the first
    assert found["cats"] == ["train/0.png", "train/1.png", "train/4.png", "train/5.png"]
    assert found["wrong"] == ["train/0.png"]
    assert found["lowest"][3:] == ["4", "ground truth", "2", "precision", "50.0", "recall", "100.0", "F1", "66.7"]
    name, thresholds = found["saved"]
    assert name == "thresholds.json" and json.loads(thresholds) == {"cat": 0.5, "dog": 0.1, CLASSES[2]: 0.5}
    # labelled a dog, but the classifier predicts a cat
    assert [[row[0], *row[4:6]] for row in found["rows"][:2]] == [["dog", "● 70", "30"], ["cat", "40", "● 70"]]
    assert found["open"] and found["crops"] == 2
    assert found["hottest"] == [20, 193, 27, 20]  # the opacity of the CAM [[0, 255], [10, 0]]
    assert found["sorted"] == sorted(found["sorted"], reverse=True)
    assert found["svgs"] == 6
    assert found["overflow"] <= 0
    assert found["address"] == "#images?class=cat&split=train" and found["kept"] and found["picked"] == "1 selected"


def test_page_without_ground_truth_says_so_and_works(small_run, tmp_path, browser):
    for name in ("ground_truth.h5", "metrics.json"):
        (small_run / name).unlink()
    path = report.run(small_run, ReportConfig())
    assert "Final labels: number of train images whose final label is at least 0.5." in path.read_text()
    assert "Nothing is measured" in path.read_text() and "Missing: metrics.json" not in path.read_text()
    found, console = browser(path, tmp_path)
    assert console == []
    assert found["all"] == 12 and "wrong" not in found
    assert found["svgs"] == 5  # no precision-recall curves
    assert len(found["cats"]) == 3  # labels alone: the first is not called a cat


def test_the_log_and_the_page_have_the_same_number_of_labels_per_image(run):
    output = " ".join(ccd("fuse", run, "--force").split())
    (card,) = [each for each in content_of(read_run(run))["cards"] if each["title"] == "labels per image"]
    labels = read(run / "final_labels.h5").labels
    assert card["value"] == f"{np.mean([sum(label >= 0.5 for label in row) for row in labels]):.2f}"
    assert f" {card['value']} labels per image (those of 0.5 or more)" in output


def test_page_of_a_manifest_alone(small_run, tmp_path, browser):
    for path in small_run.iterdir():
        if path.is_file() and not path.name.startswith("manifest"):
            path.unlink()
    found, console = browser(report.run(small_run, ReportConfig()), tmp_path)
    assert console == [] and found["all"] == 12 and found["svgs"] == 0


def test_page_names_no_address_and_forbids_fetching(small_run):
    text = report.run(small_run, ReportConfig()).read_text()
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'; img-src data:;" in text
    assert "cow </script>" not in text.split('id="data">')[1].split("</script>")[0] and "cow \\u003c/script>" in text


def test_a_stale_file_is_left_out_and_named(small_run):
    labels = read(small_run / "initial_labels.h5")
    other = replace(labels.provenance, config={**labels.provenance.config, "label_floor": 1.0})
    write(small_run / "initial_labels.h5", replace(labels, provenance=other))
    swapped = content_of(read_run(small_run))
    assert any("label_floor 1.0 -> 0.0" in note and "--to init-labels`" in note for note in swapped["unknown"])
    (small_run / "run.toml").write_text("[init-labels]\ndebias = false\nlabel_floor = 1.0\n")
    content = content_of(read_run(small_run))
    assert any(
        note.startswith("Not shown") and "out of date" in note and "--to warmup`" in note for note in content["unknown"]
    )
    assert content["stages"] == []


def test_the_gain_over_the_teacher_is_a_card(small_run):
    figures = json.loads((small_run / "metrics.json").read_text())
    maps = [100 * figures["test"][name]["mAP"] for name in ("final classifier", "teacher, whole photos")]
    files = read_run(small_run)
    card = next(c for c in content_of(files)["cards"] if c["title"] == "gain over the teacher")
    assert card["value"] == f"{maps[0] - maps[1]:+.1f}" and card["note"] == "mAP"  # too few photos for an interval
    assert "too few images" in verdict(files)["sentence"]
    gain = {"mAP": 0.1, "mAP_interval": [0.02, 0.15]}
    files = replace(files, metrics={**files.metrics, "gain": gain})
    card = next(c for c in content_of(files)["cards"] if c["title"] == "gain over the teacher")
    assert (card["value"], card["note"]) == ("+10.0", "mAP; 95 %: +2.0 to +15.0")
    assert "better than its teacher: +10.0 mAP, 95 % interval +2.0 to +15.0" in verdict(files)["sentence"]


def test_an_ablation_is_named(small_run):
    files = read_run(small_run)
    stamped = replace(files.provenances["boxes.h5"], uses_ground_truth=True)
    files = replace(files, provenances={**files.provenances, "boxes.h5": stamped})
    assert any(note.startswith("Ablation: boxes.h5") for note in content_of(files)["unknown"])


def test_a_run_without_manifest_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=r"manifest.csv is missing.*ccd prepare"):
        report.run(tmp_path, ReportConfig())


def test_boxes_in_the_gallery_have_the_scores_of_their_crop_or_none(small_run):
    view = split_view(read_run(small_run), "train")
    kept = view.crops.image_index != 1
    rows = {name: getattr(view.crops, name)[kept] for name in ("image_index", "class_index", "probabilities")}
    view = replace(view, crops=replace(view.crops, **rows))
    assert [len(box[5]) for box in entry(view, "train", 1)["boxes"]] == [0, 0]
    shown = entry(view, "train", 2)["boxes"]
    assert [dict(box[5]) for box in shown] == [
        {c: round(100 * float(values[c])) for c in np.argsort(-values)[:3]} for values in rows["probabilities"][2:4]
    ]


def test_gallery_is_capped_and_keeps_what_leads(small_run):
    shown = gallery(read_run(small_run), ReportConfig(images=4, thumbnail=32))
    assert shown["total"] == 12 and len(shown["entries"]) == 4
    assert [e["split"] for e in shown["entries"]] == ["train"] * 3 + ["test"]
    assert max(shown["entries"], key=lambda e: e["wrong"])["id"] == "train/0.png"
    assert gallery(read_run(small_run), ReportConfig(images=0, thumbnail=32))["entries"] == []


def test_five_thousand_images_stay_small(small_run):
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3)).astype(np.uint8)
    files = read_run(small_run)
    Image.fromarray(noise).resize((300, 200)).resize((600, 400)).save(files.manifest.paths[0])
    shown = gallery(files, ReportConfig(images=1))
    assert len(shown["entries"][0]["thumb"]) * ReportConfig.images < 30e6


def test_an_entry_tells_the_stages_of_an_image(small_run):
    files = read_run(small_run)
    found = entry(split_view(files, "train"), "train", 0)
    scores = np.frombuffer(base64.b64decode(found["scores"]), "<u2") / 65535
    np.testing.assert_allclose(scores, files.epoch_scores.train[0], atol=1e-4)
    labels = np.frombuffer(base64.b64decode(found["decided"]), "<u2") / 65535
    np.testing.assert_allclose(labels, files.final.labels[0], atol=1e-4)
    assert found["id"] == "train/0.png" and found["size"] == [64, 48]
    teacher, initial, final = files.embeddings.probabilities[0], files.initial.labels[0], files.final.labels[0]
    columns = (teacher, initial, files.local[0], final, files.epoch_scores.train[0])
    expected = [[c, *(None if np.isnan(v[c]) else round(100 * float(v[c])) for v in columns)] for c in (1, 0, 2)]
    assert [row[:-2] for row in found["labels"]] == expected  # most likely first
    assert found["labels"][2][3] is None  # no crop of the third class
    assert [row[-2:] for row in found["labels"]] == [[1, 0], [0, 1], [0, 0]]  # called dog, is cat
    assert found["wrong"] == 2
    assert found["boxes"][0][:5] == [0, 125, 167, 500, 833]
    assert found["boxes"][0][5][0][0] == files.crops.probabilities[0].argmax()


def test_a_photo_that_is_gone_leaves_its_labels(small_run):
    (small_run / "photos/train/0.png").unlink()
    first = gallery(read_run(small_run), ReportConfig(images=20, thumbnail=32))["entries"][0]
    assert first["id"] == "train/0.png" and first["thumb"] == "" and first["labels"]


def test_conditional_shares_by_hand():
    present = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    known = np.ones_like(present)
    np.testing.assert_allclose(conditional(present, known), [[1, 0.5, 0], [1, 1, 0], [0, 0, 0]])
    known[1, 1] = False  # so the one image with the first class whose second class is known has it
    np.testing.assert_allclose(conditional(present, known), [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_an_image_with_a_missing_label_has_no_number_of_classes(small_run):
    files = read_run(small_run)
    labels = files.truth.labels.copy()
    labels[0, 1] = UNKNOWN
    part = replace(files, truth=replace(files.truth, labels=labels))
    before, after = (sum(distribution(run)["per_image"]["ground truth"]) for run in (files, part))
    assert (before, after) == (TRAIN, TRAIN - 1)


def test_thin_curve_ends_at_full_recall():
    scores, truth = np.linspace(1, 0, 1000), np.tile(np.int8([1, 0]), 500)
    curve = thin_curve(*precision_recall(scores, truth))
    assert len(curve) <= 48 and curve[-1][0] == 1 and curve[0] == [0.002, 1.0]
    assert thin_curve(np.zeros(0), np.zeros(0)) == []


def test_script_json_cannot_end_its_element():
    text = script_json({"name": "</script><b>\u2028"})
    assert "<" not in text and json.loads(text) == {"name": "</script><b>\u2028"}


def test_table_has_a_row_a_class_and_the_right_figures(small_run):
    files = read_run(small_run)
    table = content_of(files)["table"]
    titles = [column["title"] for column in table["columns"]]
    assert [row[0] for row in table["rows"]] == CLASSES
    truth = read(small_run / "ground_truth.h5").labels[:TRAIN]
    assert [row[titles.index("ground truth")] for row in table["rows"]] == (truth == 1).sum(0).tolist()
    assert [row[titles.index("F1 classifier")] for row in table["rows"]] == [1.0, 1.0, 1.0]
    assert [row[titles.index("AP classifier")] for row in table["rows"]] == [1.0, 1.0, 1.0]


def test_what_lies_below_the_curve_of_all_classes_is_the_map():
    generator = np.random.default_rng(0)
    scores, truth = generator.random((400, 5)), (generator.random((400, 5)) < 0.3).astype(np.int8)
    truth[:, 4] = 0  # a class that is nowhere
    curve = mean_curve([precision_recall(scores[:, c], truth[:, c]) for c in range(5)], empty_is_zero=False)
    area = np.mean([precision for _, precision in curve])
    assert area == pytest.approx(np.nanmean(average_precision(scores, truth)), abs=2e-3)
    with_zero = mean_curve([precision_recall(scores[:, c], truth[:, c]) for c in range(5)], empty_is_zero=True)
    assert np.mean([precision for _, precision in with_zero]) == pytest.approx(0.8 * area, abs=1e-3)


def with_figures(files, **conventions):
    """The run with other conventions in its figures."""
    return replace(files, metrics={**files.metrics, "conventions": {**files.metrics["conventions"], **conventions}})


def test_the_page_follows_the_conventions_of_the_figures(small_run):
    files = read_run(small_run)
    difficult = files.truth.labels.copy()
    difficult[TRAIN, 0] = DIFFICULT  # the cat of the first test photo is difficult
    files = replace(files, truth=replace(files.truth, labels=difficult))
    ids = files.manifest.split("test").image_ids
    for name, value in (("ignore", -1), ("negative", 0), ("positive", 1)):
        assert truth_of(with_figures(files, difficult=name), ids)[0, 0] == value
    as_negative = curves(with_figures(files, difficult="negative"))
    classifier = next(curve for curve in as_negative if curve["name"] == "classifier")
    assert classifier["AP"][0] < 1  # its score is high, and it counts as not there
    assert next(c for c in curves(files) if c["name"] == "classifier")["AP"][0] == 1


def test_photos_that_nobody_labelled_count_nowhere(small_run):
    files = read_run(small_run)
    labels = files.truth.labels.copy()
    labels[TRAIN] = UNKNOWN
    part = replace(files, truth=replace(files.truth, labels=labels))
    ids = files.manifest.split("test").image_ids
    for value in ("ignore", "negative", "positive"):
        assert (truth_of(with_figures(part, difficult=value), ids)[0] == -1).all()
    none = replace(files, truth=replace(files.truth, labels=np.full_like(labels, UNKNOWN)))
    assert truth_of(none, ids) is None and curves(none) == [] and content_of(none)["table"]["rows"]
    assert (
        verdict(none)["alerts"] is not None
        and not gallery(none, ReportConfig(images=4, thumbnail=32))["entries"][0]["wrong"]
    )


def test_a_sliders_points_by_hand():
    scores, truth = np.array([0.9, 0.6, 0.6, 0.1]), np.int8([1, 0, 1, -1])
    points = slider_points(scores, truth, [0.5, None])
    assert [point for point in points if point[0] == 0.5] == [[0.5, 3, 2, 1]]
    assert points[0] == [0.05, 4, 2, 1] and points[-1] == [1.0, 0, 0, 0]  # the last is of unknown truth
    assert [point[0] for point in points] == sorted(point[0] for point in points)


def test_without_test_images_the_slider_moves_the_predictions_of_the_classifier_on_train_photos(small_run):
    files = replace(read_run(small_run), truth=None)
    epochs = replace(files.epoch_scores, image_ids=[], scores=files.epoch_scores.scores[:, :0])
    found = sliders(replace(files, epoch_scores=epochs))
    assert (found["split"], found["positives"], found["own"], found["best"]) == ("train", None, [0.5] * 3, [None] * 3)
    cats = (epochs.train[:, 0] >= 0.5).sum()
    assert cats and next(count for cut, count, *_ in found["points"][0] if cut == 0.5) == cats
    assert sliders(replace(files, epoch_scores=None)) is None


def test_the_page_has_the_thresholds_that_predict_uses(small_run, tmp_path):
    (tmp_path / "thresholds.json").write_text(json.dumps(dict(zip(CLASSES, [0.25, 0.5, 0.75], strict=True))))
    assert invoke("calibrate", small_run, tmp_path / "thresholds.json")[0] == 0
    assert read_run(small_run).thresholds == sliders(read_run(small_run))["own"] == [0.25, 0.5, 0.75]
    classifier = read_checkpoint(small_run / "classifier.pt")
    other = replace(classifier.provenance, inputs={**classifier.provenance.inputs, "warmup.pt": "another"})
    assert thresholds_of(small_run, replace(classifier, provenance=other)) == [0.5] * 3  # trained again since then


def test_doubt_is_the_distance_to_the_own_threshold(small_run):
    """Scores of 0.2 and 0.8 are equally far from 0.5, but not from a threshold of 0.75."""
    files = replace(read_run(small_run), thresholds=[0.75, 0.5, 0.5])
    view = split_view(files, "test")
    unsure = np.argsort(-view.unsure, kind="stable")[:2]
    assert set(unsure) == set(np.flatnonzero(view.truth[:, 0] == 1))
    assert entry(view, "test", int(unsure[0]))["closest"] == 0


def alerts(files):
    return {alert["title"]: alert for alert in verdict(files)["alerts"]}


def test_a_class_without_labels_and_a_silent_threshold_are_alerts(small_run):
    files = read_run(small_run)
    labels = files.final.labels.copy()
    labels[:, 1] = 0.3
    files = replace(files, final=replace(files.final, labels=labels), thresholds=[0.5, 0.5, 0.99], truth=None)
    found = alerts(files)
    assert "No label: dog" in found and len(found["No label: dog"]["photos"]) == 4
    assert found["No label: dog"]["show"]["class"] == "dog"
    assert f"Never predicted: {CLASSES[2]}" in found
    epochs = replace(files.epoch_scores, image_ids=[], scores=files.epoch_scores.scores[:, :0])
    text = alerts(replace(files, epoch_scores=epochs))[f"Never predicted: {CLASSES[2]}"]["text"]
    assert text.startswith("No train photo reaches its threshold.")


def test_every_alert_names_a_command(small_run):
    files = read_run(small_run)
    labels = files.final.labels.copy()
    labels[:, 1] = 0.3
    for changed in (
        files,
        replace(files, final=replace(files.final, labels=labels)),
        replace(files, thresholds=[0.5, 1, 0]),
    ):
        for truth in (files.truth, None):
            for alert in verdict(replace(changed, truth=truth))["alerts"]:
                assert "`ccd " in alert["remedy"], alert["title"]


def test_examples_are_predicted_test_photos_or_else_labelled_train_photos(small_run):
    files = read_run(small_run)
    found = verdict(files)["examples"]
    decided = dict(zip(files.epoch_scores.image_ids, (files.epoch_scores.chosen >= 0.5).any(1), strict=True))
    assert found and all(decided[image_id] for image_id in found)
    found = verdict(replace(files, epoch_scores=None))["examples"]
    labelled = dict(zip(files.final.image_ids, (files.final.labels >= 0.5).any(1), strict=True))
    assert found and all(labelled[image_id] for image_id in found)


def test_an_unfinished_run_names_the_next_stage(small_run):
    for name in ("final_labels.h5", "classifier.pt", "epoch_scores.h5", "metrics.json"):
        (small_run / name).unlink()
    sentence = verdict(read_run(small_run))["sentence"]
    assert "next stage is fuse" in sentence and f"`ccd all {small_run}`" in sentence


def test_a_name_that_the_teacher_does_not_know_is_the_first_line_about_its_class(small_run):
    files = read_run(small_run)
    known = np.array([True, True, False])
    files = replace(files, embeddings=replace(files.embeddings, name_is_known=known), truth=None)
    found = alerts(files)
    assert f"The teacher probably does not know: {CLASSES[2]}" in found
    lines = [line for line in closing_lines(files) if "does not know" in line]
    key = tomllib.loads(f"[classes]\n{lines[0].split('add a line such as ')[1].split(', then run')[0]}")
    assert len(lines) == 1 and key["classes"] == {CLASSES[2]: ["English name", "synonym"]}


def test_without_any_label_one_line_says_so(small_run):
    files = read_run(small_run)
    nothing = replace(files.final, labels=np.full_like(files.final.labels, 0.4))
    lines = closing_lines(replace(files, final=nothing))
    assert lines[0].startswith("warning: No class has a label. ") and "`ccd review" in lines[0]
    assert not any("No label" in line for line in lines)


def test_the_remedy_of_a_bad_class_reviews_it(small_run):
    files = read_run(small_run)
    labels = files.final.labels.copy()
    labels[:, 1:] = 0.3
    lines = closing_lines(replace(files, final=replace(files.final, labels=labels)))
    assert f"`ccd review {small_run} --class dog`" in next(line for line in lines if "No label: dog" in line)
    labels[:, 1] = 0.9
    lines = closing_lines(replace(files, final=replace(files.final, labels=labels)))
    assert f"--class {shlex.quote(CLASSES[2])}`" in next(line for line in lines if f"No label: {CLASSES[2]}" in line)


def test_the_remedy_of_a_class_without_labels_depends_on_the_teacher(small_run):
    files = read_run(small_run)
    labels = files.final.labels.copy()
    labels[:, 1] = 0.3

    def line(teacher):
        embeddings = replace(files.embeddings, teacher=teacher)
        changed = replace(files, embeddings=embeddings, final=replace(files.final, labels=labels))
        return next(line for line in closing_lines(changed) if "No label: dog" in line)

    assert "--teacher open_clip:" in line("conse") and "--teacher" not in line("openai:RN50x64")
    for each in ("conse", "openai:RN50x64"):
        assert 0 < line(each).index("`ccd review") < line(each).index("[classes]")  # names come last


def test_a_class_with_a_label_is_not_warned_of_though_the_teacher_never_ranks_it_first(small_run):
    files = read_run(small_run)
    embeddings = replace(files.embeddings, bias_counts=np.array([1, 0, 1]))
    labels = files.final.labels.copy()
    labels[:, 1] = 0.3

    def about_dog(labels, limits=None):
        changed = replace(files, embeddings=embeddings, final=replace(files.final, labels=labels), thresholds=limits)
        lines = closing_lines(changed)
        return [line for line in lines if ": dog" in line]

    silent = [0.5, 1.1, 0.5]
    assert ["No label" in line for line in about_dog(labels, silent)] == [True]  # one cure, not also of the threshold
    labels[0, 1] = 1  # a correction
    assert not about_dog(labels)
    assert ["Never predicted" in line for line in about_dog(labels, silent)] == [True]


def test_confused_classes_need_ground_truth_and_twins_do_not(small_run):
    files = read_run(small_run)
    turned = files.epoch_scores.scores.copy()
    turned[-1] = turned[-1][:, [1, 0, 2]]  # every cat is called a dog
    many = np.repeat(np.arange(4), 4)
    part = replace(files.manifest, images=files.manifest.images.iloc[[*range(TRAIN), *(TRAIN + many)]].copy())
    part.images["image_id"] = [*files.manifest.image_ids[:TRAIN], *(f"test/{n}" for n in range(len(many)))]
    truth = replace(
        files.truth,
        image_ids=part.image_ids,
        labels=files.truth.labels[[*range(TRAIN), *(TRAIN + many)]],
    )
    epochs = replace(files.epoch_scores, scores=turned[:, many], image_ids=part.split("test").image_ids)
    swapped = replace(files, manifest=part, truth=truth, epoch_scores=epochs)
    assert any("is mistaken for" in title for title in alerts(swapped))
    labels = files.final.labels.copy()
    labels[:, 0] = labels[:, 1]
    found = alerts(replace(files, truth=None, metrics=None, final=replace(files.final, labels=labels)))
    assert found["cat and dog occur together"]["level"] == "note"


def versus_sentence(scores, truth):
    """The verdict on two runs with these scores of test photos."""
    run = SimpleNamespace(metrics={})
    view = SimpleNamespace(truth=truth, columns={"old": scores[0], "new": scores[1]})
    return versus.sentence((run, run), ["old", "new"], view)


def test_the_better_of_two_runs_is_named_where_an_interval_says_so():
    population = Population("", 200, np.full(5, 0.3), (0.6, 0.8))
    truth, scores = draw(population, population.shifts(), np.random.default_rng(0))
    assert "new is better than old: +" in versus_sentence(scores, truth)
    assert "new is worse than old: -" in versus_sentence(scores[::-1], truth)
    assert "This may be chance: too few images" in versus_sentence(scores[:, :2], truth[:2])


def test_a_gain_whose_interval_holds_0_is_the_first_alert(small_run):
    files = read_run(small_run)
    gain = {"mAP": 0.01, "mAP_interval": [-0.02, 0.04]}
    found = verdict(replace(files, metrics={**files.metrics, "gain": gain}))
    assert found["alerts"][0]["title"] == "The gain may be chance"
    assert "not measurably better" in found["sentence"] and "-2.0 to +4.0" in found["sentence"]


def test_train_and_test_of_different_kinds_are_told(small_run):
    files = read_run(small_run)
    count = 60
    probabilities = np.tile(np.float32([0.9, 0.05, 0.05]), (2 * count, 1))
    probabilities[count:] = [0.05, 0.9, 0.05]
    far = replace(files.embeddings, probabilities=probabilities, is_train=np.arange(2 * count) < count)
    near = replace(far, is_train=np.arange(2 * count) % 2 == 0)
    images = files.manifest.images.iloc[np.arange(2 * count) % 12].copy()
    images["image_id"], images["split"] = [str(n) for n in range(2 * count)], ["train"] * count + ["test"] * count
    bare = replace(files, manifest=replace(files.manifest, images=images), truth=None, metrics=None)
    bare = replace(bare, initial=None, final=None, epoch_scores=None, boxes=None, crops=None)
    assert "Train and test photos differ" in alerts(replace(bare, embeddings=far))
    assert "Train and test photos differ" not in alerts(replace(bare, embeddings=near))


def test_photos_of_an_alert_are_on_the_page(small_run):
    shown = gallery(read_run(small_run), ReportConfig(images=2, thumbnail=32), ["train/6.png"])
    assert "train/6.png" in {e["id"] for e in shown["entries"]}


def test_photos_are_linked_where_they_lie(small_run):
    (first, *_) = gallery(read_run(small_run), ReportConfig(images=20, thumbnail=32))["entries"]
    assert first["href"] == "photos/train/0.png"


@pytest.fixture
def changed_run(small_run, tmp_path):
    """The run with other labels: the first train photo is a cat, which is right, and the second is no longer a dog."""
    other = shutil.copytree(small_run, tmp_path / "other")
    labels = read(other / "final_labels.h5")
    values = labels.labels.copy()
    values[0], values[1, 1] = [0.9, 0.1, 0.1], 0.2
    write(other / "final_labels.h5", replace(labels, labels=values))
    return other


def test_two_runs_are_compared_on_a_page(small_run, changed_run, tmp_path, browser):
    path = versus.run(small_run, changed_run, ReportConfig())
    assert path == changed_run / "report-against-squares.html"
    content = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])
    by_id = {e["id"]: e for e in content["gallery"]["entries"]}
    assert (by_id["train/0.png"]["better"], by_id["train/0.png"]["worse"]) == (2, 0)
    assert (by_id["train/1.png"]["better"], by_id["train/1.png"]["worse"]) == (0, 1)
    titles = [column["title"] for column in content["table"]["columns"]]
    dog = content["table"]["rows"][1]
    assert (dog[titles.index("lost")], dog[titles.index("gained")]) == (2, 0)
    assert "the same on 4 test photos" in content["sentence"]
    found, console = browser(path, tmp_path)
    assert console == [] and found["fetched"] == [] and found["overflow"] <= 0
    assert found["all"] == 12 and found["wrong"] == ["train/1.png"]


def test_axe_finds_nothing_on_the_report_and_the_comparison(small_run, changed_run, tmp_path):
    need_browser()
    for path in (report.run(small_run, ReportConfig()), versus.run(small_run, changed_run, ReportConfig())):
        assert violations(path.as_uri(), tmp_path, "0", "document.querySelector('.open').click()") == []


def test_the_command_takes_one_run_or_two(small_run, changed_run):
    assert invoke("report", "--run", small_run, "--images", 4)[0] == 0 and (small_run / "report.html").exists()
    assert invoke("report", small_run, changed_run)[0] == 0 and (changed_run / "report-against-squares.html").exists()
    (small_run / "report.html").unlink()
    assert invoke("report", small_run, "--images", 4)[0] == 0 and (small_run / "report.html").exists()
    for arguments in ([small_run, changed_run, small_run], [small_run, changed_run, "--run", small_run]):
        assert "`ccd report A B` compares two runs" in refused("report", *arguments)


def test_seconds_and_versions_stand_on_the_page_and_in_no_fingerprint(small_run):
    before = {path.name: path.read_bytes() for path in small_run.glob("*.h5")}
    (small_run / "timings.json").write_text('{"fuse": {"seconds": 12.25, "bytes": 1, "images": 12}}')
    text = report.run(small_run, ReportConfig()).read_text()
    assert '<td class="number">12.2</td>' in text and re.search(r"Made \d{4}-.* with .*numpy [\d.]+", text)
    assert before == {path.name: path.read_bytes() for path in small_run.glob("*.h5")}


@pytest.mark.parametrize("damage", [b"", b"not one of ours", None])
@pytest.mark.parametrize("name", sorted(MADE))
def test_a_file_that_is_damaged_or_gone_is_named_and_the_rest_shown(small_run, name, damage):
    path = small_run / name
    path.unlink() if damage is None else path.write_bytes(damage)
    text = report.run(small_run, ReportConfig()).read_text()
    content = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(content["gallery"]["entries"]) == 12 and all(e["thumb"] for e in content["gallery"]["entries"])
    # ground truth is nothing that a run must have
    assert (name == "ground_truth.h5" and damage is None) or any(name in note for note in content["unknown"])


def test_runs_without_a_common_image_are_refused(small_run, changed_run):
    for name in ("final_labels.h5", "initial_labels.h5", "epoch_scores.h5"):
        (changed_run / name).unlink()
    with pytest.raises(PipelineError, match="no image in common"):
        versus.run(small_run, changed_run, ReportConfig())
