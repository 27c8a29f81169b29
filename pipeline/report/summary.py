"""A run to a few lines of text, or a piece of HTML with some of its photos, for Python sessions and notebooks."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.state import UP_TO_DATE, file_states, next_stage
from pipeline.evaluation.run_files import RunFiles, read_run
from pipeline.report.verdict import closing_lines, sentence
from pipeline.system.errors import PipelineError, printable

if TYPE_CHECKING:
    from pipeline.report.gallery import SplitView

PHOTOS = 12
"""Photos of the HTML."""

SIDE = 128
"""Longest side of a thumbnail, in pixels."""

NAMES = 8
"""Class names of the first line, and labels per photo."""

UNUSED = ("boxes.h5", "crop_scores.h5", "embeddings.h5")
"""Large files that neither form shows."""


def text_of(folder: Path) -> str:
    """The run in one or two lines: its photos, classes and next stage, and its result if there is one."""
    try:
        manifest = read_manifest(folder)
    except PipelineError as error:
        return f"Run({str(folder)!r}): {error}"
    states = {name: each.state for name, each in file_states(folder).items()}
    following = next_stage(states)
    lines = [f"Run({str(folder)!r}): {facts(manifest)}; {state_of(following)}."]
    if not following or states["metrics.json"] == UP_TO_DATE:
        lines.append(sentence(read_run(folder, without=(*UNUSED, "epoch_scores.h5"))))
    return printable("\n".join(lines), keep="\n")


def html_of(folder: Path) -> str:
    """The run as HTML of at most about 150 kB: the lines of `text_of`, the warnings of the report, and photos."""
    try:
        run = read_run(folder, without=UNUSED)
    except PipelineError as error:
        return f"<p><b>{shown(str(folder))}</b>: {shown(str(error))}</p>"
    following = next_stage(run.states)
    parts = [f"<p><b>{shown(str(folder))}</b>: {shown(facts(run.manifest))}; {state_of(following)}.</p>"]
    lines = [*([sentence(run)] if run.metrics or not following else []), *closing_lines(run)]
    parts += [f"<p>{shown(line)}</p>" for line in lines]
    return f"<div>{''.join(parts)}{photos_of(run)}</div>"


def facts(manifest: Manifest) -> str:
    """Numbers of photos and class names."""
    counts = manifest.images["split"].value_counts()
    names = manifest.class_names
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    photos = f"{counts.get('train', 0):,} train and {counts.get('test', 0):,} test photos"
    return f"{photos}, {len(names)} class{'es' * (len(names) != 1)} ({', '.join(names[:NAMES])}{more})"


def state_of(following: str) -> str:
    """The next stage in words."""
    return f"next stage: {following}" if following else "all stages are up to date"


def photos_of(run: RunFiles) -> str:
    """Test photos with their predicted classes, or else train photos with their labels; empty if there are none yet."""
    from pipeline.report.gallery import split_view  # imports torch, which the text does not need

    titles = {
        "test": "Test photos with the predicted classes:",
        "train": "Train photos with their labels:",
    }
    for split, title in titles.items():
        view = split_view(run, split)
        count = len(view.images.image_ids)
        if view.columns and count:
            rows = np.unique(np.linspace(0, count - 1, min(count, PHOTOS)).round().astype(int)).tolist()
            figures = "".join(figure_of(view, row) for row in rows)
            return f'<p>{title}</p><div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>'
    return ""


def figure_of(view: "SplitView", row: int) -> str:
    """One photo with its labels and their scores."""
    from pipeline.report.gallery import thumbnail

    image_id = shown(view.images.image_ids[row])
    data = thumbnail(view.images.paths[row], view.images.digests[row], SIDE)
    picture = f'<img src="data:image/jpeg;base64,{data}" alt="" style="max-width:{SIDE}px">' if data else "(no photo)"
    scores = view.decided[row]
    classes = [c for c in np.argsort(-scores, kind="stable").tolist() if view.present[row, c]][:NAMES]
    labels = ", ".join(f"{view.images.class_names[c]} {scores[c]:.2f}" for c in classes)
    return (
        f'<figure title="{image_id}" style="margin:0;width:{SIDE}px">{picture}'
        f'<figcaption style="font-size:small">{shown(labels) or "<i>no class</i>"}</figcaption></figure>'
    )


def shown(text: str) -> str:
    """A text for HTML, with control characters visible and markup escaped."""
    return escape(printable(text))
