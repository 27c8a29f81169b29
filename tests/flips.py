"""Flips bytes of an HDF5 file of a run one at a time, and reads the file each time: `python flips.py FILE FIRST LAST STEP`.

Prints one line per byte before it is tried, and then what reading gave: "refused", "same" or "other content". The caller
sees a crash or a hang from the last line.
"""

import os
import sys
from pathlib import Path

import numpy as np

from pipeline.evaluation.read import read
from pipeline.system.errors import PipelineError


def content_of(path):
    artifact = vars(read(path))
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in artifact.items()}


def main(path, first, last, step):
    sound = path.read_bytes()
    expected = repr(content_of(path))
    rng = np.random.default_rng(int(os.environ.get("CCD_FUZZ_SEED", "5")))
    for place in range(first, min(last, len(sound)), step):
        print(place, end=" ", flush=True)
        damaged = bytearray(sound)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            print("same" if repr(content_of(path)) == expected else "other content", flush=True)
        except PipelineError as error:
            print("refused" if "\n" not in str(error) else "several lines", flush=True)
    path.write_bytes(sound)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
