"""`conse`: a zero-shot dual encoder from an ImageNet classifier and a sentence encoder."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.classifier import lite
from pipeline.classifier.backbones import Tower, backbone_of_lite
from pipeline.classifier.engines import Run
from pipeline.classifier.inference import feature_run, to_device, to_float
from pipeline.runs.options import CONSE_NETWORK
from pipeline.system.files import sha256_of
from pipeline.teachers.encoding import EncodedViews, ViewRules, encode_in_chunks
from pipeline.teachers.minilm import MiniLM
from pipeline.teachers.package import Package
from pipeline.teachers.sentences import imagenet_prompts, shipped_embeddings, weights_digest


class Conse:
    """Convex combination of semantic embeddings (Norouzi et al. 2014, equation 2 with all 1000 classes).

    The embedding of an image is the mean of the sentence embeddings of the ImageNet classes, weighted by their
    probabilities from an EfficientNet-Lite. The embedding of a cell is the same for the classifier applied to one cell of the
    last feature map instead of their mean (as in class activation maps, Zhou et al. 2016). All sentence embeddings, of
    texts too, are centred by the mean over the ImageNet classes, then normalised.

    `logit_scale` is 10: on 1449 PASCAL VOC 2012 photos with the 20 VOC names it gave 77.5 mAP, 20 gave 76.6.

    Both networks load at first use; name and fingerprint need none, and images only the first, see `shipped_embeddings`.

    Args:
        device: where both networks run, always in float32.
        rules: only `statistics` has an effect.
        backbone: "lite0" or "lite2"; empty for the default.
    """

    logit_scale = 10.0
    logit_bias = None
    shipped = True
    """Whether its weights come with ccd, whose tests check them."""
    resize_filter = "bicubic"
    input_size = 320

    def __init__(self, device: str | torch.device = "cpu", rules: ViewRules | None = None, backbone: str = "") -> None:
        self.device = torch.device(device)
        self.backbone = backbone or CONSE_NETWORK
        self.name = f"conse:{backbone}" if backbone else "conse"
        self._rules = rules or ViewRules()
        self._embedded: dict[tuple[str, ...], Tensor] = {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of both weight files, the ImageNet descriptions and the scale."""
        digest = hashlib.sha256()
        for part in (sha256_of(lite.weights_path(self.backbone)), weights_digest()):
            digest.update(bytes.fromhex(part))
        digest.update("\n".join([*imagenet_prompts(), str(self.logit_scale)]).encode())
        return self._rules.mark(digest.hexdigest())

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed uint8 RGB Tensor[B, 3, H, W], H and W from 32 up, as float32 Tensor[B, D] with unit rows."""
        return encode_in_chunks(self._encode_images, images, self.device)

    def encode_views(self, images: Tensor) -> EncodedViews:
        """`encode_images`, and one cell per 32 pixels of a side, rounded up."""
        return encode_in_chunks(self._encode_views, images, self.device)

    def _encode_images(self, images: Tensor) -> Tensor:
        return self._embed_maps(self._maps(images))

    def _encode_views(self, images: Tensor) -> EncodedViews:
        return self.encode_maps(self._maps(images))

    @torch.inference_mode()
    def _maps(self, images: Tensor) -> Tensor:
        """The last feature maps, Tensor[B, E, h, w], rounded and laid out as those of `feature_batches`."""
        return self._run_tower(to_float(to_device(images, self.device))).half().float().contiguous()

    def encode_maps(self, maps: Tensor) -> EncodedViews:
        """`encode_views` from the last feature maps of `tower`, float Tensor[B, E, h, w]."""
        return EncodedViews(self._embed_maps(maps), self._embed_cells(maps))

    @torch.inference_mode()
    def _embed_maps(self, maps: Tensor) -> Tensor:
        probabilities = self._network.forward_head(maps).softmax(1)  # [B, 1000]
        return F.normalize(probabilities @ self._classes, dim=1)

    @torch.inference_mode()
    def _embed_cells(self, maps: Tensor) -> Tensor:
        cells = maps.permute(0, 2, 3, 1)  # [B, h, w, E]
        probabilities = self._network.classifier(cells.flatten(0, 2)).softmax(1)  # [B * h * w, 1000]
        return F.normalize(probabilities @ self._classes, dim=1).view(*cells.shape[:3], -1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed C texts as float32 Tensor[C, D] with unit rows."""
        return F.normalize(self._embed(texts) - self._centre, dim=1)

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel of the normalisation."""
        return self.tower.mean.flatten().tolist(), self.tower.std.flatten().tolist()

    @statistics.setter
    def statistics(self, values: tuple[Sequence[float], Sequence[float]]) -> None:
        for buffer, value in zip((self.tower.mean, self.tower.std), values, strict=True):
            buffer.copy_(torch.tensor(value).view(1, 3, 1, 1))

    def pixels(self, images: Tensor) -> Tensor:
        """The tower's input, Tensor[B, 3, H, W], of the images of `encode_images`."""
        return (to_float(to_device(images, self.device)) - self.tower.mean) / self.tower.std

    def package(self) -> Package:
        """Timm's network and the sentence encoder on the CPU; the embeddings of the ImageNet classes are the teacher's."""
        from torchvision.transforms import Compose, Normalize, ToTensor

        model = ConsePackage(self.backbone, self._imagenet.cpu())
        mean, std = self._rules.statistics_of(lite.MEAN, lite.STD)
        side = self.input_size
        return Package(model, Compose([ToTensor(), Normalize(mean, std)]), lambda texts: texts, (side, side))

    def imagenet_head(self) -> tuple[nn.Linear, Tensor]:
        """The ImageNet classifier, and the centred embeddings of its classes, Tensor[1000, D] with unit rows."""
        return self._network.classifier, self._classes

    @cached_property
    def _network(self) -> nn.Module:
        return lite.load_lite(self.backbone).to(self.device)

    @property
    def architecture(self) -> dict[str, str]:
        """`backbone` of a classifier with this network."""
        return {"backbone": self.backbone}

    @cached_property
    def tower(self) -> Tower:
        """The network up to its last feature maps, as a backbone of the classifier."""
        backbone = backbone_of_lite(self._network)
        mean, std = self._rules.statistics_of(backbone.mean, backbone.std)
        return Tower(replace(backbone, mean=tuple(mean), std=tuple(std))).to(self.device).eval()

    @cached_property
    def _run_tower(self) -> Run:
        return feature_run(self.tower)

    @cached_property
    def _sentences(self) -> MiniLM:
        return MiniLM(self.device)

    @cached_property
    def _imagenet(self) -> Tensor:
        return self._embed(imagenet_prompts())

    @cached_property
    def _classes(self) -> Tensor:
        """Centred embeddings of the ImageNet classes, Tensor[1000, D] with unit rows."""
        return F.normalize(self._imagenet - self._centre, dim=1)

    @cached_property
    def _centre(self) -> Tensor:
        return self._imagenet.mean(0)

    def _embed(self, texts: list[str]) -> Tensor:
        """Embeddings before they are centred, Tensor[C, D]; a list of texts is embedded once."""
        if tuple(texts) not in self._embedded:
            shipped = shipped_embeddings(texts)
            self._embedded[tuple(texts)] = self._sentences.encode(texts) if shipped is None else shipped.to(self.device)
        return self._embedded[tuple(texts)]


class ConsePackage(nn.Module):
    """The two networks of `conse` on the CPU: timm's own forward pass, and the sentence encoder.

    Args:
        backbone: "lite0" or "lite2".
        imagenet: sentence embeddings of the ImageNet classes, Tensor[1000, D].
    """

    def __init__(self, backbone: str, imagenet: Tensor) -> None:
        super().__init__()
        self.network = lite.load_lite(backbone)
        self.sentences = MiniLM(torch.device("cpu"))
        self.centre = imagenet.mean(0)
        self.classes = F.normalize(imagenet - self.centre, dim=1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Tensor[B, 3, H, W] to Tensor[B, D]."""
        return self.network(pixels).softmax(1) @ self.classes

    def encode_text(self, texts: list[str]) -> Tensor:
        """C texts to Tensor[C, D]."""
        return self.sentences.encode(texts) - self.centre
