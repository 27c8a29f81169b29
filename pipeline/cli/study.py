"""Commands for research: ablations and benchmark datasets."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.app import DeviceOption, RunArgument, SameRunOption, app, chosen_run, named_run
from pipeline.runs import settings
from pipeline.runs.lock import locked
from pipeline.system.progress import log, show


@app.command(rich_help_panel="Research")
def ablation(
    name: RunArgument = "",
    run: SameRunOption = "",
    plan: Annotated[
        str,
        typer.Option(
            help="Plan of settings: paper or methods, which ship with ccd, or a .toml file (docs/studies.md has an example)."
        ),
    ] = "paper",
    device: DeviceOption = "auto",
) -> None:
    """Compare settings on the images of a run: label mAP and classifier mAP with intervals, per row of a plan."""
    from pipeline.study.ablation import ablation_table, read_plan, run_plan

    folder = chosen_run(named_run(name, run))
    content = read_plan(plan)
    with locked(folder):
        show(ablation_table(run_plan(folder, settings.read_run(folder), content, device)))
    if content.note:
        log(content.note)
    file = folder / "ablation" / content.name
    log(f"All columns: {file}.md; per seed: {file}.csv; picture: {file}.png.")


@app.command(rich_help_panel="Research")
def download(
    benchmark: Annotated[Literal["voc07", "voc12", "coco14"], typer.Argument(help="Benchmark to download.")],
    root: Annotated[Path, typer.Option(help="Folder for archives and images; pass it to `prepare` as --root.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder with the same archives (default: the official servers).")
    ] = None,
) -> None:
    """Download and unpack a benchmark dataset; repeat the command to continue after an interruption."""
    from pipeline.datasets.benchmarks import fetch

    fetch(benchmark, root, mirror)
    log(
        f"{root}: {benchmark} is complete. Continue with `ccd all --preset {benchmark} --root {shlex.quote(str(root))}`."
    )
