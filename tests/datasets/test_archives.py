import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets.archives import Limit, extract
from pipeline.system.errors import PipelineError

FILES = {"VOC/a.txt": b"one", "VOC/deep/b.txt": b"two" * 1000}


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)


def write_tar(path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        add(tar, "VOC", kind=tarfile.DIRTYPE)
        for name, content in FILES.items():
            add(tar, name, content)
    return path


def write_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.mkdir("VOC")
        for name, content in FILES.items():
            zipped.writestr(name, content)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "archive",
    [lambda p: write_tar(p / "a.tar"), lambda p: write_tar(p / "a.tgz", "w:gz"), lambda p: write_zip(p / "a.zip")],
)
def test_files_of_tar_and_zip(tmp_path: Path, archive: Callable[[Path], Path]):
    extract(archive(tmp_path), tmp_path / "out")
    assert content(tmp_path / "out") == FILES


def test_interrupted_extraction_continues(tmp_path: Path):
    archive = write_tar(tmp_path / "a.tar")
    extract(archive, tmp_path / "out")
    whole, cut = tmp_path / "out/VOC/a.txt", tmp_path / "out/VOC/deep/b.txt"
    written = whole.stat().st_mtime_ns
    cut.write_bytes(b"tw")
    extract(archive, tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    assert whole.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.txt", "outside of the folder"),
        ("VOC/../../evil.txt", "outside of the folder"),
        ("/../evil.txt", "outside of the folder"),
        (".", "the folder itself"),
    ],
)
def test_member_outside_of_the_target(tmp_path: Path, name: str, message: str):
    for archive in tar_and_zip(tmp_path, name):
        with pytest.raises(PipelineError, match=message):
            extract(archive, tmp_path / "out")
    assert not list(tmp_path.rglob("evil.txt"))


def tar_and_zip(folder: Path, name: str, content: bytes = b"x") -> tuple[Path, Path]:
    with tarfile.open(folder / "a.tar", "w") as tar:
        add(tar, name, content)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(name, content)
    return folder / "a.tar", folder / "a.zip"


def test_an_absolute_name_is_one_below_the_target(tmp_path: Path):
    for archive in tar_and_zip(tmp_path, str(tmp_path / "evil.txt")):
        extract(archive, tmp_path / "out" / archive.suffix)
        assert not (tmp_path / "evil.txt").exists()
        assert [path.name for path in (tmp_path / "out" / archive.suffix).rglob("*.txt")] == ["evil.txt"]


def test_a_link_that_lies_there_already_leads_nowhere(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "VOC").symlink_to(tmp_path / "elsewhere")
    for archive in tar_and_zip(tmp_path, "VOC/evil.txt"):
        with pytest.raises(PipelineError, match="outside of the folder"):
            extract(archive, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_no_more_is_unpacked_than_the_limit_allows(tmp_path: Path):
    for archive in tar_and_zip(tmp_path, "bomb.bin", bytes(2_000_000)):
        with pytest.raises(PipelineError, match=r"0\.001 GB or 5 files.*--unpack-gb"):
            extract(archive, tmp_path / "out", Limit(gigabytes=0.001, files=5))
    assert not list((tmp_path / "out").iterdir())
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for number in range(6):
            add(tar, f"{number}.txt")
    with pytest.raises(PipelineError, match="or 5 files"):
        extract(tmp_path / "many.tar", tmp_path / "out", Limit(files=5))


def test_a_member_larger_than_the_disk_is_refused_before_it_is_written(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("sparse.bin")
        info.size = 10**17
        tar.fileobj.write(info.tobuf())
    with pytest.raises(PipelineError, match="more than is free on the disk"):
        extract(tmp_path / "a.tar", tmp_path / "out", Limit(gigabytes=1e12))


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path: Path):
    for archive in tar_and_zip(tmp_path, "../\x1b[2Jevil.txt"):
        with pytest.raises(PipelineError) as caught:
            extract(archive, tmp_path / "out")
        assert str(caught.value).isprintable()


def test_a_target_that_is_a_file_is_an_error(tmp_path: Path):
    (tmp_path / "out").write_text("here first")
    with pytest.raises(PipelineError, match="cannot be unpacked to"):
        extract(write_tar(tmp_path / "a.tar"), tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices(tmp_path: Path, kind: bytes):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "VOC/a", kind=kind, link="/etc/passwd")
    with pytest.raises(PipelineError, match=r"a\.tar contains 'VOC/a', which is a link or a device"):
        extract(tmp_path / "a.tar", tmp_path / "out")


def test_link_in_a_zip(tmp_path: Path):
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(PipelineError, match="contains 'a', which is a link"):
        extract(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_cut_archive_leaves_no_partial_file_under_a_valid_name(tmp_path: Path, name: str):
    archive = (
        write_zip(tmp_path / name)
        if name == "a.zip"
        else write_tar(tmp_path / name, "w:gz" if name == "a.tgz" else "w")
    )
    whole = archive.read_bytes()
    archive.write_bytes(whole[: 2500 if name == "a.tar" else len(whole) // 2])
    with pytest.raises(PipelineError, match="is not a complete tar or zip archive"):
        extract(archive, tmp_path / "out")
    found = content(tmp_path / "out")
    assert all(FILES.get(path) == data for path, data in found.items())


def test_missing_archive(tmp_path: Path):
    with pytest.raises(PipelineError, match="No such file"):
        extract(tmp_path / "a.tar", tmp_path / "out")
