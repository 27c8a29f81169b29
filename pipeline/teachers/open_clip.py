"""`open_clip:` teachers: every model of the open_clip package, an extra, by name or from a folder."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from pipeline.datasets.downloads import cache_folder
from pipeline.machine.errors import PipelineError, hint
from pipeline.teachers.encoding import ViewRules, compute_dtype, encode_in_chunks, normalise_pixels

try:
    import open_clip
except ModuleNotFoundError as error:
    raise PipelineError(
        f"open_clip: teachers need the package {error.name}, which is missing. Install it with "
        "`pip install '.[open-clip]'`."
    ) from error

SHORT_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Half precisions as open_clip writes them."""
TEXTS_PER_CALL = 256


class OpenClip:
    """A dual encoder of open_clip.

    Its towers take one size only: views of another are squashed to it, with the model's own interpolation.

    Args:
        model: as open_clip created it, on its device and in its precision.
        tokenizer: C texts to integer Tensor[C, tokens].
        name: the spec it was loaded from.
        digest: see `fingerprint`.
        device: of the model.
        dtype: of the model's convolutions.
        rules: how it takes views; it takes one size, so that only the statistics matter.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        name: str,
        digest: str,
        device: torch.device,
        dtype: torch.dtype,
        rules: ViewRules | None = None,
    ) -> None:
        self._rules = rules or ViewRules()
        self.name = name
        self.device = device
        self.dtype = dtype
        self.fingerprint = self._rules.mark(digest)
        self.logit_scale = model.logit_scale.exp().item()
        self.logit_bias = None if model.logit_bias is None else model.logit_bias.item()
        self._preprocessing = model.visual.preprocess_cfg
        size = self._preprocessing["size"]
        self._size = [size, size] if isinstance(size, int) else list(size)  # (H, W)
        self.input_size = max(self._size)
        self._model = model.eval()
        self._tokenizer = tokenizer

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed uint8 RGB Tensor[B, 3, H, W] of any H and W as float32 Tensor[B, D] with unit rows."""
        return encode_in_chunks(self._encode_images, images, self.device)

    @torch.inference_mode()
    def _encode_images(self, images: Tensor) -> Tensor:
        interpolation = InterpolationMode(self._preprocessing["interpolation"])
        images = resize(images.to(self.device), self._size, interpolation, antialias=True)
        statistics = self._rules.statistics_of(self._preprocessing["mean"], self._preprocessing["std"])
        pixels = normalise_pixels(images, *statistics, self.device)
        return F.normalize(self._model.encode_image(pixels.to(self.dtype)).float(), dim=1)

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed C texts as float32 Tensor[C, D] with unit rows; open_clip cuts off what is too long."""
        parts = self._tokenizer(texts).to(self.device).split(TEXTS_PER_CALL)
        return F.normalize(torch.cat([self._model.encode_text(part).float() for part in parts]), dim=1)


def load_open_clip(
    model: str, device: str | torch.device, precision: str, cache_dir: Path | None, rules: ViewRules | None = None
) -> OpenClip:
    """Load `open_clip:<model>`.

    Args:
        model: MODEL/PRETRAINED, where PRETRAINED is a tag of open_clip or a file, or local-dir:PATH of a
            folder with open_clip_config.json and weights.
        device: where it runs.
        precision: see `load_teacher`.
        cache_dir: see `load_teacher`.
        rules: how it takes views.

    Raises:
        PipelineError: if there is no such model, tag or folder, or its weights cannot be had or read.
    """
    device = torch.device(device)
    dtype = compute_dtype(precision, device)
    name, pretrained = (model, None) if model.startswith("local-dir:") else split_model(model)
    cache = str(cache_folder(cache_dir) / "open_clip")
    try:
        clip = open_clip.create_model(name, pretrained, cache_dir=cache, require_pretrained=True)
        digest = fingerprint(clip)
        if dtype == torch.float32:
            clip = clip.to(device)
        else:  # read again, as open_clip's way of casting a model is its own
            clip = open_clip.create_model(
                name,
                pretrained,
                precision=SHORT_NAMES[dtype],
                device=device,
                cache_dir=cache,
                require_pretrained=True,
            )
        tokenizer = open_clip.get_tokenizer(name, cache_dir=cache)
    except (KeyError, OSError, RuntimeError, SafetensorError, UnpicklingError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise PipelineError(f"open_clip:{model} could not be loaded ({reason}). {remedy(name, pretrained)}") from error
    return OpenClip(clip, tokenizer, f"open_clip:{model}", digest, device, dtype, rules)


def split_model(model: str) -> tuple[str, str]:
    """MODEL and PRETRAINED of MODEL/PRETRAINED.

    Raises:
        PipelineError: if open_clip has no such model, or for it neither a tag nor a file PRETRAINED exists.
    """
    name, _, pretrained = model.partition("/")
    if name not in open_clip.list_models():
        raise PipelineError(f"open_clip has no model {name!r}. {hint(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise PipelineError(
            f"open_clip:{name} has no weights {pretrained!r}. Use open_clip:{name}/TAG with one of "
            f"{', '.join(tags)}, or open_clip:{name}/PATH of a file."
        )
    return name, pretrained


def remedy(name: str, pretrained: str | None) -> str:
    """What to do about a model that does not load."""
    source = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None
    if not source:
        return "Expected open_clip_config.json and whole weights of the same model."
    address = f"https://huggingface.co/{source['hf_hub']}" if source.get("hf_hub") else source["url"]
    return f"Without a connection get the weights of {address} elsewhere and use open_clip:{name}/PATH."


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of all weights, and over the preprocessing.

    Of the model in float32: the precision that it runs in does not change which weights these are.
    """
    digest = hashlib.sha256(repr(sorted(model.visual.preprocess_cfg.items())).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
