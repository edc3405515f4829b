"""The door to Triton: everything that imports it is in this folder, and is imported only when a kernel is asked for.

serves(x)           may the kernels be used for this tensor? (on a capable GPU, of at most 32 bits; Triton installed)
scans(x, B)         is there a kernel for these sizes?
version()           of Triton, None if it is not installed
scan, convolve, convolve_both_ways, linear_cross_entropy, gated_norm
"""

from functools import cache
from importlib import metadata
from importlib.util import find_spec

import torch
from torch import Tensor

from ssd4rec.errors import BackendError
from ssd4rec.ops.segments import Layout
from ssd4rec.shapes import Channels, Hidden, Rates, StateInputs, StateReads, StepSizes, Values

HEAD_WIDTHS, STATE_SIZES = (16, 32, 64), (16, 32, 64, 128)  # P and N of the scan's kernels
LEAST = (8, 0)  # compute capability (A100): bfloat16 and TF32 products
SERVED = f"head_width in {HEAD_WIDTHS} and state_dim in {STATE_SIZES}"


@cache
def available() -> bool:
    """Is Triton installed? torch for CUDA on Linux brings it."""
    return find_spec("triton") is not None


def version() -> str | None:
    """Of the installed Triton; None if there is none."""
    return metadata.version("triton") if available() else None


@cache
def capable(device: int) -> bool:
    """Is this an NVIDIA GPU of LEAST or later? Asked once a device."""
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= LEAST


def serves(x: Tensor) -> bool:
    """Can the kernels of this folder work on x: is it on a capable GPU, of at most 32 bits, and is Triton installed?"""
    return x.is_cuda and x.is_floating_point() and x.element_size() <= 4 and available() and capable(x.device.index)


def scan(
    x: Values,
    dt: StepSizes,
    A: Rates,
    B: StateInputs,
    C: StateReads,
    D: Rates,
    layout: Layout,
    *,
    reverse: bool = False,
) -> Values:
    """`ops.chunked.chunked_scan` as kernels; see `ssd.scan`.

    Args:
        x: [T, H, P] values.
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        B: [T, N].
        C: [T, N].
        D: [H] skip weights.
        layout: of the row.
        reverse: read each history from its last event to its first.

    Returns:
        y [T, H, P] in x's type.

    Raises:
        BackendError: Triton is not installed.
        ShapeError: there are no kernels for these sizes or this type.
    """
    _require()
    from ssd4rec.ops.triton import ssd  # noqa: PLC0415 - imports triton

    y: Values = ssd.scan(x, dt, A, B, C, D, layout, reverse=reverse)
    return y


def scans(x: Values, B: StateInputs) -> bool:
    """Does `scan` take x [T, H, P] and B [T, N]: their type and sizes?"""
    return x.is_floating_point() and x.element_size() <= 4 and x.shape[2] in HEAD_WIDTHS and B.shape[1] in STATE_SIZES


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """`ops.convolution.convolve` as one kernel; see `convolution.convolve`.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
        reverse: read t+k in place of t-k.

    Raises:
        BackendError: Triton is not installed.
    """
    _require()
    from ssd4rec.ops.triton import convolution  # noqa: PLC0415 - imports triton

    out: Channels = convolution.convolve(channels, weight, bias, layout, reverse=reverse)
    return out


def convolve_both_ways(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout) -> tuple[Channels, Channels]:
    """`convolve` forwards and reversed from one read of the channels.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.

    Raises:
        BackendError: Triton is not installed.
    """
    _require()
    from ssd4rec.ops.triton import convolution  # noqa: PLC0415 - imports triton

    both: tuple[Channels, Channels] = convolution.convolve_both_ways(channels, weight, bias, layout)
    return both


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """`ops.softmax.linear_cross_entropy` without the scores of all rows; see `softmax.linear_cross_entropy`.

    Args:
        states: [M, D], one row a target.
        table: [V, D], one row a class.
        targets: int64 [M], 0-based rows of the table.

    Raises:
        BackendError: Triton is not installed.
        ShapeError: states and targets are not of one length.
    """
    _require()
    from ssd4rec.ops.triton import softmax  # noqa: PLC0415 - imports triton

    return softmax.linear_cross_entropy(states, table, targets)


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """RMSNorm(y SiLU(gate)) weight in one pass; see `gate.gated_norm`.

    Args:
        y: [rows, E].
        gate: [rows, E], z.
        weight: [E].
        eps: of the norm.

    Raises:
        BackendError: Triton is not installed.
    """
    _require()
    from ssd4rec.ops.triton import gate as kernels  # noqa: PLC0415 - imports triton

    out: Hidden = kernels.gated_norm(y, gate, weight, eps)
    return out


def _require() -> None:
    if not available():
        raise BackendError("the CUDA kernels need Triton, which is not installed: install torch for CUDA, or use a CPU device")
