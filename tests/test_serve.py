import base64
import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browse, need_browser, violations
from PIL import Image
from web_server import Running
from worlds.bad_requests import CHARSETS, DIGITS, FORM, bad_request, claiming_png, form, post, sent
from worlds.commands import invoke
from worlds.photos import photo_bytes

from pipeline import Classifier
from pipeline.deploy import serve
from pipeline.runs.options import ServeConfig
from pipeline.system.errors import PipelineError
from pipeline.web import server as web_server
from pipeline.web.page import render
from pipeline.web.server import listen

ROOT = Path(__file__).parents[1]


def picture(seed=0, kind="JPEG"):
    """The bytes of a photo."""
    return photo_bytes((40, 56), kind, seed)


class Service(Running):
    """The service of a classifier."""

    def __init__(self, classifier, config):
        self.classifier = classifier
        super().__init__(serve.build_app(classifier, "pets/classifier.pt", config), config.host)

    def predict(self, files):
        """Status and response about photos, name to content."""
        status, _, content = self.ask("POST", "/predict", form(files), **{"Content-Type": FORM})
        return status, json.loads(content)


@pytest.fixture
def running(tiny_classifier):
    with Service(
        Classifier.load(tiny_classifier), ServeConfig(photos=4, photo_mb=1, body_mb=2, batch_size=8)
    ) as service:
        yield service


def test_photos_are_answered_in_order_as_the_python_api_does(running, tiny_classifier):
    files = {"a.jpg": picture(0), "b.png": picture(1, kind="PNG"), "ü <b>.webp": picture(2, kind="WEBP")}
    status, found = running.predict(files)
    assert status == 200 and [photo["name"] for photo in found["photos"]] == list(files)
    for photo, expected in zip(found["photos"], Classifier.load(tiny_classifier).predict(files.values()), strict=True):
        assert photo["labels"] == expected.labels
        assert photo["scores"] == pytest.approx(expected.scores, abs=1e-6)


def test_classes_and_health(running):
    assert json.loads(running.ask("GET", "/classes")[2])["classes"][1] == {"name": "dog", "threshold": 0.4}
    status, _, content = running.ask("GET", "/healthz")
    assert (status, content) == (200, b'{"status":"ok"}')


def test_one_bad_photo_leaves_the_others_their_answer(running):
    status, found = running.predict({"good.jpg": picture(), "cut.jpg": picture()[:200], "empty.jpg": b""})
    good, cut, empty = found["photos"]
    assert status == 200 and "scores" in good and "cannot be read" in cut["error"]
    assert "the file is empty" in empty["error"]


