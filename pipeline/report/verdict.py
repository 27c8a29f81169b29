"""The artifacts of a run to the top of its page: one sentence, and alerts about what may need a decision."""

import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.artifacts.state import next_stage
from pipeline.evaluation.run_files import RunFiles
from pipeline.evaluation.tables import gain_sentence
from pipeline.method.extras.thresholds import PRESENT, predicted_nearly_everywhere
from pipeline.report.content import classifier_scores, scored, thresholds, truth_of
from pipeline.runs.graph import run_argument
from pipeline.runs.settings import FILE as SETTINGS
from pipeline.teachers.recommended import use_better_teacher

MAX_ALERTS = 5

PHOTOS = 4
"""Largest number of photos per alert."""

NAMES = 4
"""Largest number of class names per alert."""

EXAMPLES = 6
"""Photos with their predictions at the top of the page."""

CONFUSED_SHARE = 0.12
"""Two classes are confused if the other one is predicted instead for this share of the images with one."""

TWINS = 0.6
"""Without ground truth: two classes are suspicious if this share of the images with either label has both."""

FAR_APART = 0.15
"""Smallest total variation between the teacher's top-1 classes of train and test images that makes an alert."""

OFTEN_WRONG = 0.6
"""An alert names a class if a smaller share of its labels is right."""

WEAK_SHARE = 0.8
"""A class is weak if its AP is below this share of the mean."""

SHUFFLES = 200
"""Random splits that the difference of train and test images must exceed."""


@dataclass(frozen=True)
class Alert:
    """A finding that may need a decision."""

    title: str
    text: str
    weight: float
    """The page lists higher weights first."""
    photos: list[str] = field(default_factory=list)
    """Image ids."""
    show: dict[str, str] = field(default_factory=dict)
    """Filters of the gallery as in the page's address: class, what, split, view."""
    level: str = "warn"
    """warn, or note for a finding that may be harmless."""
    remedy: str = ""
    """What to do, with the command, in one line."""


def verdict(run: RunFiles, *, seed: int = 0) -> dict[str, Any]:
    """The sentence, the alerts with the highest weights (see `Alert`) and the ids of example photos, for JSON."""
    alerts = [
        *gain_alert(run),
        *unknown_alert(run),
        *label_alerts(run),
        *threshold_alerts(run),
        *confusion_alert(run),
        *twin_alert(run),
        *split_alert(run, seed),
        *unlabelled_alert(run),
        *wrong_labels_alert(run),
        *weakest_alert(run),
    ]
    alerts = sorted(alerts, key=lambda alert: -alert.weight)[:MAX_ALERTS]
    return {"sentence": sentence(run), "alerts": [asdict(alert) for alert in alerts], "examples": examples(run, seed)}


def examples(run: RunFiles, seed: int) -> list[str]:
    """Ids of random photos with a decision: test photos of the classifier, or else train photos with their labels."""
    final = final_scores(run)
    if final is None:
        return []
    split, _, decided = final
    ids = run.manifest.split(split).image_ids
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(decided.any(1)))
    return [ids[row] for row in rows[:EXAMPLES]]


def sentence(run: RunFiles) -> str:
    """The result of the run in one line."""
    if gain := (run.metrics or {}).get("gain"):
        return gain_sentence(gain)
    if next_stage(run.states):
        return unfinished(run)
    return "The classifier is not measured: the run has no labelled test photos."


def unfinished(run: RunFiles) -> str:
    """The stage that an unfinished run needs next, and the command that runs the rest."""
    return (
        f"The run is not finished: the next stage is {next_stage(run.states)}. `ccd all {run_argument(run.folder)}` runs the "
        "rest."
    )


