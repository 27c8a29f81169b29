"""In which floating-point format networks are trained and run on a device."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "float32", "bfloat16"]

CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""What /proc/cpuinfo calls bfloat16 arithmetic: x86 vectors, x86 tiles, Arm."""


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Format of the expensive operations: bfloat16, or None for plain float32.

    "auto" is bfloat16 where the device computes with it; elsewhere it is emulated, and slower than float32.
    """
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; False where that cannot be found out."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_flag(CPU_FLAGS)


def inference_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Format of the expensive operations of a network that is not trained; see `autocast_dtype`.

    "auto" is bfloat16 on a CPU only where it has matrix units for it (AMX). With vectors alone (AVX-512), a network with
    fused activations was faster in float32: 14 to 17 % on EfficientNet-Lite, whose time goes into its activations.
    """
    if precision == "auto" and device.type == "cpu" and not has_flag({"amx_bf16"}):
        return None
    return autocast_dtype(precision, device)


def has_flag(names: set[str]) -> bool:
    """Whether the CPU can do any of these; False where that cannot be found out."""
    description = Path("/proc/cpuinfo")
    return description.exists() and bool(names & set(description.read_text().split()))


def autocast(
    network: nn.Module | Callable[[Tensor], Tensor], dtype: torch.dtype | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Forward pass with the expensive operations in `dtype`; None: all in float32."""

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return network(images)

    return forward