def bomb():
    """A PNG of some kB with 144 megapixels."""
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ({"notes.txt": b"no photo"}, 422, "none of JPEG"),
        ({"page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 422, "none of JPEG"),
        ({"bomb.png": bomb()}, 422, "144 megapixels, the limit is 100"),
        ({}, 422, "no file"),
        ({f"{n}.jpg": b"x" for n in range(5)}, 413, "5 photos, the limit is 4"),
        ({"large.jpg": bytes(1_000_001)}, 413, "'large.jpg' is larger than 1 MB"),
        (
            {"a.jpg": bytes(900_000), "b.jpg": bytes(900_000), "c.jpg": bytes(900_000)},
            413,
            "the request is larger than 2 MB",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_uploads_are_refused_and_the_service_goes_on(running, files, status, message):
    found, answer = running.predict(files)
    assert found == status and message in json.dumps(answer)
    assert running.predict({"a.jpg": picture()})[0] == 200


def test_a_body_without_a_length_is_cut_off_at_the_limit(running):
    whole = form({"a.jpg": bytes(900_000), "b.jpg": bytes(900_000), "c.jpg": bytes(900_000)})
    status, _, content = running.ask(
        "POST", "/predict", iter([whole[:1_500_000], whole[1_500_000:]]), **{"Content-Type": FORM}
    )
    assert status == 413 and json.loads(content) == {"error": "the request is larger than 2 MB"}


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/predict", "application/json", 415),
        ("POST", "/predict", "image/jpeg", 415),
        ("POST", "/predict", "multipart/form-data", 400),
        ("GET", "/predict", "text/plain", 405),
        ("GET", "/etc/passwd", "text/plain", 404),
    ],
)
def test_other_requests_are_refused(running, method, path, kind, status):
    found, _, content = running.ask(method, path, b"{}", **{"Content-Type": kind})
    assert found == status and set(json.loads(content)) == {"error"}


def test_a_page_under_another_name_is_refused(running):
    assert running.ask("GET", "/classes", Host="evil.example")[0] == 400
    assert running.ask("GET", "/classes", Host=f"localhost:{running.port}")[0] == 200


def can_listen(host):
    try:
        listen(host, 0).close()
    except PipelineError:
        return False
    return True


@pytest.mark.parametrize("host", ["::1", "127.0.0.2"])
def test_other_loopback_addresses_answer_to_their_own_names_alone(tiny_classifier, host):
    if not can_listen(host):
        pytest.skip(f"this machine has no {host}")
    with Service(Classifier.load(tiny_classifier), ServeConfig(host=host)) as service:
        assert service.ask("GET", "/healthz")[0] == 200
        for name in (f"localhost:{service.port}", "[::1]", f"[::1]:{service.port}", "127.0.0.1"):
            assert service.ask("GET", "/healthz", Host=name)[0] == 200
        for name in ("evil.example", "[::2]", "[::1", "[evil]", "", "192.0.2.1", "localhost.evil.example"):
            assert service.ask("GET", "/healthz", Host=name)[0] == 400


class Slow:
    """A classifier that waits for an event, and records the sizes of its batches."""

    def __init__(self, inner):
        self.inner, self.go, self.sizes = inner, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def score_batch(self, squares):
        self.sizes.append(len(squares))
        assert self.go.wait(20)
        return self.inner.score_batch(squares)


def test_photos_that_come_while_the_network_works_share_batches(tiny_classifier):
    slow = Slow(Classifier.load(tiny_classifier))
    batcher = serve.Batcher(slow, 4)
    squares = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    first = batcher.add(squares[0])
    while not slow.sizes:
        time.sleep(0.01)
    added = [first, *(batcher.add(square) for square in squares[1:])]
    slow.go.set()
    scores = np.stack([future.result(20)[row] for future, row in added])
    assert slow.sizes == [1, 4, 4, 1]
    np.testing.assert_allclose(scores, slow.inner.score_batch(squares), atol=1e-6)


def test_many_at_once_each_get_their_own_answer(running):
    alone = [running.predict({"a.jpg": picture(seed)})[1]["photos"][0]["scores"] for seed in range(12)]
    found = [None] * 12

    def ask(seed):
        found[seed] = running.predict({"a.jpg": picture(seed)})[1]["photos"][0]["scores"]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [pytest.approx(scores, abs=1e-5) for scores in alone]


def test_a_batch_that_fails_is_an_error_and_no_more(tiny_classifier, monkeypatch):
    class Failing(Slow):
        def score_batch(self, squares):
            self.sizes.append(len(squares))
            if len(self.sizes) == 1:
                raise RuntimeError("out of memory")
            return self.inner.score_batch(squares)

    with Service(Failing(Classifier.load(tiny_classifier)), ServeConfig()) as service:
        assert service.ask("POST", "/predict", form({"a.jpg": picture()}), **{"Content-Type": FORM})[0] == 500
        assert service.predict({"a.jpg": picture()})[0] == 200


def test_photos_are_refused_by_their_headers_before_they_are_decoded(running, monkeypatch):
    monkeypatch.setattr(serve, "square_or_error", None)
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "WEBP", lossless=True)
    status, found = running.predict({"a.webp": buffer.getvalue()})
    assert status == 422 and "needs too much memory" in found["photos"][0]["error"]
    with Service(running.classifier, ServeConfig()) as service:
        status, found = service.predict({f"{n}.png": claiming_png() for n in range(8)})
    assert status == 413 and "more than 400 megapixels together" in found["error"]


