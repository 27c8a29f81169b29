"""Commands and stages, called in this process or in one of their own."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from typer.testing import CliRunner

from pipeline import cli
from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.state import origin_of
from pipeline.classifier.features import FeatureStore
from pipeline.runs.graph import find_stage, module_of
from pipeline.runs.partial_results import PartialResults
from pipeline.system.errors import PipelineError
from worlds.photos import COLOURS

# The server imports the program once, and every command is a fork of it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pipeline.cli"])


def invoke(*arguments):
    """Exit code and output of `ccd` with these arguments."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, PipelineError):
        return 1, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def ccd(*arguments):
    """Output of `ccd` with these arguments, which has to succeed."""
    code, output = invoke(*arguments)
    assert code == 0, output
    return output


def refused(*arguments):
    """Output of `ccd` with these arguments, which has to fail with exit code 1."""
    code, output = invoke(*arguments)
    assert code == 1, output
    return output


def killed_command(index, *arguments):
    """Run `ccd`, and kill this process before it saves the partial result of this index."""
    save = PartialResults.save_arrays

    def save_or_die(partial, number, arrays):
        if number == index:
            os.kill(os.getpid(), signal.SIGKILL)
        save(partial, number, arrays)

    PartialResults.save_arrays = save_or_die
    command(*arguments)


def options(photos, backbone, folder):
    """Arguments of `ccd` for all stages on the photos of `labelled_photos`, in seconds."""
    settings = {
        "warmup": {"backbone": "timm:test_resnet", "weights": backbone, "predict_size": 64},
        "boxes": {"image_size": 64, "classes_per_image": 2},
        "train": {"epochs": 3, "predict_size": 80},
    }
    for stage in ("warmup", "train"):
        settings[stage] |= {"image_size": 64, "batch_size": 4}
    pairs = [f"{stage}.{name}={value}" for stage, own in settings.items() for name, value in own.items()]
    return [
        *("all", "--run", folder, "--images", photos / "train", "--test-images", photos / "test"),
        *("--classes", ",".join(COLOURS), "--labels", photos / "labels.csv", "--device", "cpu"),
        *(part for pair in pairs for part in ("--set", pair)),
    ]


def run_stage(name, folder, config):
    """Run one stage with these options, whether it is up to date or not."""
    stage = find_stage(name)
    network = {"manifest": read_manifest(folder), "device": "cpu", "fresh": False} if stage.network else {}
    network |= {"store": FeatureStore()} if stage.network == "classifier" else {}
    module_of(stage).run(folder, config, origin_of(stage, folder, config), **network)


def start(target, *arguments, log, **environment):
    """A process that calls `target`; its output goes to the file `log`."""
    process = processes.Process(target=_run_logged, args=(target, arguments, log, environment))
    process.start()
    return process


def _run_logged(target, arguments, log, environment):
    os.environ.update({name: str(value) for name, value in environment.items()})
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        target(*arguments)


def command(*arguments):
    """Run `ccd` with these arguments; for the body of a process."""
    sys.argv = ["ccd", *map(str, arguments)]
    cli.main()
