"""The source distribution and the wheel: their contents, and the demo from an installed wheel."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
METADATA = f"ccd_pipeline-{PROJECT['version']}.dist-info"
FOR_A_CHECKOUT = {"pipeline/deploy/Dockerfile", "pipeline/plans/README.md", "pipeline/recipes/README.md"}
SCENES = ("--set", "prepare.train_scenes=24", "--set", "prepare.test_scenes=12", "--set", "train.epochs=1")


def checkout_files():
    """Files that git tracks or would add, relative to the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The sdist, built from a copy of the checkout, and the wheel, built from the sdist."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in checkout_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", copy], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sdist, wheel = (list((copy / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    assert len(sdist) == len(wheel) == 1
    return sdist[0], wheel[0]


def package_files():
    return {name for name in checkout_files() if name.startswith("pipeline/")} - FOR_A_CHECKOUT


def test_the_wheel_contains_the_package_its_data_and_the_licences_alone(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        metadata = message_from_bytes(wheel.read(f"{METADATA}/METADATA"))
    assert {name for name in names if not name.startswith(f"{METADATA}/")} == package_files()
    assert {f"{METADATA}/licenses/{name}" for name in PROJECT["license-files"]} <= names
    assert metadata["License-Expression"] == "MIT AND GPL-2.0-only"
    assert metadata["Version"] == PROJECT["version"]


def test_the_source_distribution_contains_neither_tests_nor_pictures(archives):
    with tarfile.open(archives[0]) as sdist:
        names = {str(PurePosixPath(*PurePosixPath(m.name).parts[1:])) for m in sdist.getmembers() if m.isfile()}
    made = {name for name in names if name.startswith("ccd_pipeline.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == package_files() | {
        *("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "NOTICE")
    }


def test_the_changelog_starts_with_the_version_of_the_package():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == PROJECT["version"]


def link_requirements(wheel, folder):
    """Link the packages that the wheel requires, directly or not, from this environment into a folder."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{METADATA}/METADATA"))
    waiting = [(line, "") for line in metadata.get_all("Requires-Dist")]
    seen = set()
    while waiting:
        line, extra = waiting.pop()
        requirement = Requirement(line)
        if (line, extra) in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add((line, extra))
        package = distribution(requirement.name)
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
        waiting += [(line, wanted) for wanted in ("", *requirement.extras) for line in package.requires or ()]


@pytest.fixture(scope="module")
def bare(archives, tmp_path_factory):
    """A virtual environment with the wheel and what it requires, and none of the extras and tools of tests."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    link_requirements(archives[1], site_packages)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", archives[1]], check=True)
    return folder / "bin"


def run(command, folder):
    """Output of a command in this folder, without the checkout on its path, on one core."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"CCD_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_wheel_runs_the_demo_from_an_empty_folder(bare, tmp_path):
    assert run([bare / "ccd", "--version"], tmp_path) == f"ccd {PROJECT['version']}\n"
    place = "import pipeline, sys; print(pipeline.__file__.startswith(sys.prefix))"
    assert run([bare / "python", "-c", place], tmp_path) == "True\n"
    run([bare / "ccd", "all", "--preset", "demo", "--device", "cpu", *SCENES], tmp_path)
    run([bare / "ccd", "report", "--run", "demo"], tmp_path)
    photos = next((tmp_path / "artifacts" / "demo").rglob("*.jpg")).parent
    code = (
        "from pipeline import Classifier; import sys; "
        "print(len(Classifier.load('artifacts/demo/classifier.pt').predict(sys.argv[1:])[0].scores))"
    )
    assert run([bare / "python", "-c", code, next(photos.glob("*.jpg"))], tmp_path) == "16\n"
