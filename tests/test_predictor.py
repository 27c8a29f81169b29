import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps, ImageSequence
from worlds.photos import noise_photos

from pipeline import Classifier, read
from pipeline.deploy.classifier import square_photo
from pipeline.photos.images import UnreadableImage
from pipeline.photos.resize import load_view
from pipeline.system.errors import PipelineError

SIZE = 32
CUTOUTS = Path(__file__).resolve().parents[1] / "pipeline/datasets/cutouts"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three PNG photos."""
    return noise_photos(tmp_path_factory.mktemp("photos"), [(40 + n, 56) for n in range(3)])


def test_a_path_its_bytes_an_open_image_and_an_array_are_one_photo(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    with Image.open(photos[0]) as opened:
        pixels = np.asarray(opened)  # read-only
        scores = classifier.scores([photos[0], str(photos[0]), Path(photos[0]).read_bytes(), opened, pixels])
    assert scores.shape == (5, 3) and scores.dtype == np.float32
    assert (scores == scores[0]).all()


@pytest.fixture(scope="module")
def large_photo(tmp_path_factory):
    """A JPEG of six megapixels, on its side by its EXIF block: cut-outs of animals over a gradient."""
    canvas = Image.linear_gradient("L").resize((3000, 2000)).convert("RGB")
    for n, path in enumerate(sorted((CUTOUTS / "bird").glob("*.webp"))[:6]):
        with Image.open(path) as cutout:
            bird = cutout.convert("RGBA").resize((900, 900), Image.Resampling.BICUBIC)
        canvas.paste(bird, (1000 * (n % 3), 1000 * (n // 3)), bird)
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    canvas.save(path, quality=88, exif=exif)
    return path


def test_a_large_jpeg_is_one_photo_however_it_comes(large_photo):
    wanted = square_photo(large_photo, SIZE)
    with Image.open(large_photo) as lazy:
        assert torch.equal(square_photo(lazy, SIZE), wanted)
        loaded = ImageOps.exif_transpose(lazy)
    assert loaded.size == (2000, 3000)
    for photo in (str(large_photo), large_photo.read_bytes(), loaded, np.asarray(loaded)):
        assert torch.equal(square_photo(photo, SIZE), wanted)
    by_pillow = np.asarray(loaded.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)  # what exports tell to do
    assert abs(wanted.permute(1, 2, 0).numpy() - by_pillow).max() <= 2


def test_scores_are_those_of_the_network_on_the_resized_photo(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    squares = torch.stack([load_view(Path(p), (SIZE, SIZE)) for p in photos]).float() / 255
    with torch.inference_mode():
        expected = classifier.net(squares).sigmoid().numpy()
    np.testing.assert_allclose(classifier.scores(photos, batch_size=2), expected, atol=1e-6)


def test_labels_are_the_classes_that_reach_their_threshold(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    scores = classifier.scores(photos)
    classifier.thresholds = scores[1] + np.array([0, 1e-6, -1e-6])
    predictions = classifier.predict(photos)
    assert predictions[1].labels == ["cat", "cow"]
    assert predictions[1].scores == dict(zip(["cat", "dog", "cow"], scores[1].tolist(), strict=True))
    assert [p.scores["dog"] for p in predictions] == scores[:, 1].tolist()


def test_a_single_photo_is_a_list_of_one_and_no_photo_is_none(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    pixels = np.zeros((2, 20, 30, 3), np.uint8)
    assert [len(classifier.predict(x)) for x in (photos[0], str(photos[0]), pixels[0], pixels, [])] == [1, 1, 1, 2, 0]
    assert classifier.scores([]).shape == (0, 3)


def test_an_open_image_is_turned_and_flattened_as_its_file_is(tmp_path):
    generator = np.random.default_rng(0)
    rgba = Image.fromarray(generator.integers(0, 256, (20, 30, 4)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(square_photo(opened, SIZE), square_photo(tmp_path / "turned.png", SIZE))


def test_open_files_and_whatever_can_be_read_are_photos(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    content = Path(photos[0]).read_bytes()
    wanted = classifier.scores(photos[0])[0]
    at_its_end = io.BytesIO()
    at_its_end.write(content)

    class Response:  # as of urllib: it can be read once, and gives its content and nothing else
        def read(self):
            return content

    with open(photos[0], "rb") as file, zipfile_of(photos[0]).open("photo.png") as member:  # noqa: PTH123
        several = [file, member, at_its_end, Response(), bytearray(content), memoryview(content), content]
        np.testing.assert_allclose(classifier.scores(several), np.tile(wanted, (7, 1)), atol=1e-6)
        assert len(classifier.predict(file)) == 1
    with pytest.raises(UnreadableImage, match=r"0\.png .*closed file"):
        classifier.predict(file)
    with open(photos[0]) as text, pytest.raises(UnreadableImage, match="'rb'"):  # noqa: PTH123
        classifier.predict(text)


def zipfile_of(path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(path, "photo.png")
    return zipfile.ZipFile(buffer)


def test_photos_that_change_after_they_are_handed_over_are_scored_as_they_were(tiny_classifier, tmp_path):
    classifier = Classifier.load(tiny_classifier)
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(3)]
    wanted = classifier.scores(frames)
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    with Image.open(tmp_path / "a.tif") as pages:
        np.testing.assert_array_equal(classifier.scores(ImageSequence.Iterator(pages)), wanted)
    buffer = np.empty_like(frames[0])

    def reused():
        for frame in frames:
            buffer[:] = frame
            yield buffer

    np.testing.assert_allclose(classifier.scores(reused(), batch_size=2), wanted, atol=1e-6)


def test_an_image_that_pillow_has_not_decoded_yet_may_be_named_twice(tiny_classifier, tmp_path):
    classifier = Classifier.load(tiny_classifier)
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as lazy:
        scores = classifier.scores([lazy] * 6)
    assert (scores == classifier.scores(pixels)).all()


def test_an_array_of_paths_is_a_sequence(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    assert (classifier.scores(np.array(list(map(str, photos)))) == classifier.scores(photos)).all()


def test_what_has_no_order_of_photos_is_refused(tiny_classifier, photos):
    classifier = Classifier.load(tiny_classifier)
    for value, found in (({"image": photos[0]}, "dict"), ({photos[0]}, "set"), (7, "int")):
        with pytest.raises(PipelineError, match=f"found {found} as photos, expected a path"):
            classifier.predict(value)


def test_grey_pixels_are_the_same_as_three_equal_channels():
    grey = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
    assert torch.equal(square_photo(grey, SIZE), square_photo(np.stack([grey] * 3, axis=2), SIZE))


@pytest.mark.parametrize(
    ("photo", "found"),
    [
        (np.zeros((20, 30, 3)), r"float64 array \(20, 30, 3\)"),
        (np.zeros((3, 20, 30), np.uint8), r"uint8 array \(3, 20, 30\)"),
        (np.zeros((0, 30, 3), np.uint8), r"uint8 array \(0, 30, 3\)"),
        (np.zeros((20, 30, 3), np.uint16), r"uint16 array \(20, 30, 3\)"),
        (np.zeros((20, 30), bool), r"bool array \(20, 30\)"),
        (np.zeros((20, 30, 4), np.uint8), r"uint8 array \(20, 30, 4\)"),
        (torch.zeros((3, 20, 30), dtype=torch.uint8), r"uint8 tensor \(3, 20, 30\)"),
        (torch.zeros((2, 3, 20, 30)), r"float32 tensor \(3, 20, 30\)"),
        ([{"bytes": b""}], "dict"),
        ([7], "int"),
    ],
)
def test_what_is_no_photo_is_refused(tiny_classifier, photo, found):
    with pytest.raises(PipelineError, match=f"found {found} as a photo, expected a path"):
        Classifier.load(tiny_classifier).predict(photo)


def test_open_files_are_photos(tiny_classifier, photos):
    classifier, path = Classifier.load(tiny_classifier), photos[0]
    wanted = classifier.scores(path)
    with path.open("rb") as file:
        assert np.array_equal(classifier.scores(file), wanted)
    with path.open("rb") as file:
        found = classifier.scores([file, bytearray(path.read_bytes())])
        np.testing.assert_allclose(found, np.repeat(wanted, 2, axis=0), atol=1e-6)
    with pytest.raises(UnreadableImage, match="the file is empty"):
        classifier.scores(io.BytesIO())


def test_a_broken_file_is_refused_by_name(tiny_classifier, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(UnreadableImage, match=r"broken\.jpg cannot be read as an image"):
        Classifier.load(tiny_classifier).predict([tmp_path / "broken.jpg"])


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="missing"):
        Classifier.load(tmp_path / "classifier.pt")
    torch.save({"weights": {}}, tmp_path / "classifier.pt")
    with pytest.raises(PipelineError, match="not an artifact of this tool"):
        Classifier.load(tmp_path / "classifier.pt")


@pytest.mark.parametrize("name", ["final_labels.h5", "predictions.csv", "photo.png", "classifier.onnx"])
def test_a_healthy_file_that_is_no_classifier_is_not_called_damaged(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(PipelineError, match=r"is not a classifier file\. Name a run") as error:
        Classifier.load(tmp_path / name)
    assert "damaged" not in str(error.value) and "ccd all" not in str(error.value)


def test_advice_names_a_command_only_if_it_makes_the_file(tmp_path):
    for name, advice in (
        ("calibrated.pt", f"Create it with `ccd calibrate {tmp_path} TABLE`"),
        ("classifier.pt", f"Create it with `ccd train {tmp_path}`"),
        ("mine.pt", "Check the path"),
    ):
        with pytest.raises(PipelineError, match=f"is missing. {advice}"):
            Classifier.load(tmp_path / name)
    with pytest.raises(PipelineError, match=f"is missing. Create it with `ccd evaluate {tmp_path}`"):
        read(tmp_path / "predictions.csv")
    with h5py.File(tmp_path / "embeddings-of-others.h5", "w") as file:
        file["image"] = [1.0]
    with pytest.raises(PipelineError, match=r"not an artifact of this tool .*Check the path"):
        read(tmp_path / "embeddings-of-others.h5")
