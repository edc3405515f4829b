"""The kernels that read every prefix backwards are `ops.prefixes`, run by Triton's interpreter: logic and masks.

tests/gpu holds the same at real sizes on a GPU, tests/ops/test_triton_compiles.py that the compiler takes the kernels.
"""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import run_programs_backwards
from rows import boundaries_of, relative_error
from ssd4rec.errors import ShapeError
from ssd4rec.ops import dispatch
from ssd4rec.ops.partial_flip import partially_flipped_prefix_readout
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd.prefix_readout import backward_prefix_readout

if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels themselves: tests/gpu", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed")
from ssd4rec.ops import triton
from ssd4rec.ops.triton import prefixes

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("_poisoned")]

ROUNDED = 5e-6  # float32 against the float64 form on the same numbers, relative to the largest number
HALF = 4e-3  # float16 channels: each y and each gradient is rounded once, dy before it
Q = 16
TILE = prefixes.Tile(length=Q, columns=128, blocks=2, programs=1)
# Around a block, around the convolution's width, and one history over four blocks.
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
    inputs: dict[str, Tensor], lengths: list[int], state_dim: int = 16, tile: prefixes.Tile | None = TILE
) -> dict[str, Tensor]:
    """Y and the six gradients; tile None: of torch's form, in float64."""
    ours = {name: values.detach().clone() for name, values in inputs.items()}
    ours = {name: (values if tile else values.double()).requires_grad_() for name, values in ours.items()}
    layout = make_layout(boundaries_of(lengths))
    if tile:
        y = prefixes.backward_prefix_readout(*ours.values(), layout, state_dim, tile)
    else:
        y = backward_prefix_readout(*ours.values(), layout, state_dim)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    return {"y": y.detach(), **dict(zip(ours, torch.autograd.grad(y, list(ours.values()), weights), strict=True))}


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert all(values.abs().max() > 0 for values in expected.values())
    return {name: relative_error(found[name], values) for name, values in expected.items()}


@pytest.mark.parametrize("conv_width", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 4])
def test_values_and_gradients_are_those_of_the_torch_form(conv_width: int) -> None:
    """Sequences around a block and around the convolution's width, heads that do not fill a tile."""
    inputs = parts(LENGTHS, heads=3, conv_width=conv_width)
    found = errors(run(inputs, LENGTHS), run(inputs, LENGTHS, tile=None))
    assert max(found.values()) < ROUNDED, found


@pytest.mark.parametrize("lengths", [[1], [2], [5], [1, 1, 1], [2 * Q], [1, 2 * Q, 1]], ids=str)
def test_rows(lengths: list[int]) -> None:
    """One event, one history, one event beside a long history, histories that fill their blocks."""
    inputs = parts(lengths, heads=1)
    expected = run(inputs, lengths, tile=None)
    if sum(lengths) == len(lengths):  # a history of one event decays nothing
        assert not expected.pop("A").any()
    found = errors(run(inputs, lengths), expected)
    assert max(found.values()) < ROUNDED, found


@pytest.mark.parametrize(("head_width", "state_dim"), SIZES)
def test_all_head_widths_and_state_sizes(head_width: int, state_dim: int) -> None:
    """Every P in 16, 32, 64 with every N in 16, 32, 64, 128, a history over two blocks."""
    lengths = [1, Q + 2]
    inputs = parts(lengths, heads=1, head_width=head_width, state_dim=state_dim)
    found = errors(run(inputs, lengths, state_dim), run(inputs, lengths, state_dim, tile=None))
    assert max(found.values()) < ROUNDED, found


def test_several_tiles_of_heads() -> None:
    """Three heads of which two fill a tile, forwards and backwards."""
    lengths = [3, Q + 1]
    inputs = parts(lengths, heads=3)
    found = errors(run(inputs, lengths, tile=TILE._replace(columns=32)), run(inputs, lengths, tile=None))
    assert max(found.values()) < ROUNDED, found


@pytest.mark.parametrize("log_decay", [0.0, -10.0, -1000.0])
def test_any_decay(log_decay: float) -> None:
    """Nothing is forgotten, or all of it at each step: right to rounding, over three blocks."""
    lengths = [2 * Q + 3, 2]
    inputs = parts(lengths, heads=1)
    inputs["dt"], inputs["A"] = torch.ones_like(inputs["dt"]), torch.full_like(inputs["A"], log_decay)
    expected = run(inputs, lengths, tile=None)
    found = run(inputs, lengths)
    for name in ("y", "channels", "weight", "bias", "D"):
        assert relative_error(found[name], expected[name]) < ROUNDED, name
    assert torch.isfinite(found["dt"]).all()
    assert torch.isfinite(found["A"]).all()


