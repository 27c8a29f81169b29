"""The artifacts of a run to what a person should know first: a sentence, and the alerts that call for a decision."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.evaluation.run_files import RunFiles
from pipeline.method.extras.thresholds import PRESENT, predicted_nearly_everywhere
from pipeline.report.content import scored, thresholds, truth_of

MOST_ALERTS = 5
PHOTOS = 4
"""Most photos that an alert shows."""

NAMES = 4
"""Most classes that an alert names."""

CONFUSED_SHARE = 0.12
"""Two classes are confused if this share of the images with one is called the other instead."""

TWINS = 0.6
"""Without ground truth: images that have both of two classes, as a share of those that have either."""

FAR_APART = 0.15
"""Total variation between what the teacher calls the train and the test images from which on they are far apart."""

OFTEN_WRONG = 0.6
"""A class whose labels are right less often than this is an alert."""

WEAK_SHARE = 0.8
"""A class is weak if its AP is below this share of the mean."""

SHUFFLES = 200


@dataclass(frozen=True)
class Alert:
    """One thing to decide about."""

    title: str
    text: str
    weight: float
    """The heavier comes first."""
    photos: list[str] = field(default_factory=list)
    """Image ids."""
    show: dict[str, str] = field(default_factory=dict)
    """What the gallery is to be filtered by: class, what, split, view, as in the page's address."""
    level: str = "warn"
    """warn, or note for what may well be right."""


def verdict(run: RunFiles, *, seed: int = 0) -> dict[str, Any]:
    """The sentence and the weightiest alerts.

    Returns:
        sentence: what the run came to. alerts: level, title, text, photos (image ids), show (see `Alert`).
    """
    found = [
        *gain_alert(run),
        *class_alerts(run),
        *threshold_alerts(run),
        *confusion_alert(run),
        *twin_alert(run),
        *split_alert(run, seed),
        *unlabelled_alert(run),
        *wrong_labels_alert(run),
        *weakest_alert(run),
    ]
    found = sorted(found, key=lambda alert: -alert.weight)[:MOST_ALERTS]
    alerts = [{key: getattr(a, key) for key in ("level", "title", "text", "photos", "show")} for a in found]
    return {"sentence": sentence(run), "alerts": alerts}


def sentence(run: RunFiles) -> str:
    """What the run came to, in one line."""
    gain = (run.metrics or {}).get("gain")
    if not gain:
        return (
            "How good it is cannot be said without labelled test photos." if run.final else "The run is not finished."
        )
    figure = f"{100 * gain['mAP']:+.1f} mAP"
    low, high = gain.get("mAP_interval", (None, None))
    if low is None:
        return f"The classifier against its teacher: {figure}. This may be chance: {gain.get('no_interval', 'it has no interval')}."
    within = f"{figure}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    if low > 0:
        return f"The classifier is better than its teacher: {within}."
    return f"The classifier is {'worse' if high < 0 else 'not measurably better'} than its teacher: {within}."


def listed(names: list[str]) -> str:
    """Names as in a sentence, the first few."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def top_ids(image_ids: list[str], values: np.ndarray) -> list[str]:
    """The images with the highest values [N] above 0, highest first."""
    rows = np.argsort(-values, kind="stable")[:PHOTOS]
    return [image_ids[row] for row in rows if values[row] > 0]


def final_scores(run: RunFiles) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Split, scores [N, C] and decisions of the classifier on test images, or else of the labels on train images."""
    ranked = {name: (split, scores) for name, split, scores in scored(run)}
    if "classifier" in ranked:
        split, scores = ranked["classifier"]
        return split, scores, scores >= thresholds(run)
    labels = run.final or run.initial
    return None if labels is None else ("train", labels.labels, labels.labels >= PRESENT)


