import math
from importlib.resources import files

import pytest

from pipeline.runs import settings
from pipeline.runs.graph import STAGES, find_stage, options_of
from pipeline.runs.options import BoxesConfig, EmbedConfig, FuseConfig, TrainConfig, WarmupConfig
from pipeline.system.errors import PipelineError


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FuseConfig, {"ratio": 1.5}, "ratio is 1.5, expected at most 1"),
        (FuseConfig, {"ratio": float("nan")}, "ratio is nan"),
        (FuseConfig, {"ratio": "half"}, "ratio is 'half', expected float"),
        (TrainConfig, {"epochs": 0}, "epochs is 0, expected at least 1"),
        (TrainConfig, {"epochs": 2.5}, "epochs is 2.5, expected int"),
        (TrainConfig, {"freeze_norms": 1}, "freeze_norms is 1, expected bool"),
        (
            BoxesConfig,
            {"view": "cams"},
            "view is 'cams', expected one of cam, cells, grid, random, none, gt, around-gt",
        ),
        (BoxesConfig, {"tau_rule": "search"}, "tau_rule is 'search' and select is 'z-score'.*Set select to 'score'"),
    ],
)
def test_impossible_values_are_refused_by_value(kind, options, message):
    with pytest.raises(PipelineError, match=message):
        kind(**options)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(PipelineError, match=r"\[fuse\] in run.toml .*'rato'.*'ratio'"):
        FuseConfig.from_table({"rato": 0.5}, "[fuse] in run.toml")


@pytest.mark.parametrize(("stage", "name"), [("train", "ema"), ("boxes", "tau"), ("fuse", "combine")])
def test_an_option_that_was_removed_is_named(stage, name):
    with pytest.raises(PipelineError, match=f"{name!r}, which no longer exists"):
        options_of(find_stage(stage)).from_table({name: 0.5}, f"[{stage}]")


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("embed", "others", "background"),
        ("fuse", "votes", "crop_scope"),
        ("train", "refine_rounds", "cross_fit_rounds"),
    ],
)
def test_an_option_that_was_renamed_names_the_new_one(stage, old, new):
    kind = options_of(find_stage(stage))
    with pytest.raises(PipelineError, match=f"{old!r}, which is now {new!r}"):
        kind.from_table({old: 1}, "run.toml")


def test_what_changes_only_the_speed_is_not_part_of_the_identity():
    assert EmbedConfig(batch_size=4).identity() == EmbedConfig(batch_size=64).identity()
    assert EmbedConfig(image_size=64).identity() != EmbedConfig(image_size=96).identity()


def test_the_command_line_wins_over_the_run_and_the_run_over_the_default():
    own = settings.Settings({"train": {"epochs": 3, "seed": 7}})
    config = own.config("train", TrainConfig, {"epochs": 5})
    assert (config.epochs, config.seed, config.batch_size) == (5, 7, TrainConfig().batch_size)


@pytest.mark.parametrize("kind", ["presets", "recipes"])
def test_every_shipped_file_is_valid(kind):
    names = settings.shipped(kind)
    assert names
    for name in names:
        loaded = settings.load(kind, name)
        for stage in STAGES:
            loaded.config(stage.name, options_of(stage), {})


def test_the_authors_recipe_has_their_scripts_numbers():
    tables = settings.load("recipes", "ccd").tables
    assert tables["fuse"]["ratio"] == 0.2
    assert (tables["warmup"]["backbone"], tables["warmup"]["weights"]) == ("resnet50", "IMAGENET1K_V1")
    assert tables["boxes"]["rule"] == "corners" and tables["fuse"]["crop_scope"] == "all"
    assert tables["embed"]["entropy_limit"] * math.log(20) == pytest.approx(2, abs=1e-12)


def test_the_old_name_of_the_recipe_leads_to_the_new():
    with pytest.raises(PipelineError, match="'paper' is 'ccd' now"):
        settings.load("recipes", "paper")


