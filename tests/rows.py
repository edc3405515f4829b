"""Packed rows of random numbers, and the slow, obvious ways of taking them apart."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd4rec.ops.ssd.reference import scan


class ScanInputs(NamedTuple):
    """The six inputs of a scan, in its order."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def boundaries_of(lengths: Sequence[int]) -> Tensor:
    """Lengths [2, 3] -> cu_seqlens [0, 2, 5]."""
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


class Mixer:
    """Random numbers for what comes before the scan; 2 heads of width 3, state 4, so 14 channels."""

    def __init__(self, total: int, conv_width: int, dtype: torch.dtype = torch.float64) -> None:
        _, self.dt, self.A, _, _, self.D = scan_inputs([total], dtype=dtype)
        random = torch.Generator().manual_seed(conv_width)
        shapes = [(total, 14), (14, conv_width), (14,)]
        self.channels, self.weight, self.bias = (torch.randn(shape, generator=random, dtype=dtype) for shape in shapes)

    @property
    def parts(self) -> list[Tensor]:
        """All of them, as the operations on every prefix take them."""
        return [self.channels, self.weight, self.bias, self.dt, self.A, self.D]

    def all_prefixes(self, lengths: Sequence[int], kept: int = 0) -> Tensor:
        """Each prefix reversed but for its last `kept` events, convolved, scanned, and read at its end."""
        outputs = []
        for start, stop in pairwise(boundaries_of(lengths).tolist()):
            for end in range(start, stop):
                events = torch.arange(start, end + 1)
                turn = max(len(events) - kept, 0)
                order = torch.cat([events[:turn].flip(0), events[turn:]])
                padded = F.pad(self.channels[order].T, (self.weight.shape[1] - 1, 0))[None]
                convolved = F.silu(F.conv1d(padded, self.weight[:, None], self.bias, groups=14))[0].T
                x, B, C = convolved.split([6, 4, 4], dim=1)
                y, _ = scan(x.unflatten(1, (2, 3)), self.dt[order], self.A, B, C, self.D, boundaries_of([len(order)]))
                outputs.append(y[-1])
        return torch.stack(outputs)

    def double(self) -> "Mixer":
        """The same numbers in float64."""
        wide = Mixer(len(self.channels), self.weight.shape[1])
        wide.channels, wide.weight, wide.bias, wide.dt, wide.A, wide.D = (values.double() for values in self.parts)
        return wide


def mirrored(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Each history reversed in its own place."""
    return torch.cat([values[start:stop].flip(0) for start, stop in pairwise(cu_seqlens.tolist())])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected number."""
    assert torch.isfinite(found).all()
    assert torch.isfinite(expected).all()
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64, every parameter random and large enough to matter; dropout, if it has any, off."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
            parameter.add_(0.3 * noise)
    return module.eval()


def one_by_one(read: Callable[[Tensor, Tensor], Tensor], values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """`read(values, cu_seqlens)` of each history on its own, end to end."""
    rows = [values[start:stop] for start, stop in pairwise(cu_seqlens.tolist())]
    return torch.cat([read(row, boundaries_of([len(row)])) for row in rows])


def all_prefixes(read: Callable[[Tensor, Tensor], Tensor], values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """`read(values, cu_seqlens)` of each prefix of each history on its own, end to end."""
    edges = pairwise(cu_seqlens.tolist())
    prefixes = [values[start : end + 1] for start, stop in edges for end in range(start, stop)]
    return torch.cat([read(prefix, boundaries_of([len(prefix)])) for prefix in prefixes])
