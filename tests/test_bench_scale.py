"""The benchmark that nothing else runs still works."""

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
