"""Labels to the images that a person should correct first, as tasks of Label Studio."""

import json
from pathlib import Path

import numpy as np

from pipeline.machine.progress import say
from pipeline.runs.artifacts import Labels, check_same_images
from pipeline.runs.files import write_text
from pipeline.tools import label_studio
from pipeline.tools.corrections import UNTOUCHED
from pipeline.tools.label_formats import prepare, studio_task
from pipeline.tools.label_sets import read_label_set
from pipeline.tools.read import read
from pipeline.tools.review import DOUBTS, review_values


def run(folder: Path, count: int, out: Path | None, *, image_prefix: str = label_studio.LOCAL_FILES) -> Path:
    """Write the tasks and, beside them, the labelling interface; returns where.

    Args:
        folder: the run folder.
        count: most images.
        out: JSON file; by default review.json in the run folder.
        image_prefix: address that the photos' absolute paths are appended to.

    Raises:
        PipelineError: there are no final labels.
    """
    out = out or folder / "review.json"
    labels = read_label_set(folder)
    initial: Labels = read(folder / "initial_labels.h5")
    check_same_images(labels, initial, labels.path, folder / "initial_labels.h5")
    values = review_values(initial.labels, labels.labels)
    if (folder / "corrections.h5").exists():
        values[read(folder / "corrections.h5").labels != UNTOUCHED] = 0  # a person has looked already
    top = np.sort(values, axis=1)[:, -DOUBTS:].mean(1)
    rows = [int(row) for row in np.argsort(-top, kind="stable")[:count] if top[row] > 0]
    export = prepare(labels, image_prefix=image_prefix)
    tasks = []
    for row in rows:
        doubtful = [labels.class_names[c] for c in np.argsort(-values[row], kind="stable")[:DOUBTS]]
        tasks.append(studio_task(export, row, hint=f"Look for: {', '.join(doubtful)}"))
    write_text(out, json.dumps(tasks, indent=1))
    write_text(out.with_suffix(".xml"), label_studio.interface(labels.class_names))
    say(
        f"{out}: {len(tasks)} images, most doubtful first; {out.with_suffix('.xml')} is the labelling interface. "
        f"Bring the answers back with `ccd import-labels EXPORT.json --run {folder}`."
    )
    return out
