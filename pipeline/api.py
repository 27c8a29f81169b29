"""The pipeline from Python: `fit` is `ccd all`, and the methods of `Run` are the commands of a run.

from pipeline import fit
run = fit("photos", classes={"dog": ["dog", "puppy"], "cat": "cat"}, epochs=8)
run.labels.frame()
run.classifier.predict(["new.jpg"])
run.fuse(ratio=0.3)
run.report()
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runs.folders import existing_run, run_text
from pipeline.runs.graph import STAGE_NAMES, STAGES, Stage, options_of, up_to
from pipeline.runs.options import EmbedConfig, ReportConfig
from pipeline.runs.settings import Settings, Words, checked_words, short_settings
from pipeline.system.errors import PipelineError, hint, raised_at_call
from pipeline.system.memory import keep_freed_memory, return_freed_memory
from pipeline.system.progress import log

if TYPE_CHECKING:
    from pipeline.artifacts.labels import Labels
    from pipeline.deploy.classifier import Classifier

Sources = str | Path | Sequence[str | Path]
"""A folder, file or address of photos, or several."""

Classes = str | Path | Sequence[str] | Mapping[str, str | Words]
"""Class names; or names with their display names in prompts; or one text as for `--classes`: names joined by commas, or a
file."""


@raised_at_call
def fit(
    images: Sources = (),
    classes: Classes = (),
    *,
    test_images: Sources = (),
    labels: str | Path = "",
    out: str | Path = "",
    teacher: str | None = None,
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    preset: str | Path = "",
    recipe: str | Path = "",
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    to: str = "evaluate",
    reset: bool = False,
) -> "Run":
    """Train a classifier on photos and class names: `ccd all` with the same options.

    On an existing run only the stages that are out of date run; its settings stay unless an argument changes them. After
    an interruption, the same call continues.

    Args:
        images: photos to train on: a folder, photo, list, archive or address, or several.
        classes: class names, or a dict from class name to its display names in prompts.
        test_images: photos to evaluate on.
        labels: CSV or Parquet table of labels for evaluation, with the columns image and labels (joined by ;).
        out: run: a name under artifacts/ or a path (default: name of the photo folder or the preset).
        teacher: such as "conse" or "open_clip:ViT-B-32/openai".
        backbone: of the classifier.
        epochs: of the final training.
        batch_size: images per training step.
        image_size: side of the classifier's square input, in pixels.
        seed: of the two trainings and of random boxes.
        preset: settings of a dataset: the name of a shipped one, or a .toml file.
        recipe: settings of the paper: the name of a shipped recipe, or a .toml file.
        settings: any option of any stage, as {"fuse.ratio": 0.5}; wins over the arguments above.
        device: cpu, cuda, cuda:N, mps, or auto (CUDA if available).
        to: the last stage to run.
        reset: discard the settings of an existing run and start over.

    Raises:
        PipelineError: as for the command.
    """
    names, words = class_options(classes)
    paths = {"images": sources(images), "classes": names, "test_images": sources(test_images), "labels": str(labels)}
    short = {"teacher": teacher, "backbone": backbone, "epochs": epochs}
    short |= {"batch_size": batch_size, "image_size": image_size, "seed": seed}
    chosen = short_settings({name: value for name, value in short.items() if value is not None})
    more = chosen.merged(Settings(tables_of(settings or {}), words))
    given = {name: value for name, value in paths.items() if value}
    return Run(build(run_text(out), str(preset), str(recipe), given, more, reset, device, to), device)


def build(
    run: str, preset: str, recipe: str, given: dict[str, Any], more: Settings, reset: bool, device: str, to: str
) -> Path:
    """Run the stages up to `to` that are out of date, and return the run's folder. Arguments: see `started_run`."""
    from pipeline.stages.chain import run_chain
    from pipeline.stages.forecast import WORTH_SAYING, forecast
    from pipeline.stages.started import started_run
    from pipeline.teachers.recommended import log_better_teacher

    if to not in STAGE_NAMES:
        raise PipelineError(f"`to` is {to!r}, expected one of {', '.join(STAGE_NAMES)}.")
    keep_freed_memory()  # as the command line does
    with started_run(run, preset, recipe, given, more, reset, force=False) as (folder, own):
        stages = up_to(to)[1:]
        if stages:
            log_better_teacher(folder, own.config("embed", EmbedConfig, {}), device)
        estimate = forecast(folder, own, device, stages, force=False)
        if estimate is not None and estimate.total >= WORTH_SAYING:
            log(estimate.sentence(folder))
        run_chain(folder, own, device, stages=stages)
    return_freed_memory()
    return folder


