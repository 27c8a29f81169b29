"""A classifier file and photos to labels: the Python API.

It needs neither the teacher nor the run of the file, except for `Classifier.load(..., with_teacher=True)`:

    from pipeline import Classifier
    classifier = Classifier.load("artifacts/demo/classifier.pt")
    for prediction in classifier.predict(["street.jpg", pillow_image, array]):
        prediction.labels  # ["car", "person"]
        prediction.scores  # {"car": 0.91, "cat": 0.02, "person": 0.77}
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint, read_header
from pipeline.artifacts.predictions import present_classes
from pipeline.classifier.engines import Engine, Run
from pipeline.classifier.inference import feature_run, load_classifier, to_device, to_float
from pipeline.deploy.files import classifier_to_use, trained_file
from pipeline.photos.images import UnreadableImage, from_pillow
from pipeline.photos.prefetch import Prefetch, default_workers
from pipeline.photos.resize import load_view, resize
from pipeline.runs.folders import run_or_file
from pipeline.system.devices import pick_device
from pipeline.system.errors import PipelineError, raised_at_call
from pipeline.system.progress import bar, log

if TYPE_CHECKING:
    from pipeline.deploy.with_teacher import PhotoTeacher

Photo = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""A path, a file opened in binary mode, the bytes of a file, a Pillow image, or uint8 pixels [H, W, 3] in RGB or
[H, W] in grey."""

EXPECTED = (
    "expected a path, a file opened in binary mode, the bytes of a file, a Pillow image or a uint8 array of RGB (H, W, 3) "
    "or grey (H, W), or several of these in a list or another iterable"
)


@dataclass(frozen=True)
class Prediction:
    """Labels and scores of one image."""

    labels: list[str]
    """Classes whose score reaches their threshold."""
    scores: dict[str, float]
    """Every class name to its score in [0, 1]."""


