"""The door to Triton: everything that imports it is in this folder, and is imported only when a kernel is asked for.

serves(x), knows(x)  may the kernels be used for this tensor? (on a capable GPU, of at most 32 bits; Triton installed)
scans(x, B), reads_prefixes(channels, weight, dt, state_dim)         is there a kernel for these sizes?
version()           of Triton, None if it is not installed
scan, backward_prefix_readout, convolve, convolve_both_ways, linear_cross_entropy, gated_norm
"""

from functools import cache
from importlib import metadata
from importlib.util import find_spec

import torch
from torch import Tensor

from ssd4rec.array_types import Channels, Hidden, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.errors import BackendError
from ssd4rec.ops.segments import Layout

HEAD_WIDTHS, STATE_SIZES = (16, 32, 64), (16, 32, 64, 128)  # P and N of the kernels that have heads and states
CONVOLUTION_WIDTHS = (1, 2, 3, 4)  # K of `backward_prefix_readout`, whose kernels are written out for each tap
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


def knows(x: Tensor) -> bool:
    """Is x of a type that the kernels compute with: floating point, at most 32 bits?"""
    return x.is_floating_point() and x.element_size() <= 4


def serves(x: Tensor) -> bool:
    """Can the kernels of this folder work on x: is it on a capable GPU, of at most 32 bits, and is Triton installed?"""
    return x.is_cuda and knows(x) and available() and capable(x.device.index)


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
        BackendError: Triton is not installed, or the tensors are on a CPU and it does not interpret.
        ShapeError: there are no kernels for these sizes or this type.
    """
    _require(x)
    from ssd4rec.ops.triton import ssd  # noqa: PLC0415 - imports triton

    y: Values = ssd.scan(x, dt, A, B, C, D, layout, reverse=reverse)
    return y


def scans(x: Values, B: StateInputs) -> bool:
    """Does `scan` take x [T, H, P] and B [T, N]: their type and sizes?"""
    return knows(x) and x.shape[2] in HEAD_WIDTHS and B.shape[1] in STATE_SIZES


def backward_prefix_readout(
    channels: Channels,
    weight: Tensor,
    bias: Tensor,
    dt: StepSizes,
    A: Rates,
    D: Rates,
    layout: Layout,
    state_dim: int,
) -> Values:
    """`ops.prefixes.backward_prefix_readout` as kernels; see `prefixes.backward_prefix_readout`.

    Args:
        channels: [T, E + 2N] what the convolution reads: x, B and C side by side.
        weight: [E + 2N, K].
        bias: [E + 2N].
        dt: [T, H] step sizes, positive.
        A: [H] decay rates, negative.
        D: [H] skip weights.
        layout: of the row.
        state_dim: N.

    Returns:
        y [T, H, P] in the channels' type.

    Raises:
        BackendError: Triton is not installed, or the tensors are on a CPU and it does not interpret.
        ShapeError: there are no kernels for these sizes or this type.
    """
    _require(channels)
    from ssd4rec.ops.triton import prefixes  # noqa: PLC0415 - imports triton

    y: Values = prefixes.backward_prefix_readout(channels, weight, bias, dt, A, D, layout, state_dim)
    return y


def reads_prefixes(channels: Channels, weight: Tensor, dt: StepSizes, state_dim: int) -> bool:
    """Does `backward_prefix_readout` take channels [T, E + 2N], weight [E + 2N, K] and dt [T, H]: their type and sizes?"""
    head_width, rest = divmod(channels.shape[1] - 2 * state_dim, dt.shape[1])
    sizes = not rest and head_width in HEAD_WIDTHS and state_dim in STATE_SIZES and weight.shape[1] in CONVOLUTION_WIDTHS
    return sizes and knows(channels)


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """`ops.convolution.convolve` as one kernel; see `convolution.convolve`.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
        reverse: read t+k in place of t-k.

    Raises:
        BackendError: Triton is not installed, or the tensors are on a CPU and it does not interpret.
    """
    _require(channels)
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
        BackendError: Triton is not installed, or the tensors are on a CPU and it does not interpret.
    """
    _require(channels)
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
        BackendError: Triton is not installed, or the tensors are on a CPU and it does not interpret.
        ShapeError: states and targets are not of one length.
    """
    _require(states)
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
        BackendError: Triton is not installed, or the tensors are on a CPU and it does not interpret.
    """
    _require(y)
    from ssd4rec.ops.triton import gate as kernels  # noqa: PLC0415 - imports triton

    out: Hidden = kernels.gated_norm(y, gate, weight, eps)
    return out


def _require(x: Tensor) -> None:
    if not available():
        raise BackendError("the CUDA kernels need Triton, which is not installed: install torch for CUDA, or use a CPU device")
    if x.device.type == "cpu" and not _interprets():
        raise BackendError(
            "Triton's kernels were asked for on a CPU tensor, which only Triton's interpreter takes: set TRITON_INTERPRET=1 "
            'before Python starts, move the tensors to a GPU, or take torch\'s form (forms.using("auto"))'
        )


def _interprets() -> bool:
    from ssd4rec.ops.triton import common  # noqa: PLC0415 - imports triton

    return common.interpreted()
