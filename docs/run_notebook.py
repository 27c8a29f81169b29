"""Run docs/notebook.ipynb in an empty folder and store its outputs in it; needs `pip install '.[notebook]'`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")
LARGEST = 300_000
"""Bytes of the file with its outputs."""


def main() -> None:
    """Run the notebook; leave the file as it is if a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with TemporaryDirectory() as folder:
        options = {"record_timing": False, "coalesce_streams": True, "timeout": None}
        NotebookClient(notebook, resources={"metadata": {"path": folder}}, **options).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # without the versions of this machine
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > LARGEST:
        sys.exit(f"{NOTEBOOK} would have {len(text.encode()):,} bytes, expected at most {LARGEST:,}.")
    NOTEBOOK.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