def advice(run: RunFiles, name: str = "") -> dict[str, str]:
    """Common remedies, each with its command; `name` is the class to review."""
    argument = run_argument(run.folder)
    only = f" --class {shlex.quote(name)}" if name else ""
    return {
        "rename": f"give more specific names under [classes] in {run.folder / SETTINGS}, then run `ccd all {argument}`",
        "review": f"correct some photos with `ccd review {argument}{only}`, then run `ccd all {argument}`",
        "calibrate": f"fit thresholds to a table of labelled photos with `ccd calibrate {argument} labels.csv`",
    }


def as_sentence(*parts: str) -> str:
    """Remedies joined by "or", as one sentence."""
    text = ", or ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def closing_lines(run: RunFiles) -> list[str]:
    """One line per warning of the verdict, with what to do."""
    return [
        f"warning: {alert['title']}. {alert['remedy']}" for alert in verdict(run)["alerts"] if alert["level"] == "warn"
    ]


def listed(names: list[str]) -> str:
    """The first few names, joined by commas."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def top_ids(image_ids: list[str], values: np.ndarray) -> list[str]:
    """The images with the highest values [N] above 0, highest first."""
    rows = np.argsort(-values, kind="stable")[:PHOTOS]
    return [image_ids[row] for row in rows if values[row] > 0]


def final_scores(run: RunFiles) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Split, scores [N, C] and decisions: of the classifier on test images, or else of the labels on train images."""
    ranked = {name: (split, scores) for name, split, scores in scored(run)}
    if "classifier" in ranked:
        split, scores = ranked["classifier"]
        return split, scores, scores >= thresholds(run)
    labels = run.final or run.initial
    return None if labels is None else ("train", labels.labels, labels.labels >= PRESENT)


def gain_alert(run: RunFiles) -> list[Alert]:
    """The gain over the teacher is a loss, or its interval contains 0."""
    low, high = ((run.metrics or {}).get("gain") or {}).get("mAP_interval", (1, 1))
    if low > 0:
        return []
    gain, part = (run.metrics or {})["gain"]["mAP"], run.manifest.split("test")
    final, truth = final_scores(run), truth_of(run, part.image_ids)
    measured = 0 if truth is None else int((truth >= 0).any(1).sum())
    photos = []
    if final is not None and truth is not None and final[0] == "test":
        photos = top_ids(part.image_ids, ((final[2] != (truth == 1)) & (truth >= 0)).sum(1))
    text = f"{100 * gain:+.1f} mAP on {measured:,} test photos, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}."
    show = {"view": "wrong", "split": "test"}
    if high < 0:
        remedy = as_sentence(advice(run)["review"], advice(run)["rename"])
        return [Alert("The classifier is worse than its teacher", text, 100.0, photos, show, remedy=remedy)]
    remedy = (
        "More labelled test photos narrow the interval, more train photos may raise the gain: add them, then run "
        f"`ccd all {run_argument(run.folder)}`."
    )
    return [Alert("The gain may be chance", text, 100.0, photos, show, remedy=remedy)]


def unknown_classes(run: RunFiles) -> np.ndarray:
    """Classes whose names the teacher does not know, bool [C]."""
    known = None if run.embeddings is None else run.embeddings.name_is_known
    return np.zeros(len(run.manifest.class_names), bool) if known is None else ~known


def unknown_alert(run: RunFiles) -> list[Alert]:
    """Class names that mean nothing to the teacher."""
    unknown = np.flatnonzero(unknown_classes(run))
    if not len(unknown):
        return []
    names = [run.manifest.class_names[c] for c in unknown]
    text = (
        "The teacher's embedding of the name is more similar to that of meaningless words than to that of common ones, so the "
        "labels are probably wrong."
    )
    key = json.dumps(names[0], ensure_ascii=False)
    remedy = (
        f'Under [classes] in {run.folder / SETTINGS}, add a line such as {key} = ["English name", "synonym"], then run '
        f"`ccd all {run_argument(run.folder)}`."
    )
    show = {"class": names[0], "view": "score", "split": "train"}
    return [Alert(f"The teacher probably does not know: {listed(names)}", text, 95.0, [], show, remedy=remedy)]


