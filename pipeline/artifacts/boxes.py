"""boxes.h5 and crop_scores.h5: boxes on the train images, and the teacher's scores of their crops."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.schema import Artifact, array

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Boxes(Artifact):
    """Boxes of the train images that become crops."""

    SCHEMAS = ("boxes",)

    image_index: np.ndarray = array("int64", "M", index="N", ascending=True)
    """Row of `image_ids`, ascending."""
    class_index: np.ndarray = array("int64", "M", low=-1, index="C")
    """Class whose CAM gave the box; -1 for a view without classes."""
    box: np.ndarray = array("float32", "M", 4, low=0)
    """xyxy in pixels of the original image, 0 <= x1 < x2 <= width."""
    cam_peak: np.ndarray = array("float32", "M", nan=True)
    """Largest value of the CAM before normalisation; NaN without a CAM."""
    cam: np.ndarray = array("uint8", "M", "h", "w", optional=True)
    """The CAM of each box at the classifier's resolution, scaled to 0 to 255; for display."""
    tau: float
    """Threshold that selected the classes, on sigmoid(z) or on `z_scores`; NaN without a threshold."""

    def take(self, rows: np.ndarray) -> "Boxes":
        """The boxes in these ascending rows, without the CAMs."""
        return replace(
            self,
            image_index=self.image_index[rows],
            class_index=self.class_index[rows],
            box=self.box[rows],
            cam_peak=self.cam_peak[rows],
            cam=None,
        )

    def frame(self) -> "pd.DataFrame":
        """One row per box: image_id, class (None for a view without classes), x1, y1, x2, y2, cam_peak."""
        import pandas as pd

        names = np.array([*self.class_names, None], dtype=object)
        frame = pd.DataFrame(self.box, columns=["x1", "y1", "x2", "y2"])
        frame.insert(0, "image_id", np.array(self.image_ids, dtype=object)[self.image_index])
        frame.insert(1, "class", names[self.class_index])
        return frame.assign(cam_peak=self.cam_peak)


@dataclass(frozen=True, kw_only=True)
class CropScores(Artifact):
    """The teacher's scores of each crop, not yet combined per image."""

    SCHEMAS = ("crop_scores",)

    image_index: np.ndarray = array("int64", "M", index="N", ascending=True)
    """Row of `image_ids`, ascending."""
    class_index: np.ndarray = array("int64", "M", low=-1, index="C")
    """Class of the box that was cut; either all boxes of a class in an image are scored, or none."""
    probabilities: np.ndarray = array("float32", "M", "C", low=0, high=1)
    """As in `embeddings.h5`."""
    entropy: np.ndarray = array("float32", "M", low=0)
    """As in `embeddings.h5`."""
    class_is_top1: np.ndarray = array("bool", "M")
    """As in `embeddings.h5`."""
    outcomes: int
    """C plus the number of background classes."""

    def frame(self) -> "pd.DataFrame":
        """Probabilities, one row per crop: index image id, one column per class."""
        import pandas as pd

        index = pd.Index(np.array(self.image_ids, dtype=object)[self.image_index], name="image_id")
        return pd.DataFrame(self.probabilities, index=index, columns=self.class_names)


def rows_of_crops(boxes: Boxes, crops: CropScores) -> np.ndarray:
    """Row in `crops` of the crop of each box, int64 [M]; -1 for a box that was not scored, and if `crops` are of other boxes."""
    pairs = [each.image_index * (len(each.class_names) + 1) + each.class_index + 1 for each in (boxes, crops)]
    scored = np.isin(*pairs)
    same = scored.sum() == len(crops.image_index)
    return np.where(scored & same, np.cumsum(scored) - 1, -1)
