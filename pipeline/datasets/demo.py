"""The demo dataset: scenes of one to four labelled objects, composed of photographic cut-outs with a seed.

The cut-outs are the Tux Paint stamps in `cutouts/<class>/`, with their notice. 16 of the 20 available kinds are used.
Bears and drums are too few to keep one for test; foxes among dogs and donkeys among horses would be wrong labels.
Drawings, false colours and ragged outlines were removed by eye. A third of each class appears only in test scenes, so
that a classifier is measured on objects that it was not trained on.

With these object sizes the embedded teacher finds the large object and often misses the small ones. At 320 px its
zero-shot mAP on the test scenes is 60, or 68 if the best of 2x2 tiles is averaged in. Scenes are collages, not
photographs, and a class has one to five test cut-outs: use them to try the pipeline, not to compare methods.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from pipeline.datasets.dataset import Dataset, Objects
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_bytes, write_text

SCHEMA = {"schema": "demo-scenes", "version": 1}
ANNOTATIONS = "annotations.json"
_REMEDY = "Compose the demo scenes again: delete it and run `ccd prepare`."
SPLITS = ("train", "test")
MAX_OBJECTS = 4
OPAQUE = 127  # alpha above it counts as part of the object

# square root of the object's area as a share of the scene's side
LARGE = (0.46, 0.62)
SMALL = (0.2, 0.3)
LONGEST = 1.5  # long side in the same unit, so that a guitar fits the scene
MIN_VISIBLE = 0.4  # share of each object's pixels
JPEG_QUALITY = 90
ENLARGEMENT = 1.6  # cut-outs of 50 px look blurred with a larger factor

# RGB of zenith, horizon, far ground and near ground
PALETTES = np.array(
    [
        [(128, 172, 222), (214, 226, 234), (138, 152, 84), (92, 118, 52)],  # meadow
        [(176, 188, 200), (220, 222, 222), (126, 128, 126), (96, 97, 100)],  # street
        [(120, 178, 224), (216, 226, 226), (214, 196, 158), (192, 168, 124)],  # beach
        [(226, 178, 138), (248, 222, 184), (150, 124, 92), (104, 86, 66)],  # dusk
        [(206, 200, 188), (228, 222, 210), (170, 128, 90), (138, 98, 64)],  # table
        [(150, 166, 160), (196, 206, 198), (206, 200, 192), (178, 170, 160)],  # room
        [(98, 132, 104), (168, 190, 146), (128, 134, 78), (84, 96, 52)],  # wood
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class DemoConfig:
    """Options of the scenes; `PrepareConfig` checks their ranges."""

    seed: int
    """At least 0; scene n of a split depends only on it and n, not on the number of scenes."""
    train_scenes: int
    test_scenes: int
    size: int = 288
    """Side of the square scenes in pixels."""


@dataclass(frozen=True)
class Cutout:
    """A photographed object on a transparent background."""

    class_name: str
    name: str
    image: Image.Image
    """RGBA, as shipped."""


@dataclass(frozen=True)
class Sprite:
    """A cut-out in one scene: scaled, turned and placed."""

    cutout: Cutout
    image: Image.Image
    """RGBA, cropped to its opaque extent."""
    left: int
    top: int
    """Upper left corner in pixels of the scene; may be outside."""

    @property
    def base(self) -> int:
        """Row where the object touches the ground; near objects have a low one."""
        return self.top + self.image.height


def compose(out_dir: Path, config: DemoConfig) -> None:
    """Write `train/NNNN.jpg`, `test/NNNN.jpg` and, last, `annotations.json` into `out_dir`.

    The classes take turns as the large object. The same config gives the same bytes (with the same Pillow).
    Does nothing if the folder already contains these scenes, see `is_composed`.
    """
    annotations = out_dir / ANNOTATIONS
    if is_composed(out_dir, config):
        return
    header = _header(config)
    annotations.unlink(missing_ok=True)
    images = []
    for split_index, split in enumerate(SPLITS):
        cutouts = load_cutouts(split)
        for n in range(config.train_scenes if split == "train" else config.test_scenes):
            rng = np.random.default_rng([config.seed, split_index, n])
            large_class = list(cutouts)[n % len(cutouts)]
            scene, objects = draw_scene(cutouts, large_class, config, rng)
            path = f"{split}/{n:04d}.jpg"
            buffer = io.BytesIO()
            scene.save(buffer, "JPEG", quality=JPEG_QUALITY)
            write_bytes(out_dir / path, buffer.getbuffer(), durable=False)
            images.append({"id": f"{split}_{n:04d}", "split": split, "path": path, "objects": objects})
    record = header | {"class_names": class_names(), "images": images}
    write_text(annotations, json.dumps(record))


def is_composed(root: Path, config: DemoConfig) -> bool:
    """Whether a folder contains the scenes of this config, this module and the cut-outs."""
    try:
        record = _read_annotations(root / ANNOTATIONS)
        paths = _dataset(record, root).paths
    except PipelineError:
        return False
    header = _header(config)
    return header == {key: record.get(key) for key in header} and all(path.is_file() for path in paths)


def _header(config: DemoConfig) -> dict:
    return SCHEMA | {"config": asdict(config), "sources": _source_hash()}


def load(root: Path) -> Dataset:
    """Return the dataset that `compose` wrote to `root`, with labels and boxes."""
    root = root.absolute()
    return _dataset(_read_annotations(root / ANNOTATIONS), root)


def _dataset(record: dict, root: Path) -> Dataset:
    """The dataset of a record of scenes; raises PipelineError if it differs from what `compose` writes."""
    try:
        names, images = record["class_names"], record["images"]
        objects = Objects.of(
            [
                (row, names.index(each["class"]), each["box"], False)
                for row, image in enumerate(images)
                for each in image["objects"]
            ]
        )
        labels = np.zeros((len(images), len(names)), np.int8)
        labels[objects.image_index, objects.class_index] = 1
        return Dataset(
            name="demo",
            class_names=names,
            image_ids=[image["id"] for image in images],
            paths=[root / image["path"] for image in images],
            splits=[image["split"] for image in images],
            labels=labels,
            objects=objects,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise PipelineError(
            f"{root / ANNOTATIONS} is not a complete record of demo scenes ({error!r}). {_REMEDY}"
        ) from error


def class_names() -> list[str]:
    """The C class names: the folders of cut-outs, sorted."""
    return sorted(entry.name for entry in _cutout_root().iterdir() if entry.is_dir())


def load_cutouts(split: str) -> dict[str, list[Cutout]]:
    """The cut-outs of a split by class; every third one, from the second, is for "test"."""
    cutouts = {}
    for name in class_names():
        chosen = [file for n, file in enumerate(_cutout_files(name)) if (n % 3 == 1) == (split == "test")]
        cutouts[name] = [Cutout(name, file.name.removesuffix(".webp"), _read_rgba(file)) for file in chosen]
    return cutouts


def draw_scene(
    cutouts: dict[str, list[Cutout]], large_class: str, config: DemoConfig, rng: np.random.Generator
) -> tuple[Image.Image, list[dict]]:
    """Return a scene of one large and up to three small objects of different classes, and its objects.

    An object is its class, its cut-out and the box around its visible pixels, xyxy.
    """
    rest = [name for name in cutouts if name != large_class]
    names = [large_class, *rng.choice(rest, rng.integers(MAX_OBJECTS), replace=False)]
    chosen = [cutouts[name][rng.integers(len(cutouts[name]))] for name in names]
    varied = [
        vary_cutout(cutout.image, config.size * rng.uniform(*(SMALL if k else LARGE)), rng)
        for k, cutout in enumerate(chosen)
    ]
    scene, horizon = draw_background(config.size, rng)
    sprites, masks = arrange(list(zip(chosen, varied, strict=True)), horizon, config, rng)
    for sprite in sprites:
        scene = paint_sprite(scene, sprite)
    objects = [
        {"class": s.cutout.class_name, "cutout": s.cutout.name, "box": mask_extent(m)}
        for s, m in zip(sprites, masks, strict=True)
    ]
    return Image.fromarray(np.clip(scene + 0.5, 0, 255).astype(np.uint8)), objects


def vary_cutout(image: Image.Image, extent: float, rng: np.random.Generator) -> Image.Image:
    """Return a flipped, tilted, lighter or darker RGBA copy whose area is about extent x extent pixels."""
    scale = min(extent / np.sqrt(image.width * image.height), LONGEST * extent / max(image.size), ENLARGEMENT)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.15))
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > OPAQUE)).getbbox())


def draw_background(size: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Return an out-of-focus landscape, float32 [size, size, 3] in 0..255, and its horizon in [0, 1].

    Sky, hills and ground are gradients under smooth random shading, drawn at half size because all of them are soft.
    """
    half = -(-size // 2)
    palette = PALETTES[rng.integers(len(PALETTES))] + rng.normal(0, 8, (4, 1)) + rng.normal(0, 4, (4, 3))
    zenith, far_sky, far_ground, near_ground = palette.astype(np.float32)
    y = np.linspace(0, 1, half, dtype=np.float32)[:, None]  # [half, 1]
    x = np.linspace(-1, 1, half, dtype=np.float32)[None]  # [1, half]
    horizon = rng.uniform(0.3, 0.5)
    skyline = horizon - 0.07 - _smooth_noise((1, half), [(1, 5, 0.04), (1, 20, 0.008)], rng)

    sky = _blend(zenith, far_sky, (y / horizon).clip(0, 1))
    shading = _smooth_noise((half, half), [(7, 4, 0.05), (28, 12, 0.03)], rng)
    ground = _blend(far_ground, near_ground, ((y - horizon) / (1 - horizon)).clip(0, 1)) * (1 + shading[..., None])
    hills = np.float32(0.4) * (far_sky + far_ground) * (1 + _smooth_noise((half, half), [(9, 9, 0.08)], rng)[..., None])
    scene = _blend(_blend(sky, hills, _soft_step(y - skyline)), ground, _soft_step(y - horizon))

    light = 1 + _smooth_noise((half, half), [(3, 3, 0.08)], rng)
    vignette = 1 - 0.12 * (x**2 + (2 * y - 1) ** 2)
    scene = scene * (light * vignette)[..., None]
    return np.stack([_resize(scene[..., k], (size, size)) for k in range(3)], axis=-1), horizon


def arrange(
    varied: list[tuple[Cutout, Image.Image]], horizon: float, config: DemoConfig, rng: np.random.Generator
) -> tuple[list[Sprite], list[np.ndarray]]:
    """Return the sprites from back to front and the visible pixels of each, bool [size, size].

    The first cut-out is the large one, in front; the small ones are anywhere on the ground. Draws again until each is
    visible enough.
    """
    while True:
        placed = []
        for k, (cutout, image) in enumerate(varied):
            left = rng.uniform(-0.06 * image.width, config.size - 0.94 * image.width)
            nearest = 0.97 * config.size
            farthest = min(horizon * config.size + 0.6 * image.height, nearest) if k else 0.82 * config.size
            top = rng.uniform(farthest, nearest) - image.height
            placed.append(Sprite(cutout, image, round(left), round(top)))
        sprites = sorted(placed, key=lambda sprite: sprite.base)
        masks = visible_masks(sprites, config.size)
        whole = [np.count_nonzero(np.asarray(s.image.getchannel("A")) > OPAQUE) for s in sprites]
        if all(m.sum() >= MIN_VISIBLE * w for m, w in zip(masks, whole, strict=True)):
            return sprites, masks


def visible_masks(sprites: list[Sprite], size: int) -> list[np.ndarray]:
    """Return the visible pixels, bool [size, size], of each sprite; sprites are given from back to front."""
    covered = np.zeros((size, size), bool)
    masks = []
    for sprite in reversed(sprites):
        opaque = _alpha_in_scene(sprite, size) > OPAQUE
        masks.append(opaque & ~covered)
        covered |= opaque
    return masks[::-1]


def mask_extent(mask: np.ndarray) -> list[int]:
    """Return the xyxy box around the True pixels of a non-empty bool [H, W], x2 and y2 exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def paint_sprite(scene: np.ndarray, sprite: Sprite) -> np.ndarray:
    """Return the scene, float32 [size, size, 3], with the sprite and a soft shadow at its base."""
    size = len(scene)
    width, height = sprite.image.size
    flat = sprite.image.getchannel("A").resize((width, max(3, height // 5)))
    shadow = Image.new("L", (size, size))
    shadow.paste(flat, (sprite.left + round(0.04 * width), sprite.base - round(0.75 * flat.height)))
    shadow = shadow.filter(ImageFilter.GaussianBlur(2 + 0.03 * width))
    scene = scene * (1 - np.asarray(shadow, np.float32)[..., None] / 510)

    colour = Image.new("RGB", (size, size))
    colour.paste(sprite.image.convert("RGB"), (sprite.left, sprite.top))
    alpha = _alpha_in_scene(sprite, size).astype(np.float32) / 255
    return _blend(scene, np.asarray(colour, np.float32), alpha)


def _alpha_in_scene(sprite: Sprite, size: int) -> np.ndarray:
    canvas = Image.new("L", (size, size))
    canvas.paste(sprite.image.getchannel("A"), (sprite.left, sprite.top))
    return np.asarray(canvas)


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mix colours [..., 3]: `share` [H, W], in [0, 1], of the second and the rest of the first."""
    return first + (second - first) * share[..., None]


def _soft_step(distance: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-distance / 0.012))


