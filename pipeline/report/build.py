"""A run to one HTML page that shows what happened: labels, charts and images; no model is needed."""

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
    """Write `report.html` from whatever the run folder holds, and return its path.

    Raises:
        PipelineError: there is no manifest.
    """
    files = read_run(folder)
    judged = verdict(files, seed=config.seed)
    wanted = [image_id for alert in judged["alerts"] for image_id in alert["photos"]]
    shown = gallery(files, config, wanted)
    page = render(
        "report", {**content_of(files), "verdict": judged, "gallery": {**shown, "fixed": False}, "build": build_facts()}
    )
    path = folder / "report.html"
    write_text(path, page)
    log(f"{path}: {len(shown['entries'])} of {shown['total']} images, {len(page.encode()) / 1e6:.1f} MB.")
    return path
