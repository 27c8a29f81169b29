"""Runs the stages of a run in order, those that have work."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.photo_facts import check_photos
from pipeline.artifacts.state import is_built, origin_of
from pipeline.runs.config import Config
from pipeline.runs.graph import STAGES, Stage, find_stage, module_of, options_of, run_argument
from pipeline.runs.options import BoxesConfig, EmbedConfig, ScoreCropsConfig, WarmupConfig
from pipeline.runs.settings import Settings
from pipeline.runs.timings import keep_timing
from pipeline.system import distributed, interrupts
from pipeline.system.devices import pick_device
from pipeline.system.progress import log

if TYPE_CHECKING:
    from pipeline.classifier.features import FeatureStore

FEATURES = "features.partial"
"""Folder in a run folder for backbone features that do not fit in memory; the chain removes it."""


class KeptFeatures:
    """State shared by the stages of one command: the feature store, and whether the photos were checked.

    The store is created on first use, because it imports torch.

    Args:
        folder: gets the features that do not fit in memory.
        stages: of the command.
    """

    def __init__(self, folder: Path, stages: Sequence[Stage] = STAGES) -> None:
        self._folder = folder
        self._stages = stages
        self._store: FeatureStore | None = None
        self.checked = False
        """Whether this command has checked the file of every photo, which takes long on a network file system."""

    @property
    def store(self) -> "FeatureStore":
        """The feature store."""
        if self._store is None:
            from pipeline.classifier.features import FeatureStore

            self._store = FeatureStore(folder=self._folder / FEATURES)
        return self._store

    def store_for(self, stage: Stage, own: Settings) -> "FeatureStore | None":
        """The store for a stage; None for a teacher whose maps no classifier of this command could use."""
        if stage.network == "teacher":
            embed, warmup = own.config("embed", EmbedConfig, {}), own.config("warmup", WarmupConfig, {})
            if not warmup.shares_tower(embed) or not any(each.network == "classifier" for each in self._stages):
                return None
        return self.store

    def remove(self) -> None:
        """Delete the features, also on disk; after an interruption they stay for the command that resumes."""
        if self._store is not None:
            self._store.clear()
            distributed.barrier()  # NFS does not remove a file that another process has open
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
        stage: the stage.
        folder: run folder.
        own: settings of the run.
        device: device option of the command.
        force: run the stage even if it is up to date.
        kept: features of earlier stages, which the caller removes; None: the stage has its own.
    """
    config = own.config(stage.name, options_of(stage), {})
    if stage.shared or distributed.is_main():
        features = kept or KeptFeatures(folder, [stage])
        do_work(stage, folder, config, own, device, force, features)
    distributed.barrier()  # later code reads what the first process wrote
    if kept is None and (stage.shared or distributed.is_main()):
        features.remove()


def do_work(
    stage: Stage, folder: Path, config: Config, own: Settings, device: str, force: bool, kept: KeptFeatures
) -> None:
    """Run a stage, or log that it is up to date."""
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
        arguments: dict[str, Any] = {}
        if stage.network:
            arguments = {"device": pick_device(device), "fresh": force, "manifest": checked_manifest(folder, kept)}
        if stage.maps:
            arguments["store"] = store = kept.store_for(stage, own)
            if store is not None:
                store.know(arguments["manifest"].digest_of)
        module_of(stage).run(folder, config, origin, **arguments)
    if distributed.is_main():
        keep_timing(folder, stage, own, time.perf_counter() - start)


def checked_manifest(folder: Path, kept: KeptFeatures) -> Manifest:
    """The manifest of a run; the first process checks its photos, once per command.

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
    """Run stages in order; `evaluate` is skipped without ground truth. Arguments: see `run_stage`."""
    if find_stage("score-crops") in stages and own.config("boxes", BoxesConfig, {}).view != "none":
        # before the warm-up
        embed, crops = own.config("embed", EmbedConfig, {}), own.config("score-crops", ScoreCropsConfig, {})
        crops.check_teacher(embed, run_argument(folder))
    features = kept or KeptFeatures(folder, stages)
    for stage in stages:
        if stage.name == "evaluate" and not (folder / "ground_truth.h5").exists():
            continue
        run_stage(stage, folder, own, device, force, kept=features)
    if kept is None:
        features.remove()
