"""The command line: one command a stage, `all`, and what looks at a run. Parses, calls, and reports our errors."""

import inspect as python_inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pipeline.datasets.benchmarks import BENCHMARKS, fetch
from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError
from pipeline.machine.memory import keep_freed_memory
from pipeline.machine.progress import console, say, show
from pipeline.runs import settings
from pipeline.runs.config import Config
from pipeline.stages import STAGES, Stage
from pipeline.stages.chain import STAGE_NAMES, check_settings, run_chain, run_stage
from pipeline.tools import calibrate as calibrate_stage
from pipeline.tools import export as export_stage
from pipeline.tools import export_labels as export_labels_stage
from pipeline.tools import import_labels as import_labels_stage
from pipeline.tools import inspect as inspect_stage
from pipeline.tools import predict as predict_stage
from pipeline.tools import review_list as review_list_stage
from pipeline.tools.ablation import ablation_table, read_plan, run_plan
from pipeline.tools.calibrate import CalibrateConfig
from pipeline.tools.export import Format
from pipeline.tools.export_labels import Format as LabelFormat
from pipeline.tools.label_studio import LOCAL_FILES
from pipeline.tools.report import build as report_stage
from pipeline.tools.report.build import ReportConfig

ARTIFACTS = Path("artifacts")

app = typer.Typer(
    help="Photos and class names in, a multi-label classifier out: classifier-guided CLIP distillation, stage by stage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RunOption = Annotated[
    str, typer.Option("--run", envvar="CCD_RUN", help="Run: a name under artifacts/, or a folder's path.")
]
NewRunOption = Annotated[
    str,
    typer.Option(
        "--run",
        envvar="CCD_RUN",
        help="Run: a name under artifacts/, or a folder's path; by default the preset's or the photo folder's name.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps, or auto: CUDA where there is one.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Build even what is up to date.")]
PresetOption = Annotated[str, typer.Option(help=f"{', '.join(settings.shipped('presets'))}, or a .toml file.")]
RecipeOption = Annotated[
    str, typer.Option(help=f"{', '.join(settings.shipped('recipes'))}, or a .toml file; empty: the defaults.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any option of any stage; may be repeated.")
]


def run_folder(run: str) -> Path:
    """The folder of a run: what has a slash is a path, anything else a name under artifacts/."""
    # not a folder of that name in the working directory: photos in `photos` make the run artifacts/photos
    return Path(run) if "/" in run or os.sep in run else ARTIFACTS / run


