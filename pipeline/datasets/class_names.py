"""Class names: parsed from an option or a file, checked, and given the names that prompts use."""

import json
import os.path
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.checks import read_lines
from pipeline.runs.config import each_of
from pipeline.runs.settings import Words, words_of
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.text import check_text, nfc

_EXPECTED = (
    "Expected names joined by commas (dog,cat,car), or a file: text with one name per line, or JSON or YAML with a list of "
    "names."
)
FILE_SUFFIXES = (".txt", ".names", ".csv", ".tsv", ".json", ".yaml", ".yml", ".toml", ".xml", ".md")
"""A text with one of these endings, and without a comma, is the name of a file."""


def parse_class_names(given: str | Sequence[str]) -> list[str]:
    """Class names of the option --classes, unique and in composed characters.

    Args:
        given: one or more of: names joined by commas ("dog,cat,car"), or the path of a file. A text file has one name per
            line, comments after `#`, and optionally the number of each class before its name. A JSON or YAML file has a
            list of names, a table of names and numbers (either way round), or one of these under `names` (YOLO's
            data.yaml) or `categories` (COCO).

    Raises:
        PipelineError: a file is missing or has another form, another mark joins the names, or `check_class_names`
            refuses them.
    """
    names = [nfc(name) for each in each_of(given) for name in _given_names(each)]
    check_class_names(names)
    return names


def _given_names(given: str) -> list[str]:
    """Names of one value of --classes."""
    path = Path(given).expanduser()
    is_file = os.path.isfile(path)  # noqa: PTH113 - False for a list of names that is too long for a file name
    if is_file or ("," not in given and (path.suffix.lower() in FILE_SUFFIXES or "/" in given)):
        is_structured = path.suffix.lower() in (".json", ".yaml", ".yml")
        return _structured_names(path) if is_structured else _listed_names(path)
    if ";" in given and "," not in given:
        raise PipelineError(f"The class names {given!r} are joined by semicolons. {_EXPECTED}")
    return [name.strip() for name in given.split(",") if name.strip()]


def joined_by_spaces(given: str | Sequence[str], names: Sequence[str]) -> str:
    """A warning if the only class name may be several names without commas ("dog cat"); else empty.

    A name of several words ("traffic light") is valid, but a run with one class is rare. A comma after the name ends doubts.

    Args:
        given: option --classes.
        names: `parse_class_names(given)`.
    """
    if len(names) != 1 or each_of(given) != [*names] or len(names[0].split()) < 2:
        return ""
    several = ",".join(names[0].split())
    return (
        f'warning: the only class is "{names[0]}". If these are several, join them with commas: --classes "{several}"'
    )


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class names that a teacher cannot score.

    Raises:
        PipelineError: there is none; one is not a text, is empty or has a semicolon; or two differ only in
            case or spaces.
    """
    if not len(names):
        raise PipelineError(f"Found no class names. {_EXPECTED}")
    seen: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise PipelineError(f"Class name {number} of {len(names)} is {name!r}, expected text. Correct it.")
        check_text(name, f"class name {number}")
        key = _key(name)
        if not key:
            raise PipelineError(f"Class name {number} of {len(names)} is empty. Remove or fill it.")
        if ";" in key:
            raise PipelineError(f"Class name {name!r} has a semicolon, which separates labels in CSV files. Rename it.")
        if key in seen:
            raise PipelineError(
                f"Class names {seen[key]!r} and {name!r} are the same to the teacher. Remove or rename one."
            )
        seen[key] = name


def prompt_names(class_names: Sequence[str], given: Mapping[str, Words]) -> dict[str, dict[str, float]]:
    """The display names of each class in prompts, with their weights.

    Args:
        class_names: C names as the dataset writes them.
        given: see `words_of`.

    Raises:
        PipelineError: a class has no display name or has one twice, or two classes share one.
    """
    names: dict[str, dict[str, float]] = {}
    owners: dict[str, str] = {}
    for class_name in class_names:
        names[class_name] = weights = words_of(class_name, given)
        if not weights:
            raise PipelineError(f"Class {class_name!r} has an empty list of display names. Give one at least.")
        if len(weights) != len({_key(word) for word in weights}):
            raise PipelineError(f"Class {class_name!r} has a display name twice: {', '.join(weights)}. Remove one.")
        for word in weights:
            owner = owners.setdefault(_key(word), class_name)
            if owner != class_name:
                raise PipelineError(
                    f"Classes {owner!r} and {class_name!r} both have the display name {word!r}, so the teacher cannot "
                    "separate them. Remove or rename one, or give them other display names in [classes]."
                )
    check_class_names([*owners])
    return names


def _key(name: str) -> str:
    """The same text for names that differ only in case or spaces."""
    return " ".join(name.split()).lower()


def _structured_names(path: Path) -> list[str]:
    """Names of a JSON or YAML file."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _refuse_repeated([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)], path)
            return super().construct_mapping(node, deep)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated([key for key, _ in pairs], path)
        return dict(pairs)

    text = "\n".join(read_lines(path, strip=False))
    form = "JSON" if path.suffix.lower() == ".json" else "YAML"
    try:
        content = json.loads(text, object_pairs_hook=unique) if form == "JSON" else yaml.load(text, Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise PipelineError(f"{path} is not valid {form}: {first_line(error)}. {_EXPECTED}") from None
    if isinstance(content, dict):
        content = content.get("names", content.get("categories", content))
    if isinstance(content, dict):  # name to number, or number to name
        pairs = [(name, number) if _is_number(number) else (number, name) for name, number in content.items()]
        if all(_is_number(number) for _, number in pairs):
            content = [name for name, _ in sorted(pairs, key=lambda pair: int(pair[1]))]
    if isinstance(content, list) and all(isinstance(item, dict) and "name" in item for item in content):
        content = [item["name"] for item in content]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise PipelineError(f"{path} has no list of class names, under `names` or as the whole file. {_EXPECTED}")
    return content


def _refuse_repeated(keys: Sequence[str], path: Path) -> None:
    """Raise if a mapping has a key twice: parsers keep only the last value, so a class would be lost."""
    repeated = next((key for key, count in Counter(keys).items() if count > 1), None)
    if repeated is not None:
        raise PipelineError(
            f"{path} has the key {repeated!r} twice, and only one of them counts. Rename or remove one."
        )


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isascii() and value.isdigit())


def _listed_names(path: Path) -> list[str]:
    """Names of a text file with one per line."""
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    numbered = [line.split(maxsplit=1) for line in lines]
    if lines and all(len(parts) == 2 and _is_number(parts[0].rstrip(":.")) for parts in numbered):
        numbers = [int(parts[0].rstrip(":.")) for parts in numbered]
        if numbers in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
            return [name for _, name in numbered]
    # a name may contain a comma ("ram, tup"), except in a table or as the only line
    marks = ";\t," if path.suffix.lower() in (".csv", ".tsv") or len(lines) == 1 else ";\t"
    for line, parts in zip(lines, numbered, strict=True):
        is_table = any(mark in line for mark in marks) or (len(parts) > 1 and parts[0].rstrip(":.").isdigit())
        if is_table or line.startswith(("{", "- ")) or line.endswith(":"):
            raise PipelineError(f"{path} is not a list of class names: it has the line {line[:80]!r}. {_EXPECTED}")
    return lines
