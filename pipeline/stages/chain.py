"""Stages one after another: which of them have work to do, and the doing of it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.photo_facts import check_photos
from pipeline.artifacts.state import is_built, origin_of
from pipeline.runs.config import Config
from pipeline.runs.graph import STAGES, Stage, module_of, options_of, run_argument
from pipeline.runs.settings import Settings
from pipeline.runs.timings import keep_timing
from pipeline.system import distributed, interrupts
from pipeline.system.devices import pick_device
from pipeline.system.progress import log

if TYPE_CHECKING:
    from pipeline.classifier.features import FeatureStore

FEATURES = "features.partial"
"""Folder below a run folder for backbone features that do not fit in memory; the chain removes it."""


class KeptFeatures:
    """What the stages of one command share: a feature store, and that the photos were looked at.

    The store is made when the first stage needs one: it brings torch with it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store: FeatureStore | None = None
        self.checked = False
        """Whether this command has looked at the file of every photo: on a network file system that takes long."""

    @property
    def store(self) -> "FeatureStore":
        """The one store of all stages."""
        if self._store is None:
            from pipeline.classifier.features import FeatureStore

            self._store = FeatureStore(folder=self._folder / FEATURES)
        return self._store

    def remove(self) -> None:
        """Forget everything, and delete what is on disk; a stage that is stopped leaves it to the command that continues."""
        if self._store is not None:
            self._store.clear()
            distributed.barrier()  # NFS does not remove what another process has open
            if distributed.is_main():
                self._store.remove()


def run_stage(
    stage: Stage,
    folder: Path,
    own: Settings,
    device: str,
    force: bool,
    kept: KeptFeatures | None = None,
) -> None:
    """Run one stage on a run folder if it has work, with the run's own settings.

    Args:
        stage: which.
        folder: run folder.
        own: settings of the run.
        device: as given by the user.
        force: run it in any case.
        kept: features of earlier stages, which the caller removes; None to keep and remove its own.
    """
    config = own.config(stage.name, options_of(stage), {}).scaled(distributed.world_size())
    if stage.shared or distributed.is_main():
        features = kept or KeptFeatures(folder)
        do_work(stage, folder, config, own, device, force, features)
    distributed.barrier()  # what follows reads what the first process wrote
    if kept is None and (stage.shared or distributed.is_main()):
        features.remove()


def do_work(
    stage: Stage, folder: Path, config: Config, own: Settings, device: str, force: bool, kept: KeptFeatures
) -> None:
    """Run a stage unless everything that it makes is there and current, which it says."""
    interrupts.check()
    start = time.perf_counter()
    if stage.name == "prepare":
        module_of(stage).run(folder, config, own.classes, force=force)
        kept.checked = True
    else:
        origin = origin_of(stage, folder, config)
        if not force and is_built(stage, folder, origin):
            log(f"{folder / stage.makes[0]} is up to date.")
            return
        network: dict[str, Any] = {}
        if stage.asks:
            network = {"device": pick_device(device), "fresh": force, "manifest": checked_manifest(folder, kept)}
        if stage.asks == "classifier":
            network["store"] = kept.store
            kept.store.know(network["manifest"].paths, network["manifest"].digests)
        module_of(stage).run(folder, config, origin, **network)
    if distributed.is_main():
        keep_timing(folder, stage, time.perf_counter() - start)


def checked_manifest(folder: Path, kept: KeptFeatures) -> Manifest:
    """The manifest of a run; the first process checks its photos, once in a command.

    Raises:
        PipelineError: as `read_manifest` and `check_photos`.
    """
    manifest = read_manifest(folder)
    if distributed.is_main() and not kept.checked:
        check_photos(folder, manifest)
    kept.checked = True
    return manifest


def run_chain(
    folder: Path,
    own: Settings,
    device: str,
    force: bool = False,
    stages: Sequence[Stage] = STAGES,
    kept: KeptFeatures | None = None,
) -> None:
    """Run stages in order; `evaluate` is left out where there is no ground truth. Arguments are those of `run_stage`."""
    features = kept or KeptFeatures(folder)
    for stage in stages:
        if stage.name == "evaluate" and not (folder / "ground_truth.h5").exists():
            log(
                f"{folder} has no ground truth, so nothing is measured. See the labels: `ccd inspect {run_argument(folder)}`."
            )
            continue
        run_stage(stage, folder, own, device, force, kept=features)
    if kept is None:
        features.remove()
