"""Inference engines for frozen networks.

Batch norms are folded into the convolutions before them, which changes only the last digits. It saves 16 to 25 %
of the CPU time of Lite2 at 224 px, and the backbone takes 58 % of `ccd all` on the demo. Fusing activations as well, with
a private operator of torch, would save only 3 to 7 % more.
"""

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.classifier.towers.embedding_map import EmbeddingMap
from pipeline.system.errors import PipelineError, hint
from pipeline.system.precision import autocast

Engine = Literal["auto", "torch", "onnxruntime", "openvino"]
Run = Callable[[Tensor], Tensor]
"""Images Tensor[B, C, H, W] to the output of a network."""

CPU_PIXELS = 2 * 320**2
"""Pixels per forward on a CPU: the maps between the layers of more do not fit in its cache, and memory decides the time."""

PACKAGES = {"onnxruntime": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino",)}
"""Packages that an engine needs in addition to torch."""
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


def run_of(network: nn.Module, device: torch.device, dtype: torch.dtype | None = None, engine: Engine = "auto") -> Run:
    """A function that runs a copy of a network with its present weights.

    Args:
        network: convolutional, in eval mode, on its device.
        device: device of the network and of the images.
        dtype: dtype of the expensive operations; None for float32.
        engine: "auto" is `$CCD_ENGINE`, by default "torch" on every device, so that the installed packages do not
            change the results.

    Raises:
        PipelineError: the engine is unknown, its packages are missing, or it runs only on CPUs and the device is not
            one.
    """
    if engine == "auto":
        engine = engine_of_environment()
    if engine in PACKAGES:
        check_engine(engine, device)
        plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        return onnxruntime_run(plain) if engine == "onnxruntime" else openvino_run(plain, dtype)
    return torch_run(network, device, dtype)


def engine_of_environment() -> Engine:
    """The engine that `$CCD_ENGINE` names; "torch" if it is unset or "auto"."""
    name = os.environ.get("CCD_ENGINE") or "auto"
    if name not in get_args(Engine):
        raise PipelineError(f"CCD_ENGINE is {name!r}, which is not an engine. {hint(name, get_args(Engine))}")
    return "torch" if name == "auto" else name


def check_engine(engine: str, device: torch.device) -> None:
    """Raise unless an engine's packages are installed and the device is a CPU."""
    missing = [name for name in PACKAGES[engine] if find_spec(name) is None]
    if missing:
        raise PipelineError(
            f"the engine {engine} needs {', '.join(missing)}. "
            f"Install with `pip install '.[{EXTRAS[engine]}]'`, or use the engine torch."
        )
    if device.type != "cpu":
        raise PipelineError(
            f"the engine {engine} runs only on a CPU, not on {device}. Use the device cpu or the engine torch."
        )


def torch_run(network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Run:
    """The network with folded batch norms; on a CPU for `CPU_PIXELS` at a time, but for the towers of teachers."""
    forward = autocast(fuse(network).to(memory_format=torch.channels_last), dtype, device)
    sliced = device.type == "cpu" and not any(isinstance(each, EmbeddingMap) for each in network.modules())

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        count = max(CPU_PIXELS // (images.shape[2] * images.shape[3]), 1) if sliced else len(images)
        if len(images) <= count:
            return forward(images)
        return torch.cat([forward(part) for part in images.split(count)])

    return run


class Tracer(fx.Tracer):
    """Keeps convolutions and batch norms, including timm's subclasses, as single nodes, and the towers of teachers.

    The results of a tower are those of the teacher, bit for bit.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d | EmbeddingMap) or super().is_leaf_module(
            m, module_qualified_name
        )


def fuse(network: nn.Module) -> nn.Module:
    """A copy for inference with batch norms folded into the convolutions before them.

    A network in eval mode whose forward pass cannot be traced is copied unchanged.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    try:
        graph = Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError):
        return network  # control flow that depends on the input; only slower
    traced = fx.GraphModule(network, graph)
    modules = dict(traced.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        convolution = only_source(node, modules, calls)
        if convolution is not None and isinstance(modules.get(node.target), nn.BatchNorm2d):
            fold(traced, modules, convolution, node)
    graph.lint()
    traced.recompile()
    return traced


def only_source(node: fx.Node, modules: dict[str, nn.Module], calls: Sequence[str]) -> fx.Node | None:
    """The convolution before a node, if it is called once and only this node uses its results."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    return source if isinstance(modules[source.target], nn.Conv2d) and calls.count(source.target) == 1 else None


def fold(traced: fx.GraphModule, modules: dict[str, nn.Module], convolution: fx.Node, norm: fx.Node) -> None:
    """Fold a batch norm into the convolution before it; keeps the activation of timm's batch norms."""
    own, old = modules[convolution.target], modules[norm.target]
    folded = fuse_conv_bn_eval(own, old)
    own.weight, own.bias = folded.weight.requires_grad_(False), folded.bias.requires_grad_(False)
    replace_module(traced, modules, norm.target, getattr(old, "act", nn.Identity()))
    if isinstance(modules[norm.target], nn.Identity):
        norm.replace_all_uses_with(convolution)
        traced.graph.erase_node(norm)


def replace_module(traced: fx.GraphModule, modules: dict[str, nn.Module], target: str, new: nn.Module) -> None:
    """Replace a module of a traced network."""
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, new)
    modules[target] = new


def onnxruntime_run(network: nn.Module) -> Run:
    """The network in ONNX Runtime, exported at the first batch of each image size."""
    sessions: dict[tuple[int, ...], Run] = {}

    def run(images: Tensor) -> Tensor:
        shape = tuple(images.shape[1:])
        if shape not in sessions:
            sessions[shape] = onnxruntime_session(network, shape)
        return sessions[shape](images)

    return run


def onnxruntime_session(network: nn.Module, shape: tuple[int, ...]) -> Run:
    """The network for batches of any length of images of one size."""
    import onnxruntime

    example = torch.zeros(2, *shape)  # two: torch exports a size of one as a constant
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(
        network, (example,), dynamo=True, input_names=["images"], dynamic_shapes=(batch,), verbose=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


def openvino_run(network: nn.Module, dtype: torch.dtype | None) -> Run:
    """The network in OpenVINO, for images of any size."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # `openvino.convert_model` does the same, but sends telemetry over the network
    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about OpenVINO's use of TorchScript
        decoder = TorchScriptPythonDecoder(network, example_input=torch.zeros(2, 3, 64, 64))
    model = frontend.convert(frontend.load(decoder))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # all processes of torchrun would use the first cores
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    # copy, because the next call overwrites the result
    return lambda images: torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())
