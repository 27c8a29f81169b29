"""The command line: one command per stage, `all`, and what looks at a run. Parses, calls, and reports our errors."""

import inspect as python_inspect
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand, TyperOption

from pipeline.exchange.formats import FORMATS
from pipeline.runs import settings
from pipeline.runs.config import Config, each_of
from pipeline.runs.folders import (
    check_free,
    discard,
    existing_run,
    known_runs,
    missing_folders,
    run_folder,
    run_or_file,
)
from pipeline.runs.graph import STAGE_NAMES, STAGES, Stage, find_stage, options_of, run_argument, up_to
from pipeline.runs.lock import locked
from pipeline.runs.options import CalibrateConfig, EmbedConfig, PrepareConfig, ReportConfig, ServeConfig
from pipeline.system import distributed, interrupts
from pipeline.system.errors import PipelineError, first_line, printable
from pipeline.system.memory import keep_freed_memory
from pipeline.system.progress import console, say, show


class OnceCommand(TyperCommand):
    """A command that refuses an option that is given twice, where click would silently take the last value."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the command line, as click does, after the check."""
        options = [each for each in self.params if isinstance(each, TyperOption) and not each.multiple]
        once = [name for option in options if not option.is_flag for name in option.opts]
        own = args[: args.index("--")] if "--" in args else args
        names = [arg.partition("=")[0] for arg in own]
        for name in once:
            if names.count(name) > 1:
                raise PipelineError(f"{name} is given {names.count(name)} times, expected once. Choose one value.")
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """An app whose commands are all `OnceCommand`."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command."""
        return super().command(name, cls=OnceCommand, **settings)


app = App(
    help="Photos and class names in, a multi-label classifier out: classifier-guided CLIP distillation, stage by stage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names a file below its document root."""

RunOption = Annotated[
    str,
    typer.Option(
        "--run",
        help="Run: a name under artifacts/, or a folder's path; needed where there are several. The variable CCD_RUN sets it too.",
    ),
]
RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Run: a name under artifacts/, or a folder's path; the same as --run."),
]
TargetOption = Annotated[
    str, typer.Option("--run", help="Run, instead of the first argument: a name under artifacts/, or a folder's path.")
]
NewRunOption = Annotated[
    str,
    typer.Option(
        "--run",
        help="Run: a name under artifacts/, or a folder's path; by default the preset's or the photo folder's name.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps, or auto: CUDA where there is one.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Build even what is up to date.")]
ResetOption = Annotated[bool, typer.Option("--reset", help="Forget what the run was told before.")]
PresetOption = Annotated[str, typer.Option(help=f"{', '.join(settings.shipped('presets'))}, or a .toml file.")]
RecipeOption = Annotated[
    str, typer.Option(help=f"{', '.join(settings.shipped('recipes'))}, or a .toml file; empty: the defaults.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any option of any stage; may be repeated.")
]


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ccd {version('ccd-pipeline')}")
        raise typer.Exit


