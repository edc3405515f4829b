"""The front door of the operations that exist twice: as torch's own form, anywhere, and as Triton's kernels, on a GPU.

Layers and the model ask here and nowhere else. On a CUDA tensor of at most 32 bits, with Triton installed (torch for CUDA brings
it), the kernels run; for anything else, and for head widths or state sizes that have no kernel, torch's form does. The two
are held equal by the tests. `scan_last_position` (`ops/prefixes.py`) exists as torch's form only.

    scan                    every kernel is free of atomics: the same inputs give the same bits on the same device.
    backward_prefix_readout, convolve, convolve_both_ways, gated_norm, linear_cross_entropy      the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

from ssd4rec.array_types import Channels, Hidden, Rates, StateInputs, StateReads, StepSizes, Values
from ssd4rec.ops import convolution, cross_entropy, triton
from ssd4rec.ops import gated_norm as gated
from ssd4rec.ops.cross_entropy import AddedLogits
from ssd4rec.ops.segments import Layout
from ssd4rec.ops.ssd import chunked, prefix_readout

Form = Literal["auto", "torch", "triton"]

_asked: ContextVar[Form] = ContextVar("form", default="auto")


@contextmanager
def using(form: Form) -> Iterator[None]:
    """Choose the form by hand, for tests and benches.

    Args:
        form: "torch": never a kernel. "triton": kernels for tensors of any device, where there are kernels for the sizes; on a
            CPU only Triton's interpreter can run them. "auto": by device.
    """
    token = _asked.set(form)
    try:
        yield
    finally:
        _asked.reset(token)


def kernels_serve(x: Tensor) -> bool:
    """Do the kernels work on x, unless they lack its sizes?"""
    form = _asked.get()
    return triton.serves(x) if form == "auto" else form == "triton" and triton.knows(x)


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
    """`ops.scan.scan` of every history of a row; y stays at the event's own position.

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
        y [T, H, P]; the kernels give it in x's type, with decays and states in float32.
    """
    if kernels_serve(x) and triton.scans(x, B):
        return triton.scan(x, dt, A, B, C, D, layout, reverse=reverse)
    return chunked.chunked_scan(x, dt, A, B, C, D, layout, reverse=reverse)


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
    """y at item 1 of the reversed scan of every prefix; row t is the prefix that ends at position t.

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
        y [T, H, P]; the kernels give it in the channels' type, with decays and all sums in float32.
    """
    if kernels_serve(channels) and triton.reads_prefixes(channels, weight, dt, state_dim):
        return triton.backward_prefix_readout(channels, weight, bias, dt, A, D, layout, state_dim)
    return prefix_readout.backward_prefix_readout(channels, weight, bias, dt, A, D, layout, state_dim)


def convolve(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout, *, reverse: bool = False) -> Channels:
    """out_t = SiLU(bias + sum_k weight[K-1-k] in_{t-k}), over the events t-k of the same history.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
        reverse: read t+k in place of t-k, as if each history ran backwards.
    """
    form = triton.convolve if kernels_serve(channels) else convolution.convolve
    return form(channels, weight, bias, layout, reverse=reverse)


def convolve_both_ways(channels: Channels, weight: Tensor, bias: Tensor, layout: Layout) -> tuple[Channels, Channels]:
    """`convolve` forwards and reversed; the kernels read the channels once for both.

    Args:
        channels: [T, channels].
        weight: [channels, K], the last column meets the event itself.
        bias: [channels].
        layout: of the row.
    """
    if kernels_serve(channels):
        return triton.convolve_both_ways(channels, weight, bias, layout)
    ahead, back = (convolution.convolve(channels, weight, bias, layout, reverse=reverse) for reverse in (False, True))
    return ahead, back


def gated_norm(y: Hidden, gate: Hidden, weight: Tensor, eps: float) -> Hidden:
    """RMSNorm(y SiLU(gate)) weight.

    Args:
        y: [rows, E].
        gate: [rows, E], z.
        weight: [E].
        eps: of the norm.
    """
    form = triton.gated_norm if kernels_serve(y) else gated.gated_norm
    return form(y, gate, weight, eps)


def linear_cross_entropy(states: Tensor, table: Tensor, targets: Tensor, added: AddedLogits | None = None) -> Tensor:
    """Mean over the rows of -log softmax(state . table^T + added logits)[target], without the scores of all rows.

    There is no kernel for added logits: with them torch's own form runs on any device.

    Args:
        states: [M, D], one row a target.
        table: [V, D], one row a class.
        targets: int64 [M], 0-based rows of the table.
        added: logits of the items of each row's prefix; None: nothing is added.

    Raises:
        ShapeError: states and targets are not of one length.
    """
    if added is None and kernels_serve(states):
        return triton.linear_cross_entropy(states, table, targets)
    return cross_entropy.linear_cross_entropy(states, table, targets, added)


def in_use() -> str:
    """A sentence: which form runs on this machine, and why."""
    installed = triton.version()
    if not torch.cuda.is_available():
        there = f"Triton {installed} is installed, and its kernels would run on one" if installed else "Triton is not installed"
        return f"torch's own form: torch sees no CUDA device ({there})"
    if installed is None:
        return "torch's own form: Triton is not installed; torch for CUDA brings it"
    if not triton.capable(torch.cuda.current_device()):
        least = ".".join(map(str, triton.LEAST))
        return f"torch's own form: Triton's kernels take NVIDIA GPUs of compute capability {least} or later"
    return f"Triton {installed} kernels for {triton.SERVED} on CUDA tensors; torch's own form for anything else"
