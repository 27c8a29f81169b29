"""The Typer application, the options that commands share, and how a command names a run."""

import inspect as python_inspect
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup, TyperOption

from pipeline.runs import settings
from pipeline.runs.config import Config
from pipeline.runs.folders import (
    existing_run,
    known_runs,
)
from pipeline.system.errors import PipelineError
from pipeline.system.progress import console
from pipeline.system.text import check_text

PANELS = ("Start", "Review", "Export", "Stages", "Research", "Housekeeping")
"""Groups of commands, in the order of `ccd --help`."""

LEADING = (
    *("run", "images", "classes", "test_images", "labels", "teacher", "backbone", "device"),
    *("epochs", "batch_size", "image_size", "seed", "recipe"),
)
"""Options that the help of a command lists first."""

NEEDED = ("images", "classes")
"""Options that a first run without a preset needs."""


class ShortHelp:
    """Help that fits 80 columns: no type next to a flag, and an option and its negation in one column."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:
        """Print the help."""
        shown = copy(self)
        shown.get_params = lambda ctx: [shown_parameter(each) for each in self.get_params(ctx)]
        super(ShortHelp, shown).format_help(ctx, formatter)


def shown_parameter(parameter: Any) -> Any:
    """A parameter as the help shows it; parsing uses the original."""
    shown = copy(parameter)
    if getattr(parameter, "is_flag", False):
        shown.metavar = ""
        if parameter.secondary_opts:
            shown.opts, shown.secondary_opts = [f"--[no-]{parameter.opts[0].removeprefix('--')}"], []
    elif getattr(parameter, "multiple", False) and parameter.metavar is None:
        shown.metavar = "<str>"
    elif parameter.metavar in ("<int>", "<float>"):
        shown.min = shown.max = None  # its help has the range
    return shown


class PanelGroup(ShortHelp, TyperGroup):
    """The group of all commands, listed by panel."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Names of the commands in the order of `PANELS`; any other panel comes last."""
        panels = {name: command.rich_help_panel for name, command in self.commands.items()}
        return sorted(super().list_commands(ctx), key=lambda name: (*PANELS, panels[name]).index(panels[name]))


class OnceCommand(ShortHelp, TyperCommand):
    """A command that rejects a repeated option; click would silently take the last value."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Check for repeated options and text that is not UTF-8, then parse as click does."""
        for argument in args:
            check_text(argument, "the command line")
        options = [each for each in self.params if isinstance(each, TyperOption) and not each.multiple]
        once = [name for option in options if not option.is_flag for name in option.opts]
        own = args[: args.index("--")] if "--" in args else args
        names = [arg.partition("=")[0] for arg in own]
        for name in once:
            if names.count(name) > 1:
                raise PipelineError(f"{name} is given {names.count(name)} times, expected once. Choose one value.")
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """A Typer app whose commands are all `OnceCommand`."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command."""
        return super().command(name, cls=OnceCommand, **settings)


app = App(
    cls=PanelGroup,
    help="Photos and class names in, a multi-label classifier out: classifier-guided CLIP distillation, stage by stage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


LOCAL_FILES = "/data/local-files/?d="
"""Label Studio's address of a file below its document root."""


EXISTING_RUN = "Run: a name under artifacts/, or the path of a run folder (default: CCD_RUN, else the only run)."


NEW_RUN = "Run: a name under artifacts/, or the path of a run folder (default: name of the preset or the photo folder)."


RunOption = Annotated[str, typer.Option("--run", help=EXISTING_RUN)]


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=EXISTING_RUN)]


NewRunArgument = Annotated[str, typer.Argument(metavar="RUN", help=NEW_RUN)]


SameRunOption = Annotated[str, typer.Option("--run", help="Run, in place of the argument RUN.")]


TargetOption = Annotated[
    str,
    typer.Option(
        "--run", help="Run, instead of the first argument: a name under artifacts/, or the path of a run folder."
    ),
]


DeviceOption = Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:N, mps, or auto (CUDA if available).")]


ForceOption = Annotated[bool, typer.Option("--force", help="Rebuild files that are up to date.")]


YesOption = Annotated[bool, typer.Option("--yes", help="Start without asking, even if the estimate exceeds a day.")]


ResetOption = Annotated[bool, typer.Option("--reset", help="Discard the settings of the run and start over.")]


PresetOption = Annotated[
    str, typer.Option(help=f"Settings of a dataset: {', '.join(settings.shipped('presets'))}, or a .toml file.")
]


RecipeOption = Annotated[
    str,
    typer.Option(help=f"Recipe, the settings of the paper: {', '.join(settings.shipped('recipes'))}, or a .toml file."),
]


SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="STAGE.OPTION=VALUE",
        help="Set any option of any stage, as in fuse.ratio=0.5. May be repeated.",
    ),
]


ClassifierArgument = Annotated[
    str,
    typer.Argument(metavar="RUN_OR_FILE", help="Name of a run, run folder, or classifier file."),
]


BatchOption = Annotated[int, typer.Option(min=1, max=4096, metavar="<int>", help="Images per batch of the network.")]


OverwriteOption = Annotated[bool, typer.Option("--force", help="Replace existing output.")]


SelectionOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with the column image_id: use only these images. The report saves a selection in this form."
    ),
]