def without_label(run: RunFiles) -> np.ndarray:
    """Classes without a label, bool [C]."""
    labels = run.final or run.initial
    return np.zeros(len(run.manifest.class_names), bool) if labels is None else ~(labels.labels >= PRESENT).any(0)


def remedy_of_no_label(run: RunFiles, name: str = "") -> str:
    """What to do about classes without a label. Names come last: none helps `conse` with `person`, which ImageNet lacks.

    Args:
        run: files of the run.
        name: the class to review first.
    """
    review = advice(run, name)["review"]
    if run.embeddings is not None and run.embeddings.teacher.startswith("conse"):
        review = f"use a CLIP teacher, {use_better_teacher(run.folder, 'auto')}, or {review}"
    return f"{as_sentence(review)} Only then try other names, under [classes] in {run.folder / SETTINGS}."


def label_alerts(run: RunFiles) -> list[Alert]:
    """Classes without a label."""
    labels, names = run.final or run.initial, run.manifest.class_names
    train = run.manifest.split("train")
    never = np.zeros(len(names), bool) if run.embeddings is None else run.embeddings.bias_counts == 0
    empty = without_label(run)
    if labels is not None and empty.all():
        text = f"None of the {len(labels.labels):,} train photos has a label of {PRESENT} or more. Do not rely on the classifier."
        remedy = remedy_of_no_label(run)
        return [Alert("No class has a label", text, 99.0, [], {"what": "none"}, remedy=remedy)]
    empty &= ~unknown_classes(run)  # another alert names these
    if labels is not None and empty.any():
        classes = np.flatnonzero(empty)
        text = f"No train photo has a label of {PRESENT} or more, so the classifier learns little about it."
        both = [names[c] for c in classes if never[c]]
        text += f" In no photo is the teacher sure of {listed(both)}." if both else ""
        truth = truth_of(run, train.image_ids)
        if truth is not None:
            text = f"{int((truth[:, classes] == 1).sum()):,} train photos show it. {text}"
        photos = top_ids(train.image_ids, labels.scores[:, classes].max(1))
        show = {"class": names[classes[0]], "view": "score", "split": "train"}
        remedy = remedy_of_no_label(run, names[classes[0]])
        title = f"No label: {listed([names[c] for c in classes])}"
        return [Alert(title, text, 90.0, photos, show, remedy=remedy)]
    return []


def threshold_alerts(run: RunFiles) -> list[Alert]:
    """Classes that are predicted in no test image, or in nearly all; of train images in a run without test images."""
    classifier = classifier_scores(run)
    if classifier is None:
        return []
    split, scores = classifier
    decided = scores >= thresholds(run)
    part, names = run.manifest.split(split), run.manifest.class_names
    truth = truth_of(run, part.image_ids)
    alerts = []
    never = ~decided.any(0) & ~without_label(run)  # another alert names classes without a label
    everywhere = predicted_nearly_everywhere(decided, truth)
    for which, title, text in (
        (
            never,
            "Never predicted",
            f"No {split} photo reaches its threshold. The slider under Thresholds shows the photos at other thresholds.",
        ),
        (everywhere, "Predicted nearly everywhere", f"More than 90 % of the {split} photos reach its threshold."),
    ):
        if which.any():
            classes = np.flatnonzero(which)
            positives = "" if truth is None else f" {int((truth[:, classes] == 1).sum()):,} {split} photos show it."
            show = {"class": names[classes[0]], "view": "score", "split": split}
            photos = top_ids(part.image_ids, scores[:, classes].max(1))
            heading = f"{title}: {listed([names[c] for c in classes])}"
            remedy = as_sentence(advice(run)["calibrate"], advice(run)["rename"])
            alerts.append(Alert(heading, text + positives, 80.0, photos, show, remedy=remedy))
    return alerts