def test_half_precision() -> None:
    """float16 channels: y and their gradient in float16, all else in float32, right to HALF."""
    inputs = parts([3, Q + 5])
    inputs["channels"] = inputs["channels"].half()
    found = run(inputs, [3, Q + 5])
    assert {name: values.dtype for name, values in found.items() if values.dtype != torch.float32} == {
        "y": torch.float16,
        "channels": torch.float16,
    }
    by_name = errors(found, run(inputs, [3, Q + 5], tile=None))
    assert max(by_name.values()) < HALF, by_name


def test_the_order_of_programs_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run from the last to the first give the same bits: none builds on what another of its kernel wrote."""
    lengths = [5, Q + 1]
    inputs, tile = parts(lengths, heads=3), TILE._replace(columns=32, blocks=1)
    forwards = run(inputs, lengths, tile=tile)
    run_programs_backwards(monkeypatch)
    backwards = run(inputs, lengths, tile=tile)
    for name, values in forwards.items():
        assert torch.equal(values, backwards[name]), name


def test_strided_inputs() -> None:
    """Channels and dt as slices of one projection, whose rows lie apart in memory, are read as their copies are."""
    lengths = [3, Q]
    inputs, layout = parts(lengths), make_layout(boundaries_of(lengths))
    wide = torch.cat([inputs["channels"], inputs["dt"]], dim=1)
    channels, dt = wide.split([64, 2], dim=1)
    assert not channels.is_contiguous()
    assert not dt.is_contiguous()
    sliced = inputs | {"channels": channels, "dt": dt, "weight": inputs["weight"].T.contiguous().T}
    found, expected = (prefixes.backward_prefix_readout(*each.values(), layout, 16, TILE) for each in (sliced, inputs))
    assert torch.equal(found, expected)


def test_a_gradient_for_some_inputs_only() -> None:
    """Frozen weights and rates cost the others nothing: the gradient of the channels and dt is what it was."""
    lengths = [2, Q + 1]
    inputs, layout = parts(lengths), make_layout(boundaries_of(lengths))
    expected = run(inputs, lengths)
    ours = {name: values.clone().requires_grad_(name in {"channels", "dt"}) for name, values in inputs.items()}
    y = prefixes.backward_prefix_readout(*ours.values(), layout, 16, TILE)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    found = torch.autograd.grad(y, [ours["channels"], ours["dt"]], weights)
    assert torch.equal(found[0], expected["channels"])
    assert torch.equal(found[1], expected["dt"])


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
    """They are refused, and the way out is named."""
    inputs = {name: values.to(dtype) for name, values in parts([3], **settings).items()}
    state_dim = settings.get("state_dim", 16)
    assert not triton.reads_prefixes(inputs["channels"], inputs["weight"], inputs["dt"], state_dim)
    with pytest.raises(ShapeError, match=r"take P in .* use ops\.prefixes\.backward_prefix_readout"):
        prefixes.backward_prefix_readout(*inputs.values(), make_layout(boundaries_of([3])), state_dim)


def test_partly_flipped_prefixes() -> None:
    """SIGMA's prefixes are read with the kernels of the scan and the convolution: one that forgets nothing, read later."""
    lengths = [1, 5, 9, 70]
    layout = make_layout(boundaries_of(lengths))
    ours = {name: values.requires_grad_() for name, values in parts(lengths).items()}
    theirs = {name: values.detach().double().requires_grad_() for name, values in ours.items()}
    with dispatch.using("triton"):
        found = partially_flipped_prefix_readout(*ours.values(), layout, 16, 5)
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
        gradients = torch.autograd.grad(found, list(ours.values()), weights)
    expected = partially_flipped_prefix_readout(*theirs.values(), layout, 16, 5)
    wanted = torch.autograd.grad(expected, list(theirs.values()), weights.double())
    found_errors = errors(
        dict(zip(("y", *ours), (found.detach(), *gradients), strict=True)),
        dict(zip(("y", *ours), (expected.detach(), *wanted), strict=True)),
    )
    assert max(found_errors.values()) < ROUNDED, found_errors
