"""A run to one HTML page that shows what happened: labels, charts and images; no model is needed."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.machine.progress import say
from pipeline.runs.config import Config, option
from pipeline.runs.files import replacing
from pipeline.tools.report.content import content_of
from pipeline.tools.report.gallery import gallery
from pipeline.tools.report.page import render
from pipeline.tools.run_files import read_run


@dataclass(frozen=True)
class ReportConfig(Config):
    """How much the page shows."""

    images: int = option(1000, "most images in the gallery; beyond, the telling ones and a sample", min=0, max=20_000)
    thumbnail: int = option(256, "longest side of an image, pixels", min=32, max=1024)
    seed: int = option(0, "seed of the sample", min=0)


def run(folder: Path, config: ReportConfig) -> Path:
    """Write `report.html` from whatever the run folder holds, and return its path.

    Raises:
        PipelineError: there is no manifest.
    """
    files = read_run(folder)
    shown = gallery(files, config.images, config.thumbnail, config.seed)
    page = render({**content_of(files), "gallery": shown})
    path = folder / "report.html"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    say(f"{path}: {len(shown['entries'])} of {shown['total']} images, {len(page.encode()) / 1e6:.1f} MB.")
    return path
