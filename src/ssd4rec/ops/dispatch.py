"""Backend dispatch: run an operation in PyTorch, on any device, as Triton kernels on a GPU, or as numba kernels on a CPU.

Layers and models call these functions instead of a backend. Triton kernels run for CUDA tensors of at most 32 bits if Triton is
installed and has kernels for the sizes; numba's run in training steps on a CPU in float32 if numba is installed; PyTorch runs in
all other cases. The tests hold the backends equal.
The kernels use no atomics: on one device, the same inputs give the same bits.
`scan_last_position` (`ops.ssd.prefix_readout`) exists in PyTorch only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from ssd4rec.array_types import Channels, CuSeqlens, Hidden, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops import convolution, cross_entropy, numba, soft_targets, triton
from ssd4rec.ops import dropout as plain_dropout
from ssd4rec.ops import feed_forward as plain_feed_forward
from ssd4rec.ops import gated_norm as gated
from ssd4rec.ops.cross_entropy import AddedLogits
from ssd4rec.ops.gather import broadcast_first
from ssd4rec.ops.segments import Layout, autocasts_to_bfloat16, check_cu_seqlens, make_layout
from ssd4rec.ops.soft_targets import SoftTargets
from ssd4rec.ops.ssd import chunked, prefix_readout

Backend = Literal["auto", "torch", "triton", "numba"]

_backend: ContextVar[Backend] = ContextVar("backend", default="auto")


@contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Select the backend within a `with` block, for tests and benchmarks.

    Args:
        backend: "torch": never a kernel. "triton": kernels for tensors on any device, where the sizes are supported; on a CPU
            only Triton's interpreter can run them. "numba": its kernels for float32 tensors on a CPU, however few rows there
            are. "auto": by device.
    """
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def uses_triton(x: Tensor) -> bool:
    """Whether the kernels run for x, apart from unsupported sizes."""
    backend = _backend.get()
    return triton.can_run(x) if backend == "auto" else backend == "triton" and triton.supports_dtype(x)


def uses_numba(*tensors: Tensor) -> bool:
    """Whether numba's kernels run for the tensors of an operation."""
    backend = _backend.get()
    return numba.worth_it(*tensors) if backend == "auto" else backend == "numba" and numba.supports(*tensors)


def _numba_kernels(tensors: tuple[Tensor, ...], *widths: int) -> Any:
    """Return numba's kernels if they run for the tensors and have vectors for rows of these widths, else None."""
    if uses_numba(*tensors) and (kernels := numba.load_kernels()).whole_vectors(*widths):
        return kernels
    return None


def _kernels(tensors: tuple[Tensor, ...], *widths: int, in_triton: bool = True) -> Any:
    """Return the kernels that run for the tensors of an operation, else None; `in_triton`: Triton has one for the sizes."""
    if in_triton and uses_triton(tensors[0]):
        return triton.load_kernels(tensors[0])
    return _numba_kernels(tensors, *widths)


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
    """Run the SSD scan over every sequence; y stays at the position of its input. `ops.ssd.reference.scan` is the definition.

    With `reverse` each sequence is scanned from its last position to its first.

    Returns:
        y [T, H, P], differentiable in all six inputs; the kernels return it in the type of x, with decays and states in float32.
    """
    kernels = _kernels((x, dt, A, B, C, D), x.shape[2], B.shape[1], in_triton=triton.supports_scan(x, B))
    run = kernels.scan if kernels else chunked.chunked_scan
    return run(x, dt, A, B, C, D, layout, reverse=reverse)


def fading_sum(values: Hidden, log_decay: Tensor, cu_seqlens: CuSeqlens) -> Hidden:
    """Compute f_t = decay f_{t-1} + x_t over the positions of each sequence, with f = 0 before the first. [T, D] -> [T, D].

    It is the scan with one state, a constant step and B = C = 1; log_decay [1] is negative.

    Raises:
        ShapeError: cu_seqlens do not rise from 0.
    """
    if uses_numba(values, log_decay):
        check_cu_seqlens(cu_seqlens)
        return numba.load_kernels().fading_sum(values, log_decay, cu_seqlens)
    layout = make_layout(cu_seqlens, device=values.device)
    ones = values.new_ones(len(values), 1)
    return scan(values[:, None], ones, log_decay, ones, ones, torch.zeros_like(log_decay), layout)[:, 0]


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
    """Read out the reversed scan of every prefix at its last step, item 1; row t is the prefix that ends at position t.

    Args:
        channels: [T, E + 2N] input of the convolution: x, B and C side by side.
        weight: [E + 2N, K], see `convolve`.
        bias: [E + 2N].
        dt: [T, H], see `scan`.
        A: [H].
        D: [H].
        layout: of the packed batch.
        state_dim: N.

    Returns:
        y [T, H, P]; the kernels return it in the type of the channels, with decays and all sums in float32.
    """
    in_triton = triton.supports_prefix_readout(channels, weight, dt, state_dim)
    widths = (channels.shape[1] - 2 * state_dim) // len(D), state_dim
    module = _kernels((channels, weight, bias, dt, A, D), *widths, in_triton=in_triton) or prefix_readout
    return module.backward_prefix_readout(channels, weight, bias, dt, A, D, layout, state_dim)


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """Compute out_t = SiLU(bias + sum_k weight[K-1-k] in_{t-k}) over the positions t-k of the same sequence.

    Args:
        channels: [T, channels].
        weight: [channels, K]; the last column applies to the position itself.
        bias: [channels].
        layout: of the packed batch.
        reverse: use t+k in place of t-k, as if each sequence were reversed.
    """
    module = _kernels((channels, weight, bias), channels.shape[1]) or convolution
    return module.convolve(channels, weight, bias, layout, reverse=reverse)


