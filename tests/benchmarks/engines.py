"""Milliseconds per photo of frozen backbones, by engine, in one run.

    python tests/benchmarks/engines.py [lite0 lite2 resnet50] [--size 320 --batch-size 16 --threads 2]

Engines take turns and the medians count. "torch, eager" is the network as it is trained; the other rows give their
largest relative difference from it. Engines that are not installed are left out.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pipeline.classifier.engines import PACKAGES, run_of
from pipeline.classifier.network import build_classifier
from pipeline.system.memory import keep_freed_memory
from pipeline.system.precision import autocast

Run = Callable[[Tensor], Tensor]


def engines_of(network: nn.Module, device: torch.device) -> dict[str, Run]:
    """Ways to run a network on this machine, by name."""
    ways: dict[str, Run] = {
        "torch, eager": network,
        "torch, eager, bfloat16": autocast(network, torch.bfloat16, device),
        "torch": run_of(network, device),
        "torch, bfloat16": run_of(network, device, torch.bfloat16),
    }
    if device.type != "cpu":
        return ways
    for engine, packages in PACKAGES.items():
        if all(find_spec(name) for name in packages):
            ways[engine] = run_of(network, device, engine=engine)
            if engine == "openvino":
                ways["openvino, bfloat16"] = run_of(network, device, torch.bfloat16, engine=engine)
    return ways


def seconds(run: Run, images: Tensor) -> float:
    """Seconds of one call: of the processor with one thread, as other programs do not change it, else of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 and images.device.type == "cpu" else time.perf_counter
    start = clock()
    run(images).sum().item()
    return clock() - start


@torch.inference_mode()
def main() -> None:
    """Measure every engine in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=["lite0", "lite2", "resnet50"])
    parser.add_argument("--size", type=int, default=320, help="pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    title = f"{options.size} px, batches of {options.batch_size}, {options.device}, {options.threads} threads"
    table = Table("backbone", "engine", "ms per photo", "times as fast", "difference", title=title)
    images = torch.rand(options.batch_size, 3, options.size, options.size, device=device) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    for backbone in options.backbones:
        model = build_classifier(backbone, 20, boost=3.0, pretrained=backbone.startswith("lite"))
        network = model.stages.eval().to(device, memory_format=torch.channels_last)
        ways = engines_of(network, device)
        expected = network(images).float()
        differences = {name: (run(images).float() - expected).norm() / expected.norm() for name, run in ways.items()}
        rounds = [{name: seconds(run, images) for name, run in ways.items()} for _ in range(options.rounds)]
        medians = {name: statistics.median(each[name] for each in rounds) for name in ways}
        for name, median in medians.items():
            table.add_row(
                backbone,
                name,
                f"{1e3 * median / options.batch_size:.1f}",
                f"{medians['torch, eager'] / median:.2f}",
                f"{differences[name]:.0e}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
