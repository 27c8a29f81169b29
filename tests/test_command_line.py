"""The help of the command line, and the short options of `ccd all`."""

import shlex

import pytest
from worlds.commands import ccd, refused

from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.manifest import read_manifest
from pipeline.cli.stages import split_short
from pipeline.datasets.class_names import joined_by_spaces, parse_class_names
from pipeline.exchange.formats import FORMATS
from pipeline.runs.graph import find_stage, options_of
from pipeline.runs.no_effect import RULES
from pipeline.runs.settings import SHORT, read_run
from pipeline.system.errors import PipelineError
from pipeline.teachers.recommended import recommended

PANELS = ["Start", "Review", "Export", "Stages", "Research", "Housekeeping"]
FIRST = (
    *("images", "classes", "test-images", "labels", "teacher", "backbone", "device"),
    *("epochs", "batch-size", "image-size", "seed", "recipe"),
)


def panels(text):
    """Title and lines of each panel of a help text."""
    found = {}
    for line in text.splitlines():
        if line.startswith("╭─"):
            found[line.split()[1]] = lines = []
        elif line.startswith("│"):
            lines.append(line.strip("│").strip())
    return found


def test_help_groups_every_command_and_fits_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = ccd("--help")
    assert [title for title in panels(text) if title not in ("Options",)] == PANELS
    assert {line.split()[0] for line in panels(text)["Start"]} >= {"all", "predict", "report"}
    assert max(map(len, text.splitlines())) <= 80