def convolve_bidirectional(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout) -> tuple[Channels, Channels]:
    """Compute `convolve` in both directions; the kernels read the channels only once."""
    if uses_triton(channels):
        return triton.load_kernels(channels).convolve_bidirectional(channels, weight, bias, layout)
    forward, backward = (convolve(channels, weight, bias, layout, reverse=reverse) for reverse in (False, True))
    return forward, backward


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """Compute RMSNorm(y * SiLU(gate)) * weight. [rows, E], [rows, E], [E] -> [rows, E]."""
    module = _kernels((y, gate, weight), len(weight)) or gated
    return module.gated_norm(y, gate, weight, eps)


def gated_norm_of_both(
    y: Hidden, other: Hidden, gate: Hidden, weight: Tensor, eps: float, scale: float, layout: Layout
) -> Hidden:
    """Compute gated_norm(y, gate) + scale * gated_norm(other, the gate at the first position of the sequence).

    y [T, E] comes from the forward direction, other [T, E] from the backward direction of every prefix.
    """
    if kernels := _numba_kernels((y, other, gate, weight), len(weight)):
        return kernels.gated_norm_of_both(y, other, gate, weight, eps, scale, layout)
    return gated_norm(y, gate, weight, eps) + scale * gated_norm(other, broadcast_first(gate, layout), weight, eps)


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Zero each element with probability p and rescale the others so that the mean is unchanged; any shape.

    On a CPU p is rounded to a multiple of 1/65536, and the scale is that of the rounded p.
    On other devices this is `torch.nn.functional.dropout`. If not `training`, nothing is zeroed.
    The random numbers come from torch's generator (`torch.manual_seed`), or are keyed by row (`ops.keyed_random`); all backends
    draw the same.

    Source: Srivastava et al. 2014.
    """
    if plain_dropout.drops(p, training=training) and uses_numba(x):
        return numba.load_kernels().dropout(x, p)
    return plain_dropout.dropout(x, p, training=training)


def feed_forward(
    x: Hidden, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor, p: float, *, training: bool
) -> Hidden:
    """Compute W2 dropout(GELU(W1 x + b1)) + b2.

    Args:
        x: [rows, D].
        widen: [F, D], W1.
        widen_bias: [F].
        narrow: [D, F], W2.
        narrow_bias: [D].
        p: of the dropout, see `dropout`.
        training: if false, nothing is zeroed.
    """
    module: Any = plain_feed_forward
    if not torch.is_autocast_enabled("cpu") or autocasts_to_bfloat16("cpu"):
        module = _numba_kernels((x, widen, widen_bias, narrow, narrow_bias), len(widen)) or module
    return module.feed_forward(x, widen, widen_bias, narrow, narrow_bias, p, training=training)


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, added: AddedLogits | None = None) -> Tensor:
    """Compute the mean of -log softmax(states @ table.T + added)[target]; see `ops.cross_entropy.linear_cross_entropy`.

    Added logits have no Triton kernel: PyTorch runs with them on a GPU.
    """
    if added is None and uses_triton(states):
        return triton.load_kernels(states).linear_cross_entropy(states, table, targets)
    return cross_entropy.linear_cross_entropy(states, table, targets, added, _compiled_loss(states, table))


def distillation_loss(
    states: Tensor, table: Tensor, targets: Tensor, soft: SoftTargets, added: AddedLogits | None = None
) -> Tensor:
    """Compute `ops.soft_targets.distillation_loss`; on a GPU it runs in PyTorch."""
    return soft_targets.distillation_loss(states, table, targets, soft, added, _compiled_loss(states, table))


def _compiled_loss(states: Tensor, table: Tensor) -> ModuleType | None:
    return numba.load_kernels() if uses_numba(states, table) else None


def describe_backend() -> str:
    """Return one sentence: which backend runs on this machine, and why."""
    installed = triton.version()
    if not torch.cuda.is_available():
        reason = f"Triton {installed} is installed and would run on one" if installed else "Triton is not installed"
        compiled = numba.version()
        training = f"numba {compiled} compiles parts of a training step" if compiled else "pip install 'ssd4rec[fast]' for numba"
        return f"PyTorch: no CUDA device is available ({reason}); {training}"
    if installed is None:
        return "PyTorch: Triton is not installed; torch for CUDA installs it"
    if not triton.capable(torch.cuda.current_device()):
        capability = ".".join(map(str, triton.MIN_CAPABILITY))
        return f"PyTorch: the Triton kernels need an NVIDIA GPU of compute capability {capability} or later"
    return f"Triton {installed} kernels for {triton.SUPPORTED_SIZES} on CUDA tensors; PyTorch otherwise"
