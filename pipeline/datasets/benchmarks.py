"""Download of a benchmark into a folder that its adapter reads."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.archives import extract
from pipeline.system.downloads import download
from pipeline.system.errors import PipelineError


@dataclass(frozen=True)
class Archive:
    """A file to download."""

    url: str
    size: int
    """Bytes."""
    sha256: str

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"

BENCHMARKS = {
    "voc07": [
        Archive(
            f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            460_032_000,
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        ),
        Archive(
            f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            451_020_800,
            "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        ),
    ],
    "voc12": [
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            1_999_639_040,
            "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
    ],
    "coco14": [
        Archive(
            f"{_COCO}/annotations/annotations_trainval2014.zip",
            252_872_794,
            "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        ),
        Archive(
            f"{_COCO}/zips/train2014.zip",
            13_510_573_713,
            "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        ),
        Archive(
            f"{_COCO}/zips/val2014.zip",
            6_645_013_297,
            "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        ),
    ],
}
"""Archives by benchmark. The checksums are from TensorFlow Datasets."""

Download = Callable[[str, Path, str], Path]
"""Downloads a URL to a path and checks the SHA-256."""


def fetch(name: str, root: Path, mirror: str | None = None, download: Download = download) -> Path:
    """Download a benchmark's archives to `root`/archives and unpack them to `root`; an interrupted call continues.

    Args:
        name: a key of BENCHMARKS.
        root: the adapter's root.
        mirror: address of a folder with archives of the same names, instead of the official server.
        download: see `pipeline.system.downloads`.

    Returns:
        `root`. The archives stay, and can be deleted once they are unpacked.

    Raises:
        PipelineError: the benchmark is unknown, the disk is full, or a download or archive fails.
    """
    if name not in BENCHMARKS:
        raise PipelineError(f"{name!r} cannot be downloaded. Choose one of {', '.join(BENCHMARKS)}.")
    archives = BENCHMARKS[name]
    root.mkdir(parents=True, exist_ok=True)
    _check_room(archives, root)
    for archive in archives:
        url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
        extract(download(url, root / "archives" / archive.name, archive.sha256), root)
    return root


def _check_room(archives: list[Archive], root: Path) -> None:
    """Raise unless the disk has room for the archives and, as images are incompressible, as much once unpacked."""
    present = [root / "archives" / archive.name for archive in archives]
    partial = [path.with_name(f"{path.name}.partial") for path in present]
    downloaded = sum(path.stat().st_size for path in present + partial if path.is_file())
    needed, free = 2 * sum(archive.size for archive in archives) - downloaded, shutil.disk_usage(root).free
    if needed > free and not all(path.is_file() for path in present):
        raise PipelineError(
            f"{root} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for archives and images. "
            "Make room or choose another folder."
        )