def test_help_of_all_begins_with_the_common_options(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = ccd("all", "--help")
    first = [line.split()[0] for line in panels(text)["Options"] if line.startswith("--")]
    assert first[:-1] == [f"--{name}" for name in ("run", *FIRST)]
    assert max(map(len, text.splitlines())) <= 80 and "<bool>" not in text
    assert "--[no-]keep-test-copies" in text
    for lines in panels(text).values():
        for option in " ".join(lines).split(" --"):
            assert option.count("default: ") <= 1, option


def test_help_of_all_marks_what_a_first_run_needs_and_its_example_runs(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = ccd("all", "--help")
    assert text.count("Run: a name under artifacts/") == 1  # of RUN and --run
    example = shlex.split(next(line for line in text.splitlines() if "Example: ccd " in line).partition("ccd ")[2])
    options = " ".join(panels(text)["Options"]).split(" --")
    needed = {f"--{each.split()[0].removeprefix('--')}" for each in options if "Needed in a first run" in each}
    assert needed == {each for each in example if each.startswith("--")} == {"--images", "--classes"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos / "train")
    ccd(*example, "--to", "prepare")
    assert read_manifest(tmp_path / "artifacts" / "photos").class_names == ["dog", "cat", "car"]


def test_help_of_export_labels_breaks_no_name_of_a_format(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = panels(ccd("export-labels", "--help"))["Options"]
    assert all(any(name in line for line in lines) for name in FORMATS)


@pytest.mark.parametrize("command", ["prepare", "embed", "boxes", "train", "predict", "calibrate", "serve"])
def test_help_of_a_command_cuts_nothing_off_at_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = ccd(command, "--help")
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    if command == "prepare":
        assert "those in [classes] of the preset" in " ".join(" ".join(panels(text)["Options"]).split())


def test_a_short_option_sets_the_option_of_its_stages():
    prepared, short = split_short({"images": "photos", "epochs": 3, "image_size": 224})
    assert prepared == {"images": "photos"}
    assert short.tables == {
        "train": {"epochs": 3, "image_size": 224},
        "warmup": {"image_size": 224},
        "boxes": {"image_size": 224},
    }
    for name, stages in SHORT.items():
        for stage in stages:
            assert hasattr(options_of(find_stage(stage)), name)


def test_all_keeps_short_options_in_the_run(photos, tmp_path):
    given = ("--images", photos / "train", "--classes", "red", "--classes", "green,blue", "--to", "prepare")
    ccd("all", tmp_path / "run", *given, "--epochs", 3, "--seed", 5, "--set", "train.seed=6")
    tables = read_run(tmp_path / "run").tables
    assert tables["train"] == {"epochs": 3, "seed": 6} and tables["warmup"] == {"seed": 5}
    assert tables["prepare"]["classes"] == ["red", "green,blue"]
    assert "epochs is 0" in refused("all", tmp_path / "run", "--set", "train.epochs=0")


def test_class_names_of_several_values_and_files(tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    assert parse_class_names(["traffic light", "car,bus", str(tmp_path / "names.txt")]) == [
        "traffic light",
        "car",
        "bus",
        "dog",
        "cat",
    ]
    with pytest.raises(PipelineError, match="'dog' and 'dog' are the same"):
        parse_class_names(["dog", "cat,dog"])


def test_one_name_with_spaces_may_be_several():
    for given, warns in (("dog cat", True), ("dog cat,", False), ("dog", False), ("traffic light,car", False)):
        warning = joined_by_spaces(given, parse_class_names(given))
        assert ('--classes "dog,cat"' in warning) == warns and bool(warning) == warns


def test_classes_of_a_preset_are_enough(photos, tmp_path):
    preset = tmp_path / "colours.toml"
    preset.write_text(
        f'[prepare]\nkind = "folder"\nimages = "{photos / "train"}"\n[classes]\nred = "scarlet"\nblue = "blue"\n'
    )
    ccd("prepare", tmp_path / "run", "--preset", preset)
    assert read_manifest(tmp_path / "run").class_names == ["red", "blue"]
    preset.write_text(f'[prepare]\nkind = "folder"\nimages = "{photos / "train"}"\n')
    assert "needs --classes" in refused("prepare", tmp_path / "other", "--preset", preset)


def test_the_end_of_all_lists_the_stages_of_the_command(run):
    assert "Duration of the stages: prepare " in (output := ccd("all", run, "--to", "prepare"))
    assert "embed" not in output.partition("Duration of the stages:")[2].splitlines()[0]
    line = ccd("all", run, "--to", "embed").partition("Duration of the stages:")[2].splitlines()[0]
    assert ", embed " in line and "init-labels" not in line
    output = ccd("all", run, "--to", "fuse", "--set", "fuse.ratio=0.6", "--labels", "")
    assert "The run is not finished: the next stage is train." in output.rstrip().splitlines()[-1]


def test_an_option_without_effect_is_named(run):
    ccd("all", run, "--to", "fuse", "--set", "boxes.view=none")
    before = read_arrays(run / "final_labels.h5")
    output = ccd("fuse", run, "--ratio", 0.7)
    assert (
        output.count("warning: fuse.ratio has no effect, because boxes.view is 'none' and fuse.boxless is 'keep'.") == 1
    )
    same = read_arrays(run / "final_labels.h5")
    assert (same.labels == before.labels).all() and (same.scores == before.scores).all()
    assert "no effect" not in ccd("fuse", run, "--ratio", 0.3, "--boxless", "erase")
    assert (read_arrays(run / "final_labels.h5").scores != before.scores).any()
    output = ccd("all", run, "--to", "prepare", "--set", "train.jitter=0.1", "--set", "train.jitter_order=image")
    assert "warning: train.jitter and train.jitter_order have no effect, because train.consistency is 0.0." in output
    assert "no effect" not in ccd(
        "all", run, "--to", "prepare", "--set", "train.jitter=0.2", "--set", "train.consistency=1"
    )


def test_rules_of_options_without_effect_name_options_and_values():
    for rule in RULES:
        for name in (*rule.options, *rule.causes):
            stage, _, option = name.partition(".")
            config = options_of(find_stage(stage))()
            assert hasattr(config, option)
            for value in rule.causes.get(name, ()):
                config.replace(**{option: value})


def test_a_stage_after_stale_files_names_the_command_that_rebuilds_them_all(run):
    ccd("prepare", run, "--set", "init-labels.cell_weight=0.25")
    assert "initial_labels.h5 is out of date" in refused("train", run)
    assert f"Run every stage up to train with `ccd all {run} --to train`." in refused("train", run)
    assert f"with `ccd all {run}`." in refused("evaluate", run)
    (run / "final_labels.h5").unlink()
    assert f"Create it with `ccd all {run} --to fuse`." in refused("export-labels", run)


def test_a_first_run_with_the_embedded_teacher_names_a_better_one_once(photos, tmp_path, colour_teacher, monkeypatch):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path / "cache"))
    given = ("--images", photos / "train", "--classes", "red,green,blue", "--to", "embed", "--device", "cpu")
    first = ccd("all", tmp_path / "run", *given)
    line = (
        f"`ccd all {tmp_path / 'run'} --teacher open_clip:ViT-B-32/datacomp_xl_s13b_b90k` (605 MB to download, once);"
    )
    assert first.count("labels better") == 1 and line in " ".join(first.split())
    assert "labels better" not in ccd("all", tmp_path / "run", "--to", "embed", "--force")
    assert recommended("cuda").spec == "open_clip:ViT-L-14/datacomp_xl_s13b_b90k"
    other = ccd("all", tmp_path / "other", *given, "--teacher", "openai:RN50")
    assert "labels better" not in other


def test_a_folder_of_photos_in_place_of_a_run_is_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Give --images DIR " in refused("all", "photos")
    (tmp_path / "photos").mkdir()
    assert "no photos are named for artifacts/photos. Give --images photos --classes" in refused("all", "photos")
