"""A classifier file to a model folder for the Hugging Face Hub: weights, config, cards and a loader."""

import io
import json
import runpy
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint
from pipeline.classifier.backbones import TokenMap
from pipeline.classifier.inference import load_classifier
from pipeline.classifier.network import CamNet
from pipeline.classifier.towers.embedding_map import EmbeddingMap
from pipeline.deploy.classifier import Classifier
from pipeline.deploy.export import TOLERANCE, Scorer, check_recipe, largest_difference, preprocessing, recipe, trace
from pipeline.evaluation.run_files import RunFiles, read_run
from pipeline.evaluation.tables import sources_of
from pipeline.exchange.formats.export import markdown
from pipeline.method.extras.thresholds import PRESENT
from pipeline.runs.folders import check_free
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing_folder
from pipeline.system.progress import log

LOADER = '''\
"""Print the scores of a photo: `python load.py photo.jpg`. Needs torch and timm with their dependencies."""

import json
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

# RECIPE

here = Path(__file__).parent
config = json.loads((here / "config.json").read_text(encoding="utf-8"))
weights = load_file(here / "model.safetensors")
if config["architecture"]:
    backbone = timm.create_model(config["architecture"], pretrained=False, num_classes=0, global_pool="").eval()
    backbone.load_state_dict({name[9:]: value for name, value in weights.items() if name.startswith("backbone.")})
else:
    backbone = torch.export.load(here / "backbone.pt2").module()


@torch.no_grad()
def scores(path):
    """Class name to score in [0, 1]."""
    pixels = torch.from_numpy(load_square(path, config["size"][0], config["preprocessing"]["resample"]))
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    features = backbone(((pixels - mean) / std)[None])
    maps = torch.nn.functional.conv2d(features, weights["head.weight"], weights["head.bias"])
    logits = torch.where(maps > 0, config["boost"] * maps, maps).mean((2, 3))[0]
    if config["teacher"]:
        logits = weights["learned_weight"] * logits + (1 - weights["learned_weight"]) * teacher(features[0])
    probabilities = (weights["scale"] * logits + weights["offset"]).sigmoid()
    return dict(zip(config["class_names"], probabilities.tolist(), strict=True))


def teacher(features):
    """Logits of the zero-shot teacher, of feature maps [E, h, w]: log of its score of the whole map and of its best cells."""
    own = {name[8:]: value for name, value in weights.items() if name.startswith("teacher.")}
    cells = features.flatten(1).T
    if config["teacher"]["imagenet"]:
        vectors = torch.cat([cells.mean(0, keepdim=True), cells])
        vectors = (vectors @ own["imagenet.weight"].T + own["imagenet.bias"]).softmax(-1) @ own["words"]
    else:  # the maps are embeddings, those of the cells before that of the whole image
        size = config["teacher"]["size"]
        vectors = torch.cat([cells[:1, -size:], cells[:, :size]])
    embeddings = torch.nn.functional.normalize(vectors, dim=-1)
    logits = (embeddings @ own["text"].T)[:, own["texts_of"]].amax(-1) + own["logit_bias"]
    probabilities = logits.sigmoid() if config["teacher"]["sigmoid"] else logits.softmax(-1)
    probabilities = probabilities[:, : len(config["class_names"])]
    best = probabilities[1:].topk(max(round(config["teacher"]["cell_share"] * len(cells)), 1), dim=0).values.mean(0)
    weight = config["teacher"]["cell_weight"]
    scores = (1 - weight) * probabilities[0] / own["bias"] + weight * best / own["cell_bias"]
    return own["scale"] * scores.clamp(min=1e-6).log() + own["offset"]


if __name__ == "__main__":
    for name, score in scores(sys.argv[1]).items():
        print(f"{score:.3f} {'*' if score >= config['thresholds'][name] else ' '} {name}")
'''


class Rebuilt(nn.Module):
    """The classifier as `load.py` builds it, to compare it with the original.

    Args:
        backbone: normalised images to maps.
        weights: see `named_weights`.
        net: the original.
    """

    def __init__(self, backbone: nn.Module, weights: dict[str, Tensor], net: CamNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.weights, self.net = weights, net

    def forward(self, images: Tensor) -> Tensor:
        """Scores Tensor[B, C] of float Tensor[B, 3, S, S] in [0, 1]."""
        features = self.backbone((images - self.net.mean) / self.net.std)
        maps = nn.functional.conv2d(features, self.weights["head.weight"], self.weights["head.bias"])
        logits = torch.where(maps > 0, self.net.boost * maps, maps).mean(dim=(2, 3))
        if self.net.teacher is not None:
            learned = self.weights["learned_weight"]
            logits = learned * logits + (1 - learned) * self.net.teacher(features)
        return (self.weights["scale"] * logits + self.weights["offset"]).sigmoid()


def bare_backbone(architecture: str) -> nn.Module:
    """A timm model without pooling and classification layer, in eval mode, as `load.py` creates it.

    Raises:
        PipelineError: timm cannot build it without its head.
    """
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="").eval()
    except AssertionError as error:
        raise PipelineError(
            f"timm's {architecture} cannot be built without its head. Export to ONNX instead."
        ) from error