def confusion_alert(run: RunFiles) -> list[Alert]:
    """The two classes that the classifier confuses most, by the ground truth."""
    final = final_scores(run)
    if final is None:
        return []
    split, scores, decided = final
    part, names = run.manifest.split(split), run.manifest.class_names
    truth = truth_of(run, part.image_ids)
    if truth is None or not len(truth):
        return []
    falsely, missed = decided & (truth == 0), ~decided & (truth == 1)
    instead = falsely.T.astype(int) @ missed  # [predicted, present]
    share = instead / np.maximum((truth == 1).sum(0), 1)
    share[instead < 3] = 0
    predicted, present = np.unravel_index(int(share.argmax()), share.shape)
    if share[predicted, present] < CONFUSED_SHARE:
        return []
    rows = falsely[:, predicted] & missed[:, present]
    text = (
        f"{instead[predicted, present]} of {(truth[:, present] == 1).sum()} {split} photos with {names[present]} are predicted "
        f"as {names[predicted]} instead."
    )
    show = {"class": names[present], "also": names[predicted], "split": split}
    photos = top_ids(part.image_ids, rows * scores[:, predicted])
    weight = 40 + 50 * float(share[predicted, present])
    remedy = as_sentence(advice(run)["rename"], advice(run, names[present])["review"])
    return [Alert(f"{names[present]} is mistaken for {names[predicted]}", text, weight, photos, show, remedy=remedy)]


def twin_alert(run: RunFiles) -> list[Alert]:
    """Without ground truth: the two classes whose labels occur together most often."""
    labels = run.final or run.initial
    if run.truth is not None or labels is None:
        return []
    present, names = labels.labels >= PRESENT, run.manifest.class_names
    both = present.T.astype(int) @ present
    either = present.sum(0)[:, None] + present.sum(0) - both
    share = np.where(both >= 3, both / np.maximum(either, 1), 0)
    np.fill_diagonal(share, 0)
    first, second = np.unravel_index(int(share.argmax()), share.shape)
    if share[first, second] < TWINS:
        return []
    text = (
        f"{share[first, second]:.0%} of the train photos that have either label have both. "
        "If the classes are unrelated, the teacher confuses their names."
    )
    train = run.manifest.split("train").image_ids
    photos = top_ids(train, (present[:, first] & present[:, second]) * labels.scores[:, [first, second]].sum(1))
    show = {"class": names[first], "also": names[second], "split": "train"}
    remedy = as_sentence(advice(run)["rename"])
    return [Alert(f"{names[first]} and {names[second]} occur together", text, 50.0, photos, show, "note", remedy)]


def split_alert(run: RunFiles, seed: int) -> list[Alert]:
    """The teacher's top-1 classes differ between train and test images."""
    if run.embeddings is None or run.embeddings.is_train.all() or not run.embeddings.is_train.any():
        return []
    top = run.embeddings.probabilities.argmax(1)
    is_train, count = run.embeddings.is_train, run.embeddings.probabilities.shape[1]
    distance, gaps = apart(top, is_train, count)
    generator = np.random.default_rng(seed)
    chance = [apart(top, generator.permutation(is_train), count)[0] for _ in range(SHUFFLES)]
    if distance < FAR_APART or distance <= max(chance):
        return []
    c = int(np.abs(gaps).argmax())
    name = run.manifest.class_names[c]
    shares = [(top[part] == c).mean() for part in (is_train, ~is_train)]
    text = (
        f"The teacher finds {name} most likely in {shares[0]:.0%} of the train and {shares[1]:.0%} of the test photos. "
        "Thresholds are fitted on train photos and may not suit the test photos."
    )
    test = run.manifest.split("test").image_ids
    rarer = gaps[top[~is_train]]  # by how much the class of each test image is more frequent in the test split
    show = {"class": name, "what": "top"}
    remedy = as_sentence(
        f"add photos like the test photos to the train photos, then run `ccd all {run_argument(run.folder)}`",
        advice(run)["calibrate"],
    )
    return [Alert("Train and test photos differ", text, 70.0, top_ids(test, rarer), show, remedy=remedy)]


