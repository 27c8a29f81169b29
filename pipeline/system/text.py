"""Comparison of texts in one Unicode form."""

import unicodedata
from collections.abc import Sequence


def nfc(text: str) -> str:
    """The text with composed characters (Unicode NFC); macOS writes file names decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def as_listed(name: str, names: Sequence[str]) -> str:
    """The entry of `names` that is the same text in NFC, else `name`."""
    return name if name in names else next((each for each in names if nfc(each) == nfc(name)), name)