@app.callback()
def main_options(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors and what was asked for.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show where in the code an error arose; of `serve`, every request.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Photos and class names in, a multi-label classifier out: classifier-guided CLIP distillation, stage by stage."""
    console.quiet = quiet
    reporting["traceback"] = verbose


reporting = {"traceback": False}
"""How errors are reported: with a traceback or as one line."""


def named_run(argument: str, option: str) -> str:
    """The run that an argument or --run names, or else the environment; empty for none.

    Raises:
        PipelineError: both name one, and not the same.
    """
    if argument and option and argument != option:
        raise PipelineError(f"two runs are named, {argument} and --run {option}. Name one.")
    return argument or option or os.environ.get("CCD_RUN", "")


def split_target(arguments: list[str], run: str, rest: str) -> tuple[str, list[str]]:
    """The run or file that a command uses, and its other arguments: the first argument, or --run.

    Raises:
        PipelineError: there are too few arguments; `rest` names what should follow.
    """
    target, others = (run, arguments) if run else (arguments[0], arguments[1:])
    if not others:
        raise PipelineError(f"there is only {target!r}. Name a run or a file of one, and then {rest}.")
    return target, others


def chosen_run(run: str) -> Path:
    """The folder of the run that a command is about: the one that was named, or the only one that there is."""
    known = known_runs()
    if not run and len(known) != 1:
        found = f"there are {', '.join(known)}" if known else "there is none yet"
        raise PipelineError(f"which run? Say it with --run NAME; {found}.")
    return existing_run(run or known[0])


def given_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were given on the command line; the others are None. One value of several is that value."""
    values = {name: value for name, value in given.items() if value is not None}
    return {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in values.items()}


def option_parameters(kind: type[Config]) -> list[python_inspect.Parameter]:
    """An optional command-line parameter for every option of a stage; None means that it was not given."""
    parameters = []
    for item in fields(kind):
        meta = item.metadata
        default = item.default if item.default is not MISSING else item.default_factory()
        bounds = {key: meta[key] for key in ("min", "max") if meta[key] is not None and item.type in (int, float)}
        panel = f"Datasets of kind {', '.join(meta['kinds'])}" if meta["kinds"] else None
        text = meta["help"] + f" (default: {default!r})"
        choice = typer.Option(help=text, show_default=False, rich_help_panel=panel, **bounds)
        kind_of_value = list[str] if meta["several"] else item.type
        annotation = Annotated[kind_of_value | None, choice]
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

    @with_options(options_of(stage))
    def command(
        name: RunArgument = "",
        *,
        run: RunOption = "",
        device: DeviceOption = "auto",
        force: ForceOption = False,
        **given: Any,
    ) -> None:
        from pipeline.stages.chain import run_stage

        folder = chosen_run(named_run(name, run))
        with locked(folder):
            before = settings.read_run(folder)
            if not (folder / settings.FILE).exists():
                say(f"warning: {folder} has no {settings.FILE}, so this stage runs with the default settings.")
            own = before.merged(settings.Settings({stage.name: given_options(given)}, where=before.where)).absolute()
            run_stage(stage, folder, own, device, force)
            keep_settings(folder, before, own)
            if stage.name == "evaluate":
                show_figures(folder)

    app.command(stage.name, help=stage.summary)(command)


@app.command("prepare", help=find_stage("prepare").summary)
@with_options(PrepareConfig)
def prepare(
    name: RunArgument = "",
    *,
    run: NewRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
    assignments: SetOption = [],  # noqa: B006 - typer copies it
    force: ForceOption = False,
    reset: ResetOption = False,
    **given: Any,
) -> None:
    """Begin a run: the first stage, and with `all` the only one that takes a preset."""
    with begun_run(named_run(name, run), preset, recipe, given_options(given), assignments, reset, force):
        pass


@app.command("all")
@with_options(PrepareConfig)
def run_all(
    name: RunArgument = "",
    *,
    run: NewRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
    assignments: SetOption = [],  # noqa: B006 - typer copies it
    device: DeviceOption = "auto",
    force: ForceOption = False,
    reset: ResetOption = False,
    to: Annotated[str, typer.Option("--to", help=f"Last stage to run: one of {', '.join(STAGE_NAMES)}.")] = "evaluate",
    **given: Any,
) -> None:
    """Run every stage, from photos and class names to a trained classifier and its figures."""
    from pipeline.stages.chain import run_chain
    from pipeline.stages.plan import say_end

    if to not in STAGE_NAMES:
        raise PipelineError(f"--to names the stage {to!r}, expected one of {', '.join(STAGE_NAMES)}.")
    with begun_run(named_run(name, run), preset, recipe, given_options(given), assignments, reset, force) as (
        folder,
        own,
    ):
        run_chain(folder, own, device, force, up_to(to)[1:])
        if to == "evaluate" and is_measured(folder):
            show_figures(folder)
        say_end(folder)


@contextmanager
def begun_run(
    run: str, preset: str, recipe: str, given: dict[str, Any], assignments: list[str], reset: bool, force: bool
) -> Iterator[tuple[Path, settings.Settings]]:
    """Folder and settings of a run that is begun or taken up again, with its images prepared and its folder locked.

    The settings are kept in the run's `run.toml` once the images are there: a command that fails changes nothing.
    """
    from pipeline.stages.chain import run_stage

    if given.get("images") and not preset and given.get("kind", "folder") == "folder":
        preset = "folder"
    folder = run_folder(run or default_run(preset, given))
    before = settings.Settings() if reset else settings.read_run(folder)
    own = compose(folder, before, preset, recipe, given, assignments)
    check_kind(folder, own, given)
    check_new_reuse(before, own)
    if not run and not reset:
        check_same_photos(folder, before, own)
    new = missing_folders(folder)
    with locked(folder):
        try:
            run_stage(STAGES[0], folder, own, "cpu", force)
        except (PipelineError, OSError):
            if distributed.is_main():
                discard(folder, new)
            raise
        keep_settings(folder, before, own)
        yield folder, own


def check_new_reuse(before: settings.Settings, own: settings.Settings) -> None:
    """Raise where another run is newly named as a source of embeddings and cannot be one, before photos are read."""
    embed = own.config("embed", EmbedConfig, {})
    if embed.known_from and not embed.precomputed and embed != before.config("embed", EmbedConfig, {}):
        from pipeline.teachers.embedding_cache import check_reuse

        check_reuse(embed)


def keep_settings(folder: Path, before: settings.Settings, own: settings.Settings) -> None:
    """Write the settings of a run where they are new, and print what changed in them.

    Unchanged settings are not written, so that the comments of whoever edits the file stay.
    """
    if distributed.is_main() and (own != before or not (folder / settings.FILE).exists()):
        if before.tables:
            for line in before.changes(own):
                say(f"changed for this run: {line}")
        settings.write_run(folder, own)


def default_run(preset: str, given: Mapping[str, Any]) -> str:
    """Name of a run that was given none."""
    if sources := each_of(given.get("images") or ""):
        from pipeline.datasets.folder import name_of

        name = name_of(sources[0])
        if not name:
            raise PipelineError(f"{sources[0]} has no name to call the run by. Name the run with --run.")
        return name
    if not preset:
        raise PipelineError(
            'nothing says which photos: give --images DIR --classes "dog,cat,car", or --preset demo (scenes that ship '
            "with ccd), voc12 and the like, or --run NAME of a run that has been begun."
        )
    return Path(preset).name.removesuffix(".toml")


def compose(
    folder: Path,
    before: settings.Settings,
    preset: str,
    recipe: str,
    given: Mapping[str, Any],
    assignments: list[str],
) -> settings.Settings:
    """Settings of a run: what it has already, the preset, the recipe, and the command line on top."""
    where = str(folder / settings.FILE)
    own = before.given("preset", preset).given("recipe", recipe)
    own = own.merged(settings.Settings({"prepare": dict(given)}, where=where))
    own = own.merged(settings.assignments_to_settings(assignments, where))
    own.check()
    return own.absolute()


def check_kind(folder: Path, own: settings.Settings, given: Mapping[str, Any]) -> None:
    """Raise where no dataset is named, or an option is given that another kind of dataset has."""
    kind = own.tables.get("prepare", {}).get("kind", "")
    if not kind:
        raise PipelineError(
            f'nothing says which photos {folder} is about: give --images DIR --classes "dog,cat,car", or --preset demo, '
            "voc12 and the like."
        )
    for item in fields(PrepareConfig):
        if item.name in given and item.metadata["kinds"] and kind not in item.metadata["kinds"]:
            name = item.name.replace("_", "-")
            raise PipelineError(
                f"--{name} is for datasets of kind {' or '.join(item.metadata['kinds'])}, and this one is of kind {kind}."
            )


def check_same_photos(folder: Path, before: settings.Settings, own: settings.Settings) -> None:
    """Raise where a run of the same name has other photos, and nobody said that it is meant."""
    old, new = (each.tables.get("prepare", {}).get("images", "") for each in (before, own))
    if old and new and real_places(old) != real_places(new):
        raise PipelineError(
            f"{folder} is the run of {old}. Name another run for {new} with --run, or say --run {run_argument(folder)} "
            "if the same photos lie there now."
        )


def real_places(sources: str | list[str]) -> list[str]:
    """Sources with links followed; addresses as they are."""
    return [each if "://" in each else str(Path(each).expanduser().resolve()) for each in each_of(sources)]


def is_measured(folder: Path) -> bool:
    """Whether a run has figures of its present labels: those that have been taken away leave old ones behind."""
    from pipeline.artifacts.state import file_states

    return file_states(folder)["metrics.json"].state == "current"


def show_figures(folder: Path) -> None:
    """Print the tables of a measured run."""
    from pipeline.evaluation.tables import show_metrics

    if distributed.is_main():
        show_metrics(folder)


for _stage in STAGES[1:]:
    add_stage(_stage)


@app.command()
def plan(name: RunArgument = "", run: RunOption = "") -> None:
    """Print what `all` would do for a run, and about how long it would take; builds nothing."""
    from pipeline.stages.plan import show_plan

    folder = chosen_run(named_run(name, run))
    own = settings.read_run(folder)
    check_kind(folder, own, {})
    show_plan(folder, own)


@app.command()
def runs() -> None:
    """List the runs under artifacts/."""
    from pipeline.report.runs import show_runs

    show_runs()


@app.command()
def config(name: RunArgument = "", run: RunOption = "") -> None:
    """Print the settings of a run, and where each comes from."""
    from pipeline.report.runs import show_config

    folder = chosen_run(named_run(name, run))
    show_config(folder, settings.read_run(folder))


@app.command()
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


@app.command()
def ablation(
    plan: Annotated[str, typer.Argument(help="Plan that ships with the package (paper), or a .toml file.")] = "paper",
    name: RunArgument = "",
    run: RunOption = "",
    device: DeviceOption = "auto",
) -> None:
    """Run a plan of settings on the images of a run and compare them: label and classifier mAP, with intervals."""
    from pipeline.study.ablation import ablation_table, read_plan, run_plan

    folder = chosen_run(named_run(name, run))
    with locked(folder):
        show(ablation_table(run_plan(folder, settings.read_run(folder), read_plan(plan), device)))


ClassifierArgument = Annotated[
    str,
    typer.Argument(metavar="RUN_OR_FILE", help="The name of a run, a run folder, or a file such as classifier.pt."),
]
BatchOption = Annotated[int, typer.Option(min=1, max=4096, help="Images that go through the network together.")]


OverwriteOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


def classifier_file(target: str) -> Path:
    """The classifier of a run (the only one, if none is named), or the file that was given."""
    from pipeline.deploy.files import trained_file

    found = run_or_file(target) if target else chosen_run("")
    return trained_file(found) if found.is_dir() else found


def classifier_to_use(target: str) -> Path:
    """The classifier of a run (the only one, if none is named) as it is used for prediction, or the file that was given."""
    from pipeline.deploy import files

    return files.classifier_to_use(target or chosen_run(""))


@app.command()
def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE IMAGES",
            help="A run or a classifier file, unless --run names it; then photos, videos, folders (searched to any depth), globs, addresses, lists of them (.txt, .csv, .parquet, or - for "
            "standard input), Parquet files with images in them, tars, zips.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help=".csv, .jsonl or .parquet file; by default CSV on standard output.")
    ] = None,
    exclude: Annotated[
        list[str],
        typer.Option(help="Names to pass over, as '*_thumb.jpg' or 'raw': of files or folders; may be repeated."),
    ] = [],  # noqa: B006 - typer copies it
    every: Annotated[float, typer.Option(min=0.001, help="Seconds between two frames of a video.")] = 1.0,
    batch_size: BatchOption = 16,
    device: DeviceOption = "auto",
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"],
        typer.Option(
            envvar="CCD_ENGINE",
            help="What runs the network on a CPU; auto: torch. onnxruntime: `pip install '.\\[onnx]'`, openvino: "
            "`pip install '.\\[openvino]'`.",
        ),
    ] = "auto",
    force: OverwriteOption = False,
    run: TargetOption = "",
) -> None:
    """Say which classes are in photos, with a trained classifier alone: labels by its thresholds, and scores."""
    from pipeline.deploy import predict as tool
    from pipeline.system.devices import pick_device

    check_free(out, force=force)
    target, images = split_target(arguments, run, "IMAGES")
    path = classifier_to_use(target)
    options = {"every": every, "batch_size": batch_size, "engine": engine, "exclude": exclude}
    tool.run(path, images, out, device=pick_device(device), **options)


