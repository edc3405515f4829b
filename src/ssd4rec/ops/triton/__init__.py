"""Triton kernels: whether they can run for given tensors, and a lazy import.

Only modules of this package import Triton, and only `load_kernels` imports those modules.
"""

from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ssd4rec.array_types import Channels, StateInputs, StepSizes, Values
from ssd4rec.errors import BackendError

HEAD_WIDTHS, STATE_SIZES = (16, 32, 64), (16, 32, 64, 128)  # P and N of the kernels that have heads and states
CONVOLUTION_WIDTHS = (1, 2, 3, 4)  # K of `backward_prefix_readout`, whose kernels unroll the taps
MIN_CAPABILITY = (8, 0)  # compute capability (A100): bfloat16 and TF32 products
SUPPORTED_SIZES = f"head_width in {HEAD_WIDTHS} and state_dim in {STATE_SIZES}"


@cache
def available() -> bool:
    """Whether Triton is installed; torch for CUDA on Linux depends on it."""
    return find_spec("triton") is not None


def version() -> str | None:
    """Return the version of the installed Triton; None if it is not installed."""
    return metadata.version("triton") if available() else None


@cache
def capable(device: int) -> bool:
    """Whether a device is an NVIDIA GPU of MIN_CAPABILITY or later."""
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= MIN_CAPABILITY


def supports_dtype(x: Tensor) -> bool:
    """Whether the kernels support the type of x: floating point, at most 32 bits."""
    return x.is_floating_point() and x.element_size() <= 4


def can_run(x: Tensor) -> bool:
    """Whether the kernels can run on x: a supported type on a capable GPU, with Triton installed."""
    return x.is_cuda and supports_dtype(x) and available() and capable(x.device.index)


def supports_scan(x: Values, B: StateInputs) -> bool:
    """Whether the kernel of `scan` supports the type and sizes of x [T, H, P] and B [T, N]."""
    return supports_dtype(x) and x.shape[2] in HEAD_WIDTHS and B.shape[1] in STATE_SIZES


def supports_prefix_readout(channels: Channels, weight: Tensor, dt: StepSizes, state_dim: int) -> bool:
    """Whether `backward_prefix_readout` supports channels [T, E + 2N], weight [E + 2N, K] and dt [T, H]."""
    head_width, remainder = divmod(channels.shape[1] - 2 * state_dim, dt.shape[1])
    sizes = not remainder and head_width in HEAD_WIDTHS and state_dim in STATE_SIZES and weight.shape[1] in CONVOLUTION_WIDTHS
    return sizes and supports_dtype(channels)


def load_kernels(x: Tensor) -> Any:
    """Import `ops.triton.kernels`, the operations as Triton kernels.

    Args:
        x: a tensor that the kernels will be called with.

    Raises:
        BackendError: Triton is not installed, or x is on a CPU and Triton's interpreter is off.
    """
    if not available():
        raise BackendError("the CUDA kernels need Triton, which is not installed: install torch for CUDA, or use a CPU device")
    if x.device.type == "cpu" and not import_module("ssd4rec.ops.triton.common").interpreted():
        raise BackendError(
            "Triton kernels were requested for a CPU tensor, which only Triton's interpreter supports: set TRITON_INTERPRET=1 "
            'before Python starts, move the tensors to a GPU, or use torch (dispatch.use_backend("auto"))'
        )
    return import_module("ssd4rec.ops.triton.kernels")
