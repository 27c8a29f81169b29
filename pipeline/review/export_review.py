"""The review queue of a run to tasks for Label Studio."""

import json
from pathlib import Path

from pipeline.exchange import label_studio
from pipeline.exchange.formats.export import prepare
from pipeline.exchange.formats.label_studio_tasks import studio_task
from pipeline.review.queue import review_queue
from pipeline.runs.folders import check_free
from pipeline.runs.graph import run_argument
from pipeline.system.files import write_text
from pipeline.system.progress import log


def run(
    folder: Path,
    count: int,
    out: Path | None,
    *,
    image_prefix: str = label_studio.LOCAL_FILES,
    chosen: Path | None = None,
    force: bool = False,
) -> Path:
    """Write the tasks and, next to them, the labelling interface; return the path of the tasks.

    Args:
        folder: the run folder.
        count: maximum number of images.
        out: JSON file; by default review.json in the run folder.
        image_prefix: start of the photos' addresses, before their absolute paths.
        chosen: CSV with the column image_id, as saved by the report.
        force: replace both files.

    Raises:
        PipelineError: there are no final labels, or one of the files exists.
    """
    out = out or folder / "review.json"
    check_free(out, label_studio.interface_path(out), force=force)
    queue = review_queue(folder, count, chosen)
    # Label Studio would return our boxes as if a person had confirmed them
    export = prepare(queue.labels, boxes=False, image_prefix=image_prefix)
    tasks = [studio_task(export, row, hint=f"Look for: {queue.hint(row)}") for row in queue.rows]
    write_text(out, json.dumps(tasks, indent=1))
    write_text(label_studio.interface_path(out), label_studio.interface(queue.labels.class_names))
    paths = [queue.labels.manifest.paths[row] for row in queue.rows]
    log(
        f"{out}: {len(tasks)} images, most uncertain first. {label_studio.interface_path(out)} is the labelling interface. "
        f"{label_studio.storage_advice(paths, image_prefix)} "
        f"Import the corrections with `ccd import-labels {run_argument(folder)} EXPORT.json`."
    )
    return out