@app.command()
@with_options(ServeConfig)
def serve(
    classifier: ClassifierArgument = "", *, run: RunOption = "", device: DeviceOption = "auto", **given: Any
) -> None:
    """Answer requests with photos, to this machine alone by default: /predict, /classes, /healthz, and a page at /."""
    from pipeline.deploy import serve as tool
    from pipeline.system.devices import pick_device

    path = classifier_to_use(named_run(classifier, run))
    config = ServeConfig(**given_options(given))
    tool.run(path, config, device=pick_device(device), verbose=reporting["traceback"])


@app.command()
@with_options(CalibrateConfig)
def calibrate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE LABELLED",
            help="A run or a classifier file, unless --run names it; then a CSV or Parquet with the columns image and labels (joined by ;), or a .json file of thresholds by class, "
            "as the report gives them.",
        ),
    ],
    *,
    run: TargetOption = "",
    out: Annotated[Path | None, typer.Option(help="File to write; by default calibrated.pt beside the other.")] = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = "auto",
    force: OverwriteOption = False,
    **given: Any,
) -> None:
    """Write a classifier file whose thresholds are those of highest F1 on labelled photos, or those of a file."""
    from pipeline.deploy import calibrate as tool
    from pipeline.system.devices import pick_device

    target, tables = split_target(arguments, run, "LABELLED")
    if len(tables) > 1:
        raise PipelineError(f"calibrate takes one file of labels or thresholds, not {' and '.join(tables)}.")
    path, labelled = classifier_file(target), Path(tables[0])
    options = CalibrateConfig(**given_options(given))
    out = out or path.with_name("calibrated.pt")
    check_free(out, force=force)
    if labelled.suffix.lower() == ".json":
        tool.run_given(path, labelled, out)
        return
    tool.run(path, labelled, out, options, batch_size=batch_size, device=pick_device(device))


