"""Commands that use a trained classifier."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.cli.app import (
    BatchOption,
    ClassifierArgument,
    DeviceOption,
    OverwriteOption,
    RunOption,
    TargetOption,
    app,
    chosen_run,
    given_options,
    named_run,
    reporting,
    split_target,
    with_options,
)
from pipeline.runs.folders import (
    check_free,
    run_or_file,
)
from pipeline.runs.options import CalibrateConfig, ServeConfig
from pipeline.system.errors import PipelineError


def classifier_file(target: str) -> Path:
    """The classifier of a run (the only run if none is named), or the given file."""
    from pipeline.deploy.files import trained_file

    path = run_or_file(target) if target else chosen_run("")
    return trained_file(path) if path.is_dir() else path


def classifier_to_use(target: str) -> Path:
    """The classifier of a run (the only run if none is named) for prediction, or the given file."""
    from pipeline.deploy import files

    return files.classifier_to_use(target or chosen_run(""))


@app.command(rich_help_panel="Start")
def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE IMAGES",
            help="Run or classifier file (leave it out with --run). Then photos, videos, folders (searched recursively), "
            "globs, addresses, lists (.txt, .csv, .parquet, or - for standard input), Parquet files with photos, tars, zips.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv, .jsonl or .parquet (default: CSV on standard output).")
    ] = None,
    exclude: Annotated[
        list[str],
        typer.Option(help="Files, folders or ends of paths to skip, such as '*_thumb.jpg' or 'raw'. May be repeated."),
    ] = [],  # noqa: B006 - typer copies it
    frame_interval: Annotated[
        float, typer.Option(min=0.001, metavar="<float>", help="Seconds between the frames taken from a video.")
    ] = 1.0,
    batch_size: BatchOption = 16,
    device: DeviceOption = "auto",
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"],
        typer.Option(
            envvar="CCD_ENGINE",
            metavar="<str>",
            help="Engine that runs the network on a CPU: torch, onnxruntime (needs `pip install '.\\[onnx]'`), openvino "
            "(needs `pip install '.\\[openvino]'`) or auto (torch).",
        ),
    ] = "auto",
    with_teacher: Annotated[
        bool,
        typer.Option(
            "--with-teacher",
            help="Combine the classifier's scores with those of the run's teacher, if that is another network. Needs the run and "
            "the time of both networks.",
        ),
    ] = False,
    force: OverwriteOption = False,
    run: TargetOption = "",
) -> None:
    """Predict the classes in photos with a trained classifier: labels by its thresholds, and scores."""
    from pipeline.deploy import predict as tool
    from pipeline.system.devices import pick_device

    check_free(out, force=force)
    target, images = split_target(arguments, run, "IMAGES")
    # the thresholds of calibrated.pt do not fit the scores of both
    path = run_or_file(str(target or chosen_run(""))) if with_teacher else classifier_to_use(target)
    options = {
        "with_teacher": with_teacher,
        "frame_interval": frame_interval,
        "batch_size": batch_size,
        "engine": engine,
        "exclude": exclude,
    }
    tool.run(path, images, out, device=pick_device(device), **options)


@app.command(rich_help_panel="Export")
@with_options(ServeConfig)
def serve(
    classifier: ClassifierArgument = "", *, run: RunOption = "", device: DeviceOption = "auto", **given: Any
) -> None:
    """Serve predictions over HTTP: /predict, /classes, /healthz and a page at /. Listens only to this machine by default."""
    from pipeline.deploy import serve as tool
    from pipeline.system.devices import pick_device

    path = classifier_to_use(named_run(classifier, run))
    config = ServeConfig(**given_options(given))
    tool.run(path, config, device=pick_device(device), verbose=reporting["traceback"])


@app.command(rich_help_panel="Review")
@with_options(CalibrateConfig)
def calibrate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE LABELLED",
            help="Run or classifier file (leave it out with --run). Then a CSV or Parquet table with the columns image and "
            "labels (joined by ;), such as the output of `predict` after you correct it, or a .json file of thresholds by "
            "class, as the report writes it.",
        ),
    ],
    *,
    run: TargetOption = "",
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: calibrated.pt next to the classifier).")
    ] = None,
    batch_size: BatchOption = 16,
    device: DeviceOption = "auto",
    force: OverwriteOption = False,
    **given: Any,
) -> None:
    """Set the thresholds of a classifier: those of highest F1 on labelled photos, or those of a file."""
    from pipeline.deploy import calibrate as tool
    from pipeline.system.devices import pick_device

    target, tables = split_target(arguments, run, "LABELLED")
    if len(tables) > 1:
        raise PipelineError(f"calibrate takes one file of labels or thresholds, not {' and '.join(tables)}.")
    path, labelled = classifier_file(target), Path(tables[0])
    options = CalibrateConfig(**given_options(given))
    if out is not None:
        check_free(out, force=force)
    out = out or path.with_name("calibrated.pt")  # thresholds are often set again
    if labelled.suffix.lower() == ".json":
        tool.run_given(path, labelled, out)
        return
    tool.run(path, labelled, out, options, batch_size=batch_size, device=pick_device(device))


@app.command(rich_help_panel="Export")
def export(
    classifier: ClassifierArgument = "",
    format: Annotated[
        Literal["onnx", "torch-export", "hub"],
        typer.Option(help="Format to write. hub: a folder for the Hugging Face Hub; nothing is uploaded."),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File or folder to write (default: next to the classifier).")] = None,
    force: OverwriteOption = False,
    run: RunOption = "",
) -> None:
    """Export a classifier as an ONNX model, a torch.export model or a folder for the Hub, and check its scores."""
    path = classifier_to_use(named_run(classifier, run))
    if format == "hub":
        from pipeline.deploy import hub

        hub.run(path, out, force=force)
        return
    from pipeline.deploy import export as tool

    tool.run(path, format, out, force=force)