def test_a_form_of_a_page_of_another_origin_is_refused(running):
    def status(**headers):
        return running.ask("POST", "/predict", form({"a.jpg": picture()}), **{"Content-Type": FORM, **headers})[0]

    assert status(Origin=f"http://127.0.0.1:{running.port}") == 200
    assert status(Origin="http://localhost", **{"Sec-Fetch-Site": "same-origin"}) == 200  # a proxy changed Host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "[", ""):
        assert status(Origin=origin) == 403
    assert status(**{"Sec-Fetch-Site": "cross-site"}) == 403


@pytest.mark.parametrize("charset", CHARSETS)
def test_other_charsets_are_refused(running, charset):
    assert sent(running.port, post(form({"+2AA-": b""}), f"{FORM}; charset={charset}")) in (400, 415)


def test_numbers_of_thousands_of_digits_are_refused(running):
    assert sent(running.port, post(b"", **{"Content-Length": DIGITS})) == 400
    assert sent(running.port, post(b"", **{"Content-Length": "9" * 19})) == 413
    assert sent(running.port, f"GET / HTTP/1.1\r\nHost: a:{DIGITS}\r\nConnection: close\r\n\r\n".encode()) == 400


def half_open(port, request):
    """A connection that has sent only the beginning of a request."""
    connection = socket.create_connection(("127.0.0.1", port), 20)
    connection.sendall(request)
    return connection


@pytest.mark.parametrize(
    "request_", [b"", b"GET / HT", post(form({"a.jpg": picture()}))[:-50]], ids=["none", "header", "body"]
)
def test_half_open_connections_do_not_block_others(running, request_):
    idle = [half_open(running.port, request_) for _ in range(300)]
    assert running.predict({"a.jpg": picture()})[0] == 200
    for connection in idle:
        connection.close()


@pytest.mark.parametrize(
    "request_", [b"", b"GET / HT", post(form({"a.jpg": picture()}))[:-50]], ids=["none", "header", "body"]
)
def test_a_connection_that_sends_no_request_is_closed(running, monkeypatch, request_):
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.5)
    start = time.monotonic()
    with half_open(running.port, request_) as connection, contextlib.suppress(ConnectionError):
        assert connection.recv(100) == b""
    assert 0.4 < time.monotonic() - start < 5


