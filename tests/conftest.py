"""Fixtures that several test modules use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos that does not ship with the project; a test that needs it is skipped without."""
    beside_the_project = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("CCD_SHARED_DATA", beside_the_project))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}")
    return folder
