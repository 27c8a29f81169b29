"""Curves of a training in TensorBoard, Weights & Biases or MLflow, each with its own optional package."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.system.errors import PipelineError

Add = Callable[[str, float, int], None]
"""Adds a point to a curve: its name, the value, and the images counted so far."""


@dataclass(frozen=True)
class Curves:
    """Which tracker records a training, and where."""

    track: str
    """A key of `TRACKERS`."""
    run: Path
    """The run's folder, which contains the curves unless the tracker's own variables name a server."""
    title: str
    """Name of the training."""


@contextmanager
def open_curves(curves: Curves, done: int) -> Iterator[Add]:
    """Open curves; TensorBoard drops the points of a killed command beyond `done` images.

    Raises:
        PipelineError: the package is not installed.
    """
    with ExitStack() as opened:
        try:
            add = opened.enter_context(TRACKERS[curves.track](curves, done))
        except ImportError:
            raise PipelineError(
                f"--track {curves.track} needs a package; install it with `pip install '.[{curves.track}]'`."
            ) from None
        yield add


@contextmanager
def to_tensorboard(curves: Curves, done: int) -> Iterator[Add]:
    """Record in the folder `tensorboard/<title>` of the run."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(curves.run / "tensorboard" / curves.title), purge_step=done) as writer:
        yield writer.add_scalar


@contextmanager
def to_wandb(curves: Curves, done: int) -> Iterator[Add]:
    """Record in the folder `wandb` of the run, for `wandb sync`; with WANDB_MODE=online, in the user's account."""
    del done  # points cannot be removed: a command that continues another starts a new run
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(silent=True, disable_git=True, disable_code=True, console="off", x_disable_stats=True)
    mode = os.environ.get("WANDB_MODE", "offline")
    name = f"{curves.run.name}/{curves.title}"
    with wandb.init(project="ccd", name=name, dir=str(curves.run), mode=mode, settings=settings) as run:
        yield lambda curve, value, step: run.log({curve: value}, step=step)


@contextmanager
def to_mlflow(curves: Curves, done: int) -> Iterator[Add]:
    """Record in `mlflow.db` of the run, or on the server of MLFLOW_TRACKING_URI."""
    del done  # as with Weights & Biases
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    place = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(curves.run / 'mlflow.db').absolute()}")
    client = MlflowClient(tracking_uri=place)
    known = client.get_experiment_by_name("ccd")
    run = client.create_run(
        known.experiment_id if known else client.create_experiment("ccd"),
        run_name=f"{curves.run.name}/{curves.title}",
    ).info.run_id
    status = "FAILED"
    try:
        yield lambda curve, value, step: client.log_metric(run, curve, value, step=step)
        status = "FINISHED"
    finally:
        client.set_terminated(run, status)


TRACKERS: dict[str, Callable[[Curves, int], AbstractContextManager[Add]]] = {
    "tensorboard": to_tensorboard,
    "wandb": to_wandb,
    "mlflow": to_mlflow,
}
