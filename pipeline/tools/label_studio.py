"""Labels to tasks of Label Studio, and what people answered back to labels.

Format: https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names a file below its document root, LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT (here: /)."""

CHOICES, BOXES, IMAGE = "labels", "boxes", "image"
"""Names of the controls and of the image in the labelling interface."""


def interface(class_names: Sequence[str]) -> str:
    """The labelling interface that the tasks are made for, XML to paste into a project's settings."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in class_names)
    return (
        f'<View>\n  <Header value="$hint"/>\n  <Image name="{IMAGE}" value="$image"/>\n'
        f'  <Choices name="{CHOICES}" toName="{IMAGE}" choice="multiple">\n{choices}\n  </Choices>\n'
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


def answers(tasks: Any) -> dict[str, list[str]]:
    """Image id to the classes that a person has chosen, from an export in Label Studio's JSON.

    The last annotation of a task counts; tasks that nobody has answered, or only skipped, are left out.

    Raises:
        ValueError: it is no such export, or a task has no image_id.
    """
    if not isinstance(tasks, list) or not all(isinstance(item, dict) for item in tasks):
        raise ValueError("it is no list of tasks")
    found = {}
    for number, item in enumerate(tasks):
        if "data" not in item or "annotations" not in item:
            raise ValueError(f"task {number} has no data or annotations; export as JSON, not as JSON-MIN")
        given = [a for a in item["annotations"] if not a.get("was_cancelled")]
        if not given:
            continue
        if "image_id" not in item["data"]:
            raise ValueError(f"task {number} has no image_id; import the tasks that ccd wrote")
        results = [r for r in given[-1]["result"] if r.get("type") == "choices" and r.get("from_name") == CHOICES]
        # unlike an annotation without a result, which says that none of the classes is there
        found[item["data"]["image_id"]] = [name for r in results for name in r["value"]["choices"]]
    return found
