"""Seeded damage to the files of a run: to their bytes, and to the contents of files that stay readable."""

import csv
import io
import json
import zipfile

import h5py
import numpy as np

from pipeline.artifacts.checkpoints import DESCRIPTION, load_pt, save_partial
from pipeline.artifacts.hdf5_file import put_attributes, take_attributes
from pipeline.artifacts.provenance import Provenance
from pipeline.system.errors import PipelineError
from pipeline.system.files import sha256_of

ODD_VALUES = (
    None, True, -1, 0, 3, 10**30, 1e308, float("nan"), float("inf"), "", "x", "0.5", "[/b]", "\x1b[2J", "../../secret",
    "é" * 300, [], [None], [[1, 2], [3]], {}, {"a": None}, {"": {}}, ["a", "a"],
)  # fmt: skip
CELLS = ("", "nan", "-1", "1e999", "x", '"', "a,b", "\x00", "train ", "[/b]", "9" * 40, "../..", "é", "=1+1")


def deep(rng):
    """A value nested deeper than any reader accepts."""
    value = []
    for _ in range(int(rng.choice([50, 900]))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def odd(rng):
    return deep(rng) if rng.random() < 0.05 else ODD_VALUES[rng.integers(len(ODD_VALUES))]


def damage_bytes(path, rng, others):
    """Flip, cut, blank, insert or swap bytes, as a bad disk or a wrong copy does; returns a description."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["truncate", "empty", "swap", "append", "flip", "blank", "insert"])
    place = int(rng.integers(max(len(content), 1)))
    if kind == "flip":
        for n in rng.integers(len(content), size=int(rng.integers(1, 20))):
            content[n] ^= int(rng.integers(1, 256))
    elif kind == "truncate":
        del content[place:]
    elif kind == "blank":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif kind == "insert":
        content[place:place] = rng.bytes(int(rng.integers(1, 100)))
    elif kind == "append":
        content += rng.bytes(100)
    elif kind == "empty":
        content = bytearray()
    else:
        content = bytearray(others[rng.integers(len(others))].read_bytes())
    path.write_bytes(bytes(content))
    return f"{kind} at {place}"


def change_json(value, rng):
    """The value with one node of it replaced, removed or added."""
    spots = list(nodes(value))
    holder, key = spots[rng.integers(len(spots))]
    kind = rng.choice(["replace", "replace", "remove", "add"])
    if kind == "replace":
        holder[key] = odd(rng)
    elif kind == "remove":
        del holder[key]
    elif isinstance(holder, dict):
        holder["surplus"] = odd(rng)
    else:
        holder.append(odd(rng))
    return f"{kind} {key!r}"


def nodes(value):
    """Every (holder, key) below a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        yield value, key
        yield from nodes(item)


def sign(attributes):
    """Set the fingerprint that fits the attributes, so that readers have to find the damage by other checks."""
    try:
        loaded = {name: json.loads(attributes.get(name, "{}")) for name in ("config", "inputs", "formulas")}
        made = Provenance(attributes["schema"], attributes["version"], *loaded.values())
        attributes["fingerprint"] = made.fingerprint
    except (KeyError, TypeError, ValueError, AttributeError, PipelineError):
        pass  # too wrong to be signed


def change_attributes(attributes, rng):
    """Change the provenance in a file, more often inside its JSON texts; returns a description."""
    texts = [name for name in ("config", "inputs", "formulas") if name in attributes]
    if texts and rng.random() < 0.6:
        name = texts[rng.integers(len(texts))]
        content = json.loads(attributes[name])
        what = f"{name}: "
        if content and rng.random() < 0.8:
            what += change_json(content, rng)
        else:
            content = odd(rng)
            what += "other"
        attributes[name] = json.dumps(content)
    else:
        what = change_json(attributes, rng)
    sign(attributes)
    return what


def damage_json(path, rng):
    content = json.loads(path.read_text())
    if "attributes" in content and rng.random() < 0.3:
        what = change_attributes(content["attributes"], rng)
    elif rng.random() < 0.1:
        content, what = odd(rng), "other"
    elif rng.random() < 0.1:
        path.write_text("[" * 200_000)
        return "deep"
    else:
        what = change_json(content, rng)
    path.write_text(json.dumps(content))
    return what


def damage_checkpoint(path, rng):
    """Change the description, or the tensors, of a `.pt` file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    description = json.loads(members[DESCRIPTION])
    tensors = load_pt(path)
    if rng.random() < 0.6:
        change = change_attributes if rng.random() < 0.4 else change_json
        what = change(description["attributes"] if change is change_attributes else description, rng)
    else:
        what = "tensors: " + change_json(tensors, rng)
    if rng.random() < 0.1:
        tensors, what = odd(rng), "other tensors"
    path.unlink()
    try:
        save_partial(path, tensors)
    except (RecursionError, PipelineError):  # what torch cannot write, nobody will have to read
        tensors, what = [], "no tensors"
        save_partial(path, tensors)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(DESCRIPTION, json.dumps(description))
    return what


def damage_arrays(path, rng):
    """Change a dataset or an attribute of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        if rng.random() < 0.35:
            stored = take_attributes(file)
            attributes = {name: value.item() if hasattr(value, "item") else value for name, value in stored.items()}
            what = change_attributes(attributes, rng)
            for name in list(file.attrs):
                del file.attrs[name]
            for name, value in attributes.items():
                text = json.dumps(value) if isinstance(value, list | dict) or value is None else storable(value)
                put_attributes(file, {name: text})
            return what
        name = list(file)[rng.integers(len(file))]
        return f"{name}: {damage_dataset(file, name, rng)}"


def storable(value):
    """The value in a form that HDF5 can store."""
    return (
        str(value)
        if isinstance(value, int) and abs(value) > 2**60
        else value.replace("\x00", "")
        if isinstance(value, str)
        else value
    )


def damage_dataset(file, name, rng):
    value = file[name][()]
    kind = rng.choice(
        ["remove", "group", "dtype", "shape", "nan", "huge", "claim", "surplus", "text", "empty", "negative"]
    )
    if kind == "surplus":
        file["surplus"] = np.zeros(3)
        return kind
    if kind in ("nan", "huge", "negative") and value.dtype.kind in "fi" and value.size:
        what = {"nan": np.nan, "huge": 1e30, "negative": -7}[kind]
        place = tuple(int(rng.integers(n)) for n in value.shape)
        file[name][place] = (
            what if value.dtype.kind == "f" else max(-(2**62), np.iinfo(value.dtype).min) if kind == "negative" else 100
        )
        return kind
    del file[name]
    if kind == "group":
        file.create_group(name)
    elif kind == "claim":
        file.create_dataset(name, (2**20, 2**20), np.float32, chunks=(1024, 1024))
    elif kind == "text":
        file[name] = np.array([b"\xff\xfe", b"x"], dtype=h5py.string_dtype())
    elif kind == "empty":
        file[name] = h5py.Empty("f4")
    elif kind == "shape":
        file[name] = value[..., None] if rng.random() < 0.5 else value[:-1]
    elif kind in ("dtype", "nan", "huge", "negative"):
        file[name] = np.zeros(value.shape, rng.choice(["f8", "i1", "c8", "S3", "u4"]))
    return kind


def damage_table(path, rng):
    """Change a cell, a column or a row of a CSV file."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    row = rows[rng.integers(len(rows))]
    kind = rng.choice(["cell", "cell", "column", "row", "twice", "short", "header"])
    column = int(rng.integers(len(row)))
    if kind == "cell":
        row[column] = CELLS[rng.integers(len(CELLS))]
    elif kind == "column":
        for each in rows:
            del each[column]
    elif kind == "row":
        rows.remove(row)
    elif kind == "twice":
        rows.append(row)
    elif kind == "short":
        del row[column:]
    else:
        rows = rows[1:]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())
    return f"{kind} {column}"


TOML_VALUES = (
    "-1",
    "true",
    "nan",
    "inf",
    '"x"',
    "[]",
    "[1, 'a']",
    "{a = 1}",
    "1979-05-27",
    "10" * 40,
    "''",
    '"\\u001b[2J"',
)


def damage_settings(path, rng):
    """Change a value, a name or a table of a TOML file."""
    lines = path.read_text().splitlines()
    spots = [n for n, line in enumerate(lines) if "=" in line]
    kind = rng.choice(["value", "value", "name", "table", "twice", "nonsense", "deep"])
    n = spots[rng.integers(len(spots))]
    name, _, value = lines[n].partition("=")
    if kind == "value":
        lines[n] = f"{name}= {TOML_VALUES[rng.integers(len(TOML_VALUES))]}"
    elif kind == "name":
        lines[n] = f"{name.strip()}_x = {value}"
    elif kind == "table":
        lines.insert(n, str(rng.choice(["[stage]", "[run]", "[classes]", "[[train]]", "run = 3"])))
    elif kind == "twice":
        lines.append(lines[n])
    elif kind == "nonsense":
        lines.insert(n, "= = [")
    else:
        lines.append("a = " + "[" * 5000 + "]" * 5000)
    path.write_text("\n".join(lines))
    return f"{kind} {name.strip()}"


DAMAGES = {
    ".h5": damage_arrays,
    ".pt": damage_checkpoint,
    ".json": damage_json,
    ".csv": damage_table,
    ".toml": damage_settings,
}


def mutate(path, rng, others):
    """Damage a file at random; returns a description."""
    before = sha256_of(path)
    what = damage_bytes(path, rng, others) if rng.random() < 0.3 else DAMAGES[path.suffix](path, rng)
    return f"{path.name}: {what}{'' if sha256_of(path) != before else ' (no change)'}"
