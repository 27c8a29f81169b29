"""Commands to correct labels."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import (
    LOCAL_FILES,
    OverwriteOption,
    RunArgument,
    SameRunOption,
    SelectionOption,
    app,
    chosen_run,
    named_run,
    split_target,
)
from pipeline.runs.lock import locked
from pipeline.system.errors import PipelineError


@app.command(rich_help_panel="Review")
def review(
    name: RunArgument = "",
    run: SameRunOption = "",
    count: Annotated[int, typer.Option("--limit", min=1, help="Largest number of images.")] = 100,
    images: SelectionOption = None,
    class_name: Annotated[
        str,
        typer.Option(
            "--class", help="Show the photos by the score of this class, highest first (default: most uncertain first)."
        ),
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine. 0: any free port.")] = 0,
) -> None:
    """Serve a page, to this machine only, to correct labels on; every correction is saved at once."""
    from pipeline.review import server as tool

    tool.run(chosen_run(named_run(name, run)), count, chosen=images, class_name=class_name, port=port)


@app.command("export-review", rich_help_panel="Review")
def export_review(
    name: RunArgument = "",
    run: SameRunOption = "",
    count: Annotated[int, typer.Option("--limit", min=1, help="Largest number of images.")] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON file to write (default: review.json in the run).")] = None,
    image_prefix: Annotated[str, typer.Option(help="Address before the photos' absolute paths.")] = LOCAL_FILES,
    images: SelectionOption = None,
    force: OverwriteOption = False,
) -> None:
    """Write the most uncertain images as tasks of Label Studio, the most uncertain first."""
    from pipeline.review import export_review as tool

    tool.run(chosen_run(named_run(name, run)), count, out, image_prefix=image_prefix, chosen=images, force=force)


@app.command("import-labels", rich_help_panel="Review")
def import_labels(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] TABLE",
            help="Run (leave it out with --run, or if there is only one). Then a CSV or Parquet table of reviewed images with image_id, and labels "
            "(joined by ;) or one column of 1, 0 or nothing per class; or an export of Label Studio.",
        ),
    ],
    *,
    run: SameRunOption = "",
    replace: Annotated[bool, typer.Option("--replace", help="Discard earlier corrections.")] = False,
) -> None:
    """Import corrected labels into a run; `fuse` uses them instead of the pseudo-labels."""
    from pipeline.review import import_labels as tool

    name, tables = split_target(arguments, run, "TABLE") if run or len(arguments) > 1 else ("", arguments)
    if len(tables) > 1:
        raise PipelineError(f"import-labels takes one table, not {' and '.join(tables)}.")
    folder = chosen_run(named_run(name, ""))
    with locked(folder):
        tool.run(Path(tables[0]), folder, replace=replace)
