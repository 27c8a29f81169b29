"""Commands that write labels for other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.app import LOCAL_FILES, OverwriteOption, RunOption, app, chosen_run, named_run
from pipeline.exchange.formats import FORMATS
from pipeline.runs.folders import (
    run_or_file,
)


@app.command("export-labels", rich_help_panel="Export")
def export_labels(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_FILE", help="Run (its final labels), labels file, or epoch_scores.h5 (the test images)."
        ),
    ] = "",
    format: Annotated[
        Literal[*FORMATS],
        typer.Option(metavar="<str>", help=f"Format to write: {', '.join(FORMATS)}."),
    ] = "csv",
    out: Annotated[Path | None, typer.Option(help="File or folder to write (default: next to the labels).")] = None,
    part: Annotated[
        Literal["train", "test", "both"] | None,
        typer.Option(
            "--split",
            help="Split of a run: train (its final labels, the default), test (the classifier's predictions) or both.",
        ),
    ] = None,
    boxes: Annotated[
        bool,
        typer.Option("--boxes", help="Include the run's boxes: regions of high activation, not the extent of objects."),
    ] = False,
    copy_images: Annotated[
        bool, typer.Option("--copy", help="Copy photos into the folder instead of linking them.")
    ] = False,
    image_prefix: Annotated[
        str | None,
        typer.Option(help=f"Address before the photos' absolute paths, for label-studio (default: {LOCAL_FILES})."),
    ] = None,
    force: OverwriteOption = False,
    run: RunOption = "",
) -> None:
    """Export labels and scores: CSV, Parquet, COCO, YOLO, CVAT, Label Studio, FiftyOne, cleanlab, Hugging Face datasets."""
    from pipeline.exchange import export_labels as tool

    places = {"copy_images": copy_images, "image_prefix": image_prefix, "force": force}
    target = named_run(source, run)
    tool.run(run_or_file(target) if target else chosen_run(""), format, out, part=part, boxes=boxes, **places)
