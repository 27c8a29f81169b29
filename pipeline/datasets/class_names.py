"""Class names: which ones a softmax can choose among, how they are given, and the words that prompts use for them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.checks import read_lines
from pipeline.runs.settings import Words
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.text import nfc

_EXPECTED = (
    "Expected names joined by commas (dog,cat,car), or a file: text with one name per line, or JSON or YAML with a list of "
    "names."
)
FILE_SUFFIXES = (".txt", ".names", ".csv", ".tsv", ".json", ".yaml", ".yml", ".toml", ".xml", ".md")
"""A text that ends so, without a comma, is meant as a file."""


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class names among which a softmax cannot choose.

    Raises:
        PipelineError: if there are fewer than two, one is not a text, is empty or has a semicolon, or two differ in case
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
    """Class names from "dog,cat,car", or from a file: see `read_class_names`.

    Raises:
        PipelineError: the file is missing or has another form, names are joined by something else, or
            `check_class_names` refuses them.
    """
    path = Path(given).expanduser()
    if _is_file(path) or ("," not in given and (path.suffix.lower() in FILE_SUFFIXES or "/" in given)):
        return read_class_names(path)
    if ";" in given and "," not in given:
        raise PipelineError(f"The class names {given!r} are joined by semicolons. {_EXPECTED}")
    names = [nfc(name.strip()) for name in given.split(",") if name.strip()]
    check_class_names(names)
    return names


def read_class_names(path: Path) -> list[str]:
    """Class names of a file.

    Args:
        path: text with one name per line, `#` before comments, and perhaps the number of each class before its name; JSON
            or YAML with a list of names, a table of names and numbers (either way round), or one of these under `names`
            (YOLO's data.yaml), or COCO's `categories`.

    Raises:
        PipelineError: the file is missing or has another form, or `check_class_names` refuses the names.
    """
    suffix = path.suffix.lower()
    if suffix in (".json", ".yaml", ".yml"):
        names = _structured_names(path, "JSON" if suffix == ".json" else "YAML")
    else:
        names = _listed_names(path)
    names = [nfc(name) for name in names]
    check_class_names(names)
    return names


def _structured_names(path: Path, form: str) -> list[str]:
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
    """Raise where a mapping has a key twice: parsers keep the last value, and a class would be lost."""
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise PipelineError(
            f"{path} has the key {twice!r} twice, and only one of them would count. Rename or remove one."
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
    # a name may contain a comma ("ram, tup"), but not in a table, nor as the only line
    is_table = path.suffix.lower() in (".csv", ".tsv") or len(lines) == 1
    odd = next((line for line in lines if ";" in line or "\t" in line or (is_table and "," in line)), None)
    odd = odd or next((line for line in lines if line[0] == "{" or line.endswith(":") or line.startswith("- ")), None)
    odd = odd or next(
        (line for line in lines if line.split()[0].rstrip(":.").isdigit() and len(line.split()) > 1), None
    )
    if odd is not None:
        raise PipelineError(f"{path} is not a list of class names: it has the line {odd[:80]!r}. {_EXPECTED}")
    return lines


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
    owners: dict[str, str] = {}
    for name, synonyms in zip(class_names, names, strict=True):
        for word in synonyms:
            owner = owners.setdefault(" ".join(word.split()).lower(), name)
            if owner != name:
                raise PipelineError(
                    f"Classes {owner!r} and {name!r} are both called {word!r} in prompts, so that the teacher cannot tell "
                    "them apart. Remove or rename one, or give them other words in [classes]."
                )
        if len(synonyms) != len({" ".join(word.split()).lower() for word in synonyms}):
            raise PipelineError(f"Class {name!r} has a display name twice: {', '.join(synonyms)}. Remove one.")
    check_class_names([*owners])
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of names that is too long for a file name
        return False
