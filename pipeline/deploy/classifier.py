"""A classifier file and photos to labels: the Python API.

It needs neither the teacher nor the run that the file came from:

    from pipeline import Classifier
    classifier = Classifier.load("artifacts/demo/classifier.pt")
    for prediction in classifier.predict(["street.jpg", pillow_image, array]):
        prediction.labels  # ["car", "person"]
        prediction.scores  # {"car": 0.91, "cat": 0.02, "person": 0.77}
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint
from pipeline.artifacts.predictions import present_classes
from pipeline.classifier.engines import Engine, Run
from pipeline.classifier.inference import feature_run, load_classifier, to_device, to_float
from pipeline.deploy.files import classifier_to_use
from pipeline.photos.images import UnreadableImage, from_pillow
from pipeline.photos.prefetch import Prefetch, default_workers
from pipeline.photos.resize import load_view, resize
from pipeline.system.errors import PipelineError
from pipeline.system.progress import bar, log

Photo = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""A file, one that is open in binary mode, the content of one, a Pillow image, or uint8 pixels [H, W, 3] in RGB or
[H, W] in grey."""

EXPECTED = (
    "expected a path, a file opened in binary mode, the bytes of a file, a Pillow image or a uint8 array of RGB (H, W, 3) "
    "or grey (H, W), or several of these in a list or another iterable"
)


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image."""

    labels: list[str]
    """Classes whose score reaches their threshold."""
    scores: dict[str, float]
    """Every class name to its score in [0, 1]."""


class Classifier:
    """A trained classifier, ready to use.

    Args:
        checkpoint: content of a classifier file.
        device: torch device to run on.
        engine: what runs the backbone; see `engines.run_of`.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device = "cpu", engine: Engine = "auto") -> None:
        self._engine = engine
        self.class_names = checkpoint.class_names
        """C names, in the order of the scores."""
        self.thresholds = np.array(checkpoint.thresholds)
        """float64 [C]; a score from here on says that the class is there."""
        self.image_size = checkpoint.image_size
        """Side in pixels of the square view of a photo."""
        self.net = load_classifier(checkpoint, device)
        """The torch module: float Tensor[B, 3, H, W] in [0, 1] to logits Tensor[B, C]; its
        weights count as they are when the first photo is scored."""
        self.device = torch.device(device)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", engine: Engine = "auto") -> Self:
        """The classifier of a file such as `classifier.pt`, or of a run, by its name or folder, as `ccd predict` takes it.

        Raises:
            PipelineError: the file is missing, damaged or none of ours, or there is no such run.
        """
        return cls(read_checkpoint(classifier_to_use(path)), device, engine)

    def predict(self, images: Photo | Iterable[Photo], batch_size: int = 16) -> list[Prediction]:
        """Labels and scores of photos; see `scores`.

        Returns:
            A prediction a photo, in order; a list of one for a single photo.
        """
        scores = self.scores(images, batch_size)
        labels = present_classes(scores, self.thresholds, self.class_names)
        return [
            Prediction(present, dict(zip(self.class_names, row, strict=True)))
            for present, row in zip(labels, scores.tolist(), strict=True)
        ]

    def scores(self, images: Photo | Iterable[Photo], batch_size: int = 16) -> np.ndarray:
        """Scores of photos.

        Args:
            images: one photo or several of any kind: paths, open files, the bytes of files, Pillow images, uint8 arrays
                [H, W, 3] (RGB) or [H, W]. Threads decode paths and bytes; what Pillow has not decoded yet, and files that
                are open, are read one after the other.
            batch_size: photos that go through the network together.

        Returns:
            float32 [N, C] in [0, 1].

        Raises:
            UnreadableImage: a photo cannot be decoded.
            PipelineError: an object is not a photo.
        """
        load = partial(squared, size=self.image_size, resize_filter=self.net.resize_filter)
        ahead = Prefetch(load, map(held, each_photo(images)), ahead=default_workers() + batch_size)
        scores = [np.zeros((0, len(self.class_names)), np.float32)]
        with closing(iter(ahead)) as squares:
            while batch := list(islice(squares, batch_size)):
                scores.append(self.score_batch(torch.stack(batch)))
        return np.concatenate(scores)

    @torch.inference_mode()
    def score_batch(self, squares: Tensor) -> np.ndarray:
        """Scores float32 [B, C] of square views, uint8 Tensor[B, 3, S, S]; see `square_photo`."""
        maps = self._features(to_float(to_device(squares, self.device))).float()
        return self.net.logits(maps).sigmoid().cpu().numpy()

    @cached_property
    def _features(self) -> Run:
        return feature_run(self.net, engine=self._engine)


@dataclass(frozen=True)
class Scored:
    """What a classifier says of those files that can be read, K of N."""

    rows: list[int]
    """K ascending indices of the files."""
    scores: np.ndarray
    """float32 [K, C]."""


