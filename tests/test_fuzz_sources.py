"""Damaged tables, archives and datasets of strangers: each is one line or is read."""

import io
import json
import os
import re
import shutil
import signal
import tarfile
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mutations import CELLS, TOML_VALUES, change_json, damage_bytes, damage_table
from worlds.archives import tar_bytes, write_parquet
from worlds.commands import ccd, invoke
from worlds.photos import photo_bytes, write_photo

from pipeline.datasets.voc import CLASS_NAMES

ROUNDS = int(os.environ.get("CCD_FUZZ_ROUNDS", "5"))
"""Mutations of each kind of source; more of them are a matter of patience."""
SEED = int(os.environ.get("CCD_FUZZ_SEED", "23"))
SECONDS = 60
"""Time after which a command counts as one that hangs."""

WORDS = [*(cell.encode() for cell in (*CELLS, *TOML_VALUES)), b"\xff\xfe", b"\xe9", b"\xed\xb3\xa9", b"\\ud800", b"\\u0000",
         b"null", b"[[[]]]", b"1e400", b"-0", b"\xef\xbb\xbf", b"\r", b'"', b"encoding='x-y'", b"&a;", b"%s", b"//", b"a" * 5000,
         "\u202e".encode(), b"2147483648", b"[" * 3000, b"{" * 3000]  # fmt: skip


def source_bytes(rng, content):
    """A text with some of its words replaced, removed or doubled."""
    parts = re.split(rb"([,;:\s<>\"{}\[\]=]+)", content)
    for _ in range(int(rng.integers(1, 4))):
        n = int(rng.integers(len(parts)))
        kind = rng.choice(["replace", "replace", "remove", "double", "swap"])
        if kind == "replace":
            parts[n] = WORDS[rng.integers(len(WORDS))]
        elif kind == "remove":
            parts[n] = b""
        elif kind == "double":
            parts[n] = parts[n] * 2
        else:
            parts[n] = parts[int(rng.integers(len(parts)))]
    return b"".join(parts)


def damage_text(path, rng):
    path.write_bytes(source_bytes(rng, path.read_bytes()))


def damage_json_file(path, rng):
    content = json.loads(path.read_text())
    change_json(content, rng)
    path.write_text(json.dumps(content))


def damage_members(path, rng):
    """Change the name or the content of a member of a tar or zip."""
    members = members_of(path)
    name = list(members)[rng.integers(len(members))]
    content = members.pop(name)
    if rng.random() < 0.5:
        name = source_bytes(rng, name.encode()).decode(errors="surrogateescape")[:200].replace("\0", "") or "x"
    else:
        content = source_bytes(rng, content) if content and not name.endswith(".png") else rng.bytes(20)
    members[name] = content
    write_members(path, members)


def members_of(path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def write_members(path, members):
    if path.suffix != ".zip":
        path.write_bytes(tar_bytes(members))
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.encode(errors="replace").decode(), content)
    path.write_bytes(buffer.getvalue())


def damage_parquet(path, rng):
    """Replace a column, or its cells, by odd values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = table.column_names[rng.integers(table.num_columns)]
    count = table.num_rows
    odd = [[None], [b"\xff"], ["x\0"], ["../.."], [1e308], [[]], [[None]], [{"bytes": None, "path": "a"}], [2**62], [True],
           [["red", "red"]], [{"bytes": b"x", "path": "\0"}], [""], [[[1]]], [{"a": 1}]]  # fmt: skip
    column = pa.array(odd[rng.integers(len(odd))] * count)
    if rng.random() < 0.2:
        table = table.append_column("image2" if rng.random() < 0.5 else name, column)
    else:
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)


def voc(root):
    """A small VOC2012."""
    folder = root / "VOCdevkit" / "VOC2012"
    for n in range(4):
        write_photo(folder / "JPEGImages" / f"{n}.jpg", (40, 40), seed=n)
        xml = (
            f"<?xml version='1.0' encoding='utf-8'?><annotation><size><width>40</width><height>40</height></size><object><name>"
            f"{CLASS_NAMES[n]}</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax>"
            "</bndbox></object></annotation>"
        )
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{n}.xml").write_text(xml)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("2\n3\n")


def coco(root):
    """Instances of two photos."""
    for n in range(3):
        write_photo(root / "images" / "train" / f"{n}.png", (40, 40), seed=n)
    (root / "annotations").mkdir()
    content = {
        "categories": [{"id": 1, "name": "red"}, {"id": 7, "name": "green"}],
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 40} for n in range(3)],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": 0} for n in range(3)],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Sound sources of every kind; not to be changed."""
    root = tmp_path_factory.mktemp("sources")
    for n in range(4):
        write_photo(root / "photos" / f"{n}.png", (40, 40), seed=n)
    (root / "labels.csv").write_text("image,labels,split\n" + "".join(f"{n}.png,red;green,train\n" for n in range(4)))
    (root / "columns.csv").write_text("image,red,green\n" + "".join(f"{n}.png,1,0\n" for n in range(4)))
    (root / "list.txt").write_text("".join(f"photos/{n}.png\n" for n in range(4)))
    (root / "list.csv").write_text("image,labels\n" + "".join(f"photos/{n}.png,red\n" for n in range(4)))
    (root / "classes.txt").write_text("0 red\n1 green\n2 blue\n")
    (root / "classes.yaml").write_text("names:\n  0: red\n  1: green\n")
    (root / "classes.json").write_text('{"names": ["red", "green"]}')
    content = {f"{n}.png": photo_bytes(seed=n) for n in range(3)}
    samples = {f"{n}.json": b'{"labels": ["red", "green"]}' for n in range(2)} | {"2.cls": b"1"}
    for name in ("shard.tar", "shard.zip"):
        write_members(root / name, content | samples)
    write_parquet(
        root / "photos.parquet", image=list(content.values()), labels=[["red"], ["green"], []], split=["train"] * 3
    )
    write_parquet(root / "labels.parquet", image=list(content), labels=[["red"], ["green"], []])
    voc(root / "voc")
    coco(root / "coco")
    task = {"data": {"image_id": "0.png"}, "annotations": [{"result": [
        {"type": "choices", "from_name": "labels", "value": {"choices": ["red"]}}]}]}  # fmt: skip
    (root / "tasks.json").write_text(json.dumps([task]))
    (root / "thresholds.json").write_text('{"red": 0.5, "green": 0.4, "blue": 0.3}')
    return root


