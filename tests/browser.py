"""Pages in headless Chromium: what a script finds on them, and what the console says."""

import json
import re
import shutil
import subprocess
import warnings

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --enable-logging=stderr"


def browse(address, folder, width=1280, budget=4000):
    """What the script on a page has put into its title as JSON, and the lines of the console."""
    command = [
        BROWSER,
        *QUIET.split(),
        f"--virtual-time-budget={budget}",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


def need_browser():
    """Skip loudly where there is no Chromium: the warning stands in pytest's summary."""
    if BROWSER is None:
        warnings.warn("NO CHROMIUM: the pages are not looked at in a browser; install it to test them", stacklevel=2)
        pytest.skip("no chromium: the page is not looked at in a browser")
