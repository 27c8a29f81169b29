"""Reads an HDF5 file of another tool once: `python hdf5_probe.py FILE`. libhdf5 can crash or hang on a damaged file.

`check_readable` runs this module in a process of its own, so it imports nothing of the package at the top.
"""

import subprocess
import sys
from pathlib import Path

SECONDS = 60
BYTES_PER_SECOND = 10**7
"""Lowest rate at which a file is read."""


def check_readable(path: Path) -> None:
    """Raise ValueError if reading a file crashes or does not end; other errors come when it is read."""
    limit = SECONDS + path.stat().st_size / BYTES_PER_SECOND
    try:
        done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"reading it takes longer than {limit:.0f} s") from None
    if done.returncode < 0:
        raise ValueError("reading it crashes")


def read_everything(path: str) -> None:
    """Read all attributes and datasets of the root of a file."""
    import h5py

    with h5py.File(path) as file:
        for name in file.attrs:
            file.attrs[name]
        for name in file:
            if isinstance(file[name], h5py.Dataset) and not file[name].external and not file[name].is_virtual:
                file[name][()]


if __name__ == "__main__":
    read_everything(sys.argv[1])
