import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.system.downloads import cache_folder, download
from pipeline.system.errors import PipelineError

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers["Range"])
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if server.resumes else 0
        if self.path != "/weights.pt":
            self.send_error(404)
        elif start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
        else:
            self.send_response(206 if server.resumes else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:][: server.bytes_per_connection])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ranges, server.resumes, server.bytes_per_connection = [], True, None
    server.url = f"http://127.0.0.1:{server.server_port}/weights.pt"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    server.bytes_per_connection = 100_000
    path = download(server.url, tmp_path / "cache/weights.pt", SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=0-", "bytes=100000-", "bytes=200000-"]
    assert [p.name for p in path.parent.iterdir()] == ["weights.pt"]


def test_a_killed_run_is_resumed_by_the_next(server, tmp_path):
    (tmp_path / "weights.pt.partial").write_bytes(CONTENT[:1234])
    assert download(server.url, tmp_path / "weights.pt", SHA256).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1234-"]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.resumes = False
    (tmp_path / "weights.pt.partial").write_bytes(b"x" * 1234)
    assert download(server.url, tmp_path / "weights.pt", SHA256).read_bytes() == CONTENT


def test_a_partial_file_that_is_whole_is_kept_and_a_longer_one_is_not(server, tmp_path):
    for name, partial in (("whole", CONTENT), ("longer", CONTENT + b"more")):
        (tmp_path / f"{name}.partial").write_bytes(partial)
        assert download(server.url, tmp_path / name, SHA256).read_bytes() == CONTENT
    assert server.ranges == ["bytes=256000-", "bytes=256004-", "bytes=0-"]


def test_a_file_that_is_there_costs_no_request(server, tmp_path):
    (tmp_path / "weights.pt").write_bytes(CONTENT)
    download(server.url, tmp_path / "weights.pt", SHA256)
    assert server.ranges == []


def test_wrong_content_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(PipelineError, match=f"SHA-256 {SHA256}, expected 00"):
        download(server.url, tmp_path / "weights.pt", "00")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_with_wrong_content_is_refused_but_kept(server, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"mine")
    with pytest.raises(PipelineError, match="Delete it"):
        download(server.url, tmp_path / "weights.pt", SHA256)
    assert (tmp_path / "weights.pt").read_bytes() == b"mine"


def test_a_missing_page_names_its_status(server, tmp_path):
    with pytest.raises(PipelineError, match="HTTP status 404"):
        download(server.url + "x", tmp_path / "weights.pt")


def test_without_a_connection_one_line_says_what_belongs_where(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(PipelineError) as error:
        download(f"http://127.0.0.1:{port}/weights.pt", tmp_path / "weights.pt", SHA256)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in (f":{port}/weights.pt", SHA256, str(tmp_path / "weights.pt")))


def test_the_environment_names_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CCD_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "ccd")
