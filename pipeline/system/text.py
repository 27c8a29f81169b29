"""Comparison of texts in one Unicode form."""

import unicodedata
from collections.abc import Sequence

from pipeline.system.errors import PipelineError, printable


def check_text(text: str, place: str) -> None:
    """Raise PipelineError if a text has bytes that are not valid UTF-8, or a NUL; no file could be written with it."""
    try:
        text.encode()
        valid = "\0" not in text
    except UnicodeEncodeError:  # Python keeps bytes that are not UTF-8 as lone surrogates
        valid = False
    if not valid:
        raise PipelineError(f"{place} has {printable(text)}, which is not valid UTF-8 text. Rename or correct it.")


def nfc(text: str) -> str:
    """The text with composed characters (Unicode NFC); macOS writes file names decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def as_listed(name: str, names: Sequence[str]) -> str:
    """The entry of `names` that is the same text in NFC, else `name`."""
    return name if name in names else next((each for each in names if nfc(each) == nfc(name)), name)
