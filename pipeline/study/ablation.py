"""Ablations: a plan of settings to a table of figures; stages that several rows share run once."""

import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.text import Text

from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.manifest import Manifest, read_manifest, write_csv, write_manifest
from pipeline.evaluation.ground_truth import has_ground_truth, read_ground_truth
from pipeline.evaluation.intervals import leave_one_out, map_interval, scores_gain_interval
from pipeline.evaluation.tables import TEACHER, read_metrics
from pipeline.runs.graph import BY_PEOPLE, STAGES, files_of, options_of
from pipeline.runs.options import EmbedConfig, EvaluateConfig, InitLabelsConfig
from pipeline.runs.settings import Settings, assignments_to_settings, shipped, write_run
from pipeline.runs.timings import read_timings, take_timings
from pipeline.stages.chain import KeptFeatures, run_chain
from pipeline.system import distributed
from pipeline.system.errors import PipelineError, first_line, hint, reason_of
from pipeline.system.files import regular_file, replacing
from pipeline.system.progress import PlainTable, log

FIGURES = (
    *("label_mAP", "label_F1", "teacher_mAP", "warmup_mAP", "final_mAP", "low", "high", "oracle_mAP"),
    *("views", "seconds"),
)

SEEDED = ("warmup", "boxes", "train")
"""Stages that get the seed of a row; the demo scenes stay the same."""

KEYS, ROW_KEYS = ("seeds", "note", "set", "row"), ("group", "name", "set", "method")
"""Keys of a plan, and of its rows."""

STUDIED = STAGES[1:]
"""The stages of an ablation; all rows use the images of one run."""


@dataclass(frozen=True)
class Row:
    """One row of the table: the settings that differ from the run."""

    group: str
    name: str
    settings: Settings
    method: str = ""
    """Published method that makes the labels, see `pipeline.study.methods`; empty: the stages make them."""

    @property
    def title(self) -> str:
        """Group, if there is one, and name."""
        return title_of(self.group, self.name)


def title_of(group: str, name: str) -> str:
    """Title of a row of this group ("": none) and name."""
    return f"{group}: {name}" if group else name


@dataclass(frozen=True)
class Plan:
    """Rows, each run once per seed."""

    name: str
    seeds: list[int]
    rows: list[Row]
    settings: Settings
    """Settings of all rows."""
    note: str = ""
    """Text below the table."""


