import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageDraw, ImageFilter, ImageOps, PngImagePlugin, features

from pipeline.photos.formats import readable_formats, why_unreadable
from pipeline.photos.images import UnreadableImage, from_pillow, image_size, load_image, verify_image
from pipeline.photos.resize import load_view, resize
from pipeline.system.errors import PipelineError


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Four quadrants: red, green / blue, white."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(["red", "lime", "blue", "white"]):
        x, y = (index % 2) * width // 2, (index // 2) * height // 2
        draw.rectangle((x, y, x + width // 2, y + height // 2), fill=colour)
    return image


def noise(width: int, height: int, blur: float = 2) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).filter(ImageFilter.GaussianBlur(blur))


def quadrants(image: torch.Tensor) -> list[list[int]]:
    _, height, width = image.shape
    points = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    return [image[:, y, x].tolist() for y, x in points]


RED, LIME, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]


@pytest.mark.parametrize("name", ["a.png", "a.WebP", "a.bmp", "a.gif", "a.TIFF", "a.PNG"])
def test_lossless_formats_in_any_case(tmp_path: Path, name: str):
    options = {"lossless": True} if name.endswith("WebP") else {}
    photo().save(tmp_path / name, **options)
    image = load_image(tmp_path / name)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 48, 64)
    assert quadrants(image) == [RED, LIME, BLUE]
    assert image_size(tmp_path / name) == verify_image(tmp_path / name) == (48, 64)


def test_extension_need_not_tell_the_format(tmp_path: Path):
    photo().save(tmp_path / "really_png.jpg", "PNG")
    assert quadrants(load_image(tmp_path / "really_png.jpg")) == [RED, LIME, BLUE]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LA", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    image = photo().convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    assert torch.equal(load_image(path), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path):
    photo().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, lime, blue = np.array(quadrants(load_image(tmp_path / "a.jpg")))
    assert np.abs(red - RED).max() < 12
    assert np.abs(lime - LIME).max() < 12
    assert np.abs(blue - BLUE).max() < 12


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path, name: str):
    levels = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    assert load_image(tmp_path / name)[0].tolist() == [[0, 0, 1, 128, 255]]
    assert load_image(tmp_path / name)[2].tolist() == [[0, 0, 1, 128, 255]]


def test_transparency_lies_over_white(tmp_path: Path):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (200, 0, 0, 128))
    image.save(tmp_path / "a.png")
    opaque, hidden, half = load_image(tmp_path / "a.png")[:, 0].T.tolist()
    assert (opaque, hidden) == ([0, 0, 0], [255, 255, 255])
    assert half == pytest.approx([227, 127, 127], abs=1)


