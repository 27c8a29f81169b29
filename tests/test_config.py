import pytest

from pipeline.machine.errors import PipelineError
from pipeline.runs import settings
from pipeline.stages import STAGES
from pipeline.stages.boxes import BoxesConfig
from pipeline.stages.embed import EmbedConfig
from pipeline.stages.fuse import FuseConfig
from pipeline.stages.train import TrainConfig

STAGE_NAMES = [stage.name for stage in STAGES]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FuseConfig, {"ratio": 1.5}, "ratio is 1.5, expected at most 1"),
        (FuseConfig, {"ratio": float("nan")}, "ratio is nan"),
        (FuseConfig, {"ratio": "half"}, "ratio is 'half', expected float"),
        (TrainConfig, {"epochs": 0}, "epochs is 0, expected at least 1"),
        (TrainConfig, {"epochs": 2.5}, "epochs is 2.5, expected int"),
        (TrainConfig, {"frozen_norms": 1}, "frozen_norms is 1, expected bool"),
        (BoxesConfig, {"view": "cams"}, "view is 'cams', expected one of cam, grid, random, gt, around-gt"),
    ],
)
def test_impossible_values_are_refused_by_value(kind, options, message):
    with pytest.raises(PipelineError, match=message):
        kind(**options)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(PipelineError, match=r"\[fuse\] in run.toml has an unknown option 'rato'; did you mean 'ratio'"):
        FuseConfig.from_table({"rato": 0.5}, "[fuse] in run.toml")


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
        loaded = settings.load(kind, name, STAGE_NAMES)
        for stage in STAGES:
            loaded.config(stage.name, stage.config, {})


def test_the_paper_recipe_has_the_papers_numbers():
    paper = settings.load("recipes", "paper", STAGE_NAMES)
    assert paper.tables["fuse"]["ratio"] == 0.2
    assert paper.tables["warmup"]["backbone"] == "resnet101"
    assert paper.tables["boxes"]["rule"] == "corners"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nepochs = 1", r"unknown table \[trian\]; did you mean \[train\]"),
        ("[train\n", "no valid TOML"),
        ("train = 3", r"unknown table \[train\]"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PipelineError, match=message):
        settings.load("presets", str(path), STAGE_NAMES)


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(PipelineError, match=r"no preset 'voc13'; there are .*voc12"):
        settings.load("presets", "voc13", STAGE_NAMES)


def test_a_run_keeps_its_settings(tmp_path):
    own = settings.Settings({"train": {"epochs": 3}, "fuse": {}}, {"tvmonitor": ["tv monitor"]})
    settings.write_run(tmp_path, own)
    found = settings.read_run(tmp_path, STAGE_NAMES)
    assert found.tables == {"train": {"epochs": 3}} and found.classes == own.classes


def test_a_recipe_keeps_what_the_preset_says_of_the_dataset():
    preset = settings.load("presets", "voc12", STAGE_NAMES)
    merged = preset.merged(settings.load("recipes", "paper", STAGE_NAMES))
    assert merged.tables["prepare"]["kind"] == "voc" and merged.tables["embed"]["teacher"] == "openai:RN50x64"
    assert merged.classes["tvmonitor"] == preset.classes["tvmonitor"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.epochs=12", ("train", "epochs", 12)),
        ("train.frozen-norms=true", ("train", "frozen_norms", True)),
        ("embed.teacher=openai:RN50", ("embed", "teacher", "openai:RN50")),
        ("boxes.tau=0.5", ("boxes", "tau", 0.5)),
    ],
)
def test_assignments_are_typed(text, expected):
    assert settings.parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["epochs=3", "train.epochs", "=3", "train.=3"])
def test_malformed_assignments_are_refused(text):
    with pytest.raises(PipelineError, match=r"STAGE\.OPTION=VALUE"):
        settings.parse_assignment(text)