@app.command("export-labels")
def export_labels(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_FILE", help="Run (its final labels), labels file, or epoch_scores.h5 (the test images)."
        ),
    ] = "",
    format: Annotated[
        Literal[*FORMATS],
        typer.Option(help="What to write."),
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File, or folder where the format is one; by default beside it.")
    ] = None,
    part: Annotated[
        Literal["train", "test", "both"] | None,
        typer.Option(
            "--split",
            help="Of a run: its final labels (train, the default), the classifier's labels of the test images, or both.",
        ),
    ] = None,
    boxes: Annotated[
        bool,
        typer.Option("--boxes", help="Take the boxes along: where the classifier looked, not the extent of objects."),
    ] = False,
    copy_images: Annotated[
        bool, typer.Option("--copy", help="Copy photos into a folder, instead of linking them.")
    ] = False,
    image_prefix: Annotated[
        str | None,
        typer.Option(
            help=f"For label-studio: address that the photos' absolute paths are appended to (default: {LOCAL_FILES})."
        ),
    ] = None,
    force: OverwriteOption = False,
    run: RunOption = "",
) -> None:
    """Write labels and scores for another tool: tables, COCO, VOC, YOLO, CVAT, Label Studio, FiftyOne, cleanlab, datasets."""
    from pipeline.exchange import export_labels as tool

    places = {"copy_images": copy_images, "image_prefix": image_prefix, "force": force}
    target = named_run(source, run)
    tool.run(run_or_file(target) if target else chosen_run(""), format, out, part=part, boxes=boxes, **places)


