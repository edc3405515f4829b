"""The kernels of `backward_prefix_readout` in Triton's interpreter: logic and masks.

tests/gpu runs them at real sizes on a GPU; tests/ops/test_triton_compiles.py compiles them.
"""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import run_programs_backwards
from packed import cu_seqlens_of, relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops import dispatch
from ssd4rec.ops.partial_flip import partially_flipped_prefix_readout
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd.prefix_readout import backward_prefix_readout

if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels themselves: tests/gpu", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")
from ssd4rec.ops import triton
from ssd4rec.ops.triton import prefix_readout

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("_poisoned")]

ROUNDED = 5e-6  # float32, relative to the largest value of the float64 reference
HALF = 4e-3  # float16 channels: y, dy and each gradient are rounded once
Q = 16
TILE = prefix_readout.Tile(length=Q, columns=128, blocks=2, programs=1)
# Around the block size, around the convolution width, and one sequence over four blocks.
LENGTHS = [1, 2, 3, 4, 5, 2 * Q + 5, Q - 1]
SIZES = list(product((16, 32, 64), (16, 32, 64, 128)))


def parts(
    lengths: list[int], *, heads: int = 2, head_width: int = 16, state_dim: int = 16, conv_width: int = 4
) -> dict[str, Tensor]:
    """Random inputs; decays of exp(-0.005 … -2.4) a step."""
    random, total = torch.Generator().manual_seed(0), sum(lengths)
    channels = heads * head_width + 2 * state_dim
    return {
        "channels": torch.randn(total, channels, generator=random),
        "weight": torch.randn(channels, conv_width, generator=random),
        "bias": torch.randn(channels, generator=random),
        "dt": 0.01 + 0.79 * torch.rand(total, heads, generator=random),
        "A": -0.5 - 2.5 * torch.rand(heads, generator=random),
        "D": torch.randn(heads, generator=random),
    }


def run(
    inputs: dict[str, Tensor], lengths: list[int], state_dim: int = 16, tile: prefix_readout.Tile | None = TILE
) -> dict[str, Tensor]:
    """Y and the six gradients; tile None: of torch's form, in float64."""
    ours = {name: values.detach().clone() for name, values in inputs.items()}
    ours = {name: (values if tile else values.double()).requires_grad_() for name, values in ours.items()}
    layout = make_layout(cu_seqlens_of(lengths))
    if tile:
        y = prefix_readout.backward_prefix_readout(*ours.values(), layout, state_dim, tile)
    else:
        y = backward_prefix_readout(*ours.values(), layout, state_dim)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    return {"y": y.detach(), **dict(zip(ours, torch.autograd.grad(y, list(ours.values()), weights), strict=True))}


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert all(values.abs().max() > 0 for values in expected.values())
    return {name: relative_error(actual[name], values) for name, values in expected.items()}


@pytest.mark.parametrize("conv_width", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 4])
def test_values_and_gradients_equal_torch(conv_width: int) -> None:
    """Sequence lengths around the block size and the convolution width; heads that do not fill a tile."""
    inputs = parts(LENGTHS, heads=3, conv_width=conv_width)
    actual = errors(run(inputs, LENGTHS), run(inputs, LENGTHS, tile=None))
    assert max(actual.values()) < ROUNDED, actual


@pytest.mark.parametrize("lengths", [[1], [2], [5], [1, 1, 1], [2 * Q], [1, 2 * Q, 1]], ids=str)
def test_various_batches(lengths: list[int]) -> None:
    """One position, one sequence, one position next to a long sequence, sequences that fill their blocks."""
    inputs = parts(lengths, heads=1)
    expected = run(inputs, lengths, tile=None)
    if sum(lengths) == len(lengths):  # a sequence of length 1 has no decay
        assert not expected.pop("A").any()
    actual = errors(run(inputs, lengths), expected)
    assert max(actual.values()) < ROUNDED, actual


@pytest.mark.parametrize(("head_width", "state_dim"), SIZES)
def test_all_head_widths_and_state_sizes(head_width: int, state_dim: int) -> None:
    """Every P in 16, 32, 64 with every N in 16, 32, 64, 128; a sequence over two blocks."""
    lengths = [1, Q + 2]
    inputs = parts(lengths, heads=1, head_width=head_width, state_dim=state_dim)
    actual = errors(run(inputs, lengths, state_dim), run(inputs, lengths, state_dim, tile=None))
    assert max(actual.values()) < ROUNDED, actual


def test_several_tiles_of_heads() -> None:
    """Three heads where two fill a tile, forward and backward."""
    lengths = [3, Q + 1]
    inputs = parts(lengths, heads=3)
    actual = errors(run(inputs, lengths, tile=TILE._replace(columns=32)), run(inputs, lengths, tile=None))
    assert max(actual.values()) < ROUNDED, actual