def test_transparent_palette_entry_lies_over_white(tmp_path: Path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.gif", transparency=0)
    assert load_image(tmp_path / "a.gif")[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    photo().save(path, exif=exif)
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert expected.shape[1:] == ((64, 48) if orientation >= 5 else (48, 64))
    assert torch.equal(load_image(path), expected)
    assert torch.equal(load_image(path, min_size=expected.shape[1:]), expected)
    assert image_size(path) == verify_image(path) == expected.shape[1:]


def test_broken_exif_counts_as_none(tmp_path: Path):
    photo().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffrubbish")
    assert image_size(tmp_path / "a.jpg") == (48, 64)
    assert load_image(tmp_path / "a.jpg").shape == (3, 48, 64)


def test_reduced_decoding_stays_above_what_is_needed(tmp_path: Path):
    noise(800, 600).save(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg", min_size=(75, 100)).shape == (3, 75, 100)
    assert load_image(tmp_path / "a.jpg", min_size=(76, 100)).shape == (3, 150, 200)
    assert load_image(tmp_path / "a.jpg", min_size=(100, 500)).shape == (3, 600, 800)
    assert load_image(tmp_path / "a.jpg", min_size=(9000, 9000)).shape == (3, 600, 800)
    assert image_size(tmp_path / "a.jpg") == (600, 800)


def test_reduced_decoding_of_a_sideways_photo(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise(800, 400).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (800, 400)
    assert load_image(tmp_path / "a.jpg", min_size=(400, 100)).shape == (3, 400, 200)


def test_bicubic_is_within_2_of_pillows_on_noise():
    source = noise(300, 200)
    tensor = torch.from_numpy(np.array(source)).permute(2, 0, 1)
    for height, width in [(100, 100), (448, 448), (64, 320)]:
        ours = resize(tensor, (height, width))
        pillow = torch.from_numpy(np.array(source.resize((width, height), Image.Resampling.BICUBIC)))
        assert ours.dtype == torch.uint8
        assert (ours.int() - pillow.permute(2, 0, 1).int()).abs().max() <= 2


def test_resizing_a_crop_equals_resizing_its_copy():
    tensor = torch.from_numpy(np.array(noise(300, 200))).permute(2, 0, 1)
    crop = tensor[:, 20:150, 31:222]
    assert torch.equal(resize(crop, (96, 64)), resize(crop.contiguous(), (96, 64)))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("side", "megapixels"), [(10_001, "100 megapixels"), (60_000, "pixels")])
def test_bomb_is_refused_before_decoding(tmp_path: Path, side: int, megapixels: str):
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    for read in (image_size, verify_image, load_image):
        with pytest.raises(UnreadableImage, match=rf"bomb\.png.*{megapixels}.*limit"):
            read(tmp_path / "bomb.png")


def test_a_jpeg_whose_scans_repeat_is_refused(tmp_path: Path):
    """100 kB of empty scans over 100 megapixels take minutes."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", progressive=True, subsampling=0)
    content = buffer.getvalue()
    last, frame = content.rindex(b"\xff\xda"), content.index(b"\xff\xc2")
    side = struct.pack(">HH", 9990, 9990)
    head = content[: frame + 5] + side + content[frame + 9 : last]
    (tmp_path / "scans.jpg").write_bytes(head + content[last:-2] * 9000 + content[-2:])
    for read in (image_size, verify_image, load_image):
        with pytest.raises(UnreadableImage, match=r"scans\.jpg .* it has 9,0.. scans"):
            read(tmp_path / "scans.jpg")
    (tmp_path / "small.jpg").write_bytes(content[:last] + content[last:-2] * 9000 + content[-2:])
    assert verify_image(tmp_path / "small.jpg") == (16, 16)


def tiff_of_strips(count: int) -> bytes:
    start = 8 + 2 + 12 * 8 + 4
    tags = [(256, 1, 1), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, start), (278, 1, 1)]
    entries = [struct.pack("<HHII", tag, 4, n, value) for tag, n, value in [*tags, (279, count, start + 4 * count)]]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head + struct.pack("<I", 8) * count + struct.pack("<I", 1) * count


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P3 9 9 255\n" + b"#\n" * 1001, "1,001 comments"),
        (b"P6 5000 5000 254\n", "25 megapixels, the limit for its kind of PPM is 20"),
        (png_header(9, 9)[:33] + png_chunk(b"iCCP", b"p\0\0") * 3 + png_header(9, 9)[33:], "3 colour profiles"),
        (tiff_of_strips(200_001), "200,001 strips"),
    ],
)
def test_files_that_take_minutes_are_refused(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "slow").write_bytes(content)
    for read in (image_size, verify_image, load_image):
        with pytest.raises(UnreadableImage, match=f"slow .*{reason}"):
            read(tmp_path / "slow")
    with pytest.raises(UnreadableImage, match=f"the photo .*{reason}"):
        load_image(content)


def encoded(name: str) -> bytes:
    buffer = io.BytesIO()
    noise(96, 64, blur=1).save(buffer, name)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_file(tmp_path: Path, name: str):
    content = encoded(name)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: len(content) * 2 // 3])
    for read in (verify_image, load_image):
        with pytest.raises(UnreadableImage, match=r"cut\.jpg cannot be read as an image: "):
            read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404 Not Found</html>", "its format is none of JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its format is none of JPEG"),
    ],
)
def test_file_that_is_no_image(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (image_size, verify_image, load_image):
        with pytest.raises(UnreadableImage, match=rf"a\.jpg.*{reason}"):
            read(tmp_path / "a.jpg")


def test_missing_file_folder_and_overlong_name(tmp_path: Path):
    with pytest.raises(UnreadableImage, match=r"absent\.jpg is missing\. Check the path"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(UnreadableImage, match="directory"):
        load_image(tmp_path)
    with pytest.raises(UnreadableImage, match="name too long"):
        load_image(tmp_path / ("x" * 300 + ".jpg"))


def test_floating_point_pixels_are_refused_by_name(tmp_path: Path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    for read in (verify_image, load_image):
        with pytest.raises(UnreadableImage, match="floating-point"):
            read(tmp_path / "a.tif")


def test_names_of_any_script_and_length(tmp_path: Path):
    for name in ("猫 на крыше ü.png", "x" * 240 + ".png"):
        photo().save(tmp_path / name)
        assert verify_image(tmp_path / name) == (48, 64)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_damaged_bytes_decode_or_raise_our_error(tmp_path: Path, name: str):
    content = np.frombuffer(encoded(name), dtype=np.uint8)
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    refused = 0
    for _ in range(80):
        damaged = content.copy()
        damaged[rng.integers(0, min(len(content), 600), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        try:
            assert load_image(path).dtype == torch.uint8
        except PipelineError:
            refused += 1
    assert refused > 0


def test_verify_and_load_agree_on_real_photos(shared_data: Path):
    for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:20]:
        size = verify_image(path)
        assert load_image(path).shape[1:] == size
        assert load_view(path, (64, 96)).shape == (3, 64, 96)


@pytest.mark.parametrize(("name", "format"), [("a.avif", "AVIF"), ("a.JP2", "JPEG2000"), ("a.jpg", "AVIF")])
def test_avif_and_jpeg_2000(tmp_path: Path, name: str, format: str):
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}[format]):
        pytest.skip(f"this Pillow has no {format}")
    noise(64, 48, blur=6).save(tmp_path / name, format)
    expected = torch.from_numpy(np.array(noise(64, 48, blur=6))).permute(2, 0, 1)
    assert (load_image(tmp_path / name).float() - expected).abs().mean() < 4
    assert image_size(tmp_path / name) == verify_image(tmp_path / name) == (48, 64)


def test_heic_with_the_plugin_that_reads_it(tmp_path: Path):
    plugin = pytest.importorskip("pillow_heif")
    readable_formats.cache_clear()
    assert why_unreadable(".HEIC") is None
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    plugin.from_pillow(noise(64, 48, blur=6)).save(tmp_path / "a.heic", quality=95)
    assert image_size(tmp_path / "a.heic") == verify_image(tmp_path / "a.heic") == (48, 64)
    expected = torch.from_numpy(np.array(noise(64, 48, blur=6))).permute(2, 0, 1)
    assert (load_image(tmp_path / "a.heic").float() - expected).abs().mean() < 4
    plugin.from_pillow(noise(64, 48)).save(tmp_path / "turned.heic", exif=exif.tobytes())
    assert image_size(tmp_path / "turned.heic") == load_image(tmp_path / "turned.heic").shape[1:] == (64, 48)


def test_heic_without_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    readable_formats.cache_clear()
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(UnreadableImage, match=r"pillow-heif: `pip install '\.\[heif\]'`"):
        load_image(tmp_path / "a.HEIC")
    assert "pillow-heif" in why_unreadable(".heic") and why_unreadable(".jpg") is None
    monkeypatch.undo()
    readable_formats.cache_clear()


def test_a_raw_file_is_not_its_thumbnail(tmp_path: Path):
    photo(16, 12).save(tmp_path / "a.NEF", "TIFF")
    with pytest.raises(UnreadableImage, match=r"a\.NEF.*camera raw files cannot be read"):
        load_image(tmp_path / "a.NEF")


def test_a_fifo_is_refused_instead_of_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="it is a FIFO, not a file"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="it is a device"):
        load_image(Path("/dev/zero"))


@pytest.mark.parametrize("megabytes", [3, 20])
def test_long_texts_and_profiles_keep_no_photo_out(tmp_path: Path, megabytes: int):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * megabytes * 2**20, zip=True)
    image = photo()
    image.save(tmp_path / "text.png", pnginfo=text)
    image.save(tmp_path / "profile.png", icc_profile=b"p" * megabytes * 2**20)
    for name in ("text.png", "profile.png"):
        assert verify_image(tmp_path / name) == (48, 64)
        assert torch.equal(load_image(tmp_path / name), torch.from_numpy(np.array(image)).permute(2, 0, 1))


GREY = np.linspace(0, 1, 64).reshape(1, 64).repeat(4, axis=0)
"""A ramp from black to white, in shares."""


def write_tiff(path: Path, values: np.ndarray, **tags: int) -> Path:
    Image.fromarray(values).save(path, tiffinfo={int(name.removeprefix("t")): value for name, value in tags.items()})
    return path


@pytest.mark.parametrize(
    ("bits", "tags"),
    [(16, {}), (12, {"t281": 4095}), (10, {"t281": 1023}), (14, {"t281": 16383}), (16, {"t281": 65535})],
)
def test_deep_grey_is_scaled_by_the_range_that_the_file_gives(tmp_path: Path, bits: int, tags: dict[str, int]):
    values = np.round(GREY * (2**bits - 1)).astype(np.uint16)
    found = load_image(write_tiff(tmp_path / "deep.tiff", values, **tags))
    assert np.abs(found[0].numpy() / 255 - GREY).max() < 0.006


def test_twelve_bits_packed_are_scaled(tmp_path: Path):
    """As cameras and microscopes write them: two samples in three bytes."""
    values = np.round(GREY * 4095).astype(np.uint16)
    packed = np.stack(
        [values[:, ::2] >> 4, (values[:, ::2] & 15) << 4 | values[:, 1::2] >> 8, values[:, 1::2] & 255], axis=-1
    )
    entries = {256: 64, 257: 4, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 4, 279: packed.size}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + struct.pack("<I", 0)
    (tmp_path / "packed.tiff").write_bytes(head + packed.astype(np.uint8).tobytes())
    found = load_image(tmp_path / "packed.tiff")
    assert np.abs(found[0].numpy() / 255 - GREY).max() < 0.006


def test_deep_grey_whose_0_is_white_is_turned(tmp_path: Path):
    values = np.round((1 - GREY) * 65535).astype(np.uint16)
    found = load_image(write_tiff(tmp_path / "white.tiff", values, t262=0))
    assert np.abs(found[0].numpy() / 255 - GREY).max() < 0.006


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_named(tmp_path: Path, dtype: type):
    path = write_tiff(tmp_path / "unknown.tiff", (GREY * 65535).astype(dtype))
    with pytest.raises(UnreadableImage, match=r"unknown\.tiff .* of unknown range"):
        load_image(path)
    with pytest.raises(UnreadableImage, match="of unknown range"):
        verify_image(path)
    with pytest.raises(UnreadableImage, match="of unknown range"):
        from_pillow(Image.fromarray((GREY * 65535).astype(dtype)))


def test_a_pgm_of_sixteen_bits_is_read(tmp_path: Path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 64 4 4095\n" + np.round(GREY * 4095).astype(">u2").tobytes())
    found = load_image(tmp_path / "deep.pgm")
    assert np.abs(found[0].numpy() / 255 - GREY).max() < 0.006


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_signed_integers_are_refused_as_of_unknown_range(tmp_path: Path, dtype: type):
    """Pillow shows the negative numbers of a TIFF of 8 bits as bright pixels."""
    path = write_tiff(tmp_path / "signed.tiff", (GREY * 100).astype(dtype), t339=2)
    for read in (verify_image, load_image):
        with pytest.raises(UnreadableImage, match=r"signed\.tiff .* signed integers of unknown range"):
            read(path)


def test_the_transparent_value_of_16_bit_pngs_lies_over_white(tmp_path: Path):
    grey = Image.fromarray(np.array([[1000, 1001, 65535]], np.uint16))
    grey.save(tmp_path / "grey.png", transparency=1000)
    assert load_image(tmp_path / "grey.png")[0, 0].tolist() == [255, 3, 255]
    pixels = np.array([[1000, 2000, 3000], [60000, 60000, 60000]], ">u2")
    key = png_chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    content = png_chunk(b"IDAT", zlib.compress(b"\0" + pixels.tobytes()))
    (tmp_path / "rgb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + key + content + png_chunk(b"IEND", b""))
    assert load_image(tmp_path / "rgb.png")[:, 0].T.tolist() == [[255, 255, 255], [234, 234, 234]]


def test_premultiplied_grey_lies_over_white():
    image = Image.new("La", (1, 1))
    image.putpixel((0, 0), (50, 128))
    assert from_pillow(image).flatten().tolist() == pytest.approx([177] * 3, abs=1)


def test_a_closed_or_empty_pillow_image_is_named(tmp_path: Path):
    photo().save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(UnreadableImage, match=r"a\.png .*closed"):
        from_pillow(closed)
    with pytest.raises(UnreadableImage, match="0 x 5 has no pixels"):
        from_pillow(Image.new("RGB", (0, 5)))
