"""`open_clip:` teachers: every model of the optional package open_clip, by name or from a folder."""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from pipeline.system.downloads import cache_folder
from pipeline.system.errors import PipelineError, hint
from pipeline.teachers.clip_teacher import ClipTeacher, architecture_of
from pipeline.teachers.encoding import ViewRules, compute_dtype, normalise_pixels
from pipeline.teachers.package import Package, with_statistics
from pipeline.teachers.tokens import whole_tokens

try:
    import open_clip

    from pipeline.classifier.towers.open_clip import describe, map_of
except ModuleNotFoundError as error:
    raise PipelineError(
        f"open_clip: teachers need the package {error.name}, which is missing. Install it with "
        "`pip install '.[open-clip]'`."
    ) from error

SHORT_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
"""open_clip's names of half precisions."""
PREPROCESSING = ("mean", "std", "interpolation")
"""Settings of a pretrained tag that decide the pixels; `resize_mode` does not, as all views are square."""
CLIP_VOCABULARY = 49408
SIGLIP2_VOCABULARY = 256_000
MULTILINGUAL_VOCABULARY = 200_000
"""Smallest vocabulary of a text tower of many languages; those of open_clip have from 250,000 tokens, English ones up to 64,000."""
LOADING_ERRORS = (
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    UnpicklingError,
    UserWarning,
    ValueError,
)
"""Errors of open_clip for weights that are missing, damaged or of another model."""


class OpenClip(ClipTeacher):
    """A dual encoder of open_clip.

    It resizes views to the one size that its tower takes, with the model's own interpolation.

    Args:
        model: from open_clip, on its device and in its precision.
        config: its architecture, see `model_config`.
        tokenizer: of open_clip, with its `context_length`.
        name: its spec.
        digest: see `fingerprint`.
        device: of the model.
        dtype: of the model's convolutions.
        rules: only `statistics` and `cell_attention` have an effect.
        package: see `ClipTeacher`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: dict[str, Any],
        tokenizer: Any,
        name: str,
        digest: str,
        device: torch.device,
        dtype: torch.dtype,
        rules: ViewRules | None = None,
        package: Callable[[], Package] | None = None,
    ) -> None:
        rules = rules or ViewRules()
        self.name = name
        self.fingerprint = rules.mark(digest)
        self.logit_scale = model.logit_scale.exp().item()
        self.logit_bias = None if model.logit_bias is None else model.logit_bias.item()
        preprocessing = model.visual.preprocess_cfg
        self.statistics = rules.statistics_of(preprocessing["mean"], preprocessing["std"])
        self._interpolation = InterpolationMode(preprocessing["interpolation"])
        self.resize_filter = "pillow-bilinear" if preprocessing["interpolation"] == "bilinear" else "bicubic"
        size = preprocessing["size"]
        self._size = [size, size] if isinstance(size, int) else list(size)  # (H, W)
        self.input_size = max(self._size)
        self.model = model.eval()
        self._tokenizer = tokenizer
        self.multilingual = getattr(model, "vocab_size", 0) >= MULTILINGUAL_VOCABULARY
        cells = {"attention": rules.cell_attention}
        architecture = architecture_of("open_clip", describe(config), cells, self.statistics, side=self.input_size)
        tower_map = map_of(model.visual, **cells).to(memory_format=torch.channels_last)
        is_square = len(set(self._size)) == 1
        super().__init__(tower_map, architecture if is_square else None, rules, device, dtype, package)

    def pixels(self, images: Tensor) -> Tensor:
        """See `ClipTeacher`."""
        images = resize(images.to(self.device), self._size, self._interpolation, antialias=True)
        return normalise_pixels(images, *self.statistics, self.device).to(self.dtype)

    def tokens(self, texts: list[str]) -> Tensor:
        """Tokens of C texts, integer Tensor[C, tokens]; raises as `encode_texts`."""
        return whole_tokens(self._tokenizer, texts, self._tokenizer.context_length)


def load_open_clip(model: str, device: str | torch.device, precision: str, rules: ViewRules | None = None) -> OpenClip:
    """Load `open_clip:<model>`.

    Args:
        model: MODEL/TAG with a pretrained tag of open_clip, MODEL/FILE, MODEL/TAG@FILE for a file with the settings of
            a tag, or local-dir:PATH of a folder with open_clip_config.json and weights.
        device: where it runs.
        precision: see `load_teacher`.
        rules: how it prepares views.

    Raises:
        PipelineError: there is no such model, tag or folder, its weights cannot be downloaded or read, or they may need
            several preprocessings or activations.
    """
    device = torch.device(device)
    dtype = compute_dtype(precision, device)
    spec = f"open_clip:{model}"
    source = folder_source(model) if model.startswith("local-dir:") else find_source(model)
    cache = str(cache_folder() / "open_clip")
    try:
        exact = create(source, cache)
        digest = fingerprint(exact, model_config(source))
        if dtype == torch.float32:
            clip = exact.to(device)
        else:  # read again, as open_clip casts some modules differently
            clip = create(source, cache, precision=SHORT_NAMES[dtype], device=device)
            # the cast rounds a scale of 100.003 to 99 or 100
            clip.logit_scale, clip.logit_bias = exact.logit_scale, exact.logit_bias
        tokenizer = open_clip.get_tokenizer(source.name, cache_dir=cache)
    except LOADING_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise PipelineError(f"{spec} could not be loaded ({reason}). {remedy(source)}") from error
    check_tokenizer(tokenizer, model_config(source), spec)
    if exact.logit_bias is not None and exact.logit_bias.item() == 0:  # open_clip's value for a file without one
        raise PipelineError(f"The weights of {spec} have no logit_bias, which its sigmoid needs. Use a softmax model.")
    package = partial(load_package, source, cache, rules or ViewRules())
    return OpenClip(clip, model_config(source), tokenizer, spec, digest, device, dtype, rules, package)


@dataclass(frozen=True)
class Source:
    """Where the weights of a model come from, and the settings that they were trained with."""

    name: str
    """Name of the model, or local-dir:PATH."""
    pretrained: str | None
    """Tag or file; None for a folder."""
    tag: str = ""
    """Tag whose settings to use; empty for those of the folder, or open_clip's defaults."""


