"""Commands that show a run or a file of one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.app import RunOption, app, chosen_run, given_options, named_run, with_options
from pipeline.runs.folders import (
    check_free,
    existing_run,
    run_or_file,
)
from pipeline.runs.options import ReportConfig
from pipeline.system.errors import PipelineError


@app.command(rich_help_panel="Report")
def inspect(
    path: Annotated[
        str, typer.Argument(metavar="RUN_OR_FILE", help="The name of a run, a run folder, or any file of a run.")
    ] = "",
    image: Annotated[str, typer.Option(help="Image id: also show that image's scores, boxes and labels.")] = "",
    picture: Annotated[
        bool, typer.Option("--show", help="With --image: write the photo with its boxes as a PNG.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="That PNG; by default the image's id in the current folder.")] = None,
    class_name: Annotated[str, typer.Option("--class", help="List the top and the doubtful images of a class.")] = "",
    compare: Annotated[
        str, typer.Option(help="Another run or labels file: say how the two differ, and nothing else.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="With --show: replace a PNG that is there already.")] = False,
    run: RunOption = "",
) -> None:
    """Show what an artifact holds: its origin, shapes and classes; or one image, one class, or two runs side by side."""
    from pipeline.report import inspect as tool

    target = named_run(path, run)
    found = run_or_file(target) if target else chosen_run("")
    if compare:
        tool.run_compare(found, run_or_file(compare))
    elif class_name:
        tool.run_class(found, class_name)
    elif picture and image:
        folder = found if found.is_dir() else found.parent
        out = out or Path(image.replace("/", "_")).with_suffix(".png")
        check_free(out, force=force)
        tool.save_picture(folder, image, out)
    else:
        tool.run(found, image)


@app.command(rich_help_panel="Report")
@with_options(ReportConfig)
def report(
    pair: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN OTHER", help="One run, or two: then a page of how the second differs from the first."
        ),
    ] = None,
    *,
    run: RunOption = "",
    **given: Any,
) -> None:
    """Write report.html: what happened in a run, as charts and images on one page that opens from disk."""
    config = ReportConfig(**given_options(given))
    if len(pair or []) < 2:
        from pipeline.report import build

        build.run(chosen_run(named_run(pair[0] if pair else "", run)), config)
    elif len(pair) == 2 and not run:
        from pipeline.report import versus

        versus.run(existing_run(pair[0]), existing_run(pair[1]), config)
    else:
        raise PipelineError("`ccd report A B` compares two runs; `ccd report --run NAME` shows one.")
