import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline import cli
from pipeline.datasets import benchmarks, voc
from pipeline.datasets.benchmarks import BENCHMARKS, Archive, fetch
from pipeline.system.errors import PipelineError


def small_voc(*splits: str) -> bytes:
    """A tar of VOC2007 with an image in each split."""
    image = io.BytesIO()
    Image.effect_noise((300, 200), 90).convert("RGB").save(image, "JPEG")
    members = {}
    for split in splits:
        members[f"VOCdevkit/VOC2007/ImageSets/Main/{split}.txt"] = f"{split}1\n".encode()
        members[f"VOCdevkit/VOC2007/JPEGImages/{split}1.jpg"] = image.getvalue()
        members[f"VOCdevkit/VOC2007/Annotations/{split}1.xml"] = b"<annotation/>"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` from the requested position, and closes the connection after `server.patience` bytes."""

    def do_GET(self):
        content = self.server.files[self.path]
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.requests.append((self.path, start))
        self.send_response(206)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.patience])

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.patience = {}, [], None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mirror(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a mirror of a small voc07."""
    archives = {"trainval.tar": small_voc("trainval"), "test.tar": small_voc("test")}
    server.files = {f"/mirror/{name}": content for name, content in archives.items()}
    table = [
        Archive(f"http://official.invalid/{name}", len(content), hashlib.sha256(content).hexdigest())
        for name, content in archives.items()
    ]
    monkeypatch.setitem(BENCHMARKS, "voc07", table)
    return f"http://127.0.0.1:{server.server_port}/mirror/"


def test_what_is_fetched_is_what_the_adapter_reads(mirror: str, tmp_path: Path):
    dataset = voc.load(fetch("voc07", tmp_path / "data", mirror), year=2007)
    assert dataset.image_ids == ["trainval1", "test1"]


def test_broken_connections_and_an_interrupted_run_are_continued(
    mirror: str, server: ThreadingHTTPServer, tmp_path: Path
):
    root = tmp_path / "data"
    (root / "archives").mkdir(parents=True)
    (root / "archives" / "trainval.tar.partial").write_bytes(server.files["/mirror/trainval.tar"][:777])
    server.patience = 20_000
    voc.load(fetch("voc07", root, mirror), year=2007)
    assert server.requests[:2] == [("/mirror/trainval.tar", 777), ("/mirror/trainval.tar", 20_777)]
    count = len(server.requests)
    image = root / "VOCdevkit/VOC2007/JPEGImages/test1.jpg"
    image.write_bytes(image.read_bytes()[:50])  # as if unpacking had been cut
    fetch("voc07", root, mirror)
    assert len(server.requests) == count
    assert image.stat().st_size > 50


def test_tampered_archive_is_not_unpacked(mirror: str, server: ThreadingHTTPServer, tmp_path: Path):
    server.files["/mirror/test.tar"] = small_voc("other")
    with pytest.raises(PipelineError, match="SHA-256"):
        fetch("voc07", tmp_path, mirror)
    assert not list(tmp_path.rglob("other*"))


def test_zip_archives_are_unpacked_too(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("annotations/instances_val2014.json", "{}")
    server.files["/a.zip"] = buffer.getvalue()
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/a.zip"
    monkeypatch.setitem(BENCHMARKS, "coco14", [Archive(url, len(buffer.getvalue()), sha256)])
    assert (fetch("coco14", tmp_path) / "annotations" / "instances_val2014.json").is_file()


def test_not_enough_room_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmarks.shutil, "disk_usage", lambda _: SimpleNamespace(free=30_000_000_000))
    with pytest.raises(PipelineError, match=r"has 30\.0 GB free, expected 40\.8 GB"):
        fetch("coco14", tmp_path, download=lambda *_: pytest.fail("downloaded"))


def test_unknown_benchmark(tmp_path: Path):
    with pytest.raises(PipelineError, match=r"'voc13'.*voc07, voc12, coco14"):
        fetch("voc13", tmp_path)


def test_the_command_fetches_from_the_mirror_and_names_the_next_one(mirror: str, tmp_path: Path):
    arguments = ["download", "voc07", "--root", str(tmp_path / "data"), "--mirror", mirror]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert voc.load(tmp_path / "data", year=2007).image_ids == ["trainval1", "test1"]
    assert f"`ccd all --preset voc07 --root {tmp_path / 'data'}`" in result.stderr


def test_the_command_refuses_an_unknown_benchmark(tmp_path: Path):
    result = CliRunner().invoke(cli.app, ["download", "voc13", "--root", str(tmp_path)])
    assert result.exit_code == 2 and "voc13" in result.output


def test_the_command_offers_every_benchmark():
    found = CliRunner().invoke(cli.app, ["download", "--help"]).output
    assert all(name in found for name in BENCHMARKS)


def test_table_is_well_formed():
    names = [archive.name for archives in BENCHMARKS.values() for archive in archives]
    digests = [archive.sha256 for archives in BENCHMARKS.values() for archive in archives]
    assert len(set(names)) == len(set(digests)) == 6
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
