"""Self-check of a teacher at its first use; a result that passed is kept in the cache folder."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.system import distributed
from pipeline.system.downloads import cache_folder
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_json
from pipeline.system.progress import log
from pipeline.teachers.check_objects import check_cutouts, demo_cutouts
from pipeline.teachers.check_package import check_images, check_texts
from pipeline.teachers.check_result import REMEDIES, Check, SelfCheck
from pipeline.teachers.encoding import precision_of

VERSION = 1
"""Part of the key of kept results; raise it when a check changes."""

OFF = "off"
"""What `embeddings.h5` stores of a teacher whose check is off."""

PACKAGES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "clip-anytorch")
"""Packages that decide the embeddings."""


def check_teacher(teacher: Any) -> SelfCheck:
    """Run every check of a teacher; the cut-outs are left out if they are not installed."""
    package = teacher.package()
    checks = [check_images(teacher, package), check_texts(teacher, package)]
    del package  # frees its memory for the views
    if cutouts := demo_cutouts():
        checks += check_cutouts(teacher, cutouts)
    else:
        log("the demo's cut-outs are not installed, so the teacher is not tested on objects.")
    return SelfCheck(tuple(checks))


def check_at_first_use(teacher: Any, stage: str = "embed") -> str:
    """Check a teacher from a download or a file, unless it has passed before.

    Args:
        teacher: one that ships with ccd is checked by its tests, and not here.
        stage: that loads it, for errors.

    Returns:
        `SelfCheck.attribute`; empty for a teacher that is not checked.

    Raises:
        PipelineError: a check fails.
    """
    if getattr(teacher, "package", None) is None or getattr(teacher, "shipped", False):
        return ""
    result = kept(teacher)
    if result is None and distributed.is_main():
        log(f"{teacher.name} is new here, so it is checked, once.")
        result = check_teacher(teacher)
        for check in result.checks:
            log(f"{check.name}: {check.figure}.")
        require_passed(result, teacher.name, stage)
        keep(teacher, result)
    distributed.barrier()
    return "" if result is None else result.attribute()


def require_passed(result: SelfCheck, name: str, stage: str) -> None:
    """Raise for the first check that failed.

    Raises:
        PipelineError: names the check, what is likely wrong and what to do.
    """
    for check in result.failed[:1]:
        raise PipelineError(
            f"{name} fails its self-check. {check.name}: {check.figure}. Likely wrong: {check.suspect}. "
            f"{REMEDIES[check.suspect]} If the teacher is right but knows none of the demo's classes, use "
            f"`--set {stage}.self_check=false`."
        )


def key_of(teacher: Any) -> str:
    """SHA-256 of everything that decides the result of a self-check."""
    parts = [VERSION, teacher.fingerprint, precision_of(teacher), teacher.device.type, bool(demo_cutouts())]
    return hashlib.sha256(json.dumps([*parts, versions()]).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def kept(teacher: Any) -> SelfCheck | None:
    """The kept result of a teacher that has passed; None without a sound file."""
    key = key_of(teacher)
    try:
        content = json.loads((cache_folder() / "self_checks" / f"{key[:16]}.json").read_text())
        result = SelfCheck(tuple(Check(**check) for check in content["checks"]))
        return result if content["key"] == key and not result.failed else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(teacher: Any, result: SelfCheck) -> None:
    """Store a result in the cache folder, unless the folder cannot be written to."""
    key = key_of(teacher)
    content = {"key": key, "teacher": teacher.name, "checks": [vars(check) for check in result.checks]}
    try:
        write_json(cache_folder() / "self_checks" / f"{key[:16]}.json", content)
    except PipelineError:
        return