def rebuilt_backbone(architecture: str, weights: dict[str, Tensor]) -> nn.Module:
    """The backbone with the weights of `named_weights`."""
    backbone = bare_backbone(architecture)
    backbone.load_state_dict({k[9:]: v for k, v in weights.items() if k.startswith("backbone.")})
    return backbone


def exported_backbone(net: CamNet, size: int) -> bytes:
    """The backbone as a torch.export archive, normalised images Tensor[B, 3, size, size] to maps."""
    buffer = io.BytesIO()
    torch.export.save(trace(net.stages, size), buffer)
    return buffer.getvalue()


def architecture_of(net: CamNet, backbone: str) -> str:
    """The timm name of a backbone of `pipeline.classifier.backbones.BACKBONES`; empty if timm's own returns no maps."""
    if isinstance(net.stages[0], EmbeddingMap | TokenMap):
        return ""
    return f"tf_efficientnet_{backbone}" if backbone.startswith("lite") else backbone.removeprefix("timm:")


def named_weights(net: CamNet, architecture: str) -> dict[str, Tensor]:
    """The weights by name: `backbone.` and timm's name, unless the architecture is empty, `head.`, `scale` and `offset`.

    The stages of a classifier are the modules of timm (for ResNets, of torchvision) in their order.

    Raises:
        PipelineError: the shapes differ from those of timm.
    """
    weights = {}
    if architecture:
        names, values = bare_backbone(architecture).state_dict(), list(net.stages.state_dict().values())
        if [value.shape for value in names.values()] != [value.shape for value in values]:
            raise PipelineError(f"the weights are not those of timm's {architecture}. Export to ONNX instead.")
        weights = {f"backbone.{name}": value for name, value in zip(names, values, strict=True)}
    weights |= {f"head.{name}": value for name, value in net.head.state_dict().items()}
    weights |= {"scale": net.scale, "offset": net.offset}
    if net.teacher is not None:
        weights |= {f"teacher.{name}": value for name, value in net.teacher.state_dict().items()}
        weights["learned_weight"] = net.learned_weight
    return {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}


def config_of(checkpoint: Checkpoint, net: CamNet, architecture: str) -> dict[str, Any]:
    """The content of config.json."""
    size = checkpoint.image_size
    return {
        "architecture": architecture,
        "backbone": checkpoint.architecture["backbone"],
        "class_names": list(checkpoint.class_names),
        "thresholds": dict(zip(checkpoint.class_names, map(float, checkpoint.thresholds), strict=True)),
        "size": [size, size],
        "mean": net.mean.flatten().tolist(),
        "std": net.std.flatten().tolist(),
        "boost": float(net.boost),
        "teacher": checkpoint.architecture.get("teacher"),
        "preprocessing": {
            key: value for key, value in preprocessing(checkpoint).items() if key not in ("mean", "std", "code")
        },
        "fingerprint": checkpoint.provenance.fingerprint,
    }


def name_of(config: dict[str, Any]) -> str:
    """Name of the backbone, for people."""
    return config["architecture"] or f"the network in backbone.pt2 ({config['backbone']})"


def model_card(config: dict[str, Any], run: RunFiles | None) -> str:
    """README.md of the model."""
    lines = [
        *("---", "library_name: timm", "pipeline_tag: image-classification", "tags:", "- multi-label", "---", ""),
        "# Multi-label classifier trained without labels",
        "",
        f"Predicts which of {len(config['class_names'])} classes are in a photo: {name_of(config)} with a head of class "
        f"activation maps, {config['size'][0]} x {config['size'][1]} pixels. A vision-language teacher made the training "
        "labels (classifier-guided CLIP distillation, arXiv 2503.16873). DATA.md describes the photos.",
        "",
        "`python load.py photo.jpg` prints the scores of a photo. It needs torch and timm only.",
        "",
    ]
    if run is not None and run.metrics is not None and sources_of(run.metrics):
        lines += ["| images | source | mAP | 95 % interval |", "|---|---|---|---|"]
        for split, name, figures in sources_of(run.metrics):
            low, high = figures.get("mAP_interval", (None, None))
            interval = figures.get("no_interval", "") if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
            lines.append(f"| {figures['images']} {split} | {name} | {100 * figures['mAP']:.1f} | {interval} |")
        conventions = run.metrics["conventions"]
        lines += [
            "",
            f"Difficult objects: {conventions['difficult']}; a class without positives: {conventions['empty_class']}.",
            "",
        ]
    else:
        lines += ["It has not been evaluated against ground truth.", ""]
    other = {name: value for name, value in config["thresholds"].items() if value != PRESENT}
    lines += [f"The threshold of a class is {PRESENT}{', except for:' if other else '.'}", ""]
    if other:
        lines += ["| class | threshold |", "|---|---|"]
        lines += [f"| {markdown(name)} | {value:.3f} |" for name, value in other.items()] + [""]
    lines += [f"Fingerprint: {config['fingerprint']}."]
    return "\n".join(lines) + "\n"