def read_plan(name: str) -> Plan:
    """A plan of the package, by name, or of a TOML file.

    The keys are in `KEYS`; `docs/studies.md` explains them.

    Raises:
        PipelineError: the plan is missing or is not valid TOML, it has an unknown key, a row has no name, or two rows have
            the same.
    """
    path = Path(name) if name.endswith(".toml") else files("pipeline").joinpath("plans", f"{name}.toml")
    if not path.is_file():
        known = ", ".join(shipped("plans"))
        raise PipelineError(f"there is no plan {name!r}. Choose {known}, or give a .toml file.")
    try:
        content = tomllib.loads(regular_file(path).read_text(encoding="utf-8"))
        for table, known in [(content, KEYS), *((row, ROW_KEYS) for row in content["row"])]:
            if unknown := [key for key in {**table} if key not in known]:
                raise PipelineError(f"{name} has the unknown key {unknown[0]!r}. {hint(unknown[0], known)}")

        def settings_of(table: Mapping[str, Any]) -> Settings:
            return assignments_to_settings([text_of(item) for item in table.get("set", [])], name)

        rows = [
            Row(text_of(row.get("group", "")), text_of(row["name"]), settings_of(row), text_of(row.get("method", "")))
            for row in content["row"]
        ]
        if repeated := [title for title, count in Counter(row.title for row in rows).items() if count > 1]:
            raise PipelineError(f"{name} has the row {repeated[0]!r} more than once. Give each row another name.")
        seeds = [int(seed) for seed in content.get("seeds", [0])]
        return Plan(Path(path.name).stem, seeds, rows, settings_of(content), text_of(content.get("note", "")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PipelineError(f"{name} is not valid TOML: {first_line(error)}.") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise PipelineError(
            f"{name} is not a plan ({first_line(error)}). Give every [[row]] a name and a list `set`."
        ) from None


def text_of(value: object) -> str:
    """The value; raises TypeError if it is not a text."""
    if not isinstance(value, str):
        raise TypeError(f"found {value!r}, expected a text")
    return value


def common_prefix(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> int:
    """Number of first stages with the same options; later stages may have other inputs."""
    equal = [a == b for a, b in zip(first, second, strict=True)]
    return equal.index(False) if False in equal else len(equal)


def link_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Hard-link files of `source` into `target`; an existing file stays.

    No stage changes a file in place, so two runs may share one.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (source / name).is_dir():
                link_files(source / name, target / name, [item.name for item in (source / name).iterdir()])
            elif (source / name).exists() and not (target / name).exists():
                os.link(source / name, target / name)
    except OSError as error:
        raise PipelineError(
            f"{target} could not be written ({reason_of(error)}). Check the folder and the disk."
        ) from error


def row_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one run from its `metrics.json`; NaN for a figure that was not measured."""
    final = metrics.get("labels", {}).get("final", {})
    test = metrics.get("test", {})
    low, high = test.get("final classifier", {}).get("mAP_interval", (np.nan, np.nan))
    return {
        "label_mAP": final.get("mAP", np.nan),
        "label_F1": final.get("OF1", np.nan),
        "teacher_mAP": test.get(TEACHER, {}).get("mAP", np.nan),
        "warmup_mAP": test.get("warm-up classifier", {}).get("mAP", np.nan),
        "final_mAP": test.get("final classifier", {}).get("mAP", np.nan),
        "low": low,
        "high": high,
        "oracle_mAP": metrics.get("epochs", {}).get("oracle_mAP", np.nan),
    }


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of every row, in the order of the plan.

    Args:
        runs: one row per run, with columns group, name, seed and `FIGURES`.

    Returns:
        One row per setting: group, name, seeds, the mean of each figure, and final_mAP_std (0 for a single seed).
    """
    grouped = runs.groupby(["group", "name"], sort=False)
    table = grouped[list(FIGURES)].mean()
    table["final_mAP_std"] = grouped["final_mAP"].std(ddof=1).fillna(0.0)
    table.insert(0, "seeds", grouped.size())
    return table.reset_index()


def add_differences(
    summary: pd.DataFrame,
    scores: Mapping[str, Sequence[np.ndarray]],
    truth: np.ndarray,
    reference: str,
    **conventions: Any,
) -> pd.DataFrame:
    """The summary with the difference between each setting's final mAP and that of the reference, on the same test images.

    Args:
        summary: see `summarise`.
        scores: title of each row to the scores of its final classifiers, float [N, C] per seed.
        truth: int8 [N, C].
        reference: title of the row to compare with; "" for none.
        conventions: `difficult` and `empty_class`, see `leave_one_out`.

    Returns:
        The summary with columns difference, difference_low and difference_high (95 % interval; NaN without interval), and
        why_none, the reason why the row has no interval, or "". The differences are NaN without reference and for the
        reference itself; equal scores have the interval 0 to 0.
    """
    titles = titles_of(summary)
    means = dict(zip(titles, summary["final_mAP"], strict=True))
    rows = []
    for title, low in zip(titles, summary["low"], strict=True):
        why = ""
        if np.isnan(low):
            why = map_interval(leave_one_out(scores[title][0], truth, **conventions)).why_none
        if not reference or title == reference:
            rows.append((np.nan, np.nan, np.nan, why))
            continue
        interval = scores_gain_interval(scores[reference], scores[title], truth, **conventions)
        rows.append((means[title] - means[reference], *interval.edges(), interval.why_none or why))
    columns = ["difference", "difference_low", "difference_high", "why_none"]
    return pd.concat([summary, pd.DataFrame(rows, columns=columns, index=summary.index)], axis=1)


def reasons_without_interval(summary: pd.DataFrame) -> list[str]:
    """A sentence per reason why rows have no interval, see `add_differences`."""
    return [f"No interval: {reason}." for reason in dict.fromkeys(summary["why_none"]) if reason]


def titles_of(summary: pd.DataFrame) -> pd.Series:
    """`Row.title` of each row of the summary."""
    return pd.Series(map(title_of, summary["group"], summary["name"]), index=summary.index, dtype=object)


HEADER = (
    "",
    "setting",
    "label mAP",
    "label F1",
    "warm-up mAP",
    "final mAP",
    "95 % interval",
    "difference",
    "teacher passes",
    "labelling, s",
    "seeds",
)
"""Passes are views that the teacher encodes per train image; seconds are those until the labels of all train images exist."""


def cells(summary: pd.DataFrame) -> list[list[str]]:
    """The summary as text in percent, one list per row, in the order of `HEADER`."""
    lines = []
    for row in summary.itertuples():
        measured = (row.label_mAP, row.label_F1, row.warmup_mAP, row.final_mAP)
        figures = ["" if np.isnan(v) else f"{100 * v:.1f}" for v in measured]
        if row.seeds > 1:
            figures[-1] += f" ± {100 * row.final_mAP_std:.1f}"
        difference = ""
        if row.difference == row.difference_low == row.difference_high == 0:
            difference = "the same"
        elif not np.isnan(row.difference):
            difference = f"{100 * row.difference:+.1f} ({span(row.difference_low, row.difference_high, '+')})"
        interval = span(row.low, row.high)
        cost = [
            "" if np.isnan(value) else f"{value:.{digits}f}" for value, digits in ((row.views, 1), (row.seconds, 0))
        ]
        lines.append([row.group, row.name, *figures, interval, difference, *cost, str(row.seeds)])
    return lines


def span(low: float, high: float, sign: str = "") -> str:
    """An interval in percent."""
    return "no interval" if np.isnan(low) else f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def to_markdown(summary: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The summary as a Markdown table, with notes below it."""
    lines = [HEADER, ["---"] * len(HEADER), *cells(summary)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return table + "".join(f"\n{note}\n" for note in notes)


def check_plot() -> None:
    """Raise unless the plot can be drawn, before the ablation takes hours."""
    if find_spec("matplotlib") is None:
        raise PipelineError("the plot of an ablation needs matplotlib. Install it with `pip install '.[plot]'`.")


def plot(summary: pd.DataFrame, path: Path) -> None:
    """Draw a PNG of the final mAP of every setting with its interval, and the teacher's mAP as a line.

    Raises:
        PipelineError: matplotlib is not installed.
    """
    check_plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.34 * len(summary)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(len(summary))[::-1]
    groups = list(dict.fromkeys(summary["group"]))
    colours = [f"C{groups.index(group)}" for group in summary["group"]]
    axes.hlines(places, 100 * summary["low"], 100 * summary["high"], colors=colours, linewidth=2, alpha=0.5)
    axes.scatter(100 * summary["final_mAP"], places, c=colours, zorder=3)
    teacher = 100 * summary["teacher_mAP"].mean()
    axes.axvline(teacher, color="gray", linestyle="--", linewidth=1)
    above = axes.get_xaxis_transform()
    axes.text(teacher, 1.02, TEACHER, color="gray", ha="center", va="bottom", fontsize=8, transform=above)
    axes.set_ylim(-0.7, len(summary) - 0.3)
    axes.set_yticks(places, titles_of(summary))
    axes.set_xlabel("final mAP in percent, 95 % interval over test images")
    axes.grid(axis="x", alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def ablation_table(summary: pd.DataFrame) -> PlainTable:
    """One row per setting under its group, with the columns that fit a terminal; the Markdown table has all columns."""
    shown = [HEADER.index(name) for name in ("setting", "label mAP", "final mAP", "difference")]
    table = PlainTable(title=f"ablation, seeds: {summary['seeds'].max()}")
    table.caption = Text("\n".join(reasons_without_interval(summary)))
    for k in shown:
        table.add_column(HEADER[k], justify="left" if HEADER[k] == "setting" else "right")
    group = None
    for line in cells(summary):
        if line[0] != group:
            group = line[0]
            table.add_section()
            if group:
                table.add_row(Text(group, style="bold"))
        table.add_row(*(line[k] for k in shown))
    return table


def run_plan(base: Path, own: Settings, plan: Plan, device: str) -> pd.DataFrame:
    """Run every row of a plan with every seed on the images of a run, and write the table.

    Writes `<plan>.csv` (one line per run), `<plan>.md` and `<plan>.png` (one line per setting) into
    `<base>/ablation/`, next to one run folder per row and seed. If the base or a finished run has a stage with the same
    options and inputs, its files are linked, and their fingerprints are checked as always. The reference is the first
    row whose settings are those of the run and of all rows.

    Returns:
        The summary, see `summarise` and `add_differences`.

    Raises:
        PipelineError: the run has no manifest, ground truth or test images; a row has an invalid setting; or there are
            several processes.
    """
    manifest = read_manifest(base)
    check_plot()
    if not has_ground_truth(base) or not manifest.split("test").image_ids:
        raise PipelineError(
            f"{base} has no ground truth of test images, so an ablation cannot be measured. Give labelled test photos."
        )
    if distributed.world_size() > 1:
        raise PipelineError("an ablation runs in one process. Start `ccd ablation` without torchrun.")
    common = own.merged(plan.settings)
    for row in plan.rows:
        common.merged(row.settings).check()
        if row.method and plan.settings.merged(row.settings).tables.get("embed"):
            raise PipelineError(
                f"the row {row.title!r} sets options of embed, but labels of a method come from the run's own embeddings. "
                "Set them in the run, or make another run."
            )
    costs, left_out = {}, []
    rows = plan.rows
    if any(row.method for row in rows):
        rows, costs, left_out = rows_of_methods(base, manifest, common, plan.rows, device)
    seeded = [
        (row, seed, with_seed(common.merged(row.settings).absolute(), seed)) for seed in plan.seeds for row in rows
    ]
    finished = [(base, identities_of(own))]
    kept = KeptFeatures(base / "ablation")  # rows differ in labels and heads, seldom in the input of the backbone
    reference, lines, scores = "", [], {}
    for number, (row, seed, settings) in enumerate(seeded):
        log(f"{number + 1}/{len(seeded)}: {row.title}, seed {seed}")
        folder = base / "ablation" / f"{slug(row)}-{seed}"
        options = identities_of(settings)
        start_row(base, folder, manifest, settings)
        source, source_options = max(finished, key=lambda pair: common_prefix(options, pair[1]))
        shared = STUDIED[: common_prefix(options, source_options)]
        link_files(source, folder, [name for stage in shared for name in files_of(stage)])
        take_timings(source, folder, shared)
        run_chain(folder, settings, device, stages=STUDIED, kept=kept)
        finished.append((folder, options))
        if options == identities_of(with_seed(common.absolute(), seed)):
            reference = reference or row.title
        epochs = read_arrays(folder / "epoch_scores.h5")
        scores.setdefault(row.title, []).append(epochs.chosen)
        figures = row_figures(read_metrics(folder)) | (costs.get(row.title) or labelling_cost(folder))
        lines.append({"group": row.group, "name": row.name, "seed": seed, **figures})
        write_csv(base / "ablation" / f"{plan.name}.csv", pd.DataFrame(lines))
    kept.remove()
    summary = summarise(pd.DataFrame(lines, columns=["group", "name", "seed", *FIGURES]))
    truth = read_ground_truth(base).rows_of(epochs.image_ids)
    measured = own.config("evaluate", EvaluateConfig, {})
    conventions = {"difficult": measured.difficult, "empty_class": measured.empty_class}
    table = add_differences(summary, scores, truth, reference, **conventions)
    with replacing(base / "ablation" / f"{plan.name}.md") as partial:
        notes = [*reasons_without_interval(table), *filter(None, [plan.note]), *left_out]
        partial.write_text(to_markdown(table, notes), encoding="utf-8")
    plot(table, base / "ablation" / f"{plan.name}.png")
    return table


def rows_of_methods(
    base: Path, manifest: Manifest, own: Settings, rows: Sequence[Row], device: str
) -> tuple[list[Row], dict[str, dict[str, float]], list[str]]:
    """The rows with the settings that train on the labels of their method, if they have one.

    Returns:
        The rows that are possible with this run and its teacher; the figures `views` and `seconds` of the labels by title of
        the row; and a line for each row that is not possible.
    """
    from pipeline.study.methods import LabelFile, label_files  # imports torch

    labels = label_files(base, manifest, own, [row.method for row in rows if row.method], device)
    possible, costs, left_out = [], {}, []
    for row in rows:
        made = labels.get(row.method)
        if isinstance(made, LabelFile):
            trained = Settings({"init-labels": {"labels_file": str(made.path.resolve())}, "boxes": {"view": "none"}})
            row = replace(row, settings=row.settings.merged(trained))
            costs[row.title] = asdict(made.cost)
        elif made is not None:
            left_out.append(f"row left out: {row.title}: {made}.")
            log(left_out[-1])
            continue
        possible.append(row)
    return possible, costs, left_out


def labelling_cost(folder: Path) -> dict[str, float]:
    """The figures `views` and `seconds` of labels that the stages of a run made; NaN for those of a label file.

    Without crops, warm-up and boxes are not part of the labelling. The seconds are NaN if a stage has no timing.
    """
    initial = read_arrays(folder / "initial_labels.h5", without=("labels", "scores"))
    if initial.provenance.options(InitLabelsConfig).labels_file:
        return {"views": np.nan, "seconds": np.nan}
    manifest = read_manifest(folder)
    count = len(manifest.split("train").image_ids)
    embeddings = read_arrays(
        folder / "embeddings.h5", without=("probabilities", "cell_scores", "best_cell", "ranking_probabilities")
    )
    crops = len(read_arrays(folder / "crop_scores.h5", without=("probabilities",)).image_index)
    embed = embeddings.provenance.options(EmbedConfig)
    views = 1 + (embed.tiles**2 if embed.local == "tiles" else bool(embeddings.grid_height and embed.second_size))
    needed = ["init-labels", *(["warmup", "boxes", "score-crops", "fuse"] if crops else [])]
    timings = read_timings(folder)
    seconds = sum(timings[name].seconds if name in timings else np.nan for name in needed)
    if embed.precomputed:
        views = 0
    else:
        seconds += timings["embed"].seconds * count / len(manifest.image_ids) if "embed" in timings else np.nan
    return {"views": views + crops / count, "seconds": seconds}


def identities_of(settings: Settings) -> list[dict[str, Any]]:
    """The options that determine the outputs of each stage, in order."""
    return [settings.config(stage.name, options_of(stage), {}).identity() for stage in STUDIED]


def start_row(base: Path, folder: Path, manifest: Manifest, settings: Settings) -> None:
    """Start a run with the images, the ground truth and the corrections of the base run."""
    # not linked: the manifest may contain photos by their path from the base run
    write_manifest(folder, manifest)
    for name in ("ground_truth.h5", "photos.csv", *BY_PEOPLE):
        (folder / name).unlink(missing_ok=True)  # an earlier ablation may have linked an older file
        link_files(base, folder, [name])
    write_run(folder, settings)


def with_seed(own: Settings, seed: int) -> Settings:
    """The settings with another seed for head, order, views and random boxes."""
    return own.merged(Settings({stage: {"seed": seed} for stage in SEEDED}))


def slug(row: Row) -> str:
    """Folder name of a row."""
    text = f"{row.group} {row.name}".lower()
    return "-".join("".join(c if c.isalnum() else " " for c in text).split())