def pick_device(name: str) -> str:
    """The torch device that a name stands for; "cuda" is this process's own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and 0 < torch.cuda.device_count() <= distributed.local_rank():
        raise PipelineError(
            f"there are {torch.cuda.device_count()} GPUs for {distributed.local_world_size()} processes; "
            "give torchrun one process a GPU, or try --device cpu."
        )
    try:
        torch.zeros(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise PipelineError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device cpu."
        ) from None
    return name


def option_parameters(kind: type[Config]) -> list[python_inspect.Parameter]:
    """An optional command-line parameter for every option of a stage; None means that it was not given."""
    parameters = []
    for item in fields(kind):
        meta = item.metadata
        default = item.default if item.default is not MISSING else item.default_factory()
        bounds = {key: meta[key] for key in ("min", "max") if meta[key] is not None and item.type in (int, float)}
        choice = typer.Option(help=meta["help"] + f" (default: {default!r})", show_default=False, **bounds)
        annotation = Annotated[item.type | None, choice]
        parameters.append(
            python_inspect.Parameter(
                item.name, python_inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )
    return parameters


def with_options(kind: type[Config]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that ends in `**given` the options of a stage in its place."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = python_inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own, *option_parameters(kind)])
        return command

    return decorate


def add_stage(stage: Stage) -> None:
    """Register the command of a stage."""

    @with_options(stage.config)
    def command(
        *, run: RunOption = "demo", device: DeviceOption = "auto", force: ForceOption = False, **given: Any
    ) -> None:
        folder = run_folder(run)
        own = settings.read_run(folder, STAGE_NAMES)
        given = {name: value for name, value in given.items() if value is not None}
        run_stage(stage, folder, own, pick_device(device), force, given)

    app.command(stage.name, help=stage.summary)(command)


@app.command("prepare", help=STAGES[0].summary)
@with_options(STAGES[0].config)
def prepare(
    *,
    run: NewRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
    assignments: SetOption = [],  # noqa: B006 - typer copies it
    force: ForceOption = False,
    **given: Any,
) -> None:
    """Begin a run: the first stage, and the only one that takes a preset."""
    folder, own = begin_run(run, preset, recipe, given, assignments)
    run_stage(STAGES[0], folder, own, "cpu", force)


@app.command("all")
@with_options(STAGES[0].config)
def run_all(
    *,
    run: NewRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
    assignments: SetOption = [],  # noqa: B006 - typer copies it
    device: DeviceOption = "auto",
    force: ForceOption = False,
    **given: Any,
) -> None:
    """Run every stage, from photos and class names to a trained classifier and its figures."""
    folder, own = begin_run(run, preset, recipe, given, assignments)
    run_chain(folder, own, pick_device(device), force)


def begin_run(
    run: str, preset: str, recipe: str, given: Mapping[str, Any], assignments: list[str]
) -> tuple[Path, settings.Settings]:
    """Folder and settings of a run that is begun or taken up again; the settings are kept in its `run.toml`."""
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("images") and not preset and given.get("kind", "folder") == "folder":
        preset = "folder"
    folder = run_folder(run or default_run(preset, given))
    own = compose(folder, preset, recipe, given, assignments)
    if distributed.is_main():
        settings.write_run(folder, own)
    return folder, own


def default_run(preset: str, given: Mapping[str, Any]) -> str:
    """Name of a run that was given none."""
    if given.get("images"):
        return Path(given["images"]).resolve().name
    return Path(preset or "demo").name.removesuffix(".toml")


def compose(
    folder: Path, preset: str, recipe: str, given: Mapping[str, Any], assignments: list[str]
) -> settings.Settings:
    """Settings of a run: the preset (or what the run has already), the recipe, and the command line on top."""
    own = settings.load("presets", preset, STAGE_NAMES) if preset else settings.read_run(folder, STAGE_NAMES)
    if recipe:
        own = own.merged(settings.load("recipes", recipe, STAGE_NAMES))
    tables: dict[str, dict[str, Any]] = {"prepare": dict(given)}
    for text in assignments:
        stage, option, value = settings.parse_assignment(text)
        tables.setdefault(stage, {})[option] = value
    own = own.merged(settings.Settings(tables, where=str(folder / settings.FILE)))
    check_settings(own)
    return own


for _stage in STAGES[1:]:
    add_stage(_stage)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Any artifact of a run, or a run folder.")],
    image: Annotated[str, typer.Option(help="Image id: also show that image's scores, boxes and labels.")] = "",
    picture: Annotated[
        bool, typer.Option("--show", help="With --image: write the photo with its boxes as a PNG.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="That PNG; by default the image's id in the current folder.")] = None,
    class_name: Annotated[str, typer.Option("--class", help="List the top and the doubtful images of a class.")] = "",
    compare: Annotated[
        Path | None, typer.Option(help="Another run or labels file: say how the two differ, and nothing else.")
    ] = None,
) -> None:
    """Show what an artifact holds: its origin, shapes and classes; or one image, one class, or two runs side by side."""
    if compare:
        inspect_stage.run_compare(path, compare)
    elif class_name:
        inspect_stage.run_class(path, class_name)
    elif picture and image:
        folder = path if path.is_dir() else path.parent
        inspect_stage.save_picture(folder, image, out or Path(image.replace("/", "_")).with_suffix(".png"))
    else:
        inspect_stage.run(path, image)


@app.command()
def ablation(
    plan: Annotated[str, typer.Argument(help="Plan that ships with the package (paper), or a .toml file.")] = "paper",
    run: RunOption = "demo",
    device: DeviceOption = "auto",
) -> None:
    """Run a plan of settings on the images of a run and compare them: label and classifier mAP, with intervals."""
    folder = run_folder(run)
    own = settings.read_run(folder, STAGE_NAMES)
    show(ablation_table(run_plan(folder, own, read_plan(plan), pick_device(device))))


ClassifierArgument = Annotated[Path, typer.Argument(help="classifier.pt of a run, or the run folder.")]
BatchOption = Annotated[int, typer.Option(min=1, max=4096, help="Images that go through the network together.")]


def classifier_file(path: Path) -> Path:
    """The classifier of a run folder, or the file that was given."""
    return path / "classifier.pt" if path.is_dir() else path


@app.command()
def predict(
    classifier: ClassifierArgument,
    images: Annotated[list[str], typer.Argument(help="Photos, folders (searched to any depth) and globs.")],
    out: Annotated[
        Path | None, typer.Option(help=".csv, .jsonl or .parquet file; by default CSV on standard output.")
    ] = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """Say which classes are in photos, with a trained classifier alone: labels by its thresholds, and scores."""
    predict_stage.run(classifier_file(classifier), images, out, batch_size=batch_size, device=pick_device(device))


@app.command()
@with_options(CalibrateConfig)
def calibrate(
    classifier: ClassifierArgument,
    labelled: Annotated[Path, typer.Argument(help="CSV or Parquet with the columns image and labels (joined by ;).")],
    *,
    out: Annotated[Path | None, typer.Option(help="File to write; by default calibrated.pt beside the other.")] = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = "auto",
    **given: Any,
) -> None:
    """Write a classifier file whose thresholds are those of highest F1 on labelled photos."""
    path = classifier_file(classifier)
    config = CalibrateConfig(**{name: value for name, value in given.items() if value is not None})
    out = out or path.with_name("calibrated.pt")
    calibrate_stage.run(path, labelled, out, config, batch_size=batch_size, device=pick_device(device))


@app.command("export-labels")
def export_labels(
    source: Annotated[Path, typer.Argument(help="Run folder (its final labels), labels file, or epoch_scores.h5.")],
    format: Annotated[LabelFormat, typer.Option(help="What to write.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File, or folder for yolo and imagefolder; by default beside it.")
    ] = None,
    copy_images: Annotated[
        bool, typer.Option("--copy", help="Copy photos into a folder, instead of linking them.")
    ] = False,
    image_prefix: Annotated[
        str, typer.Option(help="For label-studio: address that the photos' absolute paths are appended to.")
    ] = LOCAL_FILES,
) -> None:
    """Write labels and scores for another tool: a table, COCO, Label Studio, FiftyOne, cleanlab, YOLO, imagefolder."""
    export_labels_stage.run(source, format, out, copy_images=copy_images, image_prefix=image_prefix)


@app.command("import-labels")
def import_labels(
    source: Annotated[
        Path,
        typer.Argument(
            help="CSV with image_id and labels (joined by ;) or a column of 1, 0 or nothing a class, of the images that "
            "a person has looked at alone; or a JSON export of Label Studio."
        ),
    ],
    run: RunOption = "demo",
    replace: Annotated[bool, typer.Option("--replace", help="Forget what was imported before.")] = False,
) -> None:
    """Take corrections of people into a run; `fuse` puts them in the place of the pseudo-labels."""
    import_labels_stage.run(source, run_folder(run), replace=replace)


@app.command("review-list")
def review_list(
    run: RunOption = "demo",
    count: Annotated[int, typer.Option("--n", min=1, help="Most images.")] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON file; by default review.json in the run.")] = None,
    image_prefix: Annotated[
        str, typer.Option(help="Address that the photos' absolute paths are appended to.")
    ] = LOCAL_FILES,
) -> None:
    """Write the images whose correction would tell most, the most doubtful first, as tasks of Label Studio."""
    review_list_stage.run(run_folder(run), count, out, image_prefix=image_prefix)


@app.command()
@with_options(ReportConfig)
def report(*, run: RunOption = "demo", **given: Any) -> None:
    """Write report.html: what happened in a run, as charts and images on one page that opens from disk."""
    config = ReportConfig(**{name: value for name, value in given.items() if value is not None})
    report_stage.run(run_folder(run), config)


@app.command()
def export(
    classifier: ClassifierArgument,
    format: Annotated[Format, typer.Option(help="What to write.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default beside the classifier, with the format's ending.")
    ] = None,
) -> None:
    """Write a classifier as an ONNX or torch.export model, and check that it gives the same scores."""
    export_stage.run(classifier_file(classifier), format, out)


@app.command()
def download(
    benchmark: Annotated[str, typer.Argument(help=f"{', '.join(BENCHMARKS)}.")],
    root: Annotated[Path, typer.Option(help="Folder for the archives and the images, the --root of `prepare` later.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder with the same archives; by default the official servers.")
    ] = None,
) -> None:
    """Fetch a benchmark dataset and unpack it; a second call continues where the first one was interrupted."""
    fetch(benchmark, root, mirror)
    say(f"{root}: {benchmark} is complete. Go on with `ccd all --preset {benchmark} --root {root}`.")


INTERRUPTED = 130
"""Exit code of a command that was ended by Ctrl-C; Typer turns the exception into it."""


def main() -> None:
    """Entry point: turns what a user can mend, and Ctrl-C, into one line and an exit code."""
    keep_freed_memory()
    try:
        distributed.join()
        app()
    except PipelineError as error:
        process = "" if distributed.is_main() else f"process {distributed.rank()}: "
        console.print(f"{process}error: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            say(f"interrupted; what is finished is kept. Continue with `{shlex.join(['ccd', *sys.argv[1:]])}`.")
        raise
    finally:
        distributed.leave()


if __name__ == "__main__":
    main()
