"""Seconds and memory of commands that need no network: python tests/benchmarks/start.py RUN_FOLDER."""

import resource
import subprocess
import sys
import time

REPEATS = 5


def measure(arguments: list[str]) -> tuple[float, float]:
    """Median seconds and largest memory in MB of a command in a process of its own."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline", *arguments], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[REPEATS // 2], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Print a line per command, the lightest first, as the memory is the largest so far."""
    run = sys.argv[1]
    for arguments in (["--help"], ["fuse", "--help"], ["fuse", "--run", run], ["inspect", f"{run}/final_labels.h5"],
                      ["inspect", run], ["status", "--run", run]):  # fmt: skip
        seconds, memory = measure(arguments)
        print(f"ccd {' '.join(arguments):<50} {seconds:6.2f} s {memory:8.0f} MB")


if __name__ == "__main__":
    main()
