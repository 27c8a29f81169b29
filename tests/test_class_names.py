import pytest

from pipeline.datasets.class_names import (
    check_class_names,
    default_display_names,
    display_names,
    parse_class_names,
)
from pipeline.machine.errors import PipelineError


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "Found 0 class names, expected at least 2"),
        (["cat"], "Found 1 class names"),
        (["cat", " "], "Class name 2 of 2 is empty"),
        (["cat", "dog; puppy"], "'dog; puppy' has a semicolon"),
        (["cat", 3], "Class name 2 of 2 is 3, expected text"),
        (["cat", "dog", "Cat "], "'cat' and 'Cat ' are the same"),
    ],
)
def test_class_names_among_which_nothing_can_be_chosen(names, match):
    with pytest.raises(PipelineError, match=match):
        check_class_names(names)


def test_display_names_come_from_the_table_or_from_the_name():
    given = {"tvmonitor": ["tv monitor", "screen"], "dog": {"dog": 2.0, "a small puppy": 1.0}}
    assert display_names(["tvmonitor", "fire_truck", "dog"], given) == [
        {"tv monitor": 1, "screen": 1},
        {"fire truck": 1},
        {"dog": 2, "a small puppy": 1},
    ]
    with pytest.raises(PipelineError, match="'cat' has an empty list"):
        display_names(["cat", "dog"], {"cat": []})
    with pytest.raises(PipelineError, match="'couch' and 'couch' are the same"):
        display_names(["sofa", "settee"], {"sofa": ["couch"], "settee": ["couch"]})


def test_underscores_are_spaces_in_prompts_unless_display_names_say_otherwise():
    found = default_display_names(["traffic_light", "hot_dog"], {"hot_dog": ["hot_dog"], "other": ["x"]})
    assert found == {"traffic_light": ["traffic light"], "hot_dog": ["hot_dog"]}


def test_class_names_as_a_list_or_a_file(tmp_path):
    (tmp_path / "names").write_text("cat\n\ntraffic light\n")
    assert parse_class_names(" cat, traffic light,") == ["cat", "traffic light"]
    assert parse_class_names(str(tmp_path / "names")) == ["cat", "traffic light"]
    (tmp_path / "names").write_text("ram, tup\n[/b]\n")
    assert parse_class_names(str(tmp_path / "names")) == ["ram, tup", "[/b]"]
    assert parse_class_names(",".join(f"class {n}" for n in range(2000)))[-1] == "class 1999"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("classes.csv", "class,id\ncat,0\ndog,1\n", "is no list of class names: it has the line 'class,id'"),
        ("classes.txt", "cat,dog\n", "has the line 'cat,dog'. Expected names joined by commas"),
        ("classes.txt", "cat;dog\n", "has the line 'cat;dog'"),
        ("classes.json", '["cat", "dog"]', "is no list of class names"),
        ("gone.txt", None, "gone.txt cannot be read: No such file"),
        ("cat;dog", None, "'cat;dog' are joined by semicolons. Expected names joined by commas"),
    ],
)
def test_what_is_no_list_of_class_names_is_said_so(tmp_path, monkeypatch, name, text, match):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PipelineError, match=match):
        parse_class_names(name)