@pytest.mark.parametrize("name", ["ccd-coco14", "ccd-nuswide"])
def test_recipes_without_a_published_script_say_what_is_chosen(name):
    ours, authors = settings.load("recipes", name).tables, settings.load("recipes", "ccd").tables
    text = files("pipeline").joinpath("recipes", f"{name}.toml").read_text()
    chosen = {line.split(" = ")[0] for line in text.splitlines() if "# our choice: " in line}
    # what the VOC 2012 script alone says, and what the code has for any number of classes alike
    assert chosen == {
        *("entropy_limit", "label_floor", "boost", "batch_size", "search_bound", "margin", "ratio", "loss_floor")
    }
    assert {stage: set(table) for stage, table in ours.items()} == {s: set(t) for s, t in authors.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nepochs = 1", r"unknown table \[trian\]. Did you mean 'train'"),
        ("[train\n", "not valid TOML"),
        ("train = 3", r"unknown table \[train\]"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PipelineError, match=message):
        settings.load("presets", str(path))


@pytest.mark.parametrize("words", ["{ dog = 0 }", '{ dog = "much" }', "{}", "[]", "3"])
def test_words_of_a_class_without_positive_weights_are_refused(words):
    with pytest.raises(PipelineError, match=r"\[classes\] in here .*dog = .*positive weights"):
        settings.parse(f"[classes]\ndog = {words}", "here")


def test_a_run_keeps_the_weights_of_words(tmp_path):
    told = settings.parse('[classes]\ndog = { dog = 2, "a small puppy" = 0.5 }\ncat = "kitten"', "here")
    settings.write_run(tmp_path, told)
    found = settings.read_run(tmp_path).classes
    assert found == {"dog": {"dog": 2, "a small puppy": 0.5}, "cat": ["kitten"]}


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(PipelineError, match=r"no preset 'voc13'; there are .*voc12"):
        settings.load("presets", "voc13")


def test_a_run_keeps_its_settings(tmp_path):
    own = settings.Settings({"train": {"epochs": 3}, "fuse": {}}, {"tvmonitor": ["tv monitor"]})
    settings.write_run(tmp_path, own)
    found = settings.read_run(tmp_path)
    assert found.tables == {"train": {"epochs": 3}} and found.classes == own.classes


def test_a_recipe_keeps_what_the_preset_says_of_the_dataset():
    preset = settings.load("presets", "voc12")
    merged = preset.merged(settings.load("recipes", "ccd"))
    assert merged.tables["prepare"]["kind"] == "voc" and merged.tables["embed"]["teacher"] == "openai:RN50x64"
    assert merged.classes["tvmonitor"] == preset.classes["tvmonitor"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.epochs=12", ("train", "epochs", 12)),
        ("train.freeze-norms=true", ("train", "freeze_norms", True)),
        ("embed.teacher=openai:RN50", ("embed", "teacher", "openai:RN50")),
        ("boxes.margin=0.5", ("boxes", "margin", 0.5)),
    ],
)
def test_assignments_are_typed(text, expected):
    assert settings.parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["epochs=3", "train.epochs", "=3", "train.=3"])
def test_malformed_assignments_are_refused(text):
    with pytest.raises(PipelineError, match=r"STAGE\.OPTION=VALUE"):
        settings.parse_assignment(text)


def test_a_stage_that_is_none_is_refused_in_an_assignment():
    with pytest.raises(PipelineError, match=r"names the stage 'trian'. Did you mean 'train'"):
        settings.parse_assignment("trian.epochs=3")


def test_a_preset_named_again_lies_below_what_the_run_was_given_since():
    begun = settings.Settings().given("preset", "voc07")
    told = begun.merged(settings.Settings({"prepare": {"year": 2012}, "train": {"epochs": 3}}))
    again = told.given("preset", "voc07")
    assert again.tables == told.tables and again.classes == begun.classes
    assert list(told.changes(told.given("preset", "voc12"))) == []
    other = told.given("preset", "demo")
    assert other.tables["prepare"]["kind"] == "demo" and other.tables["train"] == {"epochs": 3}
    assert "prepare.kind: 'voc' -> 'demo'" in list(told.changes(other))


def test_a_file_counts_by_its_content_and_not_by_its_place(tmp_path):
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (tmp_path / name).write_bytes(content)
    same, moved, other = (WarmupConfig(weights=str(tmp_path / name)).identity() for name in ("a.pt", "b.pt", "c.pt"))
    assert same == moved != other
    teachers = [
        EmbedConfig(teacher=f"openai:{tmp_path / name}").identity()["teacher"] for name in ("a.pt", "b.pt", "c.pt")
    ]
    assert teachers[0] == teachers[1] != teachers[2] and str(tmp_path) not in teachers[0]
    assert EmbedConfig(teacher="openai:RN50").identity()["teacher"] == "openai:RN50"
    of_tags = [
        EmbedConfig(teacher=f"open_clip:ViT-B-32/{weights}").identity()["teacher"]
        for weights in (
            f"openai@{tmp_path / 'a.pt'}",
            f"openai@{tmp_path / 'b.pt'}",
            f"laion2b_e16@{tmp_path / 'a.pt'}",
        )
    ]
    assert of_tags[0] == of_tags[1] != of_tags[2] and str(tmp_path) not in of_tags[0]
    with pytest.raises(PipelineError, match=r"missing\.pt cannot be read"):
        WarmupConfig(weights=str(tmp_path / "missing.pt")).identity()


def test_a_folder_that_is_called_like_a_tag_is_not_taken_for_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    assert EmbedConfig.absolute({"teacher": "open_clip:ViT-B-32/openai"}) == {"teacher": "open_clip:ViT-B-32/openai"}
    (tmp_path / "w.pt").write_bytes(b"")
    found = EmbedConfig.absolute({"teacher": "open_clip:ViT-B-32/openai@w.pt"})
    assert found == {"teacher": f"open_clip:ViT-B-32/openai@{tmp_path / 'w.pt'}"}
