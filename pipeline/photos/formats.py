"""Readable image formats, by suffix or first bytes; pillow-heif adds HEIF where it is installed."""

import re
from functools import cache

from PIL import Image, features

from pipeline.system.errors import PipelineError

ALWAYS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Suffixes that every Pillow reads, in lower case."""

AVIF = (".avif",)
JPEG_2000 = (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc")
HEIF = (".heic", ".heif", ".hif")
JPEG_XL = (".jxl",)
RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw"),
    *(".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
"""Camera raw. Many are TIFF files, of which Pillow would read the thumbnail."""

PHOTO_SUFFIXES = frozenset((*ALWAYS, *AVIF, *JPEG_2000, *HEIF, *JPEG_XL, *RAW))
"""Suffixes of photos, readable or not."""


HEAD = 64
"""Bytes that `suffix_of` needs to recognise a format."""
_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"II\*\0|MM\0\*"), ".tif"),
    # the size of the second header: a text may begin with BM too
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), ".bmp"),
    (re.compile(rb"P[1-6]\s(\s*#[^\n]*\n)*\s*\d+\s"), ".ppm"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n"), ".jp2"),
    (re.compile(rb"\xff\x4f\xff\x51"), ".j2k"),
    (re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n"), ".jxl"),
    (re.compile(rb".{4}ftyp.{0,52}avi[fs]", re.DOTALL), ".avif"),
    (re.compile(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), ".heic"),
)


def suffix_of(head: bytes) -> str | None:
    """The suffix of a photo format from the first `HEAD` bytes of a file; None for other content."""
    return next((suffix for magic, suffix in _MAGIC if magic.match(head[:HEAD])), None)


@cache
def readable_formats() -> tuple[str, ...]:
    """Formats that Pillow may read. A closed list, because some readers of Pillow start programs (EPS)."""
    formats = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
    if features.check("avif"):
        formats.append("AVIF")
    if features.check("jpg_2000"):
        formats.append("JPEG2000")
    if _register_heif():
        formats.append("HEIF")
    return tuple(formats)


def why_unreadable(suffix: str) -> str | None:
    """Why photos with this suffix, in any case, are not read, and what to do; None for a suffix that can be read, or is not of a photo."""
    suffix = suffix.lower()
    formats = readable_formats()
    if suffix in HEIF and "HEIF" not in formats:
        return "HEIC and HEIF files need pillow-heif: `pip install '.[heif]'`"
    if suffix in AVIF and "AVIF" not in formats:
        return "AVIF files need Pillow 11.3 or newer: `pip install -U pillow`"
    if suffix in JPEG_2000 and "JPEG2000" not in formats:
        return "this Pillow was built without JPEG 2000; convert the file to JPEG or PNG"
    if suffix in JPEG_XL:
        return "JPEG XL files cannot be read; convert the file to JPEG or PNG"
    if suffix in RAW:
        return "camera raw files cannot be read; convert the file to JPEG or TIFF"
    return None


def _register_heif() -> bool:
    """Let Pillow open HEIF files; False if pillow-heif is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:
        return False
    except ImportError as error:
        raise PipelineError(f"pillow-heif cannot be loaded ({error}). Install it again or remove it.") from error
    register_heif_opener()
    return "HEIF" in Image.OPEN