def find_source(model: str) -> Source:
    """The source that MODEL/TAG, MODEL/FILE or MODEL/TAG@FILE names.

    A file without a tag gets the settings of the model's tags if all of them agree. A model without tags gets open_clip's
    defaults, with which open_clip trains it.

    Raises:
        PipelineError: open_clip has no such model, there is neither such a tag nor such a file, or the tags differ.
    """
    name, _, weights = model.partition("/")
    if name not in open_clip.list_models():
        raise PipelineError(f"open_clip has no model {name!r}. {hint(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag, at, path = weights.partition("@")
    if weights in tags:
        return Source(name, weights, weights)
    if Path(weights).expanduser().is_file():
        if len({repr(settings_of(name, each)) for each in tags}) > 1:
            raise PipelineError(
                f"open_clip:{name}/{weights}: the pretrained tags of {name} differ in preprocessing or activation "
                "(GELU or QuickGELU). Name the tag that the file belongs to, as "
                f"open_clip:{name}/TAG@{weights} with TAG one of {', '.join(tags)}."
            )
        return Source(name, str(Path(weights).expanduser()), tags[0] if tags else "")
    if at and tag in tags and Path(path).expanduser().is_file():
        return Source(name, str(Path(path).expanduser()), tag)
    raise PipelineError(
        f"open_clip:{name} has no weights {weights!r}. Use open_clip:{name}/TAG with one of "
        f"{', '.join(tags)}, or open_clip:{name}/TAG@PATH of a file."
    )


def folder_source(name: str) -> Source:
    """The source that local-dir:PATH names. Its config must have mean and std, for which open_clip would use defaults."""
    path = Path(name.removeprefix("local-dir:")).expanduser() / "open_clip_config.json"
    try:
        config = json.loads(path.read_text()) if path.is_file() else None
        if config is not None and not {"mean", "std"} <= set(config["preprocess_cfg"]):
            raise KeyError("preprocess_cfg")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise PipelineError(
            f"{path} has no preprocess_cfg with mean and std, which the weights were trained with. Add them."
        ) from error
    return Source(f"local-dir:{path.parent}", None)


def settings_of(name: str, tag: str) -> dict[str, Any]:
    """Settings of the weights of a pretrained tag: mean, std, interpolation, and whether their GELU is QuickGELU."""
    config = open_clip.get_pretrained_cfg(name, tag)
    return {key: config[key] for key in PREPROCESSING} | {"quick_gelu": config.get("quick_gelu", False)}


def create(source: Source, cache: str, **options: Any) -> nn.Module:
    """The model of a source with its weights and settings.

    Raises:
        ValueError: the model has QuickGELU and the tag does not.
        UserWarning: open_clip reports another mismatch.
    """
    settings = settings_of(source.name, source.tag) if source.tag else {}
    quick_gelu = settings.pop("quick_gelu", False)
    if source.tag and not quick_gelu and open_clip.get_model_config(source.name).get("quick_gelu", False):
        raise ValueError(f"open_clip's model {source.name} has QuickGELU and its tag {source.tag} does not")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?i).*mismatch", category=UserWarning)
        return open_clip.create_model(
            source.name,
            source.pretrained,
            force_quick_gelu=quick_gelu,
            force_preprocess_cfg=settings,
            cache_dir=cache,
            require_pretrained=True,
            **options,
        )


