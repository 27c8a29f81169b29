"""Background classes: names that compete with the classes in the softmax, and are never predicted."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.system.errors import PipelineError
from pipeline.teachers.conse import Conse
from pipeline.teachers.prompts import class_embeddings
from pipeline.teachers.teacher import Teacher

SCENES = (
    *("sky", "cloud", "grass", "field", "tree", "forest", "flower", "water", "lake", "river", "sea", "beach", "sand"),
    *("snow", "rock", "soil", "desert", "road", "street", "pavement", "fence", "wall", "floor", "ceiling", "carpet"),
    *("curtain", "stairs", "fire", "statue", "sign"),
)
"""Scenes and materials."""

OBJECTS = (
    (
        ("animal", "pet", "livestock", "wildlife", "mammal"),
        ("dog", "cat", "bird", "horse", "cow", "sheep", "fish", "insect"),
    ),
    (
        ("vehicle", "transport", "traffic", "aircraft"),
        ("car", "bus", "truck", "train", "bicycle", "motorcycle", "boat", "airplane"),
    ),
    (("furniture",), ("chair", "table", "sofa", "bed")),
    (("electronics", "device"), ("computer", "phone", "television")),
    (("tableware", "container", "kitchenware"), ("bottle", "cup", "plate")),
    (("meal",), ("food", "fruit", "vegetable", "cake")),
    (("fashion", "accessory"), ("clothing", "shoe", "hat", "bag")),
    (("plaything",), ("toy", "ball")),
    (("architecture",), ("building",)),
    (("plant",), ("houseplant",)),
    ((), ("musical instrument", "book", "person")),
)
"""Names of kinds, and common things of these kinds. A class that is a kind, such as animal, leaves out all its things."""

KINDS = tuple(chain.from_iterable(kinds for kinds, _ in OBJECTS))
EVERYDAY = (*SCENES, *chain.from_iterable(things for _, things in OBJECTS))

TOO_NEAR = 0.4
"""Centred cosine with a class from which a background class is left out, because it would take photos of that class.

Between cat and dog it is 0.33, and between poodle and dog 0.63 (`conse`).
"""


def find_background(option: str) -> tuple[str, ...]:
    """Names of background classes: the names between commas, where "everyday" stands for `EVERYDAY`; none for "none".

    Raises:
        PipelineError: there is no name.
    """
    if option == "none":
        return ()
    given = [name.strip() for name in option.split(",") if name.strip()]
    if not given:
        raise PipelineError(f"background is {option!r}, expected everyday, none, or names joined by commas.")
    return tuple(dict.fromkeys(chain.from_iterable(EVERYDAY if name == "everyday" else [name] for name in given)))


def too_near(teacher: Teacher, class_texts: Sequence[str], names: Sequence[str]) -> Tensor:
    """Which background classes would take the photos of a class, because they mean nearly the same or are a kind of it.

    Texts are compared by the sentence encoder of `conse`, whatever the teacher, because the limit was measured with it; by the
    teacher itself if it is multilingual. Cosines are around the mean of `EVERYDAY`.

    Args:
        teacher: the run's.
        class_texts: S display names of the classes.
        names: O background classes.

    Returns:
        bool Tensor[O].
    """
    if not names:
        return torch.zeros(0, dtype=torch.bool)
    reader = teacher if isinstance(teacher, Conse) or getattr(teacher, "multilingual", False) else Conse()
    everyday, kinds, classes, background = (
        class_embeddings(reader, [{name: 1.0} for name in each])[0].float().cpu()
        for each in (EVERYDAY, KINDS, class_texts, names)
    )
    centre = everyday.mean(0)
    kinds, classes, background = (F.normalize(rows - centre, dim=1) for rows in (kinds, classes, background))
    of_kind = dict(zip(KINDS, kinds @ classes.T, strict=True))
    of_name = dict(zip(names, background @ classes.T, strict=True))
    out = {name for name, cosines in of_name.items() if cosines.max() >= TOO_NEAR}
    for kinds_of, things in OBJECTS:
        things = [name for name in things if name in of_name]
        if kinds_of and things:
            kind = torch.stack([of_kind[each] for each in kinds_of]).amax(0)
            thing = torch.stack([of_name[each] for each in things]).amax(0)
            # dog is near animal, but nearer to itself
            if ((kind >= TOO_NEAR) & (kind > thing)).any():
                out.update(things)
    return torch.tensor([name in out for name in names])