def test_a_slow_request_above_the_lowest_rate_is_answered(running, monkeypatch):
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(web_server, "BYTES_PER_SECOND", 1000)
    request = post(form({"a.jpg": picture()}))
    with socket.create_connection(("127.0.0.1", running.port), 20) as connection:
        for start in range(0, len(request), len(request) // 4):
            connection.sendall(request[start : start + len(request) // 4])
            time.sleep(0.2)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_disconnect_prints_nothing(running, capfd):
    request = post(form({"a.jpg": picture()}))
    for end in (10, 100, len(request) // 2, len(request) - 1, len(request)):
        half_open(running.port, request[:end]).close()
    assert running.predict({"a.jpg": picture()})[0] == 200
    assert "".join(capfd.readouterr()) == ""


def test_random_bad_requests_are_refused_without_a_traceback(running, capfd):
    draw, end = (
        random.Random(os.environ.get("CCD_FUZZ_SEED", "23")),
        time.monotonic() + float(os.environ.get("CCD_FUZZ_SECONDS", "3")),
    )
    while time.monotonic() < end:
        request, finished = bad_request(draw)
        status = sent(running.port, request, finished=finished)
        assert status is None or status < 500, request[:1000]
    assert running.predict({"a.jpg": picture()})[0] == 200
    assert "Traceback" not in "".join(capfd.readouterr())


DROP = r"""(async () => {
  const photo = Uint8Array.from(atob("PHOTO"), (byte) => byte.charCodeAt(0));
  const wait = (holds) => new Promise((done) => { const look = () => (holds() ? done() : setTimeout(look, 20)); look(); });
  const files = new DataTransfer();
  files.items.add(new File([photo], "<i>cat</i>.png"));
  files.items.add(new File(["no photo"], "notes.txt"));
  dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
  await wait(() => byId("status").textContent.startsWith("2 of 2"));
  return { text: byId("results").innerText, bars: document.querySelectorAll("#results .fill").length,
    example: byId("example").textContent, overflow: document.documentElement.scrollWidth - innerWidth };
})()""".replace("PHOTO", base64.b64encode(picture(kind="PNG")).decode())


@pytest.mark.parametrize("width", [1280, 390])
def test_a_photo_dropped_on_the_page_is_classified(tiny_classifier, tmp_path, width):
    need_browser()
    with Service(Classifier.load(tiny_classifier), ServeConfig()) as service:
        found, console = browse(f"http://127.0.0.1:{service.port}/", tmp_path, width, DROP)
    assert console == [] and found["overflow"] <= 0
    assert "<i>cat</i>.png" in found["text"] and "none of JPEG" in found["text"] and found["bars"] == 3
    assert found["example"] == f"curl -F photo=@street.jpg http://127.0.0.1:{service.port}/predict"


def test_axe_finds_nothing_on_the_page_and_its_answers(tiny_classifier, tmp_path):
    need_browser()
    with Service(Classifier.load(tiny_classifier), ServeConfig()) as service:
        unfold = "document.querySelector('details').open = true"
        assert violations(f"http://127.0.0.1:{service.port}/", tmp_path, unfold, DROP) == []


def test_class_names_are_escaped_on_the_page():
    page = render("serve", {"name": "<x>", "photo_mb": 1, "classes": [{"name": "</script><b>", "threshold": 0.5}]})
    assert "</script><b>" not in page and "<x>" not in page


def test_a_port_that_is_in_use_is_an_error(running):
    with pytest.raises(PipelineError, match=r"Cannot bind.*port"):
        listen("127.0.0.1", running.port)
    with pytest.raises(PipelineError, match=r"Cannot bind to 192\.0\.2\.1, port 0"):
        listen("192.0.2.1", 0)


def test_the_command_serves_until_it_is_interrupted(tiny_classifier):
    command = [sys.executable, "-m", "pipeline", "serve", str(tiny_classifier), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stderr.readline())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/predict", form({"secret.jpg": picture()}), {"Content-Type": FORM})
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and said == ""


def test_the_dockerfile_fits_the_project():
    """Docker is not everywhere; the test checks that the names in the file exist and reach the build."""
    text = (ROOT / "pipeline" / "deploy" / "Dockerfile").read_text()
    lines = text.replace("\\\n", " ").splitlines()
    sources = [
        source for line in lines if line.startswith("COPY ") and "--from=" not in line for source in line.split()[1:-1]
    ]
    assert sources and all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name.split("/")[0] for name in [project["readme"], *project["license-files"]]} <= set(sources)
    assert re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE) == [Path(s).name for s in sources]
    extras = project["optional-dependencies"]
    wanted = re.search(r"\[([a-z,-]+)\]", next(line for line in lines if ".whl" in line))[1].split(",")
    assert set(wanted) <= set(extras)
    command = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).removeprefix("ENTRYPOINT"))
    assert command[:2] == ["ccd", "serve"]
    assert (
        invoke(
            *command[1:],
            *json.loads(next(line for line in lines if line.startswith("CMD")).removeprefix("CMD")),
            "--help",
        )[0]
        == 0
    )
    assert next(n for n, line in enumerate(lines) if line.startswith("USER ")) < lines.index(
        f"ENTRYPOINT {json.dumps(command)}"
    )
