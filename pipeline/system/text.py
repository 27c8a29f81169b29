"""Text that looks the same, compared as the same."""

import unicodedata
from collections.abc import Sequence


def nfc(text: str) -> str:
    """The text with composed characters (Unicode NFC); macOS writes names of files decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def as_listed(name: str, names: Sequence[str]) -> str:
    """The one of some names that is the same text; the name itself where none is."""
    return name if name in names else next((each for each in names if nfc(each) == nfc(name)), name)
