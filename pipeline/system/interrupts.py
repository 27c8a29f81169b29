"""Ctrl-C that no library can suppress.

A KeyboardInterrupt may be raised anywhere. Python drops it in a destructor, in a weak reference's callback, and in some
callbacks of C code.
"""

import signal
import threading
from types import FrameType
from typing import NoReturn

_state = {"interrupted": False}


def watch() -> None:
    """Record Ctrl-C from now on, unless it is ignored, as in a background command of a script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _state["interrupted"] = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt in the main thread if there was a Ctrl-C since `watch`."""
    if _state["interrupted"] and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
