"""Draw docs/pictures/predictions.jpg: six free photos with the predictions of a run; needs `pip install scikit-image scikit-learn`.

python docs/picture.py RUN

RUN: a run with the default settings on the 700 train photos of VOC 2012 and 222 photos of COCO, with the classes cat, dog,
horse, cow, sheep, bird, person, car, bus, bicycle, motorbike, boat, aeroplane, rocket, bottle, cup, chair, sofa, flower and
palace. The photos of the picture are none of them, and are in scikit-image and scikit-learn. The class palace was chosen for the
last photo, after building, tower and temple gave no prediction there:

cat         Stefan van der Walt, CC0
coffee      Rachel Michetti, CC0
astronaut   NASA (Eileen Collins), public domain
rocket      SpaceX, public domain
flower      vultilion, CC BY 2.0, cropped: https://www.flickr.com/photos/vultilion/6056698931/
temple      danielbuechele, CC BY 2.0, cropped: https://www.flickr.com/photos/danielbuechele/6061409035/
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline import Classifier

PICTURE = Path(__file__).parent / "pictures" / "predictions.jpg"
PHOTOS = (
    *(("skimage", f"data/{name}") for name in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")),
    *(("sklearn", f"datasets/images/{name}") for name in ("flower.jpg", "china.jpg")),
)
TILE = (400, 300)
BAND = 68
"""Pixels below each photo, for its labels."""
LARGEST = 300_000
"""Bytes of the picture."""


def photo_paths() -> list[Path]:
    """The photos in the installed packages, which are found without importing them."""
    return [Path(find_spec(package).origin).parent / name for package, name in PHOTOS]


def main(run: str) -> None:
    """Draw the photos in two rows, each with its predicted classes and their scores."""
    predictions = Classifier.load(run).predict(photo_paths())
    picture = Image.new("RGB", (3 * TILE[0] + 20, 2 * (TILE[1] + BAND) + 10), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(44)
    for index, (path, prediction) in enumerate(zip(photo_paths(), predictions, strict=True)):
        x, y = index % 3 * (TILE[0] + 10), index // 3 * (TILE[1] + BAND + 10)
        with Image.open(path) as photo:
            picture.paste(ImageOps.fit(photo.convert("RGB"), TILE, centering=(0.5, 0.1)), (x, y))
        labels = sorted(prediction.labels, key=lambda name: -prediction.scores[name])
        text = ", ".join(f"{name} {prediction.scores[name]:.2f}" for name in labels) or "none"
        draw.text((x + TILE[0] / 2, y + TILE[1] + BAND / 2), text, "black", font, anchor="mm")
        print(f"{path.name}: {text}")
    picture.save(PICTURE, quality=85, optimize=True)
    if PICTURE.stat().st_size > LARGEST:
        sys.exit(f"{PICTURE} has {PICTURE.stat().st_size:,} bytes, expected at most {LARGEST:,}.")


if __name__ == "__main__":
    main(sys.argv[1])
