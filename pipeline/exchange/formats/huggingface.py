"""Parquet files that contain the photos, for `datasets.load_dataset`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.tables import import_pyarrow
from pipeline.exchange.formats.export import NO_OBJECTS, Export, markdown
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file, replacing_folder

SHARD = 1000
"""Photos per Parquet file."""


def write(export: Export, out: Path) -> None:
    """Folder for `datasets.load_dataset`: Parquet files that contain the photos, and a README.md.

    Raises:
        PipelineError: pyarrow is missing, or a photo can no longer be read.
    """
    pa = import_pyarrow(out)
    labels = export.labels
    # `Sequence` and not `List`, which only datasets 4 and later read
    features = {
        "image": {"_type": "Image"},
        "image_id": {"dtype": "string", "_type": "Value"},
        "labels": {"feature": {"names": labels.class_names, "_type": "ClassLabel"}, "_type": "Sequence"},
        "scores": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
    }
    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "image_id": pa.string(),
            "labels": pa.list_(pa.int64()),
            "scores": pa.list_(pa.float32()),
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with replacing_folder(out) as folder:
        (folder / "data").mkdir()
        for split in dict.fromkeys(labels.splits):
            rows = [row for row, own in enumerate(labels.splits) if own == split]
            shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
            for number, shard in enumerate(shards):
                table = pa.Table.from_pylist([photo_row(export, row) for row in shard], schema=schema)
                pa.parquet.write_table(table, folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        (folder / "README.md").write_text(data_card(export), encoding="utf-8")


def photo_row(export: Export, row: int) -> dict[str, Any]:
    """The row of a photo and its labels in a Parquet file."""
    path = Path(export.labels.manifest.paths[row])
    try:
        content = regular_file(path).read_bytes()
    except OSError as error:
        raise PipelineError(f"{path} can no longer be read ({error.strerror}). Run `ccd prepare` again.") from error
    return {
        "image": {"bytes": content, "path": path.name},
        "image_id": export.labels.image_ids[row],
        "labels": np.flatnonzero(export.labels.present[row]).tolist(),
        "scores": export.labels.labels[row].astype(float).tolist(),
    }


def data_card(export: Export) -> str:
    """The README.md of the folder."""
    labels = export.labels
    counts = labels.present.sum(0)
    lines = [f"| {markdown(name)} | {counts[c]:,} |" for c, name in enumerate(labels.class_names)]
    sizes = ", ".join(f"{size:,} {split}" for split, size in Counter(labels.splits).items())
    return (
        "---\ntask_categories:\n- image-classification\n---\n\n# Photos with pseudo-labels\n\n"
        f"{sizes} photos, {len(labels.class_names)} classes; a photo can have several labels. {NO_OBJECTS}\n\n"
        "A program made the labels, not people (ccd: classifier-guided CLIP distillation): expect errors. "
        "`labels` are the present classes; `scores` are the soft labels of all classes, in the order of the names.\n\n"
        "| class | photos |\n|---|---|\n" + "\n".join(lines) + "\n"
    )
