import pytest

from pipeline.system.errors import PipelineError, hint, nearest, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photo.jpg", "photo.jpg"),
        ("猫 на крыше é 😀 👩\u200d🚀.jpg", "猫 на крыше é 😀 👩\u200d🚀.jpg"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("gpj.\u202egpj.exe", r"gpj.\u202egpj.exe"),
        ("\udcff.jpg", r"\udcff.jpg"),
    ],
)
def test_names_cannot_steer_a_terminal(text, expected):
    assert printable(text) == expected
    assert str(PipelineError(f"{text} is missing")) == f"{expected} is missing"


def test_line_feeds_stay_where_they_are_wanted():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_names_that_are_near_in_any_case():
    assert nearest("vit-b-16", ["ViT-B/16", "RN50"]) == ["ViT-B/16"]
    assert hint("?", ["ViT-B/16", "RN50"]) == "There are ViT-B/16, RN50."
