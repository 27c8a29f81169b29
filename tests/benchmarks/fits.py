"""Images per second of networks by precision, memory layout, compilation and batch size, as a share of the device's peak.

    python tests/benchmarks/fits.py [RN50x64 ViT-B/32 lite2 resnet101] [--most 512] [--device cuda]

The weights are random. A batch size doubles until it no longer fits or `--most` is reached. The peak is the rate of a large
matrix product in the same precision. Without CUDA nothing is measured, unless you pass `--device cpu`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.classifier.network import build_classifier

sys.path.insert(0, str(Path(__file__).parents[1]))
from worlds.random_clip import SHAPES, random_clip

SIDES = {"lite2": 320, "resnet101": 448}
"""Side of the images in pixels; a CLIP has its own, other networks have 224."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """How a network runs."""

    precision: str
    channels_last: bool = False
    compiled: bool = False
    graph: bool = False

    @property
    def name(self) -> str:
        """In words."""
        parts = {"channels last": self.channels_last, "torch.compile": self.compiled, "CUDA graph": self.graph}
        return ", ".join([self.precision, *(part for part, is_on in parts.items() if is_on)])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and images."""
        return getattr(torch, self.precision)


def ways_of(device: torch.device) -> list[Way]:
    """Ways to run a network on a device: one change after the other."""
    if device.type != "cuda":
        return [Way("float32"), Way("float32", channels_last=True), Way("bfloat16", channels_last=True)]
    plain = [Way(precision, layout) for precision in ("float32", "bfloat16", "float16") for layout in (False, True)]
    return [*plain, Way("float16", True, compiled=True), Way("float16", True, graph=True)]


def network_of(name: str) -> tuple[nn.Module, int]:
    """A network with random weights, and the side of its images."""
    if name in SHAPES:
        tower = random_clip(name).visual
        return tower, tower.input_resolution
    return build_classifier(name, 80, boost=3.0, pretrained=False).stages, SIDES.get(name, 224)


def graphed(run: Run, images: Tensor) -> Run:
    """`run` of images of this shape as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the first calls choose kernels, which a graph cannot record
        for _ in range(3):
            run(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    still = images.clone()
    with torch.cuda.graph(graph):
        result = run(still)

    def replay(images: Tensor) -> Tensor:
        still.copy_(images)
        graph.replay()
        return result

    return replay


def seconds(work: Callable[[], Tensor], least: float) -> float:
    """Mean seconds of one call, over calls of `least` seconds together, after two that do not count."""
    for _ in range(2):
        work().sum().item()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < least:
        work().sum().item()  # waits for the device
        calls += 1
    return (time.perf_counter() - start) / calls


def peak(precision: str, device: torch.device, least: float) -> float:
    """Operations per second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
    return 2 * side**3 / seconds(lambda: matrix @ matrix, least)


def rates(network: nn.Module, side: int, way: Way, device: torch.device, most: int, least: float) -> dict[int, float]:
    """Images per second of each batch size that fits; the network is moved and cast."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = network.eval().to(device, way.dtype).to(memory_format=layout)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()  # CLIP's computes in float32
    plain = torch.compile(network) if way.compiled else network
    found: dict[int, float] = {}
    size = 1
    while size <= most:
        try:
            images = torch.rand(size, 3, side, side, device=device, dtype=way.dtype).contiguous(memory_format=layout)
            run = graphed(plain, images) if way.graph else plain
            found[size] = size / seconds(lambda run=run, images=images: run(images), least)
        except torch.OutOfMemoryError:
            break
        except RuntimeError as error:
            if not (way.compiled or way.graph):
                raise
            # no compiler, or a graph that cannot be recorded: the other ways still count
            print(f"{way.name}, batch of {size}: {str(error).splitlines()[0]}")
            break
        size *= 2
    images = run = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


@torch.inference_mode()
def main() -> None:
    """Measure every way to run every network and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["RN50x64", "ViT-B/32", "lite2", "resnet101"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--most", type=int, default=512, help="largest batch size")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no CUDA device, so nothing was measured. `--device cpu` measures the CPU.")
        return
    torch.set_float32_matmul_precision("high")  # TF32, as convolutions have by default
    ways = ways_of(device)
    peaks = {each: peak(each, device, options.seconds) for each in dict.fromkeys(way.precision for way in ways)}
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(card, {precision: f"{rate / 1e12:.2f} TFLOP/s" for precision, rate in peaks.items()})
    for name in options.networks:
        network, side = network_of(name)
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, 3, side, side))
        operations = counter.get_total_flops()
        title = f"{name}, {side} px, {operations / 1e9:.3g} GFLOP per image"
        table = Table("way", "largest batch", "images/s", "at batch", "of the peak", title=title)
        for way in ways:
            found = rates(network, side, way, device, options.most, options.seconds)
            if not found:
                table.add_row(way.name, "none runs", "", "", "")
                continue
            best = max(found, key=found.__getitem__)
            largest = f"{max(found)}{'' if max(found) * 2 <= options.most else ' or more'}"
            share = found[best] * operations / peaks[way.precision]
            table.add_row(way.name, largest, f"{found[best]:.1f}", str(best), f"{share:.0%}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