@app.command("import-labels")
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
    """Take corrections of people into a run; `fuse` puts them in the place of the pseudo-labels."""
    from pipeline.review import import_labels as tool

    folder = chosen_run(named_run(name, run))
    with locked(folder):
        tool.run(source, folder, replace=replace)


SelectionOption = Annotated[
    Path | None, typer.Option(help="CSV with the column image_id, as the report saves a selection: only these.")
]


@app.command("review-list")
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


@app.command()
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


@app.command()
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


@app.command()
def export(
    classifier: ClassifierArgument = "",
    format: Annotated[
        Literal["onnx", "torch-export", "hub"],
        typer.Option(help="What to write; hub: a folder for the Hugging Face Hub. Nothing is uploaded."),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default beside the classifier, with the format's ending.")
    ] = None,
    force: OverwriteOption = False,
    run: RunOption = "",
) -> None:
    """Write a classifier as an ONNX or torch.export model or a folder for the Hub, and check that it gives the same scores."""
    path = classifier_to_use(named_run(classifier, run))
    if format == "hub":
        from pipeline.deploy import hub

        hub.run(path, out, force=force)
        return
    from pipeline.deploy import export as tool

    tool.run(path, format, out, force=force)


@app.command()
def download(
    benchmark: Annotated[Literal["voc07", "voc12", "coco14"], typer.Argument(help="What to fetch.")],
    root: Annotated[Path, typer.Option(help="Folder for the archives and the images, the --root of `prepare` later.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder with the same archives; by default the official servers.")
    ] = None,
) -> None:
    """Fetch a benchmark dataset and unpack it; a second call continues where the first one was interrupted."""
    from pipeline.datasets.benchmarks import fetch

    fetch(benchmark, root, mirror)
    say(f"{root}: {benchmark} is complete. Go on with `ccd all --preset {benchmark} --root {shlex.quote(str(root))}`.")


