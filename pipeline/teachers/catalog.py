"""A short list of teachers worth trying, with what they cost and how well they know objects."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.system.downloads import cache_folder


@dataclass(frozen=True)
class Entry:
    """A teacher and its figures."""

    spec: str
    size: int
    """Side of its views, in pixels, unless `embed.image_size` sets another."""
    parameters: float
    """Millions, of both towers; counted on the architecture."""
    gigaflops: float
    """Operations of the image tower for one view of `size`, two per multiplication and addition; counted on the architecture."""
    cells: bool
    """Whether it has cells here."""
    licence: str
    """Of the weights, as published with them."""
    accuracy: float | None = None
    """Zero-shot accuracy on cropped objects of VOC 2007, as open_clip and CLIP_benchmark publish it; None: not published."""
    use: str = ""
    """What it is recommended for."""
    repository: str = ""
    """Of an `open_clip:` teacher on the Hugging Face Hub."""

    @property
    def megabytes(self) -> int:
        """Size of the download: 4 bytes per parameter, and 2 in OpenAI's files; 0 for a teacher that ships with ccd."""
        if self.ships:
            return 0
        return round(self.parameters * (2 if self.spec.startswith("openai:") else 4))

    @property
    def ships(self) -> bool:
        """Whether its weights come with ccd."""
        return self.spec.startswith("conse")

    @property
    def is_here(self) -> bool:
        """Whether its weights come with ccd or are in the cache folder."""
        return self.ships or any(path.is_file() for path in self.cached_files())

    def cached_files(self) -> Iterator[Path]:
        """Weights in the cache folder, where OpenAI's loader and open_clip put them."""
        kind, _, model = self.spec.partition(":")
        if kind == "openai":
            yield cache_folder() / "openai" / f"{re.sub('[/@]', '-', model)}.pt"
        else:
            folder = cache_folder() / "open_clip" / f"models--{self.repository.replace('/', '--')}" / "snapshots"
            for suffix in ("safetensors", "bin", "pt"):
                yield from folder.glob(f"*/*.{suffix}")


CATALOG = (
    Entry("conse", 320, 28.8, 2.4, True, "Apache-2.0", use="a first try"),
    Entry("openai:RN50x64", 448, 623.3, 529.1, True, "MIT", 0.740, "--recipe ccd (paper)"),
    Entry("openai:ViT-B/32", 224, 151.3, 8.8, True, "MIT"),
    Entry("openai:ViT-L/14@336px", 336, 427.9, 381.9, True, "MIT"),
    Entry(
        *("open_clip:ViT-B-32/datacomp_xl_s13b_b90k", 224, 151.3, 8.8, True, "MIT", 0.815, "a CPU"),
        repository="laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    ),
    Entry(
        *("open_clip:ViT-B-16/datacomp_xl_s13b_b90k", 224, 149.6, 35.1, True, "MIT", 0.818, "smaller cells"),
        repository="laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    ),
    Entry(
        *("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", 224, 427.6, 162.0, True, "MIT", 0.825, "a GPU"),
        repository="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    ),
    Entry(
        *("open_clip:ViT-B-16-SigLIP2/webli", 224, 375.2, 35.4, True, "Apache-2.0"),
        repository="timm/ViT-B-16-SigLIP2",
    ),
    Entry(
        *("open_clip:ViT-SO400M-14-SigLIP2/webli", 224, 1135.5, 220.4, True, "Apache-2.0"),
        repository="timm/ViT-SO400M-14-SigLIP2",
    ),
    Entry(
        *("open_clip:MobileCLIP2-S0/dfndr2b", 256, 74.8, 4.8, True, "Apple's own", 0.803),
        repository="timm/MobileCLIP2-S0-OpenCLIP",
    ),
    Entry(
        *("open_clip:MobileCLIP2-S4/dfndr2b", 256, 445.4, 55.5, True, "Apple's own", 0.825),
        repository="timm/MobileCLIP2-S4-OpenCLIP",
    ),
    Entry(
        *("open_clip:PE-Core-B-16/meta", 224, 447.7, 35.6, False, "Apache-2.0"),
        repository="timm/PE-Core-B-16",
    ),
)
"""Accuracies are published figures that nobody has measured with ccd."""