class Run:
    """A run that has been started: its files, its stages and its classifier.

    There is a method per stage, such as `run.fuse(ratio=0.3)`. It sets options of the stage in the run's settings, and runs
    those stages up to this one that are out of date.

    Args:
        run: a name under artifacts/, or the path of a run folder.
        device: for the stages and the classifier: cpu, cuda, cuda:N, mps, or auto (CUDA if available).
    """

    @raised_at_call
    def __init__(self, run: str | Path, device: str = "auto") -> None:
        self.folder = existing_run(run_text(run))
        """The run folder; `pipeline.read` reads any file in it."""
        self.device = device

    @property
    @raised_at_call
    def labels(self) -> "Labels":
        """The final pseudo-labels of the train photos; `labels.frame()` is a pandas frame.

        Raises:
            PipelineError: they are missing or damaged.
        """
        return self._read("final_labels.h5")

    @property
    @raised_at_call
    def metrics(self) -> dict[str, Any]:
        """The figures of the run; empty if it has no ground truth.

        Raises:
            PipelineError: the stage `evaluate` has not run.
        """
        return self._read("metrics.json") if (self.folder / "ground_truth.h5").exists() else {}

    @cached_property
    @raised_at_call
    def classifier(self) -> "Classifier":
        """The final classifier, with the thresholds of `calibrated.pt` if they belong to it.

        Raises:
            PipelineError: see `Classifier.load`.
        """
        from pipeline.deploy.classifier import Classifier

        return Classifier.load(self.folder, self.device)

    @raised_at_call
    def report(self, **options: Any) -> Path:
        """Write `report.html` and return its path. Options: see `ccd report --help`.

        Raises:
            PipelineError: a wrong option, or a run without images.
        """
        from pipeline.report import build as tool

        return tool.run(self.folder, ReportConfig.from_table(options, "report()"))

    def _read(self, name: str) -> Any:
        from pipeline.evaluation.read import read_with_warning

        return read_with_warning(self.folder / name)

    def _run_stage(self, stage: Stage, options: dict[str, Any]) -> "Run":
        more = Settings({stage.name: {name: plain(value) for name, value in options.items()}})
        try:
            build(run_text(self.folder), "", "", {}, more, False, self.device, stage.name)
        finally:
            self.__dict__.pop("classifier", None)  # an interrupted stage may have replaced the file
        return self

    def __repr__(self) -> str:
        from pipeline.report.summary import text_of

        return text_of(self.folder)

    def _repr_html_(self) -> str:
        """The run for a notebook."""
        from pipeline.report.summary import html_of

        return html_of(self.folder)


def stage_method(stage: Stage) -> Callable[..., Run]:
    """The method of `Run` that runs a stage; its signature has the options of the stage."""

    @raised_at_call
    def method(self: Run, **options: Any) -> Run:
        return self._run_stage(stage, options)

    kind = options_of(stage)
    keyword = inspect.Parameter.KEYWORD_ONLY
    defaults = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(kind)}
    parameters = [inspect.Parameter(name, keyword, default=default) for name, default in defaults.items()]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([own, *parameters], return_annotation="Run")
    method.__name__ = stage.name.replace("-", "_")
    method.__qualname__ = f"Run.{method.__name__}"
    helps = "\n".join(f"    {item.name}: {item.metadata['help']}" for item in fields(kind))
    method.__doc__ = f"{stage.summary}\n\nAn option that is not given keeps its value in the run's settings.\n\n{helps}"
    return method


for _stage in STAGES:
    _method = stage_method(_stage)
    setattr(Run, _method.__name__, _method)


def sources(given: Sources) -> str | list[str]:
    """Sources of photos as an option."""
    if isinstance(given, str | Path):
        return str(given)
    each = [str(source) for source in given]
    return each[0] if len(each) == 1 else each


def class_options(classes: Classes) -> tuple[str, dict[str, Words]]:
    """The option `classes` of `prepare`, and the display names of the classes.

    Raises:
        PipelineError: a name is not a text or has a comma, or a display name has a wrong form.
    """
    from pipeline.datasets.class_names import check_class_names

    if isinstance(classes, str | Path) or not classes:
        return str(classes or ""), {}
    names = list(classes)
    check_class_names(names)
    for name in names:
        if "," in name:
            raise PipelineError(
                f"class name {name!r} has a comma, which separates classes. Write the names to a text file, one per line, and "
                "give its path."
            )
    words = {name.strip(): words for name, words in classes.items()} if isinstance(classes, Mapping) else {}
    # the comma after a single name makes it a list, even if a file has this name
    return ",".join(names) + "," * (len(names) == 1), checked_words(words, "`classes`")


def tables_of(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Tables of settings from {"STAGE.OPTION": value}.

    Raises:
        PipelineError: a key has another form, or names no stage.
    """
    tables: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        stage, _, option = str(key).partition(".")
        if not option or stage not in STAGE_NAMES:
            raise PipelineError(
                f"the setting {key!r} does not have the form STAGE.OPTION, as train.epochs. {hint(stage, STAGE_NAMES)}"
            )
        tables.setdefault(stage, {})[option.replace("-", "_")] = plain(value)
    return tables


def plain(value: Any) -> Any:
    """A value of an option as TOML has it: paths as text, tuples as lists."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
