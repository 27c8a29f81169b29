"""Web servers that send too much, too slowly or elsewhere."""

import gzip
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from worlds.photos import photo_bytes

from pipeline.datasets import folder, remote, web
from pipeline.datasets.folder import Reading
from pipeline.datasets.remote import Rules, fetch, fetch_each
from pipeline.datasets.web import hosts_of, is_public
from pipeline.system import downloads
from pipeline.system.errors import PipelineError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

LIMIT = 200_000
BOMB = gzip.compress(bytes(50 * LIMIT))


class Hostile(BaseHTTPRequestHandler):
    """One sound photo, and a kind of attack per name."""

    def do_GET(self):
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        self.server.asked.append(name)
        with suppress(ConnectionError):
            getattr(self, name.partition(".")[0].replace("-", "_") or "index", self.good)()

    do_HEAD = do_GET

    def answer(self, headers, status=200):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, content):
        if self.command == "GET":
            self.wfile.write(content)

    def good(self):
        content = photo_bytes((8, 8))
        self.answer({"Content-Length": str(len(content))})
        self.send(content)

    def index(self):
        text = "".join(f'<a href="{name}">x</a>' for name in self.server.listed).encode()
        self.answer({"Content-Type": "text/html"})
        self.send(text)

    def large(self):
        self.answer({"Content-Length": str(2 * LIMIT)})
        self.send(bytes(2 * LIMIT))

    def endless(self):
        self.answer({})
        while self.command == "GET":
            self.wfile.write(bytes(50_000))

    def bomb(self):
        self.answer({"Content-Encoding": "gzip", "Content-Length": str(len(BOMB))})
        self.send(BOMB)

    def liar(self):
        """The header of the first request claims few bytes."""
        self.answer({"Content-Length": "10"} if self.command == "HEAD" else {})
        self.send(bytes(2 * LIMIT))

    def drip(self):
        self.answer({"Content-Length": "1000"})
        for _ in range(1000 if self.command == "GET" else 0):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def stall(self):
        self.answer({"Content-Length": "1000"})
        self.send(b"x")
        time.sleep(2)

    def slow_header(self):
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def moved(self):
        self.answer({"Location": self.server.target, "Content-Length": "0"}, 302)

    def chain(self):
        self.answer({"Location": f"/more/{len(self.server.asked)}/chain.png", "Content-Length": "0"}, 302)

    def log_message(self, *_):
        pass


@contextmanager
def serving(host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = type("Server", (ThreadingHTTPServer,), {"address_family": family})((host, 0), Hostile)
    server.daemon_threads = True
    server.asked, server.listed, server.target = [], [], ""
    server.url = f"http://{host}:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(monkeypatch):
    """A server of this machine, and limits that it exceeds in a moment."""
    monkeypatch.setattr(remote, "MOST_BYTES", LIMIT)
    monkeypatch.setattr(web, "STALL", 0.5)
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)
    fsspec.get_filesystem_class("http").clear_instance_cache()
    web._machines.cache_clear()
    with serving() as server:
        yield server
    fsspec.get_filesystem_class("http").clear_instance_cache()
    web._machines.cache_clear()


def kept(cache: Path):
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".json"]


ATTACKS = {
    "large.png": "larger than 0 MB",
    "endless.png": "larger than 0 MB",
    "bomb.png": "larger than 0 MB",
    "liar.png": "larger than 0 MB",
    "drip.png": "too slow",
    "stall.png": "broke off",
    "slow-header.png": "could not be fetched",
    "chain.png": "could not be fetched",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_soon_and_leaves_nothing_in_the_cache(name, server, tmp_path):
    start = time.monotonic()
    with pytest.raises(PipelineError, match=f"{name} .*{ATTACKS[name]}"):
        fetch(f"{server.url}/{name}", tmp_path, Rules(trusted=hosts_of([server.url])), shown=False)
    assert time.monotonic() - start < 5 and not kept(tmp_path)
    assert len(server.asked) < 10


def test_attacks_among_the_photos_of_a_folder_are_left_out_and_named(server, tmp_path):
    server.listed = ["good.png", *(name for name in ATTACKS if name != "chain.png"), "fine.png"]
    dataset = folder.load(f"{server.url}/", ["cat", "dog"], reading=Reading(cache=tmp_path))
    assert dataset.image_ids == ["fine.png", "good.png"] and len(kept(tmp_path)) == 2
    assert set(dataset.left_out) == set(ATTACKS) - {"chain.png"}
    assert "larger than" in dataset.left_out["bomb.png"]


def test_an_archive_of_an_address_has_the_limit_of_unpacking(server, tmp_path):
    rules = Rules(trusted=hosts_of([server.url]), archive_bytes=LIMIT)
    with pytest.raises(PipelineError, match=r"large.tar broke off \(it is larger than"):
        fetch(f"{server.url}/large.tar", tmp_path, rules, shown=False)
    assert not kept(tmp_path)


def test_odd_names_in_a_page_become_files_of_the_cache(server, tmp_path):
    server.listed = [
        "x" * 300 + ".png",
        "%00.png",
        "\x01\x1b[2J.png",
        "up%2f..%2f..%2fup.png",
        "é" * 150 + ".png",
        "a b.png",
    ]
    dataset = folder.load(f"{server.url}/", ["cat", "dog"], reading=Reading(cache=tmp_path))
    assert len(dataset.paths) == 6 and all(path.is_relative_to(tmp_path / "remote") for path in dataset.paths)


def test_an_address_is_no_chain_of_file_systems(server, tmp_path):
    trusted = Rules(trusted=hosts_of([server.url]))
    for address in (f"{server.url}/a.png::file:///etc/passwd", "http://x::memory://y/a.png"):
        with suppress(PipelineError):
            assert fetch(address, tmp_path, trusted, shown=False).files.keys() <= {"passwd"}
    assert all(photo_bytes((8, 8)) == path.read_bytes() for path in kept(tmp_path))
    with serving("::1") as other:
        address = f"http://[::1]:{other.server_port}/good.png"
        assert list(fetch(address, tmp_path, Rules(trusted=hosts_of([address])), shown=False).files) == ["good.png"]


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "remote").write_text("a file")
    with pytest.raises(PipelineError, match="could not be written"):
        fetch(f"{server.url}/good.png", tmp_path, Rules(trusted=hosts_of([server.url])), shown=False)


