"""The error that a user sees as one line, and helpers for its text."""

import errno
import os
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

BY_CONTENT = (errno.EINVAL, errno.EOVERFLOW)
"""Errors of the operating system that damaged content causes, such as an offset outside the file."""


class PipelineError(Exception):
    """An error that a user can fix; the message states what is wrong, where, and what to do.

    Only `pipeline.cli` catches it, and prints one line on stderr. The text is `printable`, because it may contain the name of
    any file.
    """

    def __str__(self) -> str:
        """The message on one line, without control characters."""
        return printable(super().__str__())


class NotBuiltError(PipelineError):
    """A file of a run is missing or out of date.

    Args:
        problem: what is wrong and where, a sentence.
        advice: what to do, a sentence.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem} {advice}")
        self.problem = problem


def raised_at_call(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function of the Python API whose `PipelineError` has the traceback of the call alone.

    The message states the cause, so frames inside this package and a chain of causes only hide it.
    """

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except PipelineError as error:
            raise error.with_traceback(None) from None

    return call


class UnreadableError(PipelineError):
    """A file that cannot be read now but may be intact, so it must not be replaced."""


class SpecialFileError(OSError):
    """A pipe, socket or device where a file is expected: reading it can block, or never end."""


def system_refusal(error: BaseException) -> str | None:
    """Why the operating system refuses a file, and what to do, as the end of a sentence; None if the file is damaged."""
    if isinstance(error, SpecialFileError):
        return f"({error.strerror}). Give a regular file."
    if not isinstance(error, OSError) or error.errno is None or error.errno in BY_CONTENT:
        return None
    if "unable to lock file" not in str(error):  # HDF5's message for every failure of a lock
        return f"({os.strerror(error.errno)}). Check the disk and the permissions."
    if isinstance(error, BlockingIOError):
        return "(another program has locked it). Close it there, or wait for that program, and run the command again."
    return (
        f"(its file system has no locks: {os.strerror(error.errno)}). Set the environment variable "
        "HDF5_USE_FILE_LOCKING=FALSE, and run one command at a time."
    )


def printable(text: str, keep: str = "") -> str:
    """Text that cannot control a terminal: control and direction characters except `keep` become visible escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(each) if each not in keep and _steers(each) else each for each in text)


def _steers(character: str) -> bool:
    # controls, invisible formatting (which can reverse the direction of text), lone surrogates, line ends; scripts and
    # emoji need the two joiners
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three known names that resemble `name`, ignoring case, the most similar first."""
    by_lower = {str(each).lower(): str(each) for each in known}
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]


def reason_of(error: OSError) -> str:
    """The message of the operating system, without its number: "No space left on device"."""
    return error.strerror or first_line(error)


def hint(name: str, known: Iterable[str]) -> str:
    """A sentence for an error about an unknown name: the most similar names, or else some of the known ones."""
    known = list(map(str, known))
    near = nearest(name, known)
    if near:
        return f"Did you mean {' or '.join(repr(each) for each in near)}?"
    return f"There are {', '.join(known[:20])}{' ...' if len(known) > 20 else ''}." if known else "There are none."
