"""Commands with which people correct labels."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import (
    LOCAL_FILES,
    OverwriteOption,
    RunArgument,
    RunOption,
    SelectionOption,
    app,
    chosen_run,
    named_run,
)
from pipeline.runs.lock import locked


@app.command(rich_help_panel="Review")
def review(
    name: RunArgument = "",
    run: RunOption = "",
    count: Annotated[int, typer.Option("--n", min=1, help="Most images.")] = 100,
    images: SelectionOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0 for any that is free.")] = 0,
) -> None:
    """Serve a page, to this machine alone, on which a person corrects labels; every answer is written at once."""
    from pipeline.review import server as tool

    tool.run(chosen_run(named_run(name, run)), count, chosen=images, port=port)


@app.command("review-list", rich_help_panel="Review")
def review_list(
    name: RunArgument = "",
    run: RunOption = "",
    count: Annotated[int, typer.Option("--n", min=1, help="Most images.")] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON file; by default review.json in the run.")] = None,
    image_prefix: Annotated[
        str, typer.Option(help="Address that the photos' absolute paths are appended to.")
    ] = LOCAL_FILES,
    images: SelectionOption = None,
    force: OverwriteOption = False,
) -> None:
    """Write the images whose correction would tell most, the most doubtful first, as tasks of Label Studio."""
    from pipeline.review import review_list as tool

    tool.run(chosen_run(named_run(name, run)), count, out, image_prefix=image_prefix, chosen=images, force=force)


@app.command("import-labels", rich_help_panel="Review")
def import_labels(
    source: Annotated[
        Path,
        typer.Argument(
            help="CSV with image_id and labels (joined by ;) or one column of 1, 0 or nothing per class, of the images "
            "that a person has looked at alone; or a JSON export of Label Studio."
        ),
    ],
    name: RunArgument = "",
    run: RunOption = "",
    replace: Annotated[bool, typer.Option("--replace", help="Forget what was imported before.")] = False,
) -> None:
    """Take corrections of people into a run; `fuse` uses them instead of the pseudo-labels."""
    from pipeline.review import import_labels as tool

    folder = chosen_run(named_run(name, run))
    with locked(folder):
        tool.run(source, folder, replace=replace)