def gain_alert(run: RunFiles) -> list[Alert]:
    """The gain over the teacher holds 0, or is a loss."""
    low, high = ((run.metrics or {}).get("gain") or {}).get("mAP_interval", (1, 1))
    if low > 0:
        return []
    gain, part = (run.metrics or {})["gain"]["mAP"], run.manifest.split("test")
    found, truth = final_scores(run), truth_of(run, part.image_ids)
    measured = 0 if truth is None else int((truth >= 0).any(1).sum())
    photos = []
    if found is not None and truth is not None and found[0] == "test":
        photos = top_ids(part.image_ids, ((found[2] != (truth == 1)) & (truth >= 0)).sum(1))
    text = f"{100 * gain:+.1f} mAP over {measured:,} test photos, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}. "
    text += (
        "Something in the run makes the labels worse: look at the classes below."
        if high < 0
        else "More labelled test photos would tell; so may more training photos."
    )
    title = "The classifier is worse than its teacher" if high < 0 else "The gain may be chance"
    return [Alert(title, text, 100.0, photos, {"view": "wrong", "split": "test"})]


def class_alerts(run: RunFiles) -> list[Alert]:
    """Classes without a label, and classes that the teacher never names."""
    labels, names = run.final or run.initial, run.manifest.class_names
    train = run.manifest.split("train")
    never = np.zeros(len(names), bool) if run.embeddings is None else run.embeddings.bias_counts == 0
    empty = np.zeros(len(names), bool) if labels is None else ~(labels.labels >= PRESENT).any(0)
    found = []
    if labels is not None and empty.any():
        classes = np.flatnonzero(empty)
        text = f"No train photo has a label of {PRESENT} or more, so the classifier learns it from hints alone"
        both = [names[c] for c in classes if never[c]]
        text += f" ({listed(both)}: the teacher never puts it on top)" if both else ""
        text += ". Give it a name that the teacher knows, correct some photos, or leave it out."
        truth = truth_of(run, train.image_ids)
        if truth is not None:
            text = f"{int((truth[:, classes] == 1).sum()):,} train photos truly show it. {text}"
        photos = top_ids(train.image_ids, labels.scores[:, classes].max(1))
        show = {"class": names[classes[0]], "view": "score", "split": "train"}
        found.append(Alert(f"No label: {listed([names[c] for c in classes])}", text, 90.0, photos, show))
    never &= ~empty
    if run.embeddings is not None and never.any():
        classes = np.flatnonzero(never)
        text = (
            "On no confident train photo does the teacher put it on top, so that its bias is the mean of the others'. "
            "A more telling name or template may help."
        )
        there = run.embeddings.probabilities[run.embeddings.is_train][:, classes].max(1)
        show = {"class": names[classes[0]], "view": "score", "split": "train"}
        title = f"Never named by the teacher: {listed([names[c] for c in classes])}"
        found.append(Alert(title, text, 60.0, top_ids(train.image_ids, there), show))
    return found


def threshold_alerts(run: RunFiles) -> list[Alert]:
    """Classes that no test image, or nearly every one, is called."""
    found = final_scores(run)
    if found is None or found[0] != "test":
        return []
    split, scores, decided = found
    part, names = run.manifest.split(split), run.manifest.class_names
    truth = truth_of(run, part.image_ids)
    alerts = []
    silent, loud = ~decided.any(0), predicted_nearly_everywhere(decided, truth)
    for which, title, text in (
        (
            silent,
            "Never called",
            "No test photo reaches its threshold. Lower it: the slider shows what that would call.",
        ),
        (loud, "Called nearly everywhere", "More than nine in ten test photos reach its threshold. Raise it."),
    ):
        if which.any():
            classes = np.flatnonzero(which)
            there = "" if truth is None else f" {int((truth[:, classes] == 1).sum()):,} test photos truly show it."
            show = {"class": names[classes[0]], "view": "score", "split": split}
            photos = top_ids(part.image_ids, scores[:, classes].max(1))
            alerts.append(Alert(f"{title}: {listed([names[c] for c in classes])}", text + there, 80.0, photos, show))
    return alerts


def confusion_alert(run: RunFiles) -> list[Alert]:
    """The two classes of which one is called most often where the other is, by the ground truth."""
    found = final_scores(run)
    if found is None:
        return []
    split, scores, decided = found
    part, names = run.manifest.split(split), run.manifest.class_names
    truth = truth_of(run, part.image_ids)
    if truth is None or not len(truth):
        return []
    falsely, missed = decided & (truth == 0), ~decided & (truth == 1)
    instead = falsely.T.astype(int) @ missed  # [called, there]
    share = instead / np.maximum((truth == 1).sum(0), 1)
    share[instead < 3] = 0
    called, there = np.unravel_index(int(share.argmax()), share.shape)
    if share[called, there] < CONFUSED_SHARE:
        return []
    rows = falsely[:, called] & missed[:, there]
    text = (
        f"{instead[called, there]} of {(truth[:, there] == 1).sum()} {split} photos with {names[there]} are called "
        f"{names[called]} instead. Names that tell the two apart may help, or a few corrected photos."
    )
    show = {"class": names[there], "also": names[called], "split": split}
    photos = top_ids(part.image_ids, rows * scores[:, called])
    weight = 40 + 50 * float(share[called, there])
    return [Alert(f"{names[there]} is taken for {names[called]}", text, weight, photos, show)]


