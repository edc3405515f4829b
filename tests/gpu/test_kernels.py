"""The Triton kernels on a GPU at real shapes, in float32 and bfloat16, compared with PyTorch in float64.

Run: python -m pytest -m gpu tests/gpu
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from packed import ScanInputs, cu_seqlens_of, relative_error, scan_inputs
from ssd4rec.ops import dispatch
from ssd4rec.ops.convolution import convolve
from ssd4rec.ops.cross_entropy import linear_cross_entropy_reference
from ssd4rec.ops.segments import Layout, make_layout
from ssd4rec.ops.ssd.chunked import chunked_scan
from ssd4rec.ops.ssd.prefix_readout import backward_prefix_readout

kernels = pytest.importorskip("ssd4rec.ops.triton.kernels", reason="Triton is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Error relative to the largest float64 value of the same inputs (float32: products in three TF32 parts).
ROUNDED = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
# Beauty-like and ML-1M-like: many short sequences, some of 1 to 4 positions, and one that covers many spans.
LENGTHS = [1, 2, 3, 4, 31, 32, 33, 127, 128, 129, 2277, *[5 + i % 17 for i in range(400)], *[90 + i for i in range(60)]]


def check(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: list[Tensor],
    bound: float,
    least: Callable[..., list[float]],
) -> None:
    """Compare values and gradients with the float64 reference; `least` gives the smallest unit of each gradient's error."""
    ours = [values.clone().requires_grad_() for values in inputs]
    theirs = [values.double().requires_grad_() for values in inputs]
    out, expected_outputs = as_tuple(function(*ours)), as_tuple(reference(*theirs))
    random = torch.Generator(device=inputs[0].device).manual_seed(1)
    weights = [
        torch.randn(v.shape, generator=random, dtype=torch.float64, device=v.device).to(o.dtype)
        for v, o in zip(expected_outputs, out, strict=True)
    ]
    gradients = torch.autograd.grad(out, ours, weights)
    expected_gradients = torch.autograd.grad(expected_outputs, theirs, [weight.double() for weight in weights])
    for value, truth in zip(out, expected_outputs, strict=True):
        assert relative_error(value, truth) < bound
    for value, truth, unit in zip(gradients, expected_gradients, least(*theirs, *expected_gradients), strict=True):
        assert torch.isfinite(value).all()
        error = float((value.double() - truth).abs().max()) / max(float(truth.abs().max()), unit)
        assert error < bound, (tuple(value.shape), error)


def as_tuple(values: Any) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)


