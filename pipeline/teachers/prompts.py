"""Class names to prompts, prompts to text embeddings, embeddings to one logit per class."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.system.errors import PipelineError, hint
from pipeline.teachers.teacher import Teacher
from pipeline.teachers.tokens import LongTextError

PAPER_TEMPLATES = ("a photo of the {}",)
"""The paper's only prompt."""

_PICTURES = (
    *(
        "art",
        "graffiti",
        "itap",
        "a photo",
        "a bad photo",
        "a good photo",
        "a low resolution photo",
        "a cropped photo",
    ),
    *("a bright photo", "a dark photo", "a close-up photo", "a black and white photo", "a pixelated photo"),
    *("a jpeg corrupted photo", "a blurry photo", "a doodle", "a drawing", "a painting", "a rendering"),
    *("a rendition", "a sculpture", "a sketch", "a tattoo"),
)
_LOOKS = ("clean", "cool", "dirty", "hard to see", "large", "nice", "small", "weird")
_MATERIALS = ("cartoon", "embroidered", "origami", "plastic", "plushie", "toy")
OPENAI_IMAGENET_TEMPLATES = (
    *(f"{picture} of {article} {{}}." for picture in _PICTURES for article in ("a", "the")),
    *(f"a photo of {article} {look} {{}}." for look in _LOOKS for article in ("a", "the")),
    *(f"{article} {material} {{}}." for material in _MATERIALS for article in ("a", "the")),
    *("a {} in a video game.", "the {} in a video game.", "itap of my {}."),
    *("a photo of many {}.", "a photo of one {}.", "a photo of my {}."),
)
"""The 80 templates of OpenAI's ImageNet experiments, in another order, as only their mean is used."""

SAME_WITHIN = 1e-6
"""Cosine distance below which two embeddings count as the same; that of "cat" and "cats" is at least 0.01."""

TEMPLATES = {"paper": PAPER_TEMPLATES, "openai-imagenet-80": OPENAI_IMAGENET_TEMPLATES}


def find_templates(name: str) -> tuple[str, ...]:
    """The prompt templates of a name in `TEMPLATES`; a text with "{}" is itself the only template.

    Raises:
        PipelineError: it is neither.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if "{}" in name:
        return (name,)
    raise PipelineError(
        f"There are no templates {name!r}. {hint(name, TEMPLATES)} Or give a sentence with {{}} where the class "
        "name goes."
    )


def class_embeddings(
    teacher: Teacher,
    names: Sequence[Mapping[str, float]],
    templates: Sequence[str] = PAPER_TEMPLATES,
    synonyms: str = "mean",
    class_names: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """Text embeddings of classes, each row the normalised mean over the templates.

    Args:
        teacher: encodes the prompts.
        names: C tables of synonyms and their weights, see `pipeline.datasets.class_names.prompt_names`.
        templates: sentences with {} instead of the name.
        synonyms: "mean": one row per class, the normalised weighted mean over its synonyms; "max": one row per synonym, of
            which `class_logits` takes the highest.
        class_names: C names, for errors; by default their first synonyms.

    Returns:
        float32 Tensor[S, D] with unit rows, and int64 Tensor[S], the class of each row, ascending; for "mean"
        S = C.

    Raises:
        LongTextError: a prompt is too long for the teacher.
        PipelineError: `synonyms` is neither, or the weights differ with "max".
    """
    if synonyms not in ("mean", "max"):
        raise PipelineError(f"Synonyms cannot be combined by {synonyms!r}. Use mean or max.")
    weights = [torch.tensor(list(group.values()), dtype=torch.float32) for group in names]
    if synonyms == "max" and any(len(group.unique()) > 1 for group in weights):
        raise PipelineError(
            "With synonyms=max only the best synonym counts, so weights have no effect. Leave them out, or use mean."
        )
    flat = [synonym for group in names for synonym in group]
    prompts = [template.replace("{}", synonym) for synonym in flat for template in templates]
    try:
        rows = teacher.encode_texts(prompts)
    except LongTextError as error:
        owners = [c for c, group in enumerate(names) for _ in range(len(group) * len(templates))]
        owner = owners[prompts.index(error.text)]
        name = class_names[owner] if class_names else next(iter(names[owner]))
        raise LongTextError(error.text, error.limit, name) from None
    rows = rows.unflatten(0, (len(flat), len(templates)))  # [synonyms, templates, D]
    rows = F.normalize(rows.mean(1), dim=1)
    if synonyms == "mean":
        groups = rows.split([len(group) for group in names])
        means = [weight.to(group) @ group for weight, group in zip(weights, groups, strict=True)]
        rows = F.normalize(torch.stack(means), dim=1)
        return rows, torch.arange(len(names), device=rows.device)
    class_index = [c for c, group in enumerate(names) for _ in group]
    return rows, torch.tensor(class_index, device=rows.device)


def same_embeddings(text: Tensor, text_class: Tensor) -> list[tuple[int, int]]:
    """Pairs of classes with texts of the same embedding, sorted, each pair once and the smaller number first.

    Names in a script that the teacher's tokenizer does not know become the same unknown tokens.

    Args:
        text: float32 Tensor[S, D], unit rows.
        text_class: int64 Tensor[S].
    """
    pairs = set()
    for rows, classes in zip(text.split(1024), text_class.split(1024), strict=True):
        same = rows @ text.T > 1 - SAME_WITHIN
        ours, theirs = same.nonzero(as_tuple=True)
        pairs |= set(zip(classes[ours].tolist(), text_class[theirs].tolist(), strict=True))
    return sorted((first, second) for first, second in pairs if first < second)


def check_embeddings(text: Tensor, text_class: Tensor, class_names: Sequence[str]) -> None:
    """Raise if an embedding is not finite, or two classes have the same; see `same_embeddings`.

    Raises:
        PipelineError: names the classes.
    """
    if not text.isfinite().all():
        bad = class_names[int(text_class[(~text.isfinite().all(dim=1)).nonzero()[0, 0]])]
        raise PipelineError(f"The teacher's embedding of class {bad!r} is not finite. Download its weights again.")
    if pairs := same_embeddings(text, text_class):
        first, second = (class_names[c] for c in pairs[0])
        raise PipelineError(
            f"The teacher gives {first!r} and {second!r} the same embedding ({len(pairs)} such pairs), so it cannot tell "
            "them apart. Give them display names in English, in [classes] of a preset."
        )
