"""Commands that show a run or a file of it."""

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


@app.command(rich_help_panel="Housekeeping")
def inspect(
    path: Annotated[
        str, typer.Argument(metavar="RUN_OR_FILE", help="Name of a run, run folder, or file of a run.")
    ] = "",
    image: Annotated[str, typer.Option(help="Image id: also print the scores, boxes and labels of this image.")] = "",
    picture: Annotated[
        bool, typer.Option("--show", help="With --image: write the photo with its boxes as a PNG file.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --show: PNG file to write (default: the image id, in the current folder).")
    ] = None,
    class_name: Annotated[
        str, typer.Option("--class", help="List the top and the most uncertain images of a class.")
    ] = "",
    compare: Annotated[str, typer.Option(help="Another run or labels file: print only how the two differ.")] = "",
    force: Annotated[bool, typer.Option("--force", help="With --show: replace an existing PNG file.")] = False,
    run: RunOption = "",
) -> None:
    """Print an artifact's origin, shapes and classes; or one image, one class, or how two runs differ."""
    from pipeline.report import inspect as tool

    target = named_run(path, run)
    source = run_or_file(target) if target else chosen_run("")
    if compare:
        tool.run_compare(source, run_or_file(compare))
    elif class_name:
        tool.run_class(source, class_name)
    elif picture and image:
        folder = source if source.is_dir() else source.parent
        out = out or Path(image.replace("/", "_")).with_suffix(".png")
        check_free(out, force=force)
        tool.save_picture(folder, image, out)
    else:
        tool.run(source, image)


@app.command(rich_help_panel="Start")
@with_options(ReportConfig)
def report(
    pair: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN OTHER",
            help="Run to report on; with a second run, the page shows how it differs from the first.",
        ),
    ] = None,
    *,
    run: RunOption = "",
    **given: Any,
) -> None:
    """Write the report of a run, report.html: charts and images on one page that opens from disk."""
    config = ReportConfig(**given_options(given))
    if len(pair or []) < 2:
        from pipeline.report import build

        build.run(chosen_run(named_run(pair[0] if pair else "", run)), config)
    elif len(pair) == 2 and not run:
        from pipeline.report import versus

        versus.run(existing_run(pair[0]), existing_run(pair[1]), config)
    else:
        raise PipelineError("`ccd report A B` compares two runs; `ccd report NAME` shows one.")
