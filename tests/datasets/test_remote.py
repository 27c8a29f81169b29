import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from worlds.archives import tar_bytes, write_parquet
from worlds.photos import photo_bytes

from pipeline.datasets import folder, remote
from pipeline.datasets.folder import Reading
from pipeline.photos.images import image_size
from pipeline.system.errors import PipelineError

fsspec = pytest.importorskip("fsspec")

CLASSES = ["cat", "dog"]


def encoded(side: int) -> bytes:
    return photo_bytes((8, side))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch):
    """A file system in memory instead of a bucket; counts the files that are opened for reading."""
    monkeypatch.setattr(remote, "SCHEMES", ("memory",))
    system = fsspec.filesystem("memory")
    system.store.clear()
    opened = []
    real = type(system).open

    def note(self, name, mode="rb", *arguments, **options):
        if mode == "rb":
            opened.append(name)
        return real(self, name, mode, *arguments, **options)

    monkeypatch.setattr(type(system), "open", note)
    system.opened = opened
    for name, content in {
        "a.png": encoded(3),
        "deep/b.png": encoded(4),
        "c.png": encoded(3),
        ".no.png": b"",
        "x.txt": b"",
    }.items():
        system.pipe(f"/photos/{name}", content)
    yield system
    system.store.clear()


def test_photos_of_an_address_are_kept_by_content(store, tmp_path: Path):
    dataset = folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path))
    assert dataset.image_ids == ["a.png", "c.png", "deep/b.png"] and dataset.name == "photos"
    assert [image_size(path) for path in dataset.paths] == [(8, 3), (8, 3), (8, 4)]
    assert dataset.paths[0].parent == dataset.paths[1].parent  # one content, one folder
    assert all(path.is_relative_to(tmp_path / "remote") for path in dataset.paths)
    assert not list((tmp_path / "remote" / "arriving").iterdir())


def test_only_what_has_changed_is_fetched_again(store, tmp_path: Path):
    first = folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path))
    assert len(store.opened) == 3
    assert folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path)).paths == first.paths
    assert len(store.opened) == 3
    store.pipe("/photos/c.png", encoded(70))
    again = folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path))
    assert store.opened[3:] == ["/photos/c.png"] and image_size(again.paths[1]) == (8, 70)
    first.paths[0].unlink()
    folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path))
    assert store.opened[4:] == ["/photos/a.png"]
    for index in (tmp_path / "remote").glob("*.json"):
        index.write_text("[" * 100_000)
    folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path))
    assert len(store.opened) == 8  # an index that is broken is none


def test_train_and_test_photos_of_addresses(store, tmp_path: Path):
    store.pipe("/more/a.png", encoded(9))
    dataset = folder.load("memory://photos", CLASSES, "memory://more/a.png", reading=Reading(cache=tmp_path))
    assert dataset.image_ids[-1] == "test/a.png" and dataset.splits[-1] == "test"


def test_shards_of_an_address(store, tmp_path: Path):
    store.pipe("/shards/000.tar", tar_bytes({"1.png": encoded(5), "1.cls": b"dog"}))
    dataset = folder.load("memory://shards", CLASSES, reading=Reading(cache=tmp_path))
    assert dataset.image_ids == ["000/1.png"] and dataset.labels.tolist() == [[0, 1]]
    table = write_parquet(tmp_path / "table.parquet", image=[encoded(6)])
    store.pipe("/parquet/train-0.parquet", table.read_bytes())
    dataset = folder.load("memory://parquet", CLASSES, reading=Reading(cache=tmp_path))
    assert dataset.image_ids == ["train-0/0"] and image_size(dataset.paths[0]) == (8, 6)


def test_what_an_address_holds_besides_is_passed_over_and_named(store, tmp_path: Path):
    store.pipe("/photos/@eaDir/a.png", encoded(5))
    store.pipe("/photos/raw/z.png", encoded(5))
    reading = Reading(cache=tmp_path, exclude=("raw",))
    dataset = folder.load("memory://photos", CLASSES, reading=reading)
    assert dataset.image_ids == ["a.png", "c.png", "deep/b.png"] and len(store.opened) == 3
    for words in ("1 made by a NAS", "by --exclude raw (raw/z.png)", "1 of other kinds (.txt)", "1 hidden"):
        assert words in dataset.notes[0]


def test_addresses_that_lead_nowhere(store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for address, message in (
        ("memory://nothing", "nothing has no photos, tar or Parquet files"),
        ("ftp://host/photos", "begins with ftp://, expected memory://"),
    ):
        with pytest.raises(PipelineError, match=message):
            folder.load(address, CLASSES, reading=Reading(cache=tmp_path))

    def refuse(self, *_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(store), "open", refuse)
    with pytest.raises(PipelineError, match=r"photos/a.png could not be fetched \(Access Denied\)"):
        folder.load("memory://photos", CLASSES, reading=Reading(cache=tmp_path))


def test_a_package_that_is_missing_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(scheme, **_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(PipelineError, match=r"Install s3fs.*`pip install '\.\[remote\]'`"):
        folder.load("s3://bucket/photos", CLASSES, reading=Reading(cache=tmp_path))


def test_a_folder_of_a_web_server(tmp_path: Path):
    pytest.importorskip("aiohttp")
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name, side in (("a.png", 3), ("deep/b.png", 4)):
        (tmp_path / "photos" / name).write_bytes(encoded(side))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/photos/"
        dataset = folder.load(address, CLASSES, reading=Reading(cache=tmp_path / "cache"))
        with pytest.raises(PipelineError, match=r"nothing/ (could not be fetched|has no photos)"):
            folder.load(f"http://127.0.0.1:{server.server_port}/nothing/", CLASSES, reading=Reading(cache=tmp_path))
    finally:
        server.shutdown()
        server.server_close()
    assert dataset.image_ids == ["a.png", "deep/b.png"]
    assert [image_size(path) for path in dataset.paths] == [(8, 3), (8, 4)]
