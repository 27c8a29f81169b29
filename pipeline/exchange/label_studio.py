"""Label Studio: labels to tasks, and annotations back to labels.

Format: https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions
"""

import os.path
import re
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline.system.errors import PipelineError
from pipeline.system.text import nfc

LOCAL_FILES = "/data/local-files/?d="
"""Address of a file below the document root of Label Studio, LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT (here: /)."""

OWN_BOX = re.compile(r"box\d+")
"""Ids of the boxes in our tasks; boxes drawn by a person have other ids."""

CHOICES, BOXES, IMAGE = "labels", "boxes", "image"
"""Names of the controls and of the image in the labelling interface."""


def interface(class_names: Sequence[str]) -> str:
    """The labelling interface of the tasks, XML for the settings of a project."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in class_names)
    return (
        f'<View>\n  <Header value="$hint"/>\n  <Image name="{IMAGE}" value="$image"/>\n'
        f'  <Choices name="{CHOICES}" toName="{IMAGE}" choice="multiple" layout="inline">\n{choices}\n  </Choices>\n'
        f'  <RectangleLabels name="{BOXES}" toName="{IMAGE}">\n{labels}\n  </RectangleLabels>\n</View>\n'
    )


def interface_path(tasks: Path) -> Path:
    """Path of the labelling interface: that of the tasks with the suffix .xml, which the tasks must not have."""
    path = tasks.with_suffix(".xml")
    if path == tasks:
        raise PipelineError(f"{tasks} would be the labelling interface; the tasks are JSON. Name a .json file.")
    return path


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
        image_id: identifies the image of an annotation.
        path: absolute path of the photo, the end of its address.
        size: (H, W) in pixels.
        names: classes that are present.
        boxes: class name and xyxy in pixels.
        score: of the prediction, to sort by.
        prefix: start of the address: `LOCAL_FILES`, or the address of a server.
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
    """Instructions to show local photos in Label Studio; empty for photos from a server.

    Label Studio serves a file only if it is below its document root and below a Local Files storage of the project.
    """
    if prefix != LOCAL_FILES or not paths:
        return ""
    folders = " and ".join(storage_folders(paths))
    return (
        "To see the photos in Label Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/, then in the project Settings, Cloud Storage, Add Source Storage, "
        f"Local files, absolute local path {folders}; save it without syncing."
    )


def storage_folders(paths: Sequence[str]) -> list[str]:
    """The fewest folders that contain all photos, without the root, which Label Studio refuses."""
    common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120 - of texts
    if len(PurePath(common).parts) > 1:
        return [common]
    return sorted({str(PurePath(*PurePath(path).parts[:2])) for path in paths})


DATA = ("image", "image_id", "hint")
"""Fields of our tasks, which JSON-MIN mixes with the controls."""
META = (
    *("id", "annotator", "annotation_id", "created_at", "updated_at"),
    *("lead_time", "agreement", "ground_truth", "file_upload"),
)
"""Further fields of JSON-MIN that are not controls."""
NOTES = ("textarea", "number", "rating", "datetime", "relation")
"""Types of results that never name a class, and may be part of an annotation."""
SHAPES = ("rectangle", "ellipse", "polygon", "brush", "keypoint", "bitmask", "vector")
"""Types of regions that get their label from another result with the same id."""


def corrected_classes(tasks: Any, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Image id to the classes that a person chose, from an export of Label Studio as JSON or JSON-MIN.

    Any control with classes as values chooses them: a tick, or a region that the person drew. The newest annotation of
    a task counts. Tasks without annotation, and skipped tasks, are left out.

    Args:
        tasks: content of the export.
        class_names: C names.

    Raises:
        ValueError: it is not such an export, a task has no image_id, or an annotation has a value that is not a class.
            An unknown value must not count as "none of the classes".
    """
    if not isinstance(tasks, list) or not all(isinstance(item, dict) for item in tasks):
        raise ValueError("it is not a list of tasks")
    classes = set(class_names)
    newest: dict[str, tuple[Any, list[str]]] = {}
    for number, item in enumerate(tasks):
        short = "data" not in item and "annotation_id" in item  # JSON-MIN has one row per annotation
        if not short and ("data" not in item or "annotations" not in item):
            raise ValueError(f"task {number} has no data or annotations; export as JSON or JSON-MIN")
        data = item if short else item["data"]
        annotation = item if short else newest_annotation(item["annotations"])
        if annotation is None:
            continue
        if "image_id" not in data:
            raise ValueError(f"task {number} has no image_id; import the tasks that ccd wrote")
        names = short_answer(item, classes) if short else full_answer(annotation["result"], classes)
        time = (annotation_time(annotation), number)
        if data["image_id"] not in newest or time > newest[data["image_id"]][0]:
            # an annotation without a name means that no class is present
            newest[data["image_id"]] = time, list(dict.fromkeys(names))
    return {image_id: names for image_id, (_, names) in newest.items()}


