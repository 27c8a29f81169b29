"""Labels to tasks of Label Studio, and what people answered back to labels.

Format: https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions
"""

import os.path
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names a file below its document root, LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT (here: /)."""

OWN_BOX = re.compile(r"box\d+")
"""Ids of the boxes that a task brings along; those that a person draws have other ids."""

CHOICES, BOXES, IMAGE = "labels", "boxes", "image"
"""Names of the controls and of the image in the labelling interface."""


def interface(class_names: Sequence[str]) -> str:
    """The labelling interface that the tasks are made for, XML to paste into a project's settings."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in class_names)
    return (
        f'<View>\n  <Header value="$hint"/>\n  <Image name="{IMAGE}" value="$image"/>\n'
        f'  <Choices name="{CHOICES}" toName="{IMAGE}" choice="multiple" layout="inline">\n{choices}\n  </Choices>\n'
        f'  <RectangleLabels name="{BOXES}" toName="{IMAGE}">\n{labels}\n  </RectangleLabels>\n</View>\n'
    )


def task(
    image_id: str,
    path: str,
    size: tuple[int, int],
    names: Sequence[str],
    boxes: Sequence[tuple[str, Sequence[float]]],
    score: float,
    prefix: str,
    hint: str = "",
) -> dict[str, Any]:
    """One image with its labels as a prediction.

    Args:
        image_id: goes with the task, so that the answer finds its image.
        path: absolute path of the photo; stands behind `prefix` in its address.
        size: (H, W) in pixels.
        names: classes that are present.
        boxes: class name and xyxy in pixels.
        score: of the prediction, to sort by.
        prefix: of the address, as `LOCAL_FILES` or that of a server.
        hint: one line above the image.
    """
    height, width = size
    frame = {"original_width": width, "original_height": height, "image_rotation": 0}
    results: list[dict[str, Any]] = [
        {"id": CHOICES, "from_name": CHOICES, "to_name": IMAGE, "type": "choices", "value": {"choices": list(names)}}
    ]
    for number, (name, (x1, y1, x2, y2)) in enumerate(boxes):
        corner = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0}
        value = {**corner, "width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
        control = {"id": f"box{number}", "from_name": BOXES, "to_name": IMAGE, "type": "rectanglelabels"}
        results.append({**control, **frame, "value": {**value, "rectanglelabels": [name]}})
    return {
        "data": {
            "image": prefix + quote(path.lstrip("/")),
            "image_id": image_id,
            "hint": hint or "What is in the image?",
        },
        "predictions": [{"model_version": "ccd", "score": score, "result": results}],
    }


def storage_advice(paths: Sequence[str], prefix: str) -> str:
    """What makes Label Studio show local photos, as one text; empty where the photos come from a server.

    Label Studio serves a file only if it lies below its document root and below a Local Files storage of the project.
    """
    if prefix != LOCAL_FILES or not paths:
        return ""
    folders = " and ".join(storage_folders(paths))
    return (
        "To see the photos in Label Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/, then in the project Settings, Cloud Storage, Add Source Storage, "
        f"Local files, absolute local path {folders}; save it, there is no need to sync."
    )


def storage_folders(paths: Sequence[str]) -> list[str]:
    """The folders that hold all photos; as few as can be, but never the root, which Label Studio refuses."""
    common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120 - of texts
    if len(PurePath(common).parts) > 1:
        return [common]
    return sorted({str(PurePath(*PurePath(path).parts[:2])) for path in paths})


def answers(tasks: Any) -> dict[str, list[str]]:
    """Image id to the classes that a person has chosen, from an export of Label Studio as JSON or JSON-MIN.

    A class is chosen by a tick or by a box that the person drew. The last annotation of a task counts; tasks that
    nobody has answered, or only skipped, are left out.

    Raises:
        ValueError: it is no such export, or a task has no image_id.
    """
    if not isinstance(tasks, list) or not all(isinstance(item, dict) for item in tasks):
        raise ValueError("it is no list of tasks")
    found = {}
    for number, item in enumerate(tasks):
        short = "data" not in item and "annotation_id" in item  # JSON-MIN has a row an annotation
        if not short and ("data" not in item or "annotations" not in item):
            raise ValueError(f"task {number} has no data or annotations; export as JSON or JSON-MIN")
        names = short_answer(item) if short else full_answer(item["annotations"])
        if names is None:
            continue
        data = item if short else item["data"]
        if "image_id" not in data:
            raise ValueError(f"task {number} has no image_id; import the tasks that ccd wrote")
        # an answer without a name says that none of the classes is there
        found[data["image_id"]] = list(dict.fromkeys(names))
    return found


def full_answer(annotations: list[Any]) -> list[str] | None:
    """Classes of the last annotation of a task; None where there is none, or all were skipped."""
    given = [a for a in annotations if not a.get("was_cancelled")]
    if not given:
        return None
    names = []
    for result in given[-1]["result"]:
        kind, control = result.get("type"), result.get("from_name")
        if kind == "choices" and control == CHOICES:
            names += result["value"]["choices"]
        # the boxes that we drew stay behind when a person takes the tick away
        elif kind == "rectanglelabels" and control == BOXES and not OWN_BOX.fullmatch(str(result.get("id", ""))):
            names += result["value"]["rectanglelabels"]
    return names


def short_answer(item: dict[str, Any]) -> list[str]:
    """Classes of a row of JSON-MIN: one choice is a text, several an object; whose box it is, is not told there."""
    ticked = item.get(CHOICES, [])
    names = [ticked] if isinstance(ticked, str) else list(ticked["choices"] if isinstance(ticked, dict) else ticked)
    for box in item.get(BOXES, []):
        names += box["rectanglelabels"]
    return names
