"""The notebook in docs/: `make notebook` runs it and stores its outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_small_and_was_run_from_top_to_bottom():
    cells = code_cells()
    assert NOTEBOOK.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(cell["outputs"] for cell in cells)
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert "/tmp/" not in NOTEBOOK.read_text()  # paths are relative to the folder that it ran in


@pytest.mark.slow
def test_the_code_of_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in code_cells():
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    assert names["run"].metrics["test"] and names["own"].metrics == {}
    assert Path("artifacts/own/report.html").exists()