reporting = {"traceback": False}
"""Whether errors print a traceback or one line."""


def show_version(requested: bool) -> None:
    """Print the version and exit."""
    if requested:
        from importlib.metadata import version

        typer.echo(f"ccd {version('ccd-pipeline')}")
        raise typer.Exit


@app.callback()
def main_options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and the requested output.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print a traceback with errors; `serve` logs every request.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Photos and class names in, a multi-label classifier out: classifier-guided CLIP distillation, stage by stage."""
    console.quiet = quiet
    reporting["traceback"] = verbose


def named_run(argument: str, option: str) -> str:
    """The run that an argument, --run or CCD_RUN names; empty for none.

    Raises:
        PipelineError: the argument and --run name different runs.
    """
    if argument and option and argument != option:
        raise PipelineError(f"two runs are named, {argument} and --run {option}. Name one.")
    run = argument or option or os.environ.get("CCD_RUN", "")
    check_text(run, "CCD_RUN")
    return run


def split_target(arguments: list[str], run: str, rest: str) -> tuple[str, list[str]]:
    """Split arguments into the run or file (the first argument, or --run) and the remaining ones.

    Raises:
        PipelineError: too few arguments; `rest` names the missing ones.
    """
    target, remaining = (run, arguments) if run else (arguments[0], arguments[1:])
    if not remaining:
        raise PipelineError(f"{rest} is missing after {target!r}. Name a run or a file of one, and then {rest}.")
    return target, remaining


def chosen_run(run: str) -> Path:
    """The folder of the named run, or of the only run."""
    known = known_runs()
    if not run and len(known) != 1:
        runs = f"there are {', '.join(known)}" if known else "there is none yet"
        raise PipelineError(f"no run is named, and {runs}. Name one with --run NAME.")
    return existing_run(run or known[0])


def given_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options set on the command line (not None), with lists of one value unpacked."""
    values = {name: value for name, value in given.items() if value is not None}
    return {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in values.items()}


def default_text(item: Field, default: Any) -> str:
    """Default of an option with its range or choices; the help itself states what an empty text means."""
    if default in ("", []):
        return ""
    value = ("off", "on")[default] if isinstance(default, bool) else default
    low, high = (str(item.metadata[end]).removesuffix(".0") for end in ("min", "max"))
    bounds = "" if low == "None" else f"; at least {low}" if high == "None" else f"; {low} to {high}"
    if get_origin(item.type) is Literal:
        bounds = f"; one of {', '.join(get_args(item.type))}"
    return f" [default: {value}{bounds}]"


def option_parameter(item: Field, text: str = "") -> python_inspect.Parameter:
    """The optional command-line parameter of an option; None means that it is not set.

    Args:
        item: field of a `Config`.
        text: help in place of the option's own.
    """
    meta = item.metadata
    default = item.default if item.default is not MISSING else item.default_factory()
    bounds = {key: meta[key] for key in ("min", "max") if meta[key] is not None and item.type in (int, float)}
    panel = panel_of(item)
    kinds = f" For {', '.join(meta['kinds'])}." if panel == "Benchmark datasets" else ""
    needed = "Needed in a first run without --preset. " if item.name in NEEDED and meta["kinds"] else ""
    choice = typer.Option(
        help=escape(needed + (text or meta["help"]) + kinds + default_text(item, default)),
        show_default=False,
        metavar={int: "<int>", float: "<float>"}.get(item.type, "<str>"),
        rich_help_panel=panel,
        hidden=item.name == "kind",  # a preset sets it
        **bounds,
    )
    kind_of_value = list[str] if meta["several"] else item.type
    annotation = Annotated[kind_of_value | None, choice]
    return python_inspect.Parameter(
        item.name, python_inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def panel_of(item: Field) -> str | None:
    """The panel of an option in the help; None for the first panel."""
    kinds = item.metadata["kinds"]
    if not kinds or item.name in LEADING[1:5]:
        return None
    return "Photos" if "folder" in kinds else "Demo" if kinds == ("demo",) else "Benchmark datasets"


def with_options(
    kind: type[Config], more: Sequence[python_inspect.Parameter] = (), panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the `**given` of a command by the options of a stage, those in `LEADING` first.

    Args:
        kind: options of the stage.
        more: further parameters, which replace options of the same name.
        panel: panel for the command's own options that are not in `LEADING`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            each for each in python_inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD
        ]
        first = [each for each in own if each.kind is not each.KEYWORD_ONLY]
        own = [in_panel(each, panel) if panel else each for each in own if each.kind is each.KEYWORD_ONLY]
        named = {item.name: option_parameter(item) for item in fields(kind)} | {each.name: each for each in more}
        rest = sorted([*own, *named.values()], key=lambda each: (*LEADING, each.name).index(each.name))
        command.__signature__ = python_inspect.Signature([*first, *rest])
        return command

    return decorate


def in_panel(parameter: python_inspect.Parameter, panel: str) -> python_inspect.Parameter:
    """A parameter in a panel of the help, unless it is in `LEADING`."""
    if parameter.name in LEADING:
        return parameter
    choice = copy(parameter.annotation.__metadata__[0])
    choice.rich_help_panel = panel
    return parameter.replace(annotation=Annotated[parameter.annotation.__origin__, choice])
