"""FiftyOne: a folder with samples and a script that loads them."""

import io
import json
from pathlib import Path

import numpy as np

from pipeline.artifacts.state import up_to_date
from pipeline.evaluation.read import read
from pipeline.exchange.formats.export import Export
from pipeline.exchange.label_sets import LabelSet
from pipeline.runs.options import EmbedConfig
from pipeline.system.files import replacing_folder
from pipeline.teachers.embedding_cache import ImageStore, StoreKey

FIFTYONE_LOADER = '''\
"""Loads samples.jsonl as a FiftyOne dataset: run `python load.py [NAME]`, then open the dataset in the app."""

import json
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np


def load(name=None):
    """The dataset with pseudo_labels, scores and, if present, boxes and embeddings; the split is a tag."""
    here = Path(__file__).parent
    with (here / "samples.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    vectors = np.load(here / "embeddings.npy") if (here / "embeddings.npy").exists() else [None] * len(rows)
    dataset = fo.Dataset(name, overwrite=name is not None)
    for row, vector in zip(rows, vectors):
        labels = [fo.Classification(label=name, confidence=row["scores"][name]) for name in row["labels"]]
        sample = fo.Sample(filepath=row["path"], tags=[row["split"]], image_id=row["image_id"])
        sample["pseudo_labels"] = fo.Classifications(classifications=labels)
        sample["scores"] = row["scores"]
        if vector is not None:
            sample["embedding"] = vector
        if "boxes" in row:
            boxes = [fo.Detection(label=name, bounding_box=box) for name, box in row["boxes"]]
            sample["looked_at"] = fo.Detections(detections=boxes)
        dataset.add_sample(sample)
    return dataset


if __name__ == "__main__":
    loaded = load(*sys.argv[1:2])
    loaded.persistent = True
    print(loaded)
'''


def write(export: Export, out: Path) -> None:
    """Folder of samples.jsonl, embeddings.npy and load.py, which loads both as a FiftyOne dataset."""
    embeddings = teacher_embeddings(export.labels)
    lines = []
    for row, path in enumerate(export.labels.manifest.paths):
        height, width = export.size(row)
        scores = export.labels.labels[row].astype(float).tolist()
        sample = {
            "path": path,
            "image_id": export.labels.image_ids[row],
            "split": export.labels.splits[row],
            "labels": export.names(row),
            "scores": dict(zip(export.labels.class_names, scores, strict=True)),
        }
        if export.boxes is not None:
            sample["boxes"] = [
                [export.labels.class_names[c], [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]]
                for c, (x1, y1, x2, y2) in export.boxes_of(row)
            ]
        lines.append(json.dumps(sample, ensure_ascii=False))
    with replacing_folder(out) as folder:
        (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (folder / "load.py").write_text(FIFTYONE_LOADER, encoding="utf-8")
        if embeddings is not None:
            buffer = io.BytesIO()
            np.save(buffer, embeddings)
            (folder / "embeddings.npy").write_bytes(buffer.getbuffer())


def teacher_embeddings(labels: LabelSet) -> np.ndarray | None:
    """The teacher's embeddings, float32 [N, D] with unit rows; None if the run lacks some of them."""
    path = labels.path.with_name("embeddings.h5")
    if not path.exists():
        return None
    embeddings = read(up_to_date(path))
    requested = embeddings.provenance.options(EmbedConfig).precision
    for precision in (requested, "float32"):  # a CPU always uses float32
        store = ImageStore(path.parent, StoreKey(embeddings.teacher_fingerprint, embeddings.image_size, precision))
        if not store.missing(labels.manifest.digests):
            return np.concatenate(list(store.blocks(labels.manifest.digests)))
    return None
