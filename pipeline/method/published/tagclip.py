"""TagCLIP (Lin et al., AAAI 2024): patch scores, and a second look at the place of each likely class.

The paper refines patch scores with the attention maps of a ViT. Here this step is the identity, since convolutional towers have
no such maps. In a crop, the paper's ViT attends to the patches of the class alone; here a crop is seen whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LIKELY = 0.5
"""Place in a photo's range of scores above which a class is scored again."""
STRONG = 0.5
"""Place in the range of a class's patch scores above which a patch is in the box."""


@dataclass(frozen=True)
class Crops:
    """Where each of M classes is scored again."""

    image_index: Tensor
    """int64 Tensor[M], ascending."""
    class_index: Tensor
    """int64 Tensor[M]."""
    boxes: Tensor
    """float32 Tensor[M, 4], xyxy as shares of width and height."""


def class_scores(patches: Tensor, class_count: int) -> Tensor:
    """Maximum over the patches, Tensor[N, C].

    Args:
        patches: Tensor[N, h, w, C + O], probabilities of each patch over classes and background classes.
        class_count: C.
    """
    return patches[..., :class_count].amax(dim=(1, 2))


def add_crops(scores: Tensor, crops: Crops, probabilities: Tensor) -> Tensor:
    """Scores of which those of likely classes are averaged with the score of the crop, Tensor[N, C].

    Args:
        scores: Tensor[N, C], of patches.
        crops: M crops.
        probabilities: Tensor[M, C or more], of each crop; only that of its class counts.
    """
    place = (crops.image_index, crops.class_index)
    again = probabilities[torch.arange(len(probabilities)), crops.class_index]
    return scores.index_put(place, (scores[place] + again) / 2)


def likely_crops(patches: Tensor, class_count: int) -> Crops:
    """The box of the strong patches of each likely class; arguments as in `class_scores`.

    A box covers all strong patches. The authors' code leaves out the last row and column of the photo.
    """
    classes = patches[..., :class_count].movedim(-1, 1)  # [N, C, h, w]
    low, high = patches.amin(dim=(1, 2, 3)), patches.amax(dim=(1, 2, 3))
    likely = classes.amax(dim=(2, 3)) > (low + LIKELY * (high - low))[:, None]
    image_index, class_index = likely.nonzero(as_tuple=True)
    maps = classes[image_index, class_index]  # [M, h, w]
    least, most = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    strong = (maps > least + STRONG * (most - least)) | (most == least)  # a flat map: the whole photo
    spans = [span(strong.any(dim=1)), span(strong.any(dim=2))]  # along x, along y
    boxes = torch.stack([spans[0][0], spans[1][0], spans[0][1], spans[1][1]], dim=1)
    return Crops(image_index, class_index, boxes)


def span(marked: Tensor) -> tuple[Tensor, Tensor]:
    """First marked place, and the end of the last one, as shares of the length: float32 Tensor[M] each.

    Args:
        marked: bool Tensor[M, length], at least one per row.
    """
    length = marked.shape[1]
    first = marked.int().argmax(dim=1)
    end = length - marked.flip(1).int().argmax(dim=1)
    return first / length, end / length
