"""A classifier file to an ONNX or torch.export model, checked against the classifier."""

import json
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor, nn

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint
from pipeline.classifier.inference import load_classifier
from pipeline.classifier.network import CamNet
from pipeline.deploy.classifier import Classifier
from pipeline.photos.rgb import load_square
from pipeline.runs.folders import check_free
from pipeline.system.errors import PipelineError, first_line, reason_of
from pipeline.system.files import checked_stream, replacing
from pipeline.system.progress import log

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}

DESCRIPTION_FILE = "classifier.json"
"""Name of the description inside a torch.export archive."""

BATCH = "batch"
"""Name of the dynamic dimension."""

FILTERS = {"bicubic": "BICUBIC", "pillow-bilinear": "BILINEAR"}
"""ResizeFilter of a classifier to the equivalent `PIL.Image.Resampling` filter."""

RECIPE = "rgb.py"
"""Module of `pipeline.photos` that prepares photos with Pillow and numpy only; exports contain its source."""

RECIPE_TOLERANCE = 0.02
"""Largest difference of a score between photos resized by Pillow and by torch."""

TOLERANCE = 1e-4
"""Largest difference of a score between the classifier and the exported model."""


class Scorer(nn.Module):
    """A classifier with its sigmoid; normalisation is part of the network."""

    def __init__(self, net: CamNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Scores Tensor[B, C] in [0, 1] of float Tensor[B, 3, S, S] in [0, 1], RGB."""
        return self.net(images).sigmoid()


def recipe() -> str:
    """The source of `RECIPE`."""
    return files("pipeline.photos").joinpath(RECIPE).read_text(encoding="utf-8")


def preprocessing(checkpoint: Checkpoint) -> dict[str, Any]:
    """The steps from a photo to the input of an exported model, in order, for JSON.

    The model contains mean and deviation, so they are 0 and 1 here.
    """
    resample = FILTERS[checkpoint.architecture["resize_filter"]]
    return {
        "orientation": "apply the EXIF orientation",
        "transparency": "composite over white",
        "grey": "scale more than 8 bits by the range of the file",
        "colour": "RGB",
        "resize": f"PIL.Image.Resampling.{resample} on uint8, of the whole photo, aspect not kept (PIL.Image.resize)",
        "resample": resample,
        "size": [checkpoint.image_size] * 2,
        "scale": "divide by 255",
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "layout": "NCHW, float32",
        "code": recipe(),
    }


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """The description of an exported model, for JSON."""
    size = checkpoint.image_size
    steps = preprocessing(checkpoint)
    return {
        "class_names": checkpoint.class_names,
        "thresholds": checkpoint.thresholds,
        "image_size": size,
        "preprocessing": steps,
        "input": f"images: float32 [B, 3, {size}, {size}], RGB in [0, 1]. The whole photo, with its EXIF orientation applied, "
        f"is resized to {size} x {size} ({steps['resample']}, aspect not kept) and divided by 255; "
        "the model applies mean and deviation.",
        "output": "scores: float32 [B, C] in [0, 1], in the order of class_names; "
        "a class is predicted if its score reaches its threshold.",
        "fingerprint": checkpoint.provenance.fingerprint,
    }


def trace(network: nn.Module, size: int) -> torch.export.ExportedProgram:
    """The graph of a scorer or a backbone for batches of any number of images."""
    # with an example of one image torch would make the batch size constant
    batch = {0: torch.export.Dim("batch", min=1)}
    return torch.export.export(network, (torch.zeros(2, 3, size, size),), dynamic_shapes=(batch,))


def write_onnx(program: torch.export.ExportedProgram, description: dict[str, Any], path: Path) -> None:
    """Write an ONNX file with the description in its metadata, one text per key."""
    try:
        model = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=["scores"], verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise PipelineError(
            f"this backbone cannot be exported to ONNX ({first_line(error)}). Try --format torch-export."
        ) from error
    name_batch(model.model)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}
    model.model.metadata_props.update(texts)
    model.save(path)


def name_batch(model: Any) -> None:
    """Rename the dynamic dimension of an ONNX model to `BATCH`; the exporter gives it a name like s77."""
    import onnx_ir

    symbol = str(model.graph.inputs[0].shape[0])
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None and symbol in [str(size) for size in value.shape]:
            value.shape = onnx_ir.Shape([BATCH if str(size) == symbol else size for size in value.shape])


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function of images, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])


def write_torch_export(program: torch.export.ExportedProgram, description: dict[str, Any], path: Path) -> None:
    """Write a torch.export archive that contains the description as JSON."""
    with checked_stream(path) as file:
        torch.export.save(program, file, extra_files={DESCRIPTION_FILE: json.dumps(description)})


def load_torch_export(path: Path) -> Callable[[Tensor], Tensor]:
    """A torch.export archive as a function of images."""
    with path.open("rb") as file:
        return torch.export.load(file).module()


def largest_difference(scorer: Scorer, exported: Callable[[Tensor], Tensor], size: int) -> float:
    """Largest difference of a score on batches of one and of three random images."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(count, 3, size, size, generator=generator) for count in (1, 3)]
    with torch.no_grad():
        return max(float((scorer(batch) - exported(batch)).abs().max()) for batch in batches)


def check_recipe(classifier: Classifier, scores: Callable[[Path], Any], name: str) -> float:
    """Largest difference of a score on photos of every kind between an export with its own recipe and the classifier.

    Args:
        classifier: the original.
        scores: path of a photo to C scores, with the export's own recipe.
        name: of the export, for error messages.

    Raises:
        PipelineError: the difference is above `RECIPE_TOLERANCE`, or temporary photos cannot be written.
    """
    try:
        with TemporaryDirectory() as folder:
            paths = write_probes(Path(folder))
            exported = np.array([np.asarray(scores(path), dtype=np.float64) for path in paths])
            difference = np.abs(exported - [list(p.scores.values()) for p in classifier.predict(paths)]).max(axis=1)
    except OSError as error:
        raise PipelineError(
            f"temporary photos could not be written ({reason_of(error)}). Set TMPDIR to a folder with room."
        ) from error
    worst = int(difference.argmax())
    if not difference[worst] <= RECIPE_TOLERANCE:
        raise PipelineError(
            f"{name} gives a {paths[worst].stem} photo scores that differ by {difference[worst]:.1e} from the classifier's, "
            f"expected at most {RECIPE_TOLERANCE}. Nothing was written."
        )
    return float(difference[worst])


def write_probes(folder: Path) -> list[Path]:
    """Write small photos of the kinds that preparation can get wrong: transparent, palette, 16 and 12 bits, CMYK, turned, grey.

    They are smooth like photos, because the filters of Pillow and torch differ more on noise.
    """
    height, width = 96, 160
    y, x = np.mgrid[0:height, 0:width] / (height, width, 1)[:2][0]
    waves = [np.sin(2 * np.pi * (fx * x + fy * y) + phase) for fx, fy, phase in ((1, 2, 0), (2, 0.5, 1), (0.7, 1.3, 2))]
    rgb = np.uint8(np.stack([127.5 + 127 * wave for wave in waves], axis=-1))
    alpha = np.uint8(np.where((x + y) % 0.5 < 0.25, 0, 255))
    photo = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo.save(folder / "plain.png")
    photo.save(folder / "turned.png", exif=exif)
    photo.convert("CMYK").save(folder / "CMYK.tiff")
    photo.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    photo.convert("L").save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, alpha])).save(folder / "transparent.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "16-bit.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 16).save(folder / "12-bit.tiff", tiffinfo={281: 4095})
    return sorted(folder.iterdir())


