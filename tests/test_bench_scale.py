"""The benchmarks that nothing else runs still work."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent / "benchmarks"


def test_stages_that_ask_no_network_run_on_made_up_artifacts():
    sizes = ["--photos", "--without-networks", "300", "--classes", "5"]
    found = subprocess.run(
        [sys.executable, BENCHMARKS / "scale.py", *sizes], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    for stage in ("init-labels", "fuse", "evaluate", "inspect"):
        assert stage in found.stdout


def test_what_fits_is_measured_on_a_cpu_and_skipped_without_cuda():
    def run(*options):
        command = [sys.executable, BENCHMARKS / "fits.py", *options]
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    assert run().startswith("skipped: there is no CUDA device")
    found = run("small vit", "small resnet", "--device", "cpu", "--most", "2", "--seconds", "0.01")
    rows = [line for line in found.splitlines() if "float" in line and "2 or more" in line]
    assert len(rows) == 6 and all("%" in row for row in rows)