def twin_alert(run: RunFiles) -> list[Alert]:
    """Without ground truth: the two classes that nearly always get their labels together."""
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
        "If they do not belong together, the teacher cannot tell their names apart."
    )
    train = run.manifest.split("train").image_ids
    photos = top_ids(train, (present[:, first] & present[:, second]) * labels.scores[:, [first, second]].sum(1))
    show = {"class": names[first], "also": names[second], "split": "train"}
    return [Alert(f"{names[first]} and {names[second]} come together", text, 50.0, photos, show, "note")]


def split_alert(run: RunFiles, seed: int) -> list[Alert]:
    """Train and test images are of different kinds, as the teacher sees them."""
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
        f"The teacher puts {name} on top of {shares[0]:.0%} of the train and {shares[1]:.0%} of the test photos. "
        "Thresholds are set on train photos, so what the classifier calls on test photos may be off."
    )
    test = run.manifest.split("test").image_ids
    rarer = gaps[top[~is_train]]  # how much more frequent the class of each test image is there
    show = {"class": name, "what": "top"}
    return [Alert("Train and test photos differ", text, 70.0, top_ids(test, rarer), show)]


def apart(top: np.ndarray, is_train: np.ndarray, count: int) -> tuple[float, np.ndarray]:
    """Total variation between the classes on top of the test and of the train images, and the differences [C]."""
    shares = [np.bincount(top[part], minlength=count) / max(part.sum(), 1) for part in (is_train, ~is_train)]
    gaps = shares[1] - shares[0]
    return float(np.abs(gaps).sum() / 2), gaps


def unlabelled_alert(run: RunFiles) -> list[Alert]:
    """Many train images are without any label."""
    labels = run.final or run.initial
    if labels is None or not len(labels.labels):
        return []
    none = ~(labels.labels >= PRESENT).any(1)
    if none.mean() < 0.25:
        return []
    text = (
        f"{none.sum():,} of {len(none):,} train photos have no label of 0.5 or more. If they do show something, name it: "
        "what is in the photos and is no class takes the teacher's word away."
    )
    photos = top_ids(labels.image_ids, none * labels.scores.max(1))
    return [Alert(f"{none.mean():.0%} of the train photos have no label", text, 45.0, photos, {"what": "none"}, "note")]


def wrong_labels_alert(run: RunFiles) -> list[Alert]:
    """The class whose labels are right least often, by the ground truth."""
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
    text = f"{right[c]:,} of {right[c] + false[c]:,} train photos with the label truly show it; the others teach the wrong thing."
    photos = top_ids(labels.image_ids, (present & (truth == 0))[:, c] * labels.labels[:, c])
    show = {"class": name, "what": "false", "split": "train"}
    return [Alert(f"Labels often wrong: {name}", text, 40 + 30 * (1 - float(share[c])), photos, show)]


def weakest_alert(run: RunFiles) -> list[Alert]:
    """The class that the classifier ranks worst, by the ground truth."""
    figures = (run.metrics or {}).get("test", {}).get("final classifier")
    found = final_scores(run)
    if not figures or found is None or found[0] != "test":
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
    there = truth[:, c] == 1
    photos = top_ids(part.image_ids, there * (1 - found[1][:, c]))  # those with it that it ranks lowest
    text = (
        f"AP {100 * values[name]:.1f}, the mean is {100 * figures['mAP']:.1f}; {there.sum():,} test photos show it. "
        "The photos are those that it ranks lowest."
    )
    show = {"class": name, "what": "missed", "split": "test"}
    return [Alert(f"Weakest class: {name}", text, 30.0, photos, show, "note")]