INTERRUPTED = 130
"""Exit code of a command that was ended by Ctrl-C; Typer turns the exception into it."""


KEEPS_WORK = {"prepare", "all", "ablation", "download", *(stage.name for stage in STAGES if stage.asks)}
"""Commands that go on where they were stopped; the others start from the beginning."""


def next_step(arguments: Sequence[str]) -> str:
    """What a command that was ended by Ctrl-C leaves, and how to go on."""
    command = next((each for each in arguments if not each.startswith("-")), "")
    typed = f"`{shlex.join(['ccd', *arguments])}`"
    if command in KEEPS_WORK:
        return f"finished work is kept. Continue with {typed}"
    return f"nothing of its work is kept. Start again with {typed}"


def end_with(error: BaseException, text: str) -> NoReturn:
    """Report what ended a command in one line, after the traceback where it was asked for, and end with exit code 1."""
    if reporting["traceback"]:
        traceback.print_exception(error)
    process = "" if distributed.is_main() else f"process {distributed.rank()}: "
    console.quiet = False
    console.print(f"{process}error: {printable(text)}", style="red", soft_wrap=True, markup=False)
    sys.exit(1)


def main() -> None:
    """Entry point: turns what a user can mend, and Ctrl-C, into one line and an exit code."""
    keep_freed_memory()
    interrupts.watch()
    try:
        distributed.join()
        app()
    except PipelineError as error:
        end_with(error, str(error))
    except BrokenPipeError:
        # whoever read our output, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # a disk, a folder or a device that fails where nothing more is known of what was done
        end_with(error, f"{first_line(error)}. Check the disk and the permissions.")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            say(f"interrupted; {next_step(sys.argv[1:])}.")
        raise
    finally:
        distributed.leave()
