import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from runs import CLASSES, TRAIN

from pipeline.machine.errors import PipelineError
from pipeline.runs.artifacts import write
from pipeline.runs.options import ReportConfig
from pipeline.tools.read import read
from pipeline.tools.report import build as report
from pipeline.tools.report.content import conditional, content_of, thin_curve
from pipeline.tools.report.gallery import entry, gallery, split_view
from pipeline.tools.report.page import script_json
from pipeline.tools.run_files import read_run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=4000"

# What a person would do, and what they would then see; the findings end up in the title.
DRIVER = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("load", () => setTimeout(() => {
  const count = () => document.querySelectorAll(".photo").length;
  const choose = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("change")); };
  const found = { all: count(), marks: {} };
  choose("filter-split", "train"); found.train = count();
  choose("filter-class", "0"); found.cats = [...document.querySelectorAll(".photo")].map((p) => p.ariaLabel);
  choose("filter-class", ""); choose("filter-split", "");
  const wrong = document.querySelector("[data-view=wrong]");
  if (wrong) { wrong.click(); found.wrong = [...document.querySelectorAll(".photo")].map((p) => p.ariaLabel); }
  document.querySelector(".photo").click();
  found.open = byId("detail").open; found.crops = document.querySelectorAll(".crop").length;
  document.querySelector(".crop")?.click();
  const heat = document.querySelector("#detail canvas");
  found.hottest = heat && [...heat.getContext("2d").getImageData(0, 0, 2, 2).data].filter((_, k) => k % 4 === 3);
  document.querySelectorAll("#class-table button")[1]?.click();
  found.sorted = [...document.querySelectorAll("#class-table tbody tr")].map((row) => Number(row.cells[1]?.textContent));
  found.svgs = document.querySelectorAll(".chart svg").length;
  found.fetched = performance.getEntriesByType("resource").map((e) => e.name);
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  found.errors = errors;
  document.title = JSON.stringify(found);
}, 300));
</script>"""


def browse(page, folder, width):
    """The findings of DRIVER on a page, and what the browser wrote to its console."""
    driven = folder / "driven.html"
    text = page.read_text()
    driven.write_text(text.replace("<title>", DRIVER + "<title>", 1))
    command = [
        BROWSER,
        *QUIET.split(),
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
    ]
    done = subprocess.run([*command, driven.as_uri()], capture_output=True, text=True, timeout=100)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(title[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")), console


@pytest.fixture
def browser():
    if BROWSER is None:
        pytest.skip("no chromium: the page is not looked at in a browser")
    return browse


@pytest.mark.parametrize("width", [1280, 500])
def test_page_works_in_a_browser_and_fetches_nothing(small_run, tmp_path, browser, width):
    found, console = browser(report.run(small_run, ReportConfig()), tmp_path, width)
    assert console == [] and found["errors"] == [] and found["fetched"] == []
    assert (found["all"], found["train"]) == (12, 8)
    # the cats by ground truth, although the labels miss the first
    assert found["cats"] == ["train/0.png", "train/1.png", "train/4.png", "train/5.png"]
    assert found["wrong"] == ["train/0.png"]
    assert found["open"] and found["crops"] == 2
    assert found["hottest"] == [20, 193, 27, 20]  # the opacity of the CAM [[0, 255], [10, 0]]
    assert found["sorted"] == sorted(found["sorted"], reverse=True)
    assert found["svgs"] == 6
    assert found["overflow"] <= 0


def test_page_without_ground_truth_says_so_and_works(small_run, tmp_path, browser):
    for name in ("ground_truth.h5", "metrics.json"):
        (small_run / name).unlink()
    path = report.run(small_run, ReportConfig())
    assert "There is no ground truth" in path.read_text()
    found, console = browser(path, tmp_path, 1280)
    assert console == [] and found["errors"] == []
    assert found["all"] == 12 and "wrong" not in found
    assert found["svgs"] == 5  # no precision-recall curves
    assert len(found["cats"]) == 3  # labels alone: the first is not called a cat


def test_page_of_a_manifest_alone(small_run, tmp_path, browser):
    for path in small_run.iterdir():
        if path.is_file() and not path.name.startswith("manifest"):
            path.unlink()
    found, console = browser(report.run(small_run, ReportConfig()), tmp_path, 1280)
    assert console == [] and found["errors"] == [] and found["all"] == 12 and found["svgs"] == 0


def test_page_names_no_address_and_forbids_fetching(small_run):
    text = report.run(small_run, ReportConfig()).read_text()
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'; img-src data:;" in text
    assert "cow </script>" not in text.split('id="data">')[1].split("</script>")[0] and "cow \\u003c/script>" in text


def test_a_stale_file_is_left_out_and_named(small_run):
    labels = read(small_run / "initial_labels.h5")
    other = replace(labels.provenance, config={"label_floor": 1.0})
    write(small_run / "initial_labels.h5", replace(labels, provenance=other))
    content = content_of(read_run(small_run))
    assert any(note.startswith("Left out") and "stale" in note and "ccd warmup" in note for note in content["unknown"])
    assert content["stages"] == []


def test_the_gain_over_the_teacher_is_a_card(small_run):
    figures = json.loads((small_run / "metrics.json").read_text())
    maps = [100 * figures["test"][name]["mAP"] for name in ("final classifier", "teacher zero-shot")]
    card = next(c for c in content_of(read_run(small_run))["cards"] if c["title"] == "against the teacher")
    assert card["value"] == f"{maps[0] - maps[1]:+.1f}" and card["note"].startswith("mAP; 95 %: ")


def test_a_study_is_called_one(small_run):
    files = read_run(small_run)
    stamped = replace(files.provenances["boxes.h5"], uses_ground_truth=True)
    files = replace(files, provenances={**files.provenances, "boxes.h5": stamped})
    assert any(note.startswith("A study: boxes.h5") for note in content_of(files)["unknown"])


def test_a_run_without_manifest_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=r"manifest.csv is missing.*ccd prepare"):
        report.run(tmp_path, ReportConfig())


def test_gallery_is_capped_and_keeps_what_leads(small_run):
    shown = gallery(read_run(small_run), limit=4, side=32, seed=0)
    assert shown["total"] == 12 and len(shown["entries"]) == 4
    assert [e["split"] for e in shown["entries"]] == ["train"] * 3 + ["test"]
    assert max(shown["entries"], key=lambda e: e["wrong"])["id"] == "train/0.png"
    assert gallery(read_run(small_run), limit=0, side=32, seed=0)["entries"] == []


def test_five_thousand_images_stay_small(small_run):
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3)).astype(np.uint8)
    files = read_run(small_run)
    Image.fromarray(noise).resize((300, 200)).resize((600, 400)).save(files.manifest.paths[0])
    shown = gallery(files, limit=1, side=ReportConfig.thumbnail, seed=0)
    assert len(shown["entries"][0]["thumb"]) * ReportConfig.images < 30e6


def test_an_entry_tells_the_stages_of_an_image(small_run):
    files = read_run(small_run)
    found = entry(split_view(files, "train"), "train", 0)
    assert found["id"] == "train/0.png" and found["size"] == [64, 48]
    teacher, initial, final = files.embeddings.probabilities[0], files.initial.labels[0], files.final.labels[0]
    local = files.local[0]
    expected = [[c, *(round(100 * float(v[c])) for v in (teacher, initial, local, final))] for c in (1, 0, 2)]
    assert [row[:-2] for row in found["labels"]] == expected  # most likely first
    assert [row[-2:] for row in found["labels"]] == [[1, 0], [0, 1], [0, 0]]  # called dog, is cat
    assert found["wrong"] == 2
    assert found["boxes"][0][:5] == [0, 125, 167, 500, 833]
    assert found["boxes"][0][5][0][0] == files.crops.probabilities[0].argmax()


def test_a_photo_that_is_gone_leaves_its_labels(small_run):
    (small_run / "photos/train/0.png").unlink()
    first = gallery(read_run(small_run), limit=20, side=32, seed=0)["entries"][0]
    assert first["id"] == "train/0.png" and first["thumb"] == "" and first["labels"]


def test_conditional_shares_by_hand():
    present = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    np.testing.assert_allclose(conditional(present), [[1, 0.5, 0], [1, 1, 0], [0, 0, 0]])


def test_thin_curve_ends_at_full_recall():
    scores, truth = np.linspace(1, 0, 1000), np.tile(np.int8([1, 0]), 500)
    curve = thin_curve(scores, truth)
    assert len(curve) <= 48 and curve[-1][0] == 1 and curve[0] == [0.002, 1.0]
    assert thin_curve(scores, np.zeros(1000, np.int8)) == []


def test_script_json_cannot_end_its_element():
    text = script_json({"name": "</script><b>\u2028"})
    assert "<" not in text and json.loads(text) == {"name": "</script><b>\u2028"}


def test_table_has_a_row_a_class_and_the_right_figures(small_run):
    files = read_run(small_run)
    table = content_of(files)["table"]
    titles = [column["title"] for column in table["columns"]]
    assert [row[0] for row in table["rows"]] == CLASSES
    truth = read(small_run / "ground_truth.h5").labels[:TRAIN]
    assert [row[titles.index("truly there")] for row in table["rows"]] == (truth == 1).sum(0).tolist()
    assert [row[titles.index("F1 classifier")] for row in table["rows"]] == [1.0, 1.0, 1.0]
    assert [row[titles.index("AP classifier")] for row in table["rows"]] == [1.0, 1.0, 1.0]