def score_photos(
    classifier: Classifier, photos: Iterable[Photo | UnreadableImage], names: Sequence[str], total: int, batch_size: int
) -> Scored:
    """Scores of the photos that can be read; says which cannot.

    Args:
        classifier: scores them.
        photos: N photos, asked for only when there is room, or why there is none in a place.
        names: N, there when their photos are; what is fetched or unpacked lies under another than a person knows.
        total: about how many there are.
        batch_size: photos that go through the network together.

    Raises:
        PipelineError: none can be read.
    """

    def load(photo: Photo | UnreadableImage) -> Tensor | UnreadableImage:
        if isinstance(photo, UnreadableImage):
            return photo
        return square_or_error(photo, classifier.image_size, classifier.net.resize_filter)

    count, rows, scores, errors = 0, [], [], {}
    ahead = Prefetch(load, photos, ahead=default_workers() + batch_size)
    with closing(iter(ahead)) as squares, bar("predict", total) as progress:
        while loaded := list(islice(squares, batch_size)):
            readable = {row: item for row, item in enumerate(loaded, count) if isinstance(item, Tensor)}
            errors |= {row: item for row, item in enumerate(loaded, count) if isinstance(item, UnreadableImage)}
            if readable:
                rows += readable
                scores.append(classifier.score_batch(torch.stack(list(readable.values()))))
            count += len(loaded)
            progress.advance(len(loaded))
    if errors:
        log(f"{len(errors)} of {count} images cannot be read and are skipped:")
        for row, error in errors.items():
            log(f"  {error}" if names[row] in str(error) else f"  {names[row]}: {error}")
    if not rows:
        raise PipelineError(f"none of the {count} images can be read; see the list above.")
    return Scored(rows, np.concatenate(scores))


def score_files(classifier: Classifier, paths: Sequence[Path], batch_size: int) -> Scored:
    """`score_photos` of files."""
    return score_photos(classifier, paths, list(map(str, paths)), len(paths), batch_size)


def square_or_error(photo: Photo, size: int, resize_filter: str) -> Tensor | UnreadableImage:
    """The square view of a photo, uint8 Tensor[3, size, size], or why it cannot be read."""
    try:
        return square_photo(photo, size, resize_filter)
    except UnreadableImage as error:
        return error


def each_photo(images: Photo | Iterable[Photo]) -> Iterable[Photo]:
    """The photos of what may be a single one.

    Raises:
        PipelineError: it is not a photo, and has no order in which photos could be scored.
    """
    if is_photo(images):
        return [images]
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise PipelineError(f"found {described(images)} as photos, {EXPECTED}.")
    return images


def is_photo(value: object) -> bool:
    """Whether a value is meant as one photo, and not as several."""
    if isinstance(value, np.ndarray | Tensor):
        # [N, H, W, 3] alone is a sequence of photos: [3, H, W] must not pass for three grey ones; and an array of paths is
        return value.ndim <= 3 and not (isinstance(value, np.ndarray) and value.dtype.kind in "OU")
    return isinstance(value, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(value, "read")


def held(photo: Photo) -> Path | bytes | Tensor:
    """What a photo is now, as a path, the bytes of a file or uint8 Tensor[3, H, W].

    To be called where photos are handed over, one by one: an iterable may give the same Pillow image at its next frame, or
    the same array with other pixels, and threads that decode one Pillow image together break it.

    Raises:
        UnreadableImage: a Pillow image cannot be decoded.
        PipelineError: it is not a photo.
    """
    if isinstance(photo, str | Path):
        return Path(photo)
    if isinstance(photo, Image.Image):
        return from_pillow(photo)
    if isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.size:
        if photo.ndim == 2:
            photo = np.repeat(photo[:, :, None], 3, axis=2)
        if photo.ndim == 3 and photo.shape[2] == 3:
            return torch.from_numpy(np.array(photo, order="C")).permute(2, 0, 1)
    content = content_of(photo) if hasattr(photo, "read") else photo
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise PipelineError(f"found {described(photo)} as a photo, {EXPECTED}.")


def content_of(file: BinaryIO) -> bytes:
    """The content of an open file, from its beginning where one can go back to it.

    Raises:
        UnreadableImage: it cannot be read.
    """
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        return file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed, or is text that is no UTF-8
        name = getattr(file, "name", type(file).__name__)
        raise UnreadableImage(f"{name} cannot be read as an image: {error}. Open it with open(path, 'rb').") from error


def described(value: object) -> str:
    """What was found where a photo was expected."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape}"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return type(value).__name__


def square_photo(photo: Photo, size: int, resize_filter: str = "bicubic") -> Tensor:
    """The square view of a photo that the classifier takes: uint8 Tensor[3, size, size].

    Args:
        photo: of any kind.
        size: side of the square.
        resize_filter: see `photos.resize`.

    Raises:
        UnreadableImage: it cannot be decoded.
        PipelineError: it is not a photo.
    """
    return squared(held(photo), size, resize_filter)


def squared(photo: Path | bytes | Tensor, size: int, resize_filter: str) -> Tensor:
    """`square_photo` of what `held` returns."""
    if isinstance(photo, Tensor):
        return resize(photo, (size, size), resize_filter)
    return load_view(photo, (size, size), resize_filter)