def data_card(run: RunFiles | None) -> str:
    """DATA.md: the photos and the source of their labels."""
    if run is None:
        return "# Training photos\n\nThe run of this classifier was not available for the export, so its photos are unknown.\n"
    counts = run.manifest.images["split"].value_counts()
    with_truth = [name for name, provenance in run.provenances.items() if provenance.uses_ground_truth]
    by_hand = "" if run.final is None else run.final.by_hand
    lines = [
        *("# Training photos", ""),
        f"{counts.get('train', 0):,} train and {counts.get('test', 0):,} test photos of {markdown(run.manifest.dataset)}; "
        f"{len(run.manifest.skipped)} could not be read.",
        "",
        f"Labels of the train photos: made by the teacher and the classifier; corrected by people: {by_hand or 'none'}. "
        + (f"Ground truth was used in {', '.join(with_truth)}." if with_truth else "No other human label was used."),
        "",
    ]
    if run.final is not None:
        present = (run.final.labels >= PRESENT).sum(0)
        lines += ["| class | train photos with the label |", "|---|---|"]
        lines += [f"| {markdown(name)} | {n:,} |" for name, n in zip(run.final.class_names, present, strict=True)]
        lines.append("")
    lines += ["| file | fingerprint | options |", "|---|---|---|"]
    for name, provenance in run.provenances.items():
        lines.append(f"| {name} | {provenance.fingerprint} | {markdown(json.dumps(dict(provenance.config)))} |")
    return "\n".join(lines) + "\n"


def run(classifier_path: Path, out: Path | None = None, *, force: bool = False) -> Path:
    """Write the folder and return its path; nothing is uploaded.

    Args:
        classifier_path: file of a classifier; the cards describe the run in its folder.
        out: folder; None for `hub` next to the classifier.
        force: replace the folder if ccd wrote all files in it.

    Raises:
        PipelineError: the classifier is missing, its backbone is not from timm, the weights give other scores, or the
            folder exists.
    """
    from safetensors.torch import save

    out = out or classifier_path.with_name("hub")
    check_free(out, force=force, folder=True)
    checkpoint = read_checkpoint(classifier_path)
    # torch.export cannot store channels-last weights
    net = load_classifier(checkpoint).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    architecture = architecture_of(net, checkpoint.architecture["backbone"])
    weights = named_weights(net, architecture)
    archive = b"" if architecture else exported_backbone(net, checkpoint.image_size)
    backbone = (
        rebuilt_backbone(architecture, weights) if architecture else torch.export.load(io.BytesIO(archive)).module()
    )
    difference = largest_difference(Scorer(net), Rebuilt(backbone, weights, net), checkpoint.image_size)
    if not difference <= TOLERANCE:
        raise PipelineError(
            f"the weights under timm's names give scores that differ by {difference:.1e} from those of {classifier_path}, "
            f"expected at most {TOLERANCE:.0e}. Nothing was written."
        )
    folder = classifier_path.parent
    files = read_run(folder) if (folder / "manifest.csv").exists() else None
    config = config_of(checkpoint, net, architecture)
    with replacing_folder(out) as target:
        (target / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        if archive:
            (target / "backbone.pt2").write_bytes(archive)
        for name, text in (
            ("config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n"),
            ("load.py", LOADER.replace("# RECIPE\n", recipe())),
            ("README.md", model_card(config, files)),
            ("DATA.md", data_card(files)),
        ):
            (target / name).write_text(text, encoding="utf-8")
        scores = runpy.run_path(str(target / "load.py"))["scores"]
        check_recipe(Classifier(checkpoint), lambda path: list(scores(path).values()), "load.py")
    log(f"{out}: weights, config.json, load.py and two cards. Scores within {difference:.1e} of the classifier's.")
    return out
