"""Commands that help to choose a teacher and check it."""

from typing import Annotated, Literal

import typer

from pipeline.cli.app import DeviceOption, app
from pipeline.runs.options import EmbedConfig

SPEC = EmbedConfig.__dataclass_fields__["teacher"].metadata["help"]


@app.command(rich_help_panel="Housekeeping")
def teachers(
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure images per second of those that need no download.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """List teachers worth trying: download, cost per view, accuracy on objects, licence."""
    from pipeline.report.teachers import show_teachers

    show_teachers(measure, device)


@app.command(rich_help_panel="Housekeeping")
def check(
    teacher: Annotated[str, typer.Option(help=SPEC)] = EmbedConfig.teacher,
    device: DeviceOption = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Precision on CUDA; a CPU always uses float32.")
    ] = "float32",
) -> None:
    """Check a teacher on this machine: against its own package, and on objects. The output is fit for a bug report."""
    from pipeline.report.teachers import show_check

    if not show_check(teacher, device, precision):
        raise typer.Exit(1)
