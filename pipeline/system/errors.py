"""The one error type that a user sees as one line, and what such a line is made of."""

import errno
import os
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

BY_CONTENT = (errno.EINVAL, errno.EOVERFLOW)
"""Errors of the operating system that the content of a file causes: it points outside the file."""


class PipelineError(Exception):
    """Something a user can fix: says what was found, what was expected and what to do.

    Modules raise it; only `pipeline.cli` turns it into one line on stderr and exit code 1. Its text is `printable`,
    as a file's name in it may hold anything.
    """

    def __str__(self) -> str:
        """The message on one line, without control characters."""
        return printable(super().__str__())


class UnreadableError(PipelineError):
    """A file that cannot be read now, and may be sound: nothing is to be made instead of it."""


class SpecialFileError(OSError):
    """A pipe, socket or device where a file is expected: reading it can block, or never end."""


def system_refusal(error: BaseException) -> str | None:
    """Why the operating system refuses a file, and what to do, as the end of a sentence and another one.

    Returns:
        None for an error that the content of the file causes: it is damaged.
    """
    if isinstance(error, SpecialFileError):
        return "(it is a pipe, socket or device). Give a regular file."
    if not isinstance(error, OSError) or error.errno is None or error.errno in BY_CONTENT:
        return None
    if "unable to lock file" not in str(error):  # HDF5 says this of all that its locks fail of
        return f"({os.strerror(error.errno)}). Check the disk and the permissions."
    if isinstance(error, BlockingIOError):
        return "(another program has locked it). Close it there, or wait for that program, and run the command again."
    return (
        f"(its file system has no locks: {os.strerror(error.errno)}). Set the environment variable "
        "HDF5_USE_FILE_LOCKING=FALSE, and run one command at a time."
    )


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