def test_a_page_of_a_folder_is_limited(server, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "PAGE_BYTES", 1000)
    server.listed = ["x" * 100] * 20
    with pytest.raises(PipelineError, match="its page is larger"):
        fetch(f"{server.url}/", tmp_path, Rules(trusted=hosts_of([server.url])), shown=False)


def test_private_addresses_are_refused_unless_the_user_names_their_host(server, tmp_path):
    port = server.server_port
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1", "0x7f.1"):
        with pytest.raises(PipelineError, match="could not be fetched"):
            fetch(f"http://{host}:{port}/good.png", tmp_path, shown=False)
    assert not server.asked
    fetch(f"{server.url}/good.png", tmp_path, Rules(trusted=hosts_of([server.url])), shown=False)
    assert len(kept(tmp_path)) == 1


def test_a_redirect_to_a_private_address_is_refused(server, tmp_path):
    rules = Rules(trusted=hosts_of([server.url]))
    with serving("127.0.0.2") as inner:
        for server.target in (f"{inner.url}/good.png", f"http://localhost.:{inner.server_port}/", "file:///etc/passwd"):
            with pytest.raises(PipelineError, match="could not be fetched"):
                fetch(f"{server.url}/moved.png", tmp_path, rules, shown=False)
        assert not inner.asked
        server.target = f"{server.url}/good.png"
        fetch(f"{server.url}/moved.png", tmp_path, rules, shown=False)


def test_a_name_that_leads_to_a_private_address_is_refused(server, tmp_path, monkeypatch):
    resolve = socket.getaddrinfo

    def to_this_machine(host, *arguments, **options):
        return resolve("127.0.0.1" if host == "photos.example" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", to_this_machine)
    address = f"http://photos.example:{server.server_port}/good.png"
    with pytest.raises(PipelineError, match=r"127\.0\.0\.1 is a private address"):
        fetch(address, tmp_path, shown=False)
    assert not server.asked
    fetch(address, tmp_path, Rules(trusted=hosts_of([address])), shown=False)


def test_addresses_that_are_not_public():
    for address in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"):
        assert not is_public(address) and not is_public(f"::ffff:{address}")
    assert not any(map(is_public, ("::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1", "224.0.0.1")))
    assert is_public("8.8.8.8") and is_public("2606:4700::1111")


def test_malformed_addresses_of_a_list_are_named_one_by_one(server, tmp_path):
    good = f"{server.url}/good.png"
    bad = [
        *("http://", "http:///x.png", "http://[::1", "http://host:99999/x.png", "http://ho st/x.png", "HTTP://x/a.png"),
        *("http://..../x.png", f"http://{'a' * 5000}/x.png", "http://a\0b/x.png", "http://user:pa:ss@h/x.png", "://"),
        *("http://1.2.3.4.5/x.png", "s3://", "gs:///", "foo://x", "file:///etc/passwd", "http://\u202e/x.png"),
        *("http://\ud800/x.png", "http://127.0.0.1:1/\udcff.png", "s3://\ud800"),
    ]
    results = fetch_each([*bad, good], tmp_path, Rules(trusted=hosts_of([*bad, good])))
    assert all(isinstance(results[address], PipelineError) for address in bad)
    assert all("\n" not in str(results[address]) for address in bad)
    assert list(results[good].files) == ["good.png"]


def test_a_download_that_drips_ends(server, tmp_path):
    with pytest.raises(PipelineError, match="too slow"):
        downloads.download(f"{server.url}/drip.png", tmp_path / "weights.pt")