@pytest.mark.parametrize("log_decay", [0.0, -10.0, -1000.0])
def test_any_decay(log_decay: float) -> None:
    """No decay and complete decay at each step, over three blocks."""
    lengths = [2 * Q + 3, 2]
    inputs = parts(lengths, heads=1)
    inputs["dt"], inputs["A"] = torch.ones_like(inputs["dt"]), torch.full_like(inputs["A"], log_decay)
    expected = run(inputs, lengths, tile=None)
    actual = run(inputs, lengths)
    for name in ("y", "channels", "weight", "bias", "D"):
        assert relative_error(actual[name], expected[name]) < ROUNDED, name
    assert torch.isfinite(actual["dt"]).all()
    assert torch.isfinite(actual["A"]).all()


def test_half_precision() -> None:
    """float16 channels: y and the gradient of the channels are float16, everything else is float32."""
    inputs = parts([3, Q + 5])
    inputs["channels"] = inputs["channels"].half()
    actual = run(inputs, [3, Q + 5])
    assert {name: values.dtype for name, values in actual.items() if values.dtype != torch.float32} == {
        "y": torch.float16,
        "channels": torch.float16,
    }
    by_name = errors(actual, run(inputs, [3, Q + 5], tile=None))
    assert max(by_name.values()) < HALF, by_name


def test_order_of_programs_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running the programs in reverse order gives the same bits, so no program depends on another."""
    lengths = [5, Q + 1]
    inputs, tile = parts(lengths, heads=3), TILE._replace(columns=32, blocks=1)
    forwards = run(inputs, lengths, tile=tile)
    run_programs_backwards(monkeypatch)
    backwards = run(inputs, lengths, tile=tile)
    for name, values in forwards.items():
        assert torch.equal(values, backwards[name]), name


def test_strided_inputs() -> None:
    """Strided slices of one projection give the same result as their copies."""
    lengths = [3, Q]
    inputs, layout = parts(lengths), make_layout(cu_seqlens_of(lengths))
    wide = torch.cat([inputs["channels"], inputs["dt"]], dim=1)
    channels, dt = wide.split([64, 2], dim=1)
    assert not channels.is_contiguous()
    assert not dt.is_contiguous()
    sliced = inputs | {"channels": channels, "dt": dt, "weight": inputs["weight"].T.contiguous().T}
    actual, expected = (prefix_readout.backward_prefix_readout(*each.values(), layout, 16, TILE) for each in (sliced, inputs))
    assert torch.equal(actual, expected)


def test_gradients_of_some_inputs_only() -> None:
    """With frozen weights and rates, the gradients of channels and dt are unchanged."""
    lengths = [2, Q + 1]
    inputs, layout = parts(lengths), make_layout(cu_seqlens_of(lengths))
    expected = run(inputs, lengths)
    ours = {name: values.clone().requires_grad_(name in {"channels", "dt"}) for name, values in inputs.items()}
    y = prefix_readout.backward_prefix_readout(*ours.values(), layout, 16, TILE)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    actual = torch.autograd.grad(y, [ours["channels"], ours["dt"]], weights)
    assert torch.equal(actual[0], expected["channels"])
    assert torch.equal(actual[1], expected["dt"])


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"head_width": 8}, torch.float32),
        ({"state_dim": 24}, torch.float32),
        ({"conv_width": 5}, torch.float32),
        ({}, torch.float64),
    ],
    ids=["P=8", "N=24", "K=5", "float64"],
)
def test_sizes_without_a_kernel(settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Unsupported sizes are an error that names the alternative."""
    inputs = {name: values.to(dtype) for name, values in parts([3], **settings).items()}
    state_dim = settings.get("state_dim", 16)
    assert not triton.supports_prefix_readout(inputs["channels"], inputs["weight"], inputs["dt"], state_dim)
    with pytest.raises(ShapeError, match=r"support P in .* use ops\.ssd\.prefix_readout\.backward_prefix_readout"):
        prefix_readout.backward_prefix_readout(*inputs.values(), make_layout(cu_seqlens_of([3])), state_dim)


def test_partially_flipped_prefixes() -> None:
    """The read-out of SIGMA, which uses the kernels of scan and convolution, equals PyTorch in float64."""
    lengths = [1, 5, 9, 70]
    layout = make_layout(cu_seqlens_of(lengths))
    ours = {name: values.requires_grad_() for name, values in parts(lengths).items()}
    theirs = {name: values.detach().double().requires_grad_() for name, values in ours.items()}
    with dispatch.use_backend("triton"):
        actual = partially_flipped_prefix_readout(*ours.values(), layout, 16, 5)
        weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(9))
        gradients = torch.autograd.grad(actual, list(ours.values()), weights)
    expected = partially_flipped_prefix_readout(*theirs.values(), layout, 16, 5)
    expected_gradients = torch.autograd.grad(expected, list(theirs.values()), weights.double())
    errors_by_name = errors(
        dict(zip(("y", *ours), (actual.detach(), *gradients), strict=True)),
        dict(zip(("y", *ours), (expected.detach(), *expected_gradients), strict=True)),
    )
    assert max(errors_by_name.values()) < ROUNDED, errors_by_name
