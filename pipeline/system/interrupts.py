"""Ctrl-C that no library can swallow.

Python drops an exception that is raised in a destructor, a weak reference's callback or some callbacks of C code, and
a KeyboardInterrupt comes wherever the program happens to be.
"""

import signal
import threading
from types import FrameType
from typing import NoReturn

_state = {"interrupted": False}


def watch() -> None:
    """Remember Ctrl-C from now on, where it is not ignored, as in a command that a script runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _state["interrupted"] = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt in the main thread if there was one since `watch`."""
    if _state["interrupted"] and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