def nothing(*tensors: Tensor) -> list[float]:
    return [0.0] * (len(tensors) // 2)


def of_decays(x: Tensor, dt: Tensor, A: Tensor, *rest: Tensor) -> list[float]:
    # The gradient of a log-decay is the small difference of large terms <x, dx>: the unit of d(dt) and dA is at least theirs.
    terms = (x * rest[3]).sum(-1).abs()
    return [0.0, float((A.abs() * terms).max()), float((dt * terms).sum(0).max()), 0.0, 0.0, 0.0]


def layout_on_gpu() -> Layout:
    return make_layout(cu_seqlens_of(LENGTHS).cuda())


def scan_on_gpu(heads: int, head_width: int, state_dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Return inputs with log decays of -0.005 … -2.4; the last three heads have 0, -10 and -50 at each position."""
    inputs = scan_inputs(LENGTHS, heads=heads, head_width=head_width, state_dim=state_dim, dtype=torch.float32)
    inputs.dt[:, -3:] = 1.0
    inputs.A[-3:] = torch.tensor([0.0, -10.0, -50.0])
    narrow = inputs._replace(x=inputs.x.to(dtype), B=inputs.B.to(dtype) / 8, C=inputs.C.to(dtype) / 8)
    return [values.cuda() for values in narrow]


@DTYPES
@DIRECTIONS
@pytest.mark.parametrize("state_dim", [16, 32, 64, 128])
@pytest.mark.parametrize(("heads", "head_width"), [(32, 16), (9, 32), (8, 64)])
def test_scan(heads: int, head_width: int, state_dim: int, reverse: bool, dtype: torch.dtype) -> None:
    """Every P with every N: E = 512, and heads that do not fill a tile."""
    layout = layout_on_gpu()
    check(
        lambda *six: kernels.scan(*six, layout, reverse=reverse),
        lambda *six: chunked_scan(*six, layout, reverse=reverse),
        scan_on_gpu(heads, head_width, state_dim, dtype),
        ROUNDED[dtype],
        of_decays,
    )


@DTYPES
def test_scan_is_deterministic(dtype: torch.dtype) -> None:
    """No sum depends on the order in which programs finish."""
    layout, inputs = layout_on_gpu(), scan_on_gpu(32, 16, 64, dtype)

    def gradients() -> tuple[Tensor, ...]:
        ours = ScanInputs(*(values.clone().requires_grad_() for values in inputs))
        return torch.autograd.grad(kernels.scan(*ours, layout).float().square().sum(), list(ours))

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def prefixes_on_gpu(heads: int, head_width: int, state_dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Return channels, weight, bias, dt, A and D with the decays of `scan_on_gpu`."""
    _, dt, A, _, _, D = scan_on_gpu(heads, head_width, state_dim, dtype)
    channels = heads * head_width + 2 * state_dim
    random = torch.Generator().manual_seed(2)
    row, weight, bias = (torch.randn(shape, generator=random) for shape in ((sum(LENGTHS), channels), (channels, 4), (channels,)))
    return [row.to(dtype).cuda(), 0.5 * weight.cuda(), 0.5 * bias.cuda(), dt, A, D]


def of_prefix_decays(*tensors: Tensor) -> list[float]:
    # dA is the small difference of large terms, a sum of dt d(dt) / A over all events: its unit is at least that of the terms.
    _, _, _, dt, A, _ = tensors[:6]
    return [0.0] * 4 + [float((dt * tensors[9].abs() / A.abs().clamp(min=1)).sum(0).max()), 0.0]


@DTYPES
@pytest.mark.parametrize("state_dim", [16, 32, 64, 128])
@pytest.mark.parametrize(("heads", "head_width"), [(32, 16), (9, 32), (8, 64)])
def test_prefix_readout(heads: int, head_width: int, state_dim: int, dtype: torch.dtype) -> None:
    """Every P with every N: E = 512, and heads that do not fill a tile."""
    layout = layout_on_gpu()
    check(
        lambda *six: kernels.backward_prefix_readout(*six, layout, state_dim),
        lambda *six: backward_prefix_readout(*six, layout, state_dim),
        prefixes_on_gpu(heads, head_width, state_dim, dtype),
        ROUNDED[dtype],
        of_prefix_decays,
    )


@DTYPES
@pytest.mark.parametrize("mean", [9, 10_000])
def test_prefix_readout_of_a_long_batch(mean: int, dtype: torch.dtype) -> None:
    """T = 2^18 at D = 256 with short sequences, and with sequences of 313 blocks each."""
    lengths = [mean] * ((1 << 18) // mean)
    layout, total = make_layout(cu_seqlens_of(lengths).cuda()), sum(lengths)
    inputs = [torch.randn(total, 640, device="cuda", dtype=dtype), 0.5 * torch.randn(640, 4).cuda(), torch.zeros(640).cuda()]
    inputs += [torch.rand(total, 32, device="cuda") * 0.1, -1 - torch.rand(32, device="cuda"), torch.ones(32, device="cuda")]
    function, reference = [], []
    for form, kept in (("triton", function), ("torch", reference)):
        ours = [values.detach().clone().requires_grad_() for values in inputs]
        with dispatch.use_backend(form):
            y = dispatch.backward_prefix_readout(*ours, layout, 64)
        kept += [y.detach(), *torch.autograd.grad(y, [ours[0], ours[1], ours[2]], torch.ones_like(y))]
    assert max(map(relative_error, function, reference)) < ROUNDED[dtype]


@DTYPES
def test_prefix_readout_is_deterministic(dtype: torch.dtype) -> None:
    """No sum depends on the order in which programs finish."""
    layout, inputs = layout_on_gpu(), prefixes_on_gpu(32, 16, 64, dtype)

    def gradients() -> tuple[Tensor, ...]:
        ours = [values.clone().requires_grad_() for values in inputs]
        return torch.autograd.grad(kernels.backward_prefix_readout(*ours, layout, 64).float().square().sum(), ours)

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


@DTYPES
def test_bidirectional_convolution(dtype: torch.dtype) -> None:
    """E + 2N = 640 channels, width 4."""
    layout = layout_on_gpu()
    row, weight, bias = torch.randn(sum(LENGTHS), 640), torch.randn(640, 4), torch.randn(640)
    check(
        lambda *three: kernels.convolve_bidirectional(*three, layout),
        lambda *three: (convolve(*three, layout), convolve(*three, layout, reverse=True)),
        [row.to(dtype).cuda(), weight.cuda(), bias.cuda()],
        ROUNDED[dtype],
        nothing,
    )


@DTYPES
@DIRECTIONS
@pytest.mark.parametrize("channels", [256, 640])
def test_convolution(channels: int, reverse: bool, dtype: torch.dtype) -> None:
    """One direction; D = 64 and 256."""
    layout = layout_on_gpu()
    row, weight, bias = torch.randn(sum(LENGTHS), channels), torch.randn(channels, 4), torch.randn(channels)
    check(
        lambda *three: kernels.convolve(*three, layout, reverse=reverse),
        lambda *three: convolve(*three, layout, reverse=reverse),
        [row.to(dtype).cuda(), weight.cuda(), bias.cuda()],
        ROUNDED[dtype],
        nothing,
    )


@DTYPES
@DIRECTIONS
def test_scan_of_a_million_positions(reverse: bool, dtype: torch.dtype) -> None:
    """T = 2^20 at D = 256: offsets in bytes need more than 31 bits."""
    lengths = [165] * ((1 << 20) // 165)
    layout = make_layout(cu_seqlens_of(lengths).cuda())
    total = sum(lengths)
    x, B, C = (torch.randn(total, *shape, device="cuda", dtype=dtype) for shape in ((32, 16), (64,), (64,)))
    dt, A = torch.rand(total, 32, device="cuda") * 0.1, -1 - torch.rand(32, device="cuda")
    inputs = [x, dt, A, B / 8, C / 8, torch.ones(32, device="cuda")]
    function, reference = [], []
    for form, kept in (("triton", function), ("torch", reference)):
        ours = [values.detach().clone().requires_grad_() for values in inputs]
        with dispatch.use_backend(form):
            y = dispatch.scan(*ours, layout, reverse=reverse)
        kept += [y.detach(), *torch.autograd.grad(y, [ours[0], ours[3], ours[4]], torch.ones_like(y))]
    assert max(map(relative_error, function, reference)) < ROUNDED[dtype]


@DTYPES
@pytest.mark.parametrize("width", [128, 512])
def test_gated_norm(width: int, dtype: torch.dtype) -> None:
    """E of 128 and 512."""
    check(
        lambda y, z, weight: kernels.gated_norm(y, z, weight, 1e-5),
        lambda y, z, weight: F.rms_norm(y * F.silu(z), (width,), weight, 1e-5),
        [torch.randn(4001, width).to(dtype).cuda(), torch.randn(4001, width).to(dtype).cuda(), torch.randn(width).cuda()],
        ROUNDED[dtype],
        nothing,
    )


@DTYPES
@pytest.mark.parametrize("classes", [3416, 12_101, 100_000])
def test_cross_entropy(classes: int, dtype: torch.dtype) -> None:
    """The catalog sizes of ML-1M and Beauty and 100,000, D = 256, more rows than one block."""
    targets = torch.randint(classes, (4100,)).cuda()
    check(
        lambda states, table: kernels.linear_cross_entropy(states, table, targets),
        lambda states, table: linear_cross_entropy_reference(states, table, targets),
        [torch.randn(4100, 256).to(dtype).cuda(), (0.1 * torch.randn(classes, 256)).to(dtype).cuda()],
        ROUNDED[dtype],
        nothing,
    )
