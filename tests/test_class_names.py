import pytest
from worlds.commands import invoke

from pipeline.datasets.class_names import check_class_names, parse_class_names, prompt_names
from pipeline.system.errors import PipelineError


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "Found no class names. Expected names joined by commas"),
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
    assert prompt_names(["tvmonitor", "fire_truck", "dog"], given) == {
        "tvmonitor": {"tv monitor": 1, "screen": 1},
        "fire_truck": {"fire truck": 1},
        "dog": {"dog": 2, "a small puppy": 1},
    }
    with pytest.raises(PipelineError, match="'cat' has an empty list"):
        prompt_names(["cat", "dog"], {"cat": []})
    with pytest.raises(PipelineError, match="Classes 'sofa' and 'settee' both have the display name 'couch'"):
        prompt_names(["sofa", "settee"], {"sofa": ["couch"], "settee": ["couch"]})


def test_underscores_are_spaces_in_prompts_unless_display_names_say_otherwise():
    names = prompt_names(["traffic_light", "hot_dog"], {"hot_dog": ["hot_dog"], "other": ["x"]})
    assert names == {"traffic_light": {"traffic light": 1}, "hot_dog": {"hot_dog": 1}}


def test_class_names_as_a_list_or_a_file(tmp_path):
    (tmp_path / "names").write_text("cat\n\ntraffic light \r\n")
    assert parse_class_names(" cat, traffic light,") == ["cat", "traffic light"]
    assert parse_class_names(str(tmp_path / "names")) == ["cat", "traffic light"]
    (tmp_path / "names").write_text("ram, tup\n[/b]\n")
    assert parse_class_names(str(tmp_path / "names")) == ["ram, tup", "[/b]"]
    assert parse_class_names(",".join(f"class {n}" for n in range(2000)))[-1] == "class 1999"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\ntraffic light\n"),
        ("classes.txt", "# animals and more\n0 cat\n1 traffic light\n"),
        ("classes.txt", "1: cat\n2: traffic light\n"),
        ("obj.names", "cat\ntraffic light\n"),
        ("data.yaml", "train: images/train\nnc: 2\nnames: [cat, traffic light]\n"),
        ("data.yaml", "names:\n  0: cat\n  1: traffic light\n"),
        ("data.yml", "- cat\n- traffic light\n"),
        ("names.json", '["cat", "traffic light"]'),
        ("names.json", '{"traffic light": 1, "cat": 0}'),
        ("names.json", '{"10": "traffic light", "9": "cat"}'),
        ("names.json", '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "traffic light"}]}'),
    ],
)
def test_class_names_are_read_from_the_files_that_people_have(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert parse_class_names(str(tmp_path / name)) == ["cat", "traffic light"]


def test_names_that_are_one_prompt_are_found_by_prepare(photos, tmp_path):
    code, output = invoke("prepare", tmp_path / "run", "--images", photos / "train", "--classes", "hot_dog,hot dog")
    assert code == 1 and "'hot_dog' and 'hot dog' both have the display name 'hot dog'" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("classes.csv", "class,id\ncat,0\ndog,1\n", "is not a list of class names: it has the line 'class,id'"),
        ("classes.txt", "cat,dog\n", "has the line 'cat,dog'. Expected names joined by commas"),
        ("classes.txt", "cat;dog\n", "has the line 'cat;dog'"),
        ("classes.json", '{"cat": "dog"}', "has no list of class names"),
        ("classes.json", '["cat", 3]', "has no list of class names"),
        ("classes.json", '["cat", ', "is not valid JSON"),
        ("data.yaml", "train: images\nnc: 2\n", "has no list of class names"),
        ("data.yaml", "names: [cat, {\n", "is not valid YAML"),
        ("data.yaml", "names:\n  0: cat\n  0: dog\n  1: cow\n", "has the key '0' twice"),
        ("data.yaml", "names: [cat, dog]\nnames: [cow, horse]\n", "has the key 'names' twice"),
        ("classes.json", '{"0": "cat", "0": "dog", "1": "cow"}', "has the key '0' twice"),
        ("classes.txt", "names:\n- cat\n- dog\n", "has the line 'names:'"),
        ("classes.txt", "0 cat\ndog\n", "has the line '0 cat'"),
        ("classes.txt", "cat\t0\ndog\t1\n", "is not a list of class names"),
        ("nowhere/classes", None, "nowhere/classes cannot be read: No such file"),
        ("names.yaml", None, "names.yaml cannot be read: No such file"),
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
