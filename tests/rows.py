"""Packed rows of random numbers, and the slow, obvious ways of taking them apart."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class ScanInputs(NamedTuple):
    """The six inputs of a scan, in its order."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def boundaries_of(lengths: Sequence[int]) -> Tensor:
    """Lengths [2, 3] -> boundaries [0, 2, 5]."""
    return torch.tensor([0, *accumulate(lengths)])


def scan_inputs(
    lengths: Sequence[int],
    *,
    heads: int = 2,
    head_width: int = 3,
    state_dim: int = 4,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> ScanInputs:
    """Normal x, B, C and D; decays of exp(-0.005) to exp(-2.4) a step, a different one at each step."""
    random, total = torch.Generator().manual_seed(seed), sum(lengths)
    return ScanInputs(
        x=torch.randn(total, heads, head_width, generator=random, dtype=dtype),
        dt=0.01 + 0.79 * torch.rand(total, heads, generator=random, dtype=dtype),
        A=-0.5 - 2.5 * torch.rand(heads, generator=random, dtype=dtype),
        B=torch.randn(total, state_dim, generator=random, dtype=dtype),
        C=torch.randn(total, state_dim, generator=random, dtype=dtype),
        D=torch.randn(heads, generator=random, dtype=dtype),
    )


def mirrored(values: Tensor, boundaries: Tensor) -> Tensor:
    """Each history reversed in its own place."""
    return torch.cat([values[start:stop].flip(0) for start, stop in pairwise(boundaries.tolist())])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected number."""
    assert torch.isfinite(found).all()
    assert torch.isfinite(expected).all()
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
