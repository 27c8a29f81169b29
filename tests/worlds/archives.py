"""Archives and Parquet files of a few members."""

import io
import tarfile

import pytest


def tar_bytes(members, time=0.0):
    """A tar archive of files, name to content, of this age in seconds since 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), time
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path, members):
    """The path of a new tar archive of files, name to content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def write_parquet(path, /, **columns):
    """The path of a new Parquet file."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path