def load_package(source: Source, cache: str, rules: ViewRules) -> Package:
    """The model of a source as open_clip loads it; of `rules`, `statistics` has an effect."""
    settings = settings_of(source.name, source.tag) if source.tag else {}
    model, transform = open_clip.create_model_from_pretrained(
        source.name,
        source.pretrained,
        force_quick_gelu=settings.get("quick_gelu", False),
        image_mean=settings.get("mean"),
        image_std=settings.get("std"),
        image_interpolation=settings.get("interpolation"),
        cache_dir=cache,
    )
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    tokenizer = open_clip.get_tokenizer(source.name, cache_dir=cache)
    return Package(model.eval(), with_statistics(transform, rules.statistics_of), tokenizer, (height, width))


def model_config(source: Source) -> dict[str, Any]:
    """The architecture as it is built, with the activation of the tag."""
    config = open_clip.get_model_config(source.name)
    quick_gelu = bool(source.tag) and settings_of(source.name, source.tag)["quick_gelu"]
    return config | {"quick_gelu": quick_gelu or config.get("quick_gelu", False)}


def check_tokenizer(tokenizer: Any, config: dict[str, Any], spec: str) -> None:
    """Raise for a tokenizer that does not fit the model, which the config of a folder may cause.

    Raises:
        PipelineError: open_clip uses its default, CLIP's tokenizer, for a model with another vocabulary; or a SigLIP2, which
            was trained with lower-case texts of 64 tokens, gets a different form.
    """
    vocabulary = config["text_cfg"].get("vocab_size", CLIP_VOCABULARY)
    if isinstance(tokenizer, open_clip.SimpleTokenizer) and vocabulary != CLIP_VOCABULARY:
        raise PipelineError(
            f"{spec} has {vocabulary} tokens and names no tokenizer; CLIP's has {CLIP_VOCABULARY}. Add hf_tokenizer_name to "
            "text_cfg in its open_clip_config.json."
        )
    keeps_case = getattr(tokenizer, "clean_fn", str.lower)("A") == "A"
    if vocabulary == SIGLIP2_VOCABULARY and (keeps_case or config["text_cfg"].get("context_length") != 64):
        raise PipelineError(
            f"{spec} is a SigLIP2, which was trained with lower-case texts of 64 tokens. Set context_length to 64 and "
            'tokenizer_kwargs to {"clean": "canonicalize"} in text_cfg of its open_clip_config.json.'
        )


def remedy(source: Source) -> str:
    """Advice for a model that does not load."""
    if source.pretrained is None:
        return "Expected open_clip_config.json and complete weights of the same model."
    if source.pretrained != source.tag:
        return f"Expected complete weights of {source.name}, or a folder with its own open_clip_config.json as local-dir:PATH."
    config = open_clip.get_pretrained_cfg(source.name, source.tag)
    address = f"https://huggingface.co/{config['hf_hub']}" if config.get("hf_hub") else config["url"]
    return (
        f"Without a connection, download {address} on another machine and use open_clip:{source.name}/{source.tag}@PATH, "
        "or the folder with its own open_clip_config.json as local-dir:PATH."
    )


def fingerprint(model: nn.Module, config: dict[str, Any]) -> str:
    """SHA-256 of the names and bytes of all weights of a float32 model, its architecture and its preprocessing."""
    digest = hashlib.sha256(repr(sorted(model.visual.preprocess_cfg.items())).encode())
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
