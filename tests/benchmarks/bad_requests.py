"""Memory and responses of `ccd serve` under bad requests, and the peak memory of `ccd predict` on photos that claim 100 megapixels.

    python tests/benchmarks/bad_requests.py CLASSIFIER [--count 2000] [--clients 3] [--seed 0]

Fails if one request needs over 1 GB, a response has a status of 500 or above, the server prints a traceback, hangs or ends with over 10 % more memory.
"""

import argparse
import collections
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from worlds.bad_requests import bad_request, claiming_png, form, post, sent
from worlds.photos import photo_bytes


def memory(pid: int, name: str = "VmRSS") -> float:
    """Memory of a process in MB: `VmRSS` now, or `VmHWM` at its peak since `forget_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024


def forget_peak(pid: int) -> None:
    """Begin a new peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def black(megapixels: float, kind: str, **options: Any) -> bytes:
    """A black photo."""
    buffer = io.BytesIO()
    Image.new("RGB", (10_000, round(megapixels * 100))).save(buffer, kind, **options)
    return buffer.getvalue()


def each_alone(port: int, pid: int) -> float:
    """Print the peak memory during single requests; the largest rise in MB."""
    requests = {
        f"{count} PNGs that claim 9,990 px squared": {f"{n}": claiming_png() for n in range(count)}
        for count in (4, 8, 32)
    }
    requests |= {
        "4 PNGs of 100 megapixels": dict.fromkeys("abcd", black(100, "PNG")),
        "1 progressive JPEG of 50 megapixels": {"a": black(50, "JPEG", progressive=True, subsampling=0)},
        "1 AVIF of 50 megapixels": {"a": black(50, "AVIF", speed=10)},
        "1 WebP of 50 megapixels": {"a": black(50, "WEBP", lossless=True)},
        "1 JPEG 2000 of 33 megapixels": {"a": black(33, "JPEG2000")},
    }
    largest = 0.0
    for name, photos in requests.items():
        forget_peak(pid)
        before, start = memory(pid), time.perf_counter()
        status = sent(port, post(form(photos)))
        seconds, rise = time.perf_counter() - start, memory(pid, "VmHWM") - before
        largest = max(largest, rise)
        print(
            f"{name}: status {status}, {seconds:.1f} s, {before:.0f} MB, peak +{rise:.0f}, end {memory(pid):.0f}",
            flush=True,
        )
    return largest


def many(port: int, count: int, clients: int, seed: int) -> collections.Counter:
    """Send bad requests from several clients at once; the number of responses by status."""
    statuses: collections.Counter = collections.Counter()

    def client(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        for _ in range(count // clients + (number < count % clients)):
            request, finished = bad_request(draw)
            try:
                statuses[sent(port, request, finished=finished)] += 1
            except TimeoutError:
                statuses["hang"] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def predict_peak(classifier: Path) -> float:
    """Peak memory in MB of `ccd predict` on 20 photos that claim 100 megapixels and a good one."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(20):
            Path(folder, f"{number}.png").write_bytes(claiming_png())
        Path(folder, "good.jpg").write_bytes(photo_bytes((40, 56), "JPEG"))
        command = [sys.executable, "-m", "pipeline", "predict", str(classifier), folder, "--device", "cpu"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return os.wait4(process.pid, 0)[2].ru_maxrss / 1024


def main() -> None:
    """Print a line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="requests")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"predict, 20 PNGs that claim 9,990 px squared: peak {predict_peak(options.classifier):.0f} MB", flush=True)
    command = [sys.executable, "-m", "pipeline", "serve", str(options.classifier), "--port", "0", "--device", "cpu"]
    with tempfile.TemporaryFile("w+") as errors:
        server = subprocess.Popen(command, stderr=errors, text=True)
        try:
            while not (found := re.search(r":(\d+)/ ", Path(f"/proc/self/fd/{errors.fileno()}").read_text())):
                time.sleep(0.1)
            port = int(found[1])
            good = post(form({f"{n}.jpg": photo_bytes((600, 800), "JPEG", n) for n in range(32)}))
            for _ in range(5):
                sent(port, good)
            largest = each_alone(port, server.pid)
            for _ in range(5):
                sent(port, good)
            start, seconds = memory(server.pid), time.perf_counter()
            forget_peak(server.pid)
            statuses = many(port, options.count, options.clients, options.seed)
            seconds = time.perf_counter() - seconds
            end, peak, answer = memory(server.pid), memory(server.pid, "VmHWM"), sent(port, good)
        finally:
            server.terminate()
            server.wait()
        errors.seek(0)
        log = errors.read()
    counts = ", ".join(f"{status}: {number}" for status, number in sorted(statuses.items(), key=str))
    tracebacks = log.count("Traceback")
    print(f"{options.count} bad requests, seed {options.seed}, {seconds:.0f} s: {counts}; {tracebacks} tracebacks")
    print(f"memory {start:.0f} MB, peak {peak:.0f}, end {end:.0f}; a good request afterwards: {answer}")
    bad = tracebacks or largest > 1000 or answer != 200 or end > 1.1 * start
    sys.exit(1 if bad or any(status == "hang" or (status or 0) >= 500 for status in statuses) else 0)


if __name__ == "__main__":
    main()