def check_packages(format: Format) -> None:
    """Raise unless the packages that a format needs are installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if format == "onnx" and missing:
        raise PipelineError(
            f"ONNX needs {', '.join(missing)}. Install with `pip install '.[onnx]'`, or use --format torch-export."
        )


def run(classifier_path: Path, format: Format, out: Path | None = None, *, force: bool = False) -> None:
    """Write a classifier in another format.

    Args:
        classifier_path: file of a classifier.
        format: "onnx" or "torch-export".
        out: file to write; None for the classifier's path with the suffix of the format.
        force: replace the file.

    Raises:
        PipelineError: `out` exists, the classifier or a package is missing, the backbone cannot be exported, or the exported
            model gives other scores. Nothing is written then.
    """
    check_packages(format)
    out = out or classifier_path.with_suffix(SUFFIXES[format])
    check_free(out, force=force)
    if out.resolve() == classifier_path.resolve():
        raise PipelineError(f"{out} is the classifier itself. Choose another file with --out.")
    checkpoint = read_checkpoint(classifier_path)
    # torch.export cannot store channels-last weights
    scorer = Scorer(load_classifier(checkpoint).to(memory_format=torch.contiguous_format)).eval().requires_grad_(False)
    program = trace(scorer, checkpoint.image_size)
    write, load = (write_onnx, load_onnx) if format == "onnx" else (write_torch_export, load_torch_export)
    with replacing(out) as partial:
        write(program, describe(checkpoint), partial)
        exported = load(partial)
        difference = largest_difference(scorer, exported, checkpoint.image_size)
        if not difference <= TOLERANCE:
            raise PipelineError(
                f"the scores of the exported model differ by {difference:.1e} from those of {classifier_path}, "
                f"expected at most {TOLERANCE:.0e}. Nothing was written."
            )
        steps = preprocessing(checkpoint)
        with torch.inference_mode():
            check_recipe(
                Classifier(checkpoint),
                lambda path: exported(
                    torch.from_numpy(load_square(path, checkpoint.image_size, steps["resample"]))[None]
                )[0],
                f"the {format} model",
            )
    log(f"{out}: {out.stat().st_size / 1e6:.1f} MB, scores within {difference:.1e} of the classifier's.")