def newest_annotation(annotations: Sequence[Any]) -> Any:
    """The annotation that was changed last; None if there is none, or all were skipped."""
    given = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    return max(reversed(given), key=annotation_time, default=None)  # the last of equal times


def annotation_time(annotation: Mapping[str, Any]) -> float:
    """Time of the last change of an annotation, in seconds; 0 if it has none."""
    text = annotation.get("updated_at") or annotation.get("created_at")
    time = datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def full_answer(results: Sequence[Any], classes: Set[str]) -> list[str]:
    """Classes of the results of an annotation.

    Raises:
        ValueError: a control has a value that is not a class, or a mark without a class; or there are only notes.
    """
    names, notes = [], []
    labelled = {result.get("id") for result in results if _values(result) is not None} - {None}
    for result in results:
        kind, control, values = result.get("type"), result.get("from_name"), _values(result)
        # boxes of our task stay when a person removes the tick
        if kind == "rectanglelabels" and control == BOXES and OWN_BOX.fullmatch(str(result.get("id", ""))):
            continue
        if values is not None:
            names += checked(values, control, classes)
        elif kind in NOTES:
            notes.append((control, kind))
        elif kind not in SHAPES or result.get("id") not in labelled:
            raise _without_classes(control, kind)
    if notes and not names and not any(result.get("type") == "choices" for result in results):
        raise _without_classes(*notes[0])
    return names


def _values(result: Mapping[str, Any]) -> list[Any] | None:
    """The values of a result that may be classes: choices, or labels of a region; None for another type of result."""
    kind = str(result.get("type"))
    values = result.get("value", {}).get(kind) if kind == "choices" or kind.endswith("labels") else None
    return values if isinstance(values, list) else None


def _without_classes(control: Any, kind: Any) -> ValueError:
    return ValueError(
        f"the control {control} ({kind}) has no classes as values; ccd reads choices and labelled regions"
    )


def short_answer(item: Mapping[str, Any], classes: Set[str]) -> list[str]:
    """Classes of a row of JSON-MIN: one choice is a text, several are an object, regions are a list.

    Raises:
        ValueError: as `full_answer`; unknown texts may be fields of the task, so they are errors only if no control
            names a class.
    """
    names, unknown = [], []
    for control, value in item.items():
        if control in DATA or control in META:
            continue
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            names += checked(value["choices"], control, classes)
        elif isinstance(value, list) and value and all(isinstance(region, dict) for region in value):
            for region in value:
                labels = [each for key, each in region.items() if key.endswith("labels") and isinstance(each, list)]
                if not labels:
                    raise ValueError(f"the control {control!r} has regions without labels")
                names += checked([name for each in labels for name in each], control, classes)
        elif isinstance(value, str) and nfc(value) in classes:
            names.append(nfc(value))
        elif isinstance(value, list) and value and all(isinstance(name, str) for name in value):
            names += checked(value, control, classes)
        elif value not in ("", [], {}, None):
            unknown.append((control, value))
    if unknown and not names:
        raise ValueError(f"{unknown[0][0]!r} is {unknown[0][1]!r}, which is not one of the classes")
    return names


def checked(values: Sequence[Any], control: Any, classes: Set[str]) -> list[Any]:
    """The values of a control; raises ValueError for one that is not a class."""
    values = [nfc(value) if isinstance(value, str) else value for value in values]
    wrong = [value for value in values if value not in classes]
    if wrong:
        raise ValueError(f"the control {control!r} has the value {wrong[0]!r}, which is not one of the classes")
    return values
