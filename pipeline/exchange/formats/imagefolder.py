"""A folder of photos with metadata.jsonl, as Hugging Face `imagefolder` reads it."""

import json
from pathlib import Path

from pipeline.exchange.formats.export import Export, described, place_one, with_format_suffix
from pipeline.system.files import replacing_folder


def write(export: Export, out: Path) -> None:
    """Folder of Hugging Face datasets: the photos of each split and metadata.jsonl with labels and scores.

    The photos are numbered: datasets reads a split out of every `train`, `val` or `test` in a path.
    """
    labels = export.labels
    rows = range(len(labels.image_ids))
    placed = [with_format_suffix(export, row, f"{row:08d}") for row in rows]
    with replacing_folder(out) as folder:
        for row, split in enumerate(labels.splits):
            place_one(export, row, folder / split / placed[row])
        for split in dict.fromkeys(labels.splits):
            found = [
                {"file_name": placed[row], **described(export, row)} for row in rows if labels.splits[row] == split
            ]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
            (folder / split / "metadata.jsonl").write_text(text, encoding="utf-8")