def apart(top: np.ndarray, is_train: np.ndarray, count: int) -> tuple[float, np.ndarray]:
    """Total variation between the top-1 classes of test and train images, and the differences [C]."""
    shares = [np.bincount(top[part], minlength=count) / max(part.sum(), 1) for part in (is_train, ~is_train)]
    gaps = shares[1] - shares[0]
    return float(np.abs(gaps).sum() / 2), gaps


def unlabelled_alert(run: RunFiles) -> list[Alert]:
    """Many train images have no label."""
    labels = run.final or run.initial
    if labels is None or not len(labels.labels):
        return []
    none = ~(labels.labels >= PRESENT).any(1)
    if none.mean() < 0.25:
        return []
    text = (
        f"{none.sum():,} of {len(none):,} train photos have no label of 0.5 or more. If they show other things, name these: they "
        "compete with the classes for the teacher's probability."
    )
    photos = top_ids(labels.image_ids, none * labels.scores.max(1))
    remedy = as_sentence(
        f"name what they show with `ccd all {run_argument(run.folder)} --set embed.background='everyday, NAME'`",
        advice(run)["review"],
    )
    title = f"{none.mean():.0%} of the train photos have no label"
    return [Alert(title, text, 45.0, photos, {"what": "none"}, "note", remedy)]


def wrong_labels_alert(run: RunFiles) -> list[Alert]:
    """The class with the smallest share of correct labels, by the ground truth."""
    labels = run.final or run.initial
    truth = None if labels is None else truth_of(run, labels.image_ids)
    if labels is None or truth is None:
        return []
    present = labels.labels >= PRESENT
    right, false = (present & (truth == 1)).sum(0), (present & (truth == 0)).sum(0)
    share = np.where(right + false >= 5, right / np.maximum(right + false, 1), 1.0)
    c = int(share.argmin())
    if share[c] > OFTEN_WRONG:
        return []
    name = run.manifest.class_names[c]
    text = f"{right[c]:,} of {right[c] + false[c]:,} train photos with this label show the class. The wrong labels mislead the classifier."
    photos = top_ids(labels.image_ids, (present & (truth == 0))[:, c] * labels.labels[:, c])
    show = {"class": name, "what": "false", "split": "train"}
    remedy = as_sentence(advice(run, name)["review"], advice(run)["rename"])
    return [Alert(f"Labels often wrong: {name}", text, 40 + 30 * (1 - float(share[c])), photos, show, remedy=remedy)]


def weakest_alert(run: RunFiles) -> list[Alert]:
    """The class that the classifier ranks worst, by the ground truth."""
    figures = (run.metrics or {}).get("test", {}).get("final classifier")
    final = final_scores(run)
    if not figures or final is None or final[0] != "test":
        return []
    values = {name: value for name, value in figures["AP"].items() if value is not None}
    part = run.manifest.split("test")
    truth = truth_of(run, part.image_ids)
    if not values or truth is None:
        return []
    name = min(values, key=lambda each: values[each])
    if values[name] > WEAK_SHARE * figures["mAP"]:
        return []
    c = part.class_names.index(name)
    positive = truth[:, c] == 1
    photos = top_ids(part.image_ids, positive * (1 - final[1][:, c]))  # lowest-ranked positives
    text = (
        f"AP {100 * values[name]:.1f}, mean AP {100 * figures['mAP']:.1f}; {positive.sum():,} test photos show it. "
        "The photos with the lowest scores are shown."
    )
    show = {"class": name, "what": "missed", "split": "test"}
    remedy = as_sentence(advice(run)["rename"], advice(run, name)["review"])
    return [Alert(f"Weakest class: {name}", text, 30.0, photos, show, "note", remedy)]
