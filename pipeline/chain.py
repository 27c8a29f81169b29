"""Stages one after another: the whole chain of a run, and the many chains of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import distributed
from pipeline.ablation import (
    FIGURES,
    Plan,
    Row,
    add_differences,
    common_prefix,
    link_files,
    plot,
    row_figures,
    summarise,
    to_markdown,
)
from pipeline.artifacts import MAKERS, Manifest, read, read_json, read_manifest, replacing, write_csv, write_manifest
from pipeline.errors import PipelineError
from pipeline.progress import say
from pipeline.settings import Settings, write_run
from pipeline.stages import STAGES, Stage
from pipeline.stages.evaluate import EvaluateConfig

STAGE_NAMES = [stage.name for stage in STAGES]
SEEDED = ("warmup", "boxes", "train")
"""Stages whose draws a study repeats; the bootstrap and the demo scenes stay the same."""

STUDIED = STAGES[1:]
"""The stages that a study runs: all rows have the images of one run."""

SIDE_FILES = {"warmup": ["warmup.csv"], "train": ["train.csv"], "evaluate": ["predictions.csv"]}
"""What a stage writes beside its artifacts."""


def run_stage(
    stage: Stage, folder: Path, own: Settings, device: str, force: bool, given: Mapping[str, Any] | None = None
) -> None:
    """Run one stage on a run folder, with the run's own settings and what was given for this time."""
    arguments: dict[str, Any] = {"force": force}
    if stage.uses_device:
        arguments["device"] = device
    if stage.name == "prepare":
        arguments["display_names"] = own.classes
    config = own.config(stage.name, stage.config, given or {})
    if stage.shared or distributed.is_main():
        stage.run(folder, config, **arguments)
    distributed.barrier()  # what follows reads what the first process wrote


def run_chain(folder: Path, own: Settings, device: str, force: bool = False, stages: Sequence[Stage] = STAGES) -> None:
    """Run stages in order; `evaluate` is left out where there is no ground truth."""
    for stage in stages:
        if stage.name == "evaluate" and not (folder / "ground_truth.h5").exists():
            say(f"{folder} has no ground truth, so nothing is measured. See the labels: `ccd inspect {folder}`.")
            continue
        run_stage(stage, folder, own, device, force)


def check_settings(own: Settings) -> None:
    """Raise on a wrong table, option or value now and not an hour into the run."""
    for name in own.tables:
        if name not in STAGE_NAMES:
            raise PipelineError(f"{own.where} names the stage {name!r}; the stages are {', '.join(STAGE_NAMES)}.")
    for stage in STAGES:
        own.config(stage.name, stage.config, {})


def files_of(stage: str) -> list[str]:
    """Files that a stage writes."""
    return [name for name, (command, _) in MAKERS.items() if command == stage] + SIDE_FILES.get(stage, [])


def run_plan(base: Path, own: Settings, plan: Plan, device: str) -> pd.DataFrame:
    """Run every row of a plan with every seed on the images of a run, and write the table.

    Writes `ablation.csv` (a line a run), `ablation.md` and `ablation.png` (a line a setting) into `<base>/ablation/`, beside a run folder
    a row and seed. A stage whose options and inputs equal those of the base or a finished run is taken from there; its
    fingerprint is checked as always. The first row with the run's own settings is what the others are compared with.

    Returns:
        The summary, see `summarise` and `add_differences`.

    Raises:
        PipelineError: the run has no manifest, no ground truth or no test images, or a row has a wrong setting, or there
            are several processes.
    """
    manifest = read_manifest(base)
    if not (base / "ground_truth.h5").exists() or not manifest.split("test").image_ids:
        raise PipelineError(f"{base} has no ground truth of test images, so a study cannot be measured.")
    if distributed.world_size() > 1:
        raise PipelineError("a study runs in one process; start `ccd ablation` without torchrun.")
    seeded = [(row, seed, with_seed(own.merged(row.settings), seed)) for seed in plan.seeds for row in plan.rows]
    for _, _, settings in seeded:
        check_settings(settings)
    finished = [(base, options_of(own))]
    reference, lines, scores = "", [], {}
    for number, (row, seed, settings) in enumerate(seeded):
        say(f"{number + 1}/{len(seeded)}: {row.title}, seed {seed}")
        folder = base / "ablation" / f"{slug(row)}-{seed}"
        options = options_of(settings)
        start_row(base, folder, manifest, settings)
        source, other = max(finished, key=lambda pair: common_prefix(options, pair[1]))
        shared = STUDIED[: common_prefix(options, other)]
        link_files(source, folder, [name for stage in shared for name in files_of(stage.name)])
        run_chain(folder, settings, device, stages=STUDIED)
        finished.append((folder, options))
        if options == options_of(with_seed(own, seed)):
            reference = reference or row.title
        epochs = read(folder / "epoch_scores.h5")
        scores.setdefault(row.title, []).append(epochs.chosen)
        figures = row_figures(read_json(folder / "metrics.json"))
        lines.append({"group": row.group, "name": row.name, "seed": seed, **figures})
        write_csv(base / "ablation" / "ablation.csv", pd.DataFrame(lines))
    summary = summarise(pd.DataFrame(lines, columns=["group", "name", "seed", *FIGURES]))
    truth = read(base / "ground_truth.h5").rows_of(epochs.image_ids)
    measured = own.config("evaluate", EvaluateConfig, {})
    table = add_differences(
        summary, scores, truth, reference, difficult=measured.difficult, empty_class=measured.empty_class
    )
    with replacing(base / "ablation" / "ablation.md") as partial:
        partial.write_text(to_markdown(table), encoding="utf-8")
    plot(table, base / "ablation" / "ablation.png")
    return table


def options_of(settings: Settings) -> list[dict[str, Any]]:
    """What decides the outputs of each stage of a study, in order."""
    return [settings.config(stage.name, stage.config, {}).identity() for stage in STUDIED]


def start_row(base: Path, folder: Path, manifest: Manifest, settings: Settings) -> None:
    """Give a run of a study the images and the ground truth of the base run."""
    folder.mkdir(parents=True, exist_ok=True)
    # not linked: relative paths of photos inside the base run would lead nowhere
    write_manifest(folder, manifest)
    link_files(base, folder, ["ground_truth.h5"])
    write_run(folder, settings)


def with_seed(own: Settings, seed: int) -> Settings:
    """The settings with another seed of head, order, views and random boxes."""
    return own.merged(Settings({stage: {"seed": seed} for stage in SEEDED}))


def slug(row: Row) -> str:
    """Folder name of a row."""
    text = f"{row.group} {row.name}".lower()
    return "-".join("".join(c if c.isalnum() else " " for c in text).split())
