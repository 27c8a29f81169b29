"""`ccd all` on a tiny run, killed at 100 random moments: what it ends with has to equal an unbroken run.

python tests/benchmarks/kill.py [--kills 100] [--seed 0]
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kills import kill_and_go_on
from worlds.networks import write_backbone
from worlds.photos import labelled_photos


def main() -> None:
    """Kill, compare, and print how many runs ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos, backbone = labelled_photos(root / "photos"), write_backbone(root / "tiny.pt")
        ends = kill_and_go_on(photos, backbone, root, arguments.kills, arguments.seed)
    print(f"{arguments.kills} times killed, {ends} runs came to their end, all equal to the unbroken one")


if __name__ == "__main__":
    main()