def prepare(*options):
    return lambda here, run: (
        "prepare",
        here / "new",
        *(here / word[1:] if word[0] == "@" else word for word in options),
    )


OF_PHOTOS = ("--images", "@photos", "--classes")
KINDS = {
    "labels.csv": (prepare(*OF_PHOTOS, "red,green", "--labels", "@labels.csv"), damage_table),
    "columns.csv": (prepare(*OF_PHOTOS, "red,green", "--labels", "@columns.csv"), damage_text),
    "list.txt": (prepare("--images", "@list.txt", "--classes", "red,green"), damage_text),
    "list.csv": (prepare("--images", "@list.csv", "--classes", "red,green"), damage_text),
    "classes.txt": (prepare(*OF_PHOTOS, "@classes.txt"), damage_text),
    "classes.yaml": (prepare(*OF_PHOTOS, "@classes.yaml"), damage_text),
    "classes.json": (prepare(*OF_PHOTOS, "@classes.json"), damage_json_file),
    "shard.tar": (prepare("--images", "@shard.tar", "--classes", "red,green"), damage_members),
    "shard.zip": (prepare("--images", "@shard.zip", "--classes", "red,green"), damage_members),
    "photos.parquet": (prepare("--images", "@photos.parquet", "--classes", "red,green"), damage_parquet),
    "labels.parquet": (prepare(*OF_PHOTOS, "red,green", "--labels", "@labels.parquet"), damage_parquet),
    "voc/VOCdevkit/VOC2012/Annotations/1.xml": (prepare("--kind", "voc", "--root", "@voc"), damage_text),
    "voc/VOCdevkit/VOC2012/ImageSets/Main/train.txt": (prepare("--kind", "voc", "--root", "@voc"), damage_text),
    "coco/annotations/instances_train.json": (prepare("--kind", "coco", "--root", "@coco", "--train-split", "train"), damage_json_file),
    "tasks.json": (lambda here, run: ("import-labels", run, here / "tasks.json"), damage_json_file),
    "labels.csv ": (lambda here, run: ("import-labels", run, here / "labels.csv"), damage_table),
    "thresholds.json": (lambda here, run: ("calibrate", run, here / "thresholds.json", "--force"), damage_json_file),
    "train.csv": (lambda here, run: ("report", run), damage_text),
    "warmup.csv": (lambda here, run: ("report", run), damage_table),
    "train.csv ": (lambda here, run: ("inspect", run / "train.csv"), damage_text),
    "photos.csv": (lambda here, run: ("export-labels", run, "--force"), damage_text),
    "run.toml": (lambda here, run: ("config", run), damage_text),
}  # fmt: skip
OF_A_RUN = ("train.csv", "warmup.csv", "photos.csv", "run.toml")


def hanging(number, frame):
    raise AssertionError(f"a command took more than {SECONDS} s: {''.join(traceback.format_stack(frame, 3))}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_source_is_one_line_or_harmless(kind, sources, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CCD_CACHE", str(tmp_path / "cache"))
    command, damage = KINDS[kind]
    rng = np.random.default_rng([SEED, list(KINDS).index(kind)])
    others = sorted(path for path in sources.iterdir() if path.is_file())
    here, run, name = tmp_path / "here", tmp_path / "run", kind.strip()
    shutil.copytree(finished, run)
    if name == "photos.csv" and not (run / name).exists():
        ccd("export-labels", run, "--out", tmp_path / "labels.csv")
    shutil.copytree(run, tmp_path / "sound")
    old, ends = signal.signal(signal.SIGALRM, hanging), []
    try:
        code, output = invoke(*command(shutil.copytree(sources, here), run))
        assert code == 0, output
        for number in range(ROUNDS):
            for place, sound in ((here, sources), (run, tmp_path / "sound")):
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(sound, place)
            path = (run if name in OF_A_RUN else here) / name
            if not path.exists():
                pytest.skip(f"a run has no {name}")
            damage_bytes(path, rng, others) if rng.random() < 0.3 else damage(path, rng)
            shutil.copy(path, tmp_path / f"tried-{number}")
            print("tried", number, tmp_path)
            signal.alarm(SECONDS)
            code, output = invoke(*command(here, run))
            signal.alarm(0)
            ends.append(code)
            assert code in (0, 1), output
            assert code == 0 or ("Traceback" not in output and "\n" not in output), output
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    with capsys.disabled():
        print(f"\n{len(ends)} mutations of {name}: {sum(ends)} one-line errors", end="")
    assert Path(tmp_path, f"tried-{ROUNDS - 1}").exists()
