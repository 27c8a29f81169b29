"""mAP of teacher and classifier by the number of classes and of train photos: `python tests/benchmarks/small_sets.py RUN`.

RUN is a finished run with labelled test photos. Every row has runs of its own in a temporary folder, on photos drawn from RUN's
train photos and on classes drawn from those with at least five test photos.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline import read

NAMES = ("teacher, whole photos", "teacher, photos and parts", "learned head", "final classifier")
LEAST = 5
"""Test photos of a drawn class."""


def measure(run: Path, class_count: int, count: int, draw: int, folder: Path) -> tuple[list[float], list[float] | None]:
    """mAP in percent of `NAMES` after training on `count` photos, NaN for a row that the run does not have; and the 95 % interval
    of the classifier's gain over its teacher at its best, None with too few test photos of the classes."""
    manifest = read(run / "manifest.csv")
    truth = read(run / "ground_truth.h5")
    generator = np.random.default_rng(draw)
    train, test = np.array(manifest.split("train").paths), manifest.split("test").paths
    (folder / "train.txt").write_text("\n".join(train[np.sort(generator.permutation(len(train))[:count])]))
    (folder / "test.txt").write_text("\n".join(test))
    row_of = {image_id: row for row, image_id in enumerate(truth.image_ids)}
    present = truth.labels[[row_of[image_id] for image_id in manifest.split("test").image_ids]] == 1
    names = np.array(truth.class_names)
    if class_count < len(names):
        frequent = np.flatnonzero(present.sum(axis=0) >= LEAST)
        chosen = np.sort(generator.choice(frequent, class_count, replace=False))
        names, present = names[chosen], present[:, chosen]
    (folder / "classes.txt").write_text("\n".join(names))
    (folder / "run").mkdir()
    texts = (f"{json.dumps(name)} = {json.dumps(list(manifest.display_names[name]))}" for name in names)
    (folder / "run" / "run.toml").write_text("\n".join(["[classes]", *texts, ""]))
    rows = (f"{path},{';'.join(names[row])}" for path, row in zip(test, present, strict=True))
    (folder / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    command = ["all", "--run", str(folder / "run"), "--images", str(folder / "train.txt")]
    command += ["--test-images", str(folder / "test.txt"), "--classes", str(folder / "classes.txt")]
    command += ["--labels", str(folder / "labels.csv"), "--set", "train.score_epochs=false"]
    done = subprocess.run([sys.executable, "-m", "pipeline", *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    values = [100 * metrics["test"].get(name, {}).get("mAP", np.nan) for name in NAMES]
    return values, metrics.get("gain", {}).get("mAP_interval")


def main() -> None:
    """Print one line per number of classes and of photos, the mean over draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2, 5, 20])
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 12, 50, 100, 200, 350])
    parser.add_argument("--draws", type=int, default=2)
    given = parser.parse_args()
    print("classes", "photos", *NAMES, "mean gain", "worst gain", "intervals below 0", sep=" | ")
    for class_count in given.classes:
        for count in given.photos:
            rows, intervals = [], []
            for draw in range(given.draws):
                with TemporaryDirectory() as folder:
                    values, interval = measure(given.run, class_count, count, draw, Path(folder))
                rows.append(values)
                intervals += [interval] if interval else []
            gains = [row[-1] - max(row[:2]) for row in rows]
            means = (f"{value:.1f}" for value in np.mean(rows, axis=0))
            below = f"{sum(high < 0 for _, high in intervals)} of {len(intervals)}"
            print(
                class_count, count, *means, f"{np.mean(gains):+.1f}", f"{min(gains):+.1f}", below, sep=" | ", flush=True
            )


if __name__ == "__main__":
    main()
