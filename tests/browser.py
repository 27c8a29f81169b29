"""Pages in headless Chromium: results of scripts, and messages on the console."""

import json
import os
import select
import shutil
import signal
import time
import warnings
from contextlib import closing
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --remote-debugging-pipe"
CONSOLE_EVENTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
"""Events of messages on the console."""
PATIENCE = 100
"""Seconds to wait for an answer."""


class Tab:
    """The only tab of a Chromium, driven by the DevTools protocol through pipes.

    Args:
        folder: for the profile.
    """

    def __init__(self, folder):
        to_browser, self._asks = os.pipe()
        self._answers, from_browser = os.pipe()
        actions = [
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, to_browser, 3),  # from which Chromium reads
            (os.POSIX_SPAWN_DUP2, from_browser, 4),
        ]
        arguments = [BROWSER, *QUIET.split(), f"--user-data-dir={folder / 'profile'}"]
        self._process = os.posix_spawn(BROWSER, arguments, os.environ, file_actions=actions)
        os.close(to_browser)
        os.close(from_browser)
        self.console = []
        """Messages on the console, errors included."""
        self._read, self._asked, self._session = b"", 0, None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address, width, dark=False):
        """Go to an address and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url="about:blank")  # another fragment of the same page would not be loaded again
        self._call("Page.navigate", url=address)
        self.run("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, script):
        """The value of a script, awaited if it is a promise."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self):
        """End the browser."""
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._asks)
        os.close(self._answers)

    def _call(self, method, **parameters):
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._asks, left) :]
        deadline = time.monotonic() + PATIENCE
        while (answer := self._next(deadline)).get("id") != self._asked:
            # not of the network: a page may ask for what is refused
            network = answer.get("params", {}).get("entry", {}).get("source") == "network"
            if answer.get("method") in CONSOLE_EVENTS and not network:
                self.console.append(answer["params"])
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self, deadline):
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self._answers, 1 << 20) if ready else b""
            assert piece, "the browser does not answer"
            self._read += piece
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)


def browse(address, folder, width, script):
    """Result of a script on a page, and the messages on the console."""
    with closing(Tab(folder)) as tab:
        tab.open(address, width)
        return tab.run(script), tab.console


def violations(address, folder, *scripts):
    """Rules of axe-core that a page breaks after each script, and the elements, at three widths, light and dark."""
    axe = Path(find_spec("axe_core_python").origin).with_name("axe.min.js").read_text(encoding="utf-8")
    rules = """axe.run({ resultTypes: ["violations"] })
        .then((all) => all.violations.map((each) => [each.id, each.nodes.map((node) => node.html)]))"""
    found = []
    with closing(Tab(folder)) as tab:
        for width, dark in product((1440, 800, 390), (False, True)):
            tab.open(address, width, dark)
            tab.run(f"{axe}; 0")
            for script in scripts:
                tab.run(script)
                found += [[width, dark, *broken] for broken in tab.run(rules)]
    return found


def need_browser():
    """Skip without Chromium, with a warning in pytest's summary."""
    if BROWSER is None:
        warnings.warn("NO CHROMIUM: pages are not tested in a browser; install Chromium to test them", stacklevel=2)
        pytest.skip("no Chromium")
