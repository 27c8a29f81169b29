"""Commands replace their own outputs only with --force, and never replace other files."""

import json

import pytest
from worlds.commands import ccd, invoke, refused
from worlds.runs import IDS, write_run

from pipeline.deploy import hub
from pipeline.exchange.formats import FORMATS
from pipeline.system.errors import PipelineError
from pipeline.system.files import LIST, replacing_folder

LABELS = [("export-labels", "--format", format, *(["--boxes"] if format == "yolo" else [])) for format in FORMATS]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", IDS, ["cat", "dog", "cow"])


def tree(folder):
    """Every file and link below a folder with its content or target."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
    return {path: path.readlink() if path.is_symlink() else path.read_bytes() for path in files}


@pytest.mark.parametrize("command", [*LABELS, ("export-review",)], ids=" ".join)
def test_an_output_in_its_default_place_is_replaced_by_force_alone(run, command):
    ccd(*command, "--run", run)
    before = tree(run)
    code, output = invoke(*command, "--run", run)
    assert code == 1 and "exists already" in output and "--force" in output
    assert tree(run) == before
    ccd(*command, "--run", run, "--force")
    assert tree(run) == before  # the same is written again, and the photos behind the links are where they were


@pytest.mark.parametrize("format", sorted({name for name, each in FORMATS.items() if not each.suffix}))
def test_a_folder_with_a_file_of_others_is_never_replaced(run, tmp_path, format):
    command = ("export-labels", run, "--format", format, "--out", tmp_path / "out", *(["--boxes"] * (format == "yolo")))
    ccd(*command)
    (tmp_path / "out" / "sub").mkdir()
    (tmp_path / "out" / "sub" / "mine.txt").write_text("precious")
    before = tree(tmp_path)
    code, output = invoke(*command, "--force")
    assert code == 1 and "sub/mine.txt" in output and "ccd did not write" in output
    assert tree(tmp_path) == before


@pytest.mark.parametrize("listing", [None, "", "{}", "[1, [2]]", '"mine.txt"'])
def test_a_folder_of_others_is_never_replaced(run, tmp_path, listing):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    if listing is not None:
        (tmp_path / "photos" / LIST).write_text(listing)
    command = ("export-labels", run, "--format", "huggingface", "--out", tmp_path / "photos", "--force")
    assert "mine.txt" in refused(*command) and (tmp_path / "photos" / "mine.txt").read_text() == "precious"


def test_a_link_to_a_folder_of_others_counts_as_a_file(tmp_path):
    (tmp_path / "theirs").mkdir()
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(PipelineError, match="link"), replacing_folder(tmp_path / "out"):
        pass


def test_a_file_and_a_folder_do_not_take_each_others_place(run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    code, output = invoke("export-labels", run, "--format", "csv", "--out", tmp_path / "folder", "--force")
    assert code == 1 and "is a folder, expected a file" in output
    code, output = invoke("export-labels", run, "--format", "fiftyone", "--out", tmp_path / "file", "--force")
    assert code == 1 and "is a file, expected a folder" in output and (tmp_path / "file").read_text() == "precious"


def test_the_interface_next_to_the_tasks_is_kept_too(run, tmp_path):
    (tmp_path / "tasks.xml").write_text("precious")
    for command in (("export-labels", "--format", "label-studio"), ("export-review",)):
        assert "tasks.xml exists already" in refused(*command, "--run", run, "--out", tmp_path / "tasks.json")
        assert "Name a .json file" in refused(*command, "--run", run, "--out", tmp_path / "tasks.xml", "--force")
    assert (tmp_path / "tasks.xml").read_text() == "precious" and not (tmp_path / "tasks.json").exists()


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path):
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(PipelineError, match="No space"), replacing_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("new")
        raise OSError(28, "No space left on device")
    assert tree(tmp_path) == before
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "b").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / LIST).read_text()) == ["b"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b", LIST}


def test_a_folder_for_the_hub_is_replaced_by_force_alone(tiny_classifier, tmp_path):
    hub.run(tiny_classifier, tmp_path / "hub")
    with pytest.raises(PipelineError, match="exists already"):
        hub.run(tiny_classifier, tmp_path / "hub")
    hub.run(tiny_classifier, tmp_path / "hub", force=True)
    (tmp_path / "hub" / "mine.txt").write_text("precious")
    with pytest.raises(PipelineError, match=r"mine\.txt"):
        hub.run(tiny_classifier, tmp_path / "hub", force=True)
    assert (tmp_path / "hub" / "mine.txt").read_text() == "precious"


def test_an_export_is_never_written_over_its_classifier(tiny_classifier):
    before = tiny_classifier.read_bytes()
    code, output = invoke("export", tiny_classifier, "--format", "torch-export", "--out", tiny_classifier, "--force")
    assert code == 1 and "is the classifier itself" in output and tiny_classifier.read_bytes() == before
