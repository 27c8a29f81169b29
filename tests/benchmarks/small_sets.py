"""mAP of teacher and classifier by the number of train photos: `python tests/benchmarks/small_sets.py RUN [N ...]`.

RUN is a finished run with labelled test photos. Every number of photos gets runs of its own, on photos drawn from RUN's train
photos, in a temporary folder.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline import read

NAMES = ("teacher zero-shot", "teacher, global + local", "learned head", "final classifier")
DRAWS = 2


def measure(run: Path, count: int, draw: int, folder: Path) -> list[float]:
    """mAP in percent of `NAMES` after training on `count` photos; NaN for a row that the run does not have."""
    manifest = read(run / "manifest.csv")
    train = np.array(manifest.split("train").paths)
    chosen = np.random.default_rng(draw).permutation(len(train))[:count]
    (folder / "train.txt").write_text("\n".join(train[np.sort(chosen)]))
    (folder / "test.txt").write_text("\n".join(manifest.split("test").paths))
    (folder / "classes.txt").write_text("\n".join(manifest.class_names))
    (folder / "run").mkdir()
    names = (f"{json.dumps(name)} = {json.dumps(list(words))}" for name, words in manifest.display_names.items())
    (folder / "run" / "run.toml").write_text("\n".join(["[classes]", *names, ""]))
    truth = read(run / "ground_truth.h5")
    classes = np.array(truth.class_names)
    ids = dict(zip(manifest.paths, manifest.image_ids, strict=True))
    row_of = {image_id: row for row, image_id in enumerate(truth.image_ids)}
    lines = ["image,labels"]
    for path in manifest.split("test").paths:
        present = classes[truth.labels[row_of[ids[path]]] == 1]
        lines.append(f"{path},{';'.join(present)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    command = ["all", "--run", str(folder / "run"), "--images", str(folder / "train.txt")]
    command += ["--test-images", str(folder / "test.txt"), "--classes", str(folder / "classes.txt")]
    command += ["--labels", str(folder / "labels.csv"), "--set", "train.score_epochs=false"]
    done = subprocess.run([sys.executable, "-m", "pipeline", *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    test = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    return [100 * test.get(name, {}).get("mAP", np.nan) for name in NAMES]


def main(run: Path, counts: list[int]) -> None:
    """Print one line per number of photos, the mean over draws."""
    print("photos", *NAMES, sep=" | ")
    for count in counts:
        rows = []
        for draw in range(DRAWS):
            with TemporaryDirectory() as folder:
                rows.append(measure(run, count, draw, Path(folder)))
        print(count, *(f"{value:.1f}" for value in np.mean(rows, axis=0)), sep=" | ", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(each) for each in sys.argv[2:]] or [1, 12, 50, 100, 200, 350])
