"""Pages: their links and anchors, their commands and code, the quick start of README, and the site."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from PIL import Image
from worlds.commands import ccd

from pipeline import cli
from pipeline.runs.graph import STAGE_NAMES, find_stage, options_of

ROOT = Path(__file__).resolve().parents[1]
CUTOUTS = ROOT / "pipeline" / "datasets" / "cutouts"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "artifacts/README.md", "pipeline/**/README.md", "tests/benchmarks/README.md")
    for path in ROOT.glob(pattern)
)
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|^)(?: {4}.*\n)+")
COMMENT = re.compile(r"\s{2,}#.*$")


def text_of(page):
    return page.read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", INDENTED.sub("", FENCE.sub("", text)))


def anchors(page):
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


def blocks(text):
    """Blocks of code that are shell commands."""
    found = [code for language, code in FENCE.findall(text) if language in ("", "bash", "sh")]
    return [*found, *(block.replace("\n    ", "\n")[4:] for block in INDENTED.findall(FENCE.sub("", text)))]


def mentions(text):
    """Commands of `ccd` and `make` in sentences."""
    return re.findall(r"`((?:ccd|make) [^`\n]+)`", INDENTED.sub("", FENCE.sub("", text)))


def commands(text):
    """Commands of `ccd` and `make` in blocks, without prompt and comment."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    lines = [COMMENT.sub("", line.removeprefix("$ ")).strip() for line in lines]
    return [line for line in lines if re.match(r"(ccd|make) ", line)]


ALL = sorted(
    (str(page.relative_to(ROOT)), line)
    for page in PAGES
    for line in {*commands(text_of(page)), *mentions(text_of(page))}
    if page.name != "CHANGELOG.md"  # it names commands that are gone
)


@pytest.mark.parametrize(("page", "line"), [each for each in ALL if each[1].startswith("ccd ")])
def test_commands_on_pages_have_these_options(page, line):
    words = shlex.split(line)[1:]
    group = typer.main.get_command(cli.app)
    while words[0].startswith("-"):
        assert words.pop(0) in {name for option in group.params for name in option.opts}
    if words == [] or words[0] == "COMMAND":
        return
    command = group.commands[words[0]]
    if words[1:] in (["--help"], ["-h"]):
        return
    mention = all(word.startswith("-") for word in words[1:])  # in a sentence, without the arguments it needs
    with suppress(typer.BadParameter) if mention else nullcontext():
        command.make_context(words[0], words[1:])  # fails for an unknown option, or a value out of range
    for setting in re.findall(r"--set (\S+?)=", line):
        stage, _, option = setting.partition(".")
        assert option.replace("-", "_") in {item.name for item in fields(options_of(find_stage(stage)))}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_options_in_sentences_exist(page):
    known = {
        name
        for each in typer.main.get_command(cli.app).commands.values()
        for p in each.params
        for name in (*p.opts, *p.secondary_opts)
    }
    code = " ".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(page))))
    used = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", code)) - {"--build-arg", "--help"}
    assert used <= known
    settings = re.findall(rf"(?<![\w/])({'|'.join(STAGE_NAMES)})\.([a-z_]+)(?![\w.(])", code)
    settings = [(stage, option) for stage, option in settings if option not in ("pt", "csv", "h")]
    missing = [each for each in settings if each[1] not in {f.name for f in fields(options_of(find_stage(each[0])))}]
    assert missing == []


@pytest.mark.parametrize(("page", "line"), [each for each in ALL if each[1].startswith("make ")])
def test_targets_on_pages_are_in_the_makefile(page, line):
    makefile = text_of(ROOT / "Makefile")
    targets = re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)
    stages = re.search(r"^STAGES := (.+)$", makefile, re.MULTILINE)[1].split()
    for word in shlex.split(line)[1:]:
        name, is_variable, _ = word.partition("=")
        if is_variable:
            assert re.search(rf"^{name} \?=|\$\({name}\)", makefile, re.MULTILINE), word
        else:
            assert name in {*targets, *stages}, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_pages_compiles_and_imports_what_exists(page):
    for code in [code for language, code in FENCE.findall(text_of(page)) if language == "python"]:
        compile(code, str(page), "exec")
        exec("\n".join(re.findall(r"^from pipeline.+$", code, re.MULTILINE)), {})


def test_readme_is_short_and_has_the_command_of_the_tests():
    text = text_of(ROOT / "README.md")
    assert len(without_code(text).split()) < 1000
    assert "make test" in commands(text)
    assert all((ROOT / name).stat().st_size < 300_000 for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))


def section(title):
    """A section of README.md."""
    return re.search(rf"^## {title}$(.*?)(?=^## )", text_of(ROOT / "README.md"), re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def quick_start(tmp_path, monkeypatch):
    """A folder with photos, new-photos, new.jpg and labelled.csv, in which the process works."""
    monkeypatch.chdir(tmp_path)
    animals = [path for name in ("sheep", "bird", "car") for path in sorted((CUTOUTS / name).glob("*.webp"))[:4]]
    for number, path in enumerate(animals):
        with Image.open(path) as cutout:
            photo = Image.new("RGB", (320, 240), (90 + number, 120, 90))
            photo.paste(cutout.resize((200, 200)), (10 * (number % 10), 20), cutout.convert("RGBA").resize((200, 200)))
        for place in (Path("photos"), Path("new-photos"))[: 1 + number % 2]:
            place.mkdir(exist_ok=True)
            photo.save(place / f"{number}.jpg")
        photo.save("new.jpg")
    rows = [
        f"photos/{path.stem}.jpg,{'car' if path.stem in '789' else ''}" for path in sorted(Path("photos").iterdir())
    ]
    Path("labelled.csv").write_text("\n".join(["image,labels", *rows]) + "\n")


def test_the_quick_start_and_the_next_steps_of_readme_run(quick_start):
    start = commands(section("Quick start"))
    assert len(start) == 3
    for line in start:
        ccd(*shlex.split(line)[1:], *(["--device", "cpu"] if " all " in line else []))
    assert Path("artifacts/photos/report.html").exists()
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + len(list(Path("new-photos").iterdir()))
    [code] = [code for language, code in FENCE.findall(section("Quick start")) if language == "python"]
    assert len(code.split("\n\n")[-1].splitlines()) == 4
    exec(compile(code, "README.md", "exec"), {})
    later = commands(section("What you can do next"))
    servers = ("ccd review", "ccd serve")  # tests/test_review_server.py and tests/test_serve.py start them
    for line in later:
        if not line.startswith(servers):
            ccd(*shlex.split(line)[1:])
    assert len(later) >= 5 and Path("artifacts/photos/calibrated.pt").exists()


def test_the_site_has_every_page(tmp_path):
    pytest.importorskip("material", reason="the site needs pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {name for name in guides if not (tmp_path / name / "index.html").exists()} == set()
    assert "Quick start" in (tmp_path / "index.html").read_text(encoding="utf-8")
