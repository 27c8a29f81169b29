"""Networks that are not trained, run on images by what is fastest on their device.

Measured on two cores (README, "Speed"): most of the time of a small convolutional network on a CPU goes into passes over
its activations, not into its products. So batch norms are folded into the convolutions before them, and activations are
made by the convolution itself while its results are still in the processor's cache; both change the last digits at most.
"""

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.system.errors import PipelineError, hint
from pipeline.system.precision import autocast

Engine = Literal["auto", "torch", "onnxruntime", "openvino"]
Run = Callable[[Tensor], Tensor]
"""Images Tensor[B, C, H, W] to what the network says of them."""

PACKAGES = {"onnxruntime": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino",)}
"""What an engine needs beyond torch."""
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


def run_of(network: nn.Module, device: torch.device, dtype: torch.dtype | None = None, engine: Engine = "auto") -> Run:
    """A function that runs a network as it now is; the network stays as it is, and may be trained further.

    Args:
        network: convolutional, in eval mode, on its device.
        device: where it lies and the function's images will.
        dtype: of the expensive operations; None for float32.
        engine: "auto" is `$CCD_ENGINE`, or else "torch" on every device: the digits depend on what was asked for, and
            not on what is installed.

    Raises:
        PipelineError: the engine's packages are missing, it runs on CPUs alone and the device is another, or
            there is no such engine.
    """
    if engine == "auto":
        engine = engine_of_environment()
    if engine in PACKAGES:
        check_engine(engine, device)
        plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        return onnxruntime_run(plain) if engine == "onnxruntime" else openvino_run(plain, dtype)
    return torch_run(network, device, dtype)


def engine_of_environment() -> Engine:
    """What `$CCD_ENGINE` names; "torch" where it is not set, or "auto".

    Raises:
        PipelineError: there is no such engine.
    """
    name = os.environ.get("CCD_ENGINE") or "auto"
    if name not in get_args(Engine):
        raise PipelineError(f"CCD_ENGINE is {name!r}, which is no engine. {hint(name, get_args(Engine))}")
    return "torch" if name == "auto" else name


def check_engine(engine: str, device: torch.device) -> None:
    """Raise unless an engine's packages are there and the device is a CPU."""
    missing = [name for name in PACKAGES[engine] if find_spec(name) is None]
    if missing:
        raise PipelineError(
            f"the engine {engine} needs {', '.join(missing)}. "
            f"Install with `pip install '.[{EXTRAS[engine]}]'`, or use the engine torch."
        )
    if device.type != "cpu":
        raise PipelineError(
            f"the engine {engine} runs on a CPU, found {device}. Use the device cpu or the engine torch."
        )


def torch_run(network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Run:
    """The network with folded batch norms and, on a CPU, fused activations."""
    fused = fuse(network, dtype if device.type == "cpu" else None, activations=device.type == "cpu")
    forward = autocast(fused.to(memory_format=torch.channels_last), dtype, device)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        return forward(images)

    return run


class Tracer(fx.Tracer):
    """Sees convolutions and batch norms whole, those that timm derives from torch's too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fuse(network: nn.Module, dtype: torch.dtype | None = None, activations: bool = True) -> nn.Module:
    """A copy for inference with batch norms in the convolutions before them and, if wanted, activations too.

    Args:
        network: in eval mode. One whose forward pass cannot be traced is copied as it is.
        dtype: of fused convolutions; None for float32.
        activations: also fuse what `FusedConvolution` can.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    try:
        graph = Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError):
        return network  # its path depends on its input; nothing is lost but speed
    traced = fx.GraphModule(network, graph)
    modules = dict(traced.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        convolution = only_source(node, modules, calls)
        if convolution is not None and isinstance(modules.get(node.target), nn.BatchNorm2d):
            fold(traced, modules, convolution, node)
    if activations and has_fused_convolution(dtype):
        for node in list(graph.nodes):
            convolution = only_source(node, modules, calls)
            activation = activation_of(node, modules)
            if convolution is not None and activation is not None:
                fused = fused_convolution(modules[convolution.target], activation, dtype)
                if fused is not None:
                    replace_module(traced, modules, convolution.target, fused)
                    node.replace_all_uses_with(convolution)
                    graph.erase_node(node)
    graph.lint()
    traced.recompile()
    return traced


def only_source(node: fx.Node, modules: dict[str, nn.Module], calls: Sequence[str]) -> fx.Node | None:
    """The convolution whose results only this node takes, where that is so."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    return source if isinstance(modules[source.target], nn.Conv2d) and calls.count(source.target) == 1 else None


def fold(traced: fx.GraphModule, modules: dict[str, nn.Module], convolution: fx.Node, norm: fx.Node) -> None:
    """Put a batch norm into the convolution before it; timm's has an activation, which stays."""
    own, old = modules[convolution.target], modules[norm.target]
    folded = fuse_conv_bn_eval(own, old)
    own.weight, own.bias = folded.weight.requires_grad_(False), folded.bias.requires_grad_(False)
    replace_module(traced, modules, norm.target, getattr(old, "act", nn.Identity()))
    if isinstance(modules[norm.target], nn.Identity):
        norm.replace_all_uses_with(convolution)
        traced.graph.erase_node(norm)


def replace_module(traced: fx.GraphModule, modules: dict[str, nn.Module], target: str, new: nn.Module) -> None:
    """Put a module into another's place."""
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, new)
    modules[target] = new


def activation_of(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, list[float]] | None:
    """What `FusedConvolution` calls an activation, with its parameters; None for anything else."""
    if node.op == "call_function" and node.target in (F.relu, torch.relu):
        return "relu", []
    module = modules.get(node.target) if node.op == "call_module" else None
    if isinstance(module, nn.ReLU):
        return "relu", []
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [float(module.min_val), float(module.max_val)]
    return ("swish", []) if isinstance(module, nn.SiLU) else None


class FusedConvolution(nn.Module):
    """A convolution that makes its activation itself, by the operator that torch's own compiler uses on CPUs.

    Args:
        convolution: its weights are shared.
        activation: the operator's name of an activation, and its parameters.
        dtype: of the weights; None for float32.
        same: pad as TensorFlow does, more at the right and the bottom.
    """

    def __init__(
        self, convolution: nn.Conv2d, activation: tuple[str, list[float]], dtype: torch.dtype | None, same: bool
    ) -> None:
        super().__init__()
        dtype = dtype or torch.float32
        self.register_buffer("weight", convolution.weight.detach().to(dtype, memory_format=torch.channels_last))
        bias = convolution.bias
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self._geometry = (convolution.kernel_size, convolution.stride, convolution.dilation)
        self._padding = [0, 0] if same else list(convolution.padding)
        self._groups = convolution.groups
        self._activation = activation
        self._same = same

    def forward(self, images: Tensor) -> Tensor:
        """Tensor[B, C, H, W] to Tensor[B, D, h, w]."""
        images = images.to(self.weight.dtype)
        _, stride, dilation = self._geometry
        if self._same:
            images = F.pad(images, self._same_padding(images.shape[-2:]))
        name, values = self._activation
        return torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, self._padding, list(stride), list(dilation), self._groups, name, values, ""
        )

    def _same_padding(self, size: Sequence[int]) -> list[int]:
        sides: list[int] = []
        for length, kernel, stride, dilation in zip(size, *self._geometry, strict=True):
            missing = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
            sides = [missing // 2, missing - missing // 2, *sides]  # F.pad begins with the last dimension
        return sides


def fused_convolution(
    convolution: nn.Conv2d, activation: tuple[str, list[float]], dtype: torch.dtype | None
) -> nn.Module | None:
    """The two as one, or None for a kind of convolution that is not known."""
    same = type(convolution).__name__ == "Conv2dSame"  # timm's; importing timm to ask would take seconds
    if not same and (type(convolution) is not nn.Conv2d or isinstance(convolution.padding, str)):
        return None
    if convolution.padding_mode != "zeros":
        return None
    return FusedConvolution(convolution, activation, dtype, same)


@cache
def has_fused_convolution(dtype: torch.dtype | None = None) -> bool:
    """Whether torch has the operator behind `FusedConvolution` here, and it does what is expected of it.

    In bfloat16 it wants a CPU with AVX-512; torch's own convolutions do without.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(shape, generator=generator) for shape in ((2, 4, 6, 6), (8, 2, 3, 3)))
    convolution = nn.Conv2d(4, 8, 3, groups=2, bias=False)
    convolution.weight.data.copy_(weight)
    with torch.inference_mode():
        try:
            found = FusedConvolution(convolution, ("hardtanh", [0.0, 6.0]), dtype, False)(images)
        except (RuntimeError, NotImplementedError):  # built without oneDNN, or another CPU
            return False
        return torch.allclose(found.float(), F.relu6(convolution(images)), atol=0.05 if dtype else 1e-5)


def onnxruntime_run(network: nn.Module) -> Run:
    """The network in ONNX Runtime; each size of image is exported when it first comes."""
    sessions: dict[tuple[int, ...], Run] = {}

    def run(images: Tensor) -> Tensor:
        shape = tuple(images.shape[1:])
        if shape not in sessions:
            sessions[shape] = onnxruntime_session(network, shape)
        return sessions[shape](images)

    return run


def onnxruntime_session(network: nn.Module, shape: tuple[int, ...]) -> Run:
    """The network for images of one size, any number of them."""
    import onnxruntime

    example = torch.zeros(2, *shape)  # two: torch takes a size of one for a constant
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

    # `openvino.convert_model` does the same, and tells its makers over the network
    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about how OpenVINO looks at the network
        decoder = TorchScriptPythonDecoder(network, example_input=torch.zeros(2, 3, 64, 64))
    model = frontend.convert(frontend.load(decoder))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # processes of torchrun would all sit on the first cores
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    # a copy: the next call writes over the result
    return lambda images: torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())
