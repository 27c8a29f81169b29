"""Photos per second of `ccd serve` and of `ccd predict` on the same files, and the memory of the server.

    python tests/benchmarks/serve.py CLASSIFIER FOLDER [--count 400] [--clients 16] [--rounds 5]

The clients, each with a connection of its own, send one photo per request. They share the cores with the server.
"""

import argparse
import http.client
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.scan import scan
from pipeline.deploy.classifier import Classifier, score_files

BOUNDARY = "boundary-of-the-benchmark"


def form(path: Path) -> bytes:
    """A photo as a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="{path.name}"\r\n\r\n'
    return head.encode() + path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(port: int, photos: Iterator[Path]) -> None:
    """Send photos one after another until none is left."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for photo in photos:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        connection.request("POST", "/predict", form(photo), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{photo}: {response.status} {response.read()[:200]!r}")
        response.read()
    connection.close()


def served(port: int, paths: list[Path], clients: int) -> float:
    """Photos per second of one round."""
    shares = [iter(paths[client::clients]) for client in range(clients)]
    threads = [threading.Thread(target=send, args=(port, share)) for share in shares]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(paths) / (time.perf_counter() - start)


def predicted(classifier: Classifier, paths: list[Path]) -> float:
    """Photos per second of `ccd predict`, without loading the classifier."""
    start = time.perf_counter()
    score_files(classifier, paths, batch_size=16)
    return len(paths) / (time.perf_counter() - start)


def resident(pid: int) -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def main() -> None:
    """Print a line per round, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400, help="photos")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    paths = list(scan(options.folder).photos.values())[: options.count]
    classifier = Classifier.load(options.classifier)
    command = [sys.executable, "-m", "pipeline", "serve", str(options.classifier), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r":(\d+)/ ", server.stderr.readline())[1])
        served(port, paths[:64], options.clients)
        predicted(classifier, paths[:64])
        ratios = []
        for number in range(1, options.rounds + 1):
            ours, theirs = served(port, paths, options.clients), predicted(classifier, paths)
            ratios.append(ours / theirs)
            memory = resident(server.pid)
            print(f"{number * len(paths):6} requests: serve {ours:5.1f}/s, predict {theirs:5.1f}/s, {memory:.0f} MB")
        print(f"serve / predict {statistics.median(ratios):.2f}, {options.clients} clients, one photo per request")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
