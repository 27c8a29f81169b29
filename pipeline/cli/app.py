"""The Typer application, the options that commands share, and how a command names a run."""

import inspect as python_inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from pipeline.runs import settings
from pipeline.runs.config import Config
from pipeline.runs.folders import (
    existing_run,
    known_runs,
)
from pipeline.system.errors import PipelineError
from pipeline.system.progress import console


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


ClassifierArgument = Annotated[
    str,
    typer.Argument(metavar="RUN_OR_FILE", help="The name of a run, a run folder, or a file such as classifier.pt."),
]


BatchOption = Annotated[int, typer.Option(min=1, max=4096, help="Images that go through the network together.")]


OverwriteOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


SelectionOption = Annotated[
    Path | None, typer.Option(help="CSV with the column image_id, as the report saves a selection: only these.")
]


reporting = {"traceback": False}
"""How errors are reported: with a traceback or as one line."""


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
    """Give a command that ends in `**given` the options of a stage instead of it."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = python_inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own, *option_parameters(kind)])
        return command

    return decorate
