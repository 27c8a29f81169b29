"""The stages that `all` would run, with estimates of time and size; builds nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.state import UP_TO_DATE, file_state, origin_of, why_build
from pipeline.runs.config import Config
from pipeline.runs.graph import STAGES, Stage, options_of, run_argument, up_to
from pipeline.runs.options import BoxesConfig, EmbedConfig, PrepareConfig, TrainConfig, WarmupConfig
from pipeline.runs.settings import Settings
from pipeline.runs.timings import Timing, count_images, networks_of, read_timings
from pipeline.system.errors import PipelineError, UnreadableError
from pipeline.system.progress import PlainTable, log, show

LEFT_OUT = "left out: there is no ground truth"


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    stage: str
    why: str
    """Why it would be built; empty if it is up to date."""
    seconds: float | None
    """Estimated duration; None if unknown."""
    bytes: int | None
    """Estimated size of its artifacts; None if unknown."""

    @property
    def is_built(self) -> bool:
        """Whether `all` would build it."""
        return self.why not in ("", LEFT_OUT)


def plan_run(folder: Path, own: Settings) -> list[Step]:
    """One step per stage, in order. After a stage that would be built, all later ones are built too: their input changes."""
    images = count_images(folder)
    timings = {name: each for name, each in read_timings(folder).items() if each.networks == networks_of(name, own)}
    steps: list[Step] = []
    cause = ""
    for stage in STAGES:
        config = own.config(stage.name, options_of(stage), {})
        if stage.name == "evaluate" and not will_have_truth(folder, own, cause):
            steps.append(Step(stage.name, LEFT_OUT, 0.0, 0))
            continue
        why = f"after {cause}" if cause else reason(stage, folder, config, own)
        if why and not cause:
            cause = stage.name
        steps.append(Step(stage.name, why, *estimate(stage, own, timings, images)) if why else done(stage, folder))
        if stage.name == "embed" and scores_kept_cells(folder, own, images, steps[0].why):
            steps[-1] = replace(steps[-1], seconds=None)  # its last duration may be that of a pass of the teacher
    return steps


def scores_kept_cells(folder: Path, own: Settings, images: int, why: str) -> bool:
    """Whether `embed` only scores kept cells again, as the classes are why `prepare` would be built."""
    from pipeline.stages.prepare import CLASSES_CHANGED

    size = bytes_of_cells(folder, images) if why.startswith(CLASSES_CHANGED) else 0
    return 0 < size <= 1e9 * own.config("embed", EmbedConfig, {}).cell_cache_gb


def will_have_truth(folder: Path, own: Settings, cause: str) -> bool:
    """Whether the run has ground truth, or may get some when `prepare` runs again."""
    from pipeline.stages.prepare import may_get_labels

    if cause == "prepare":
        return may_get_labels(own.config("prepare", PrepareConfig, {}))
    return (folder / "ground_truth.h5").exists()


def reason(stage: Stage, folder: Path, config: Config, own: Settings) -> str:
    """Why a stage whose inputs are up to date would be built; empty if it would not.

    Raises:
        PipelineError: the dataset of the run cannot be read.
    """
    if stage.name == "prepare":
        from pipeline.stages.prepare import why_prepare

        return why_prepare(folder, config, own.classes)
    try:
        return why_build(stage, folder, origin_of(stage, folder, config))
    except UnreadableError:
        raise
    except PipelineError as error:
        return str(error)


def done(stage: Stage, folder: Path) -> Step:
    """The step of a stage that is up to date."""
    return Step(stage.name, "", 0.0, sum((folder / name).stat().st_size for name in stage.makes))


def views_of(stage: str, own: Settings, images: int) -> float:
    """Estimated number of forward passes of a stage, an upper bound for `score-crops`; 0 for a stage without a network.

    A training step of a whole network counts as three passes; a frozen network encodes each view once, not per epoch.
    """
    if stage == "embed":
        embed = own.config("embed", EmbedConfig, {})
        return images * (1 + (embed.tiles**2 if embed.local == "tiles" else bool(embed.second_size)))
    if stage == "boxes":
        return images
    if stage == "score-crops":
        boxes = own.config("boxes", BoxesConfig, {})
        return images * (boxes.tiles**2 if boxes.view == "grid" else boxes.classes_per_image)
    if stage in ("warmup", "train"):
        kind = WarmupConfig if stage == "warmup" else TrainConfig
        config = own.config(stage, kind, {})
        views = 2 if stage == "train" and config.consistency else 1
        return images * ((1 + config.flips) * views if config.freeze_backbone else 3 * views * config.epochs)
    return 0


def estimate(stage: Stage, own: Settings, timings: dict[str, Timing], images: int) -> tuple[float | None, int | None]:
    """Estimated seconds and bytes of a stage.

    From its last duration in this run with the same networks, in proportion to the images; otherwise from the passes per
    second of the last earlier stage with a network. `timings` are those of the networks that the run has now.
    """
    last = timings.get(stage.name)
    if last is not None and last.images:
        share = images / last.images
        return last.seconds * share, last.bytes if stage.makes[0].endswith(".pt") else round(last.bytes * share)
    views = views_of(stage.name, own, images)
    if not views:
        return 1.0, None
    for other in reversed(STAGES[: [s.name for s in STAGES].index(stage.name)]):
        known, seen = timings.get(other.name), views_of(other.name, own, images)
        if known is not None and seen and known.images:
            return known.seconds * views / views_of(other.name, own, known.images), None
    return None, None


def bytes_of_cells(folder: Path, images: int) -> int:
    """Size of the cell embeddings of all photos; 0 if the run has none yet."""
    path = folder / "embeddings.h5"
    if not path.exists():
        return 0
    embeddings: Embeddings = read_arrays(
        path, without=("probabilities", "ranking_probabilities", "cell_scores", "best_cell")
    )
    if embeddings.text is None or not embeddings.grid_height:
        return 0
    return 2 * images * embeddings.grid_height * embeddings.grid_width * embeddings.text.shape[1]


def cells_note(size: int, config: EmbedConfig) -> str:
    """A sentence on whether new class names need another pass of the teacher; empty without cells, see `bytes_of_cells`."""
    if not size:
        return ""
    if size <= config.cell_cache_gb * 1e9:
        return f"The cells of all photos ({amount(size)}) are kept, so new class names or prompts cost seconds."
    return (
        f"The cells of all photos ({amount(size)}) exceed embed.cell_cache_gb ({config.cell_cache_gb:g}) and are not kept, "
        "so new class names or prompts need another pass of the teacher."
    )


def show_plan(folder: Path, own: Settings) -> None:
    """Print the plan of a run."""
    own.check()
    steps = plan_run(folder, own)
    table = PlainTable("stage", "state", "about", "size", title=str(folder))
    for step in steps:
        state = f"to run: {step.why}" if step.is_built else step.why or UP_TO_DATE
        waits = "" if not step.is_built else "?" if step.seconds is None else duration(step.seconds)
        table.add_row(step.stage, state, waits, "" if step.bytes is None else amount(step.bytes))
    show(table)
    if note := cells_note(bytes_of_cells(folder, count_images(folder)), own.config("embed", EmbedConfig, {})):
        log(note)
    building = [step for step in steps if step.is_built]
    unknown = sum(step.seconds is None for step in building)
    total = duration(sum(step.seconds or 0 for step in building))
    rest = f" and {unknown} stage{'s' * (unknown != 1)} without an estimate" if unknown else ""
    log(f"{total}{rest}; start with `ccd all {run_argument(folder)}`." if building else "everything is up to date.")


def duration(seconds: float) -> str:
    """Seconds as a short text, as "4 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def amount(size: int) -> str:
    """Bytes as a short text, as "1.2 GB"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def log_end(folder: Path, to: str) -> None:
    """Log the duration of each stage up to `to`, the folder and the next command."""
    timings = read_timings(folder)
    names = [stage.name for stage in up_to(to) if stage.name in timings]
    taken = ", ".join(f"{name} {duration(timings[name].seconds)}" for name in names)
    log(f"Files: {folder}/. Duration of the stages: {taken}.")
    run = run_argument(folder)
    if file_state(folder / "classifier.pt").state != UP_TO_DATE:
        log(f"Next: `ccd all {run}` runs the remaining stages; `ccd status {run}` lists them.")
    else:
        log(
            f"Next: `ccd report {run}` shows photos, labels and scores; `ccd review {run}` corrects labels; "
            f"`ccd predict {run} PHOTOS` predicts new photos."
        )
