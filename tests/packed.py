"""Random packed batches, and slow reference ways to process their sequences one by one."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd4rec.ops.ssd.reference import scan


class ScanInputs(NamedTuple):
    """The six inputs of a scan, in order."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def cu_seqlens_of(lengths: Sequence[int]) -> Tensor:
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
    """Draw normal x, B, C and D, and a decay between exp(-0.005) and exp(-2.4) for each position."""
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
    """Random inputs of the operations that include the convolution: by default 2 heads of width 3, state 4, so 14 channels."""

    def __init__(
        self, total: int, conv_width: int, dtype: torch.dtype = torch.float64, head_width: int = 3, state_dim: int = 4
    ) -> None:
        _, self.dt, self.A, _, _, self.D = scan_inputs([total], dtype=dtype)
        random = torch.Generator().manual_seed(conv_width)
        width = 2 * (head_width + state_dim)
        shapes = [(total, width), (width, conv_width), (width,)]
        self.channels, self.weight, self.bias = (torch.randn(shape, generator=random, dtype=dtype) for shape in shapes)

    @property
    def parts(self) -> list[Tensor]:
        """The inputs in the order of the prefix operations."""
        return [self.channels, self.weight, self.bias, self.dt, self.A, self.D]

    def read_out_prefixes(self, lengths: Sequence[int], tail: int = 0) -> Tensor:
        """Reverse all but the last `tail` positions of each prefix, convolve, scan, and return the last output."""
        outputs = []
        for start, stop in pairwise(cu_seqlens_of(lengths).tolist()):
            for end in range(start, stop):
                prefix = torch.arange(start, end + 1)
                flipped = max(len(prefix) - tail, 0)
                order = torch.cat([prefix[:flipped].flip(0), prefix[flipped:]])
                padded = F.pad(self.channels[order].T, (self.weight.shape[1] - 1, 0))[None]
                convolved = F.silu(F.conv1d(padded, self.weight[:, None], self.bias, groups=14))[0].T
                x, B, C = convolved.split([6, 4, 4], dim=1)
                y, _ = scan(x.unflatten(1, (2, 3)), self.dt[order], self.A, B, C, self.D, cu_seqlens_of([len(order)]))
                outputs.append(y[-1])
        return torch.stack(outputs)

    def double(self) -> "Mixer":
        """Return the same values in float64."""
        wide = Mixer(len(self.channels), self.weight.shape[1])
        wide.channels, wide.weight, wide.bias, wide.dt, wide.A, wide.D = (values.double() for values in self.parts)
        return wide


def reverse_sequences(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Reverse each sequence in place, with a loop."""
    return torch.cat([values[start:stop].flip(0) for start, stop in pairwise(cu_seqlens.tolist())])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value."""
    assert torch.isfinite(actual).all()
    assert torch.isfinite(expected).all()
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def definition(inputs: ScanInputs, lengths: list[int], *, reverse: bool) -> Tensor:
    """Run the reference; in reverse, on each reversed sequence, and reverse the result back."""
    cu_seqlens = cu_seqlens_of(lengths)
    if not reverse:
        return scan(*inputs, cu_seqlens)[0]
    x, dt, A, B, C, D = inputs
    x, dt, B, C = (reverse_sequences(values, cu_seqlens) for values in (x, dt, B, C))
    return reverse_sequences(scan(x, dt, A, B, C, D, cu_seqlens)[0], cu_seqlens)


def with_gradients(inputs: ScanInputs) -> ScanInputs:
    return ScanInputs(*(values.detach().clone().requires_grad_() for values in inputs))


def in_double(inputs: ScanInputs) -> ScanInputs:
    return ScanInputs(*(values.double() for values in inputs))


def gradients(y: Tensor, inputs: ScanInputs, scale: float = 1.0) -> dict[str, Tensor]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    actual = torch.autograd.grad(y, list(inputs), weights * scale)
    return dict(zip(ScanInputs._fields, actual, strict=True))


def gradient_errors(
    run: Callable[[ScanInputs], Tensor], inputs: ScanInputs, lengths: list[int], *, reverse: bool, scale: float = 1.0
) -> dict[str, float]:
    """Return the error of each gradient of a scan relative to the largest value of the float64 reference.

    The gradient of a log decay is a small difference of large terms <x, dx>, whose size is the unit for d(dt) and dA.
    """
    ours, theirs = with_gradients(inputs), with_gradients(in_double(inputs))
    actual = gradients(run(ours), ours, scale)
    expected = gradients(definition(theirs, lengths, reverse=reverse), theirs, scale)
    A, dt = theirs.A.detach(), theirs.dt.detach()
    terms = (theirs.x.detach() * expected["x"]).sum(-1).abs()
    units = {name: float(gradient.abs().max()) for name, gradient in expected.items()}
    units["dt"] = max(units["dt"], float((A.abs() * terms).max()))
    units["A"] = max(units["A"], float((dt * terms).sum(0).max()))
    assert all(torch.isfinite(gradient).all() for gradient in actual.values())
    assert min(units.values()) > 0
    return {name: float((actual[name] - expected[name]).abs().max()) / units[name] for name in actual}


def with_decay(inputs: ScanInputs, log_decay: float) -> ScanInputs:
    return inputs._replace(dt=torch.ones_like(inputs.dt), A=torch.full_like(inputs.A, log_decay))


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in float64 and evaluation mode, with random parameters large enough to matter."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
            parameter.add_(0.3 * noise)
    return module.eval()


def encode_each(encode: Callable[[Tensor, Tensor], Tensor], values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Concatenate `encode(values, cu_seqlens)` of each sequence alone."""
    sequences = [values[start:stop] for start, stop in pairwise(cu_seqlens.tolist())]
    return torch.cat([encode(sequence, cu_seqlens_of([len(sequence)])) for sequence in sequences])


def encode_each_prefix(encode: Callable[[Tensor, Tensor], Tensor], values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Concatenate `encode(values, cu_seqlens)` of each prefix alone."""
    edges = pairwise(cu_seqlens.tolist())
    prefixes = [values[start : end + 1] for start, stop in edges for end in range(start, stop)]
    return torch.cat([encode(prefix, cu_seqlens_of([len(prefix)])) for prefix in prefixes])
