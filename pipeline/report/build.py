"""A run to one HTML page with its labels, figures and images; needs no model."""

from pathlib import Path

from pipeline.evaluation.run_files import read_run
from pipeline.report.content import content_of
from pipeline.report.gallery import gallery
from pipeline.report.verdict import verdict
from pipeline.runs.options import ReportConfig
from pipeline.system.files import write_text
from pipeline.system.progress import log
from pipeline.web.page import build_facts, render


def run(folder: Path, config: ReportConfig) -> Path:
    """Write `report.html` from the files of a run, and return its path.

    Raises:
        PipelineError: the run has no manifest.
    """
    files = read_run(folder)
    findings = verdict(files, seed=config.seed)
    required = [image_id for alert in findings["alerts"] for image_id in alert["photos"]] + findings["examples"]
    images = gallery(files, config, required)
    page = render(
        "report",
        {**content_of(files), "verdict": findings, "gallery": {**images, "fixed": False}, "build": build_facts()},
    )
    path = folder / "report.html"
    write_text(path, page)
    log(f"{path}: {len(images['entries'])} of {images['total']} images, {len(page.encode()) / 1e6:.1f} MB.")
    return path
