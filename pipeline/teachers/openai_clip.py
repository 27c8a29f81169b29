"""`openai:` teachers: OpenAI's CLIP models by name, or a weights file, at any input size."""

import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from pipeline.classifier.towers.openai import describe, map_of, stride_of
from pipeline.method import FORMULAS
from pipeline.system.downloads import cache_folder, download
from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import regular_file, sha256_of
from pipeline.teachers.clip_teacher import ClipTeacher, architecture_of
from pipeline.teachers.encoding import ViewRules, compute_dtype, normalise_pixels, snap_to_stride
from pipeline.teachers.package import Package, with_statistics
from pipeline.teachers.tokens import whole_tokens

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package imports pkg_resources, which warns that it is deprecated
    import clip
    from clip.clip import _MODELS as URLS
    from clip.clip import _transform as package_transform
    from clip.model import CLIP, build_model

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class OpenaiClip(ClipTeacher):
    """A CLIP model of OpenAI's architecture.

    It resizes the sides of views to the nearest multiples of the tower's stride (32 px for ResNets, the patch for ViTs), unless
    `ViewRules.snap` is off.

    Args:
        model: float32, on the CPU; it is changed.
        name: its spec.
        weights_sha256: SHA-256 of its weights file.
        device: where it runs.
        precision: see `load_teacher`.
        rules: how it prepares views.
        package: see `ClipTeacher`.
    """

    logit_bias = None
    resize_filter = "bicubic"

    def __init__(
        self,
        model: CLIP,
        name: str,
        weights_sha256: str,
        device: str | torch.device,
        precision: str,
        rules: ViewRules | None = None,
        package: Callable[[], Package] | None = None,
    ) -> None:
        rules, device = rules or ViewRules(), torch.device(device)
        dtype = compute_dtype(precision, device)
        self.name = name
        # cached embeddings depend on the size that views are snapped to
        self.fingerprint = rules.mark(f"{weights_sha256}-{FORMULAS['snapping']}")
        self.logit_scale = model.logit_scale.exp().item()
        self.input_size = model.visual.input_resolution
        self._stride = stride_of(model.visual)
        cells = {"positions": rules.positions, "attention": rules.cell_attention}
        self.statistics = rules.statistics_of(MEAN, STD)
        architecture = architecture_of("openai", describe(model.visual), cells, self.statistics, stride=self._stride)
        tower_map = map_of(model.visual, **cells).to(device, dtype, memory_format=torch.channels_last)
        self.model = model.to(device, dtype)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):  # the package's computes in float32 at any precision
                module.float()
        super().__init__(tower_map, architecture, rules, device, dtype, package)

    def pixels(self, images: Tensor) -> Tensor:
        """See `ClipTeacher`."""
        pixels = normalise_pixels(images, *self.statistics, self.device)
        if self._rules.snap:
            pixels = snap_to_stride(pixels, self._stride)
        return pixels.to(self.dtype)

    def tokens(self, texts: list[str]) -> Tensor:
        """Tokens of C texts, integer Tensor[C, tokens]; raises as `encode_texts`."""
        return whole_tokens(partial(clip.tokenize, truncate=True), texts, self.model.context_length)


def load_openai(model: str, device: str | torch.device, precision: str, rules: ViewRules | None = None) -> OpenaiClip:
    """Load `openai:<model>`.

    Args:
        model: one of `clip.available_models()`, or the path of a JIT archive or a state dict.
        device: where it runs.
        precision: see `load_teacher`.
        rules: how it prepares views.

    Raises:
        PipelineError: there is no such model or file, it cannot be downloaded, or it is corrupt.
    """
    path = Path(model).expanduser()
    if model in URLS:
        sha256 = URLS[model].split("/")[-2]
        path = download(URLS[model], cache_folder() / "openai" / URLS[model].split("/")[-1], sha256)
    elif path.is_file():
        sha256 = sha256_of(path)
    elif path.suffix in (".pt", ".pth"):
        raise PipelineError(f"There is no weights file {path}. Give the path of a JIT archive or a state dict.")
    else:
        raise PipelineError(f"OpenAI has no CLIP {model!r}. {hint(model, URLS)} Or give the path of a .pt file.")
    package = partial(load_package, path, rules or ViewRules())
    return OpenaiClip(
        build_clip(read_weights(path), path), f"openai:{model}", sha256, device, precision, rules, package
    )


def load_package(path: Path, rules: ViewRules) -> Package:
    """The model of a weights file as the package builds it; of `rules`, `statistics` has an effect."""
    model = build_clip(read_weights(path), path)
    size = model.visual.input_resolution
    transform = with_statistics(package_transform(size), rules.statistics_of)
    return Package(model, transform, partial(clip.tokenize, context_length=model.context_length), (size, size))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a JIT archive or of a `torch.save`d state dict, on the CPU.

    Raises:
        PipelineError: the file is neither, or is damaged (torch does not compare checksums).
    """
    if not zipfile.is_zipfile(path):
        raise PipelineError(f"{path} is truncated or not a torch file. Expected a JIT archive or a state dict.")
    with zipfile.ZipFile(regular_file(path)) as archive:
        if damaged := archive.testzip():
            raise PipelineError(f"{path} is corrupt: {damaged} in it has the wrong checksum. Download the file again.")
        is_jit = any(name.endswith("/constants.pkl") for name in archive.namelist())
    try:
        if is_jit:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # OpenAI's files stay TorchScript
                return torch.jit.load(path, map_location="cpu").state_dict()
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise PipelineError(f"{path} cannot be read ({reason}). Expected a JIT archive or a state dict.") from error


def build_clip(weights: dict[str, Tensor], path: Path) -> CLIP:
    """The package's model with these weights in float32, in eval mode.

    Args:
        weights: a CLIP state dict; the package removes the other entries of JIT archives.
        path: named in errors.

    Raises:
        PipelineError: these are not the weights of a CLIP, or not all of them are finite.
    """
    try:
        model = build_model(weights).float()
        model.load_state_dict(weights)  # again, because build_model rounds float32 weights to half precision
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise PipelineError(
            f"{path} has no state dict of an OpenAI CLIP ({type(error).__name__} while building it). "
            "Models of another architecture load with open_clip:."
        ) from error
    if damaged := [name for name, weight in model.state_dict().items() if not weight.isfinite().all()]:
        raise PipelineError(f"{path} is corrupt: {damaged[0]} is not finite. Download the file again.")
    return model