class Classifier:
    """A trained classifier, ready to use.

    Args:
        checkpoint: content of a classifier file.
        device: torch device to run on.
        engine: runtime of the backbone; see `engines.run_of`.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device = "cpu", engine: Engine = "auto") -> None:
        self._engine = engine
        self.class_names = checkpoint.class_names
        """C names, in the order of the scores."""
        self.thresholds = np.array(checkpoint.thresholds)
        """float64 [C]; a class is predicted if its score reaches its threshold."""
        self.image_size = checkpoint.image_size
        """Side in pixels of the square view of a photo."""
        self.net = load_classifier(checkpoint, device)
        """The torch module: float Tensor[B, 3, H, W] in [0, 1] to logits Tensor[B, C]. Changes of its weights after
        the first scored photo have no effect."""
        self.device = torch.device(device)
        self._teacher: PhotoTeacher | None = None

    @classmethod
    @raised_at_call
    def load(
        cls,
        run: str | Path,
        device: str | torch.device = "auto",
        engine: Engine = "auto",
        *,
        with_teacher: bool = False,
    ) -> Self:
        """The classifier of a run or a file, with the thresholds that `ccd predict` uses.

        Args:
            run: name of a run under artifacts/, path of a run folder, or file such as `classifier.pt`.
            device: torch device, or auto (CUDA if available).
            engine: runtime of the backbone; see `engines.run_of`.
            with_teacher: whether the teacher of the run, if it is another network, scores the photos too. Needs the run, and uses
                the thresholds of `classifier.pt`: those of `calibrated.pt` do not fit the scores of both.

        Raises:
            PipelineError: the file is missing, damaged or not a classifier, there is no such run or device, or the teacher
                cannot score photos.
        """
        device = pick_device(device) if isinstance(device, str) else device
        if not with_teacher:
            return cls(read_checkpoint(classifier_to_use(run)), device, engine)
        path = run_or_file(str(run))
        path = trained_file(path) if path.is_dir() else path
        if read_header(path).architecture.get("teacher") is not None:
            log(f"{path} contains its teacher, so its scores are those of both already.")
            return cls(read_checkpoint(classifier_to_use(run)), device, engine)
        from pipeline.deploy.with_teacher import photo_teacher

        classifier = cls(read_checkpoint(path), device, engine)
        classifier._teacher = photo_teacher(path, str(device))
        return classifier

    @property
    def views(self) -> list[tuple[int, str]]:
        """Side and resize filter of each square view of a photo: of the classifier, then of its teacher, if that scores too."""
        return [(self.image_size, self.net.resize_filter), *(self._teacher.views if self._teacher else ())]

    def views_of(self, photo: Path | bytes | Tensor) -> tuple[Tensor, ...]:
        """The square `views` of the result of `snapshot`, uint8 Tensor[3, S, S] each."""
        made = {view: snapshot_to_square(photo, *view) for view in dict.fromkeys(self.views)}
        return tuple(made[view] for view in self.views)

    @raised_at_call
    def predict(self, images: Photo | Iterable[Photo], batch_size: int = 16) -> list[Prediction]:
        """Labels and scores of photos; see `scores`.

        Returns:
            One prediction per photo, in order.
        """
        scores = self.scores(images, batch_size)
        labels = present_classes(scores, self.thresholds, self.class_names)
        return [
            Prediction(present, dict(zip(self.class_names, row, strict=True)))
            for present, row in zip(labels, scores.tolist(), strict=True)
        ]

    @raised_at_call
    def scores(self, images: Photo | Iterable[Photo], batch_size: int = 16) -> np.ndarray:
        """Scores of photos.

        Args:
            images: one photo or several, see `Photo`. Threads decode paths and bytes in parallel; open files and Pillow
                images are read one after the other.
            batch_size: photos per batch.

        Returns:
            float32 [N, C] in [0, 1].

        Raises:
            UnreadableImage: a photo cannot be decoded.
            PipelineError: an object is not a photo; the message lists what is.
        """
        ahead = Prefetch(self.views_of, map(snapshot, as_photos(images)), ahead=default_workers() + batch_size)
        scores = [np.zeros((0, len(self.class_names)), np.float32)]
        with closing(iter(ahead)) as photos:
            while batch := list(islice(photos, batch_size)):
                scores.append(self.score_batch(*map(torch.stack, zip(*batch, strict=True))))
        return np.concatenate(scores)

    @torch.inference_mode()
    def score_batch(self, squares: Tensor, *teacher_views: Tensor) -> np.ndarray:
        """Scores float32 [B, C] of square views, uint8 Tensor[B, 3, S, S]; `teacher_views` are those of the teacher, see `views`."""
        maps = self._features(to_float(to_device(squares, self.device))).float()
        logits = self.net.logits(maps).cpu()
        if self._teacher is not None:
            logits = torch.from_numpy(self._teacher.logits_of_both(logits.numpy(), teacher_views))
        return logits.sigmoid().numpy()

    @cached_property
    def _features(self) -> Run:
        return feature_run(self.net, engine=self._engine)


@dataclass(frozen=True)
class Scored:
    """The scores of the K readable photos of N."""

    rows: list[int]
    """K ascending indices of the photos."""
    scores: np.ndarray
    """float32 [K, C]."""


def score_photos(
    classifier: Classifier, photos: Iterable[Photo | UnreadableImage], names: Sequence[str], total: int, batch_size: int
) -> Scored:
    """The scores of the readable photos; logs unreadable ones.

    Args:
        classifier: scores the photos.
        photos: N photos, or the error of a photo; read as the batches need them.
        names: N names for the log; `photos` may append to it, the name before the photo.
        total: approximate N, for the progress bar.
        batch_size: photos per batch.

    Raises:
        PipelineError: no photo can be read.
    """

    def load(photo: Photo | tuple[Tensor, ...] | UnreadableImage) -> tuple[Tensor, ...] | UnreadableImage:
        if isinstance(photo, tuple | UnreadableImage):
            return photo
        try:
            return classifier.views_of(snapshot(photo))
        except UnreadableImage as error:
            return error.with_traceback(None)  # a traceback keeps the photo in memory

    count, rows, scores, errors = 0, [], [], {}
    # frames of a video are resized as they come, since those that wait for a thread would have no limit in memory
    drawn = (load(photo) if isinstance(photo, np.ndarray) else photo for photo in photos)
    ahead = Prefetch(load, drawn, ahead=default_workers() + batch_size)
    with closing(iter(ahead)) as squares, bar("predict", total) as progress:
        while loaded := list(islice(squares, batch_size)):
            readable = {row: item for row, item in enumerate(loaded, count) if isinstance(item, tuple)}
            errors |= {row: item for row, item in enumerate(loaded, count) if isinstance(item, UnreadableImage)}
            if readable:
                rows += readable
                scores.append(classifier.score_batch(*map(torch.stack, zip(*readable.values(), strict=True))))
            count += len(loaded)
            progress.advance(len(loaded))
    if errors:
        log(f"{len(errors)} of {count} images cannot be read and are skipped:")
        for row, error in errors.items():
            log(f"  {error}" if names[row] in str(error) else f"  {names[row]}: {error}")
    if not rows:
        raise PipelineError(f"none of the {count} images can be read. See the list above.")
    return Scored(rows, np.concatenate(scores))


def score_files(classifier: Classifier, paths: Sequence[Path], batch_size: int) -> Scored:
    """`score_photos` of files."""
    return score_photos(classifier, paths, list(map(str, paths)), len(paths), batch_size)


def square_or_error(photo: Photo, size: int, resize_filter: str) -> Tensor | UnreadableImage:
    """The square view of a photo, uint8 Tensor[3, size, size], or the error if it cannot be read."""
    try:
        return square_photo(photo, size, resize_filter)
    except UnreadableImage as error:
        return error.with_traceback(None)  # a traceback keeps the photo in memory


def as_photos(images: Photo | Iterable[Photo]) -> Iterable[Photo]:
    """One photo as a list, several as they are.

    Raises:
        PipelineError: the argument is neither a photo nor an ordered iterable.
    """
    if is_photo(images):
        return [images]
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise PipelineError(f"found {described(images)} as photos, {EXPECTED}.")
    return images


def is_photo(value: object) -> bool:
    """Whether a value is one photo rather than several."""
    if isinstance(value, np.ndarray | Tensor):
        # an array of several photos is [N, H, W, 3] or holds paths; [3, H, W] must not pass for three grey photos
        return value.ndim <= 3 and not (isinstance(value, np.ndarray) and value.dtype.kind in "OU")
    return isinstance(value, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(value, "read")


def snapshot(photo: Photo) -> Path | bytes | Tensor:
    """The present content of a photo: a path, the bytes of a file or uint8 Tensor[3, H, W].

    Call it before the iterable yields the next photo, which may be the same array or Pillow image with other pixels. Threads
    cannot share a Pillow image.

    Raises:
        UnreadableImage: a Pillow image cannot be decoded.
        PipelineError: the value is not a photo.
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
    """The content of an open file, from its beginning if it is seekable.

    Raises:
        UnreadableImage: the file cannot be read.
    """
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        return file.read()
    except (OSError, ValueError) as error:  # ValueError: closed, or opened as text and not UTF-8
        reason = str(error)
    name = getattr(file, "name", type(file).__name__)
    raise UnreadableImage(f"{name} cannot be read as an image: {reason}. Open it with open(path, 'rb').")


def described(value: object) -> str:
    """Type and shape of a value, for an error message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape}"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return type(value).__name__


def square_photo(photo: Photo, size: int, resize_filter: str = "bicubic") -> Tensor:
    """The input of the classifier: a photo resized to a square, uint8 Tensor[3, size, size].

    Raises:
        UnreadableImage: the photo cannot be decoded.
        PipelineError: the value is not a photo.
    """
    return snapshot_to_square(snapshot(photo), size, resize_filter)


def snapshot_to_square(photo: Path | bytes | Tensor, size: int, resize_filter: str) -> Tensor:
    """`square_photo` of the result of `snapshot`."""
    if isinstance(photo, Tensor):
        return resize(photo, (size, size), resize_filter)
    return load_view(photo, (size, size), resize_filter)
