"""Class names: which ones a softmax can choose among, how they are given, and the words that prompts use for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.datasets.checks import read_lines
from pipeline.machine.errors import PipelineError
from pipeline.runs.settings import Words

_EXPECTED = "Expected names joined by commas (dog,cat,car), or a text file with one name per line."


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class names among which a softmax cannot choose.

    Raises:
        PipelineError: if there are fewer than two, one is no text, is empty or has a semicolon, or two differ in case
            or spaces alone.
    """
    if len(names) < 2:
        raise PipelineError(
            f"Found {len(names)} class names, expected at least 2: the teacher's softmax compares classes. "
            "Add the other things that the photos show."
        )
    found: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise PipelineError(f"Class name {number} of {len(names)} is {name!r}, expected text. Correct it.")
        key = " ".join(name.split()).lower()
        if not key:
            raise PipelineError(f"Class name {number} of {len(names)} is empty. Remove or fill it.")
        if ";" in key:
            raise PipelineError(f"Class name {name!r} has a semicolon, which separates labels in CSV files. Rename it.")
        if key in found:
            raise PipelineError(
                f"Class names {found[key]!r} and {name!r} are the same to the teacher. Remove or rename one."
            )
        found[key] = name


def parse_class_names(given: str) -> list[str]:
    """Class names from "dog,cat,car", or from a text file with one name per line.

    Raises:
        PipelineError: the file is missing or is a table, names are joined by something else, or `check_class_names`
            refuses them.
    """
    path = Path(given)
    if path.suffix.lower() in (".txt", ".csv", ".tsv", ".json") or _is_file(path):
        return read_class_names(path)
    if ";" in given and "," not in given:
        raise PipelineError(f"The class names {given!r} are joined by semicolons. {_EXPECTED}")
    names = [name.strip() for name in given.split(",") if name.strip()]
    check_class_names(names)
    return names


def read_class_names(path: Path) -> list[str]:
    """Unique class names of a text file with one per line.

    Raises:
        PipelineError: the file is missing or is a table, or `check_class_names` refuses the names.
    """
    class_names = read_lines(path)
    # a name may have a comma ("ram, tup"), but not in a table, nor as the only line
    is_table = path.suffix.lower() in (".csv", ".tsv", ".json") or len(class_names) == 1
    joined = next((line for line in class_names if ";" in line or (is_table and "," in line)), None)
    if joined is not None:
        raise PipelineError(f"{path} is no list of class names: it has the line {joined[:80]!r}. {_EXPECTED}")
    check_class_names(class_names)
    return class_names


def default_display_names(class_names: Sequence[str], given: Mapping[str, Words]) -> dict[str, Words]:
    """The words by which prompts call each class: those given, else its own name with underscores as spaces.

    Args:
        class_names: C names as the dataset writes them.
        given: a preset's `[classes]`; it may lack classes, and have others.
    """
    return {name: given.get(name, [name.replace("_", " ")]) for name in class_names}


def display_names(class_names: Sequence[str], given: Mapping[str, Words]) -> list[dict[str, float]]:
    """`default_display_names` as C tables of one or more synonyms and what each counts, checked.

    Raises:
        PipelineError: if a class has no synonym, or two classes share one.
    """
    given = default_display_names(class_names, given)
    names = [words if isinstance(words, dict) else dict.fromkeys(words, 1.0) for words in given.values()]
    for name, synonyms in zip(class_names, names, strict=True):
        if not synonyms:
            raise PipelineError(f"Class {name!r} has an empty list of display names. Give one at least.")
    check_class_names([word for words in given.values() for word in words])
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of names that is too long for a file name
        return False
