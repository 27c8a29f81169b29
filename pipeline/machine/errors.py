"""The one error type that a user sees as one line, and what such a line is made of."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """Something a user can mend: says what was found, what was expected and what to do.

    Modules raise it; only `pipeline.cli` turns it into one line on stderr and exit code 1. Its text is `printable`,
    as a file's name in it may hold anything.
    """

    def __str__(self) -> str:
        """The message on one line, without control characters."""
        return printable(super().__str__())


def printable(text: str, keep: str = "") -> str:
    """Text that cannot steer a terminal: control and direction characters become visible escapes.

    Args:
        text: may hold names of files and classes, which are anyone's.
        keep: characters that stay, as the line feed of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(each) if each not in keep and _steers(each) else each for each in text)


def _steers(character: str) -> bool:
    # controls, invisible formatting (which can turn the direction of writing round), halves of no character, line ends
    # (the two joiners belong to scripts and emoji)
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that resemble `name` in any case, the nearest first, at most three."""
    by_lower = {str(each).lower(): str(each) for each in known}
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]


def hint(name: str, known: Iterable[str]) -> str:
    """A sentence that ends an error about an unknown name: the nearest names, or some of those that there are."""
    known = list(map(str, known))
    near = nearest(name, known)
    if near:
        return f"Did you mean {' or '.join(repr(each) for each in near)}?"
    return f"There are {', '.join(known[:20])}{' ...' if len(known) > 20 else ''}." if known else "There are none."