def _smooth_noise(
    shape: tuple[int, int], octaves: list[tuple[int, int, float]], rng: np.random.Generator
) -> np.ndarray:
    """Sum of random fields, float32 of `shape`; an octave is (rows, columns, amplitude) of a coarse grid."""
    noise = np.zeros(shape, np.float32)
    for rows, columns, amplitude in octaves:
        noise += _resize(amplitude * rng.standard_normal((rows, columns), np.float32), shape)
    return noise


def _resize(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(field.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC))


def _cutout_root() -> Traversable:
    return resources.files("pipeline.datasets") / "cutouts"


def _cutout_files(class_name: str) -> list[Traversable]:
    return sorted((_cutout_root() / class_name).iterdir(), key=lambda file: file.name)


def _read_rgba(file: Traversable) -> Image.Image:
    with file.open("rb") as stream:
        return Image.open(stream).convert("RGBA")


def _source_hash() -> str:
    """SHA-256 of this module and the cut-outs, which determine the scenes together with the config."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in class_names():
        for file in _cutout_files(name):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read_annotations(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing; expected the record of the demo scenes. {_REMEDY}") from None
    except (RecursionError, ValueError):
        raise PipelineError(f"{path} is not JSON; expected the record of the demo scenes. {_REMEDY}") from None
    if not isinstance(record, dict) or {key: record.get(key) for key in SCHEMA} != SCHEMA:
        raise PipelineError(f"{path} is not a demo-scenes file of version {SCHEMA['version']}. {_REMEDY}")
    return record
