"""The scan as matrix products is the scan: values and gradients, whatever the lengths, the decays and the chunk."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from rows import ScanInputs, boundaries_of, mirrored, relative_error, scan_inputs
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd import chunked
from ssd4rec.ops.ssd.chunked import chunked_scan
from ssd4rec.ops.ssd.reference import scan

EXACT = 1e-12  # float64, relative to the largest number
ROUNDED = 3e-6  # float32 against the float64 definition on the same numbers, relative to the largest number

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
CHUNKS = pytest.mark.parametrize("Q", [8, 16, 64])
DTYPES = pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, EXACT), (torch.float32, ROUNDED)], ids=["float64", "float32"]
)
DECAYS = pytest.mark.parametrize("log_decay", [0.0, -0.001, -10.0, -50.0, -1000.0])
lengths_of_histories = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def histories_around(Q: int) -> dict[str, list[int]]:
    edges = [1, 2, 3, 4, Q - 1, Q, Q + 1, 3 * Q + 5]
    return {
        **{str(length): [length] for length in edges},
        "mixed": [*edges, 1, Q],
        "falling": sorted(edges, reverse=True),
        "many in a chunk": [1, 2, 1, 3, 1, 1, 2, 4, 1, 2, 3, 1, 2, 2, 1, 5, 1, 1],
    }


ROWS = pytest.mark.parametrize(
    ("Q", "lengths"),
    [pytest.param(Q, lengths, id=f"{Q}: {name}") for Q in (8, 16, 64) for name, lengths in histories_around(Q).items()],
)


def definition(inputs: ScanInputs, lengths: list[int], *, reverse: bool) -> Tensor:
    """The recurrence; backwards, on each history mirrored, and mirrored back."""
    cu_seqlens = boundaries_of(lengths)
    if not reverse:
        return scan(*inputs, cu_seqlens)[0]
    x, dt, A, B, C, D = inputs
    x, dt, B, C = (mirrored(values, cu_seqlens) for values in (x, dt, B, C))
    return mirrored(scan(x, dt, A, B, C, D, cu_seqlens)[0], cu_seqlens)


def fast(inputs: ScanInputs, lengths: list[int], Q: int, *, reverse: bool) -> Tensor:
    return chunked_scan(*inputs, make_layout(boundaries_of(lengths), chunk=Q), reverse=reverse)


def with_gradients(inputs: ScanInputs) -> ScanInputs:
    return ScanInputs(*(values.detach().clone().requires_grad_() for values in inputs))


def in_double(inputs: ScanInputs) -> ScanInputs:
    return ScanInputs(*(values.double() for values in inputs))


def gradients(y: Tensor, inputs: ScanInputs, scale: float = 1.0) -> dict[str, Tensor]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    found = torch.autograd.grad(y, list(inputs), weights * scale)
    return dict(zip(ScanInputs._fields, found, strict=True))


def errors_of_gradients(inputs: ScanInputs, lengths: list[int], Q: int, *, reverse: bool, scale: float = 1.0) -> dict[str, float]:
    """The error of each gradient against that of the float64 definition on the same numbers, in units of its largest number.

    The gradient of a log-decay is the small difference of large terms <x, dx>, so the unit of d(dt) and dA is at least theirs.
    """
    ours, theirs = with_gradients(inputs), with_gradients(in_double(inputs))
    found = gradients(fast(ours, lengths, Q, reverse=reverse), ours, scale)
    expected = gradients(definition(theirs, lengths, reverse=reverse), theirs, scale)
    A, dt = theirs.A.detach(), theirs.dt.detach()
    terms = (theirs.x.detach() * expected["x"]).sum(-1).abs()
    units = {name: float(gradient.abs().max()) for name, gradient in expected.items()}
    units["dt"] = max(units["dt"], float((A.abs() * terms).max()))
    units["A"] = max(units["A"], float((dt * terms).sum(0).max()))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert min(units.values()) > 0
    return {name: float((found[name] - expected[name]).abs().max()) / units[name] for name in found}


@DIRECTIONS
@ROWS
def test_equals_the_definition(Q: int, lengths: list[int], reverse: bool) -> None:
    """In float64 the matrix form gives what the recurrence gives."""
    inputs = scan_inputs(lengths)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), definition(inputs, lengths, reverse=reverse)) < EXACT


@DIRECTIONS
@ROWS
def test_gradients_equal_those_of_the_definition(Q: int, lengths: list[int], reverse: bool) -> None:
    """In float64 all six gradients are those of the recurrence."""
    errors = errors_of_gradients(scan_inputs(lengths), lengths, Q, reverse=reverse)
    assert max(errors.values()) < EXACT, errors


@DIRECTIONS
@CHUNKS
def test_float32_is_right_to_rounding(Q: int, reverse: bool) -> None:
    """In float32, with several histories in a chunk, the values are those of the float64 definition to ROUNDED."""
    lengths = histories_around(Q)["mixed"]
    inputs = scan_inputs(lengths, dtype=torch.float32)
    expected = definition(in_double(inputs), lengths, reverse=reverse)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), expected) < ROUNDED


@DIRECTIONS
@CHUNKS
def test_float32_gradients_are_right_to_rounding(Q: int, reverse: bool) -> None:
    """In float32, with several histories in a chunk, the gradients are those of the float64 definition to ROUNDED."""
    lengths = histories_around(Q)["mixed"]
    errors = errors_of_gradients(scan_inputs(lengths, dtype=torch.float32), lengths, Q, reverse=reverse)
    assert max(errors.values()) < ROUNDED, errors


def with_decay(inputs: ScanInputs, log_decay: float) -> ScanInputs:
    return inputs._replace(dt=torch.ones_like(inputs.dt), A=torch.full_like(inputs.A, log_decay))


@DIRECTIONS
@CHUNKS
@DTYPES
@DECAYS
def test_no_decay_is_too_strong(log_decay: float, dtype: torch.dtype, bound: float, Q: int, reverse: bool) -> None:
    """From a decay that forgets nothing to one that forgets all at each step, nothing overflows and the values are right."""
    lengths = [3, Q + 3, 2, 2 * Q]
    inputs = with_decay(scan_inputs(lengths, dtype=dtype), log_decay)
    expected = definition(in_double(inputs), lengths, reverse=reverse)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), expected) < bound


@DIRECTIONS
@CHUNKS
@DTYPES
@DECAYS
def test_no_decay_is_too_strong_for_the_gradients(
    log_decay: float, dtype: torch.dtype, bound: float, Q: int, reverse: bool
) -> None:
    """From a decay that forgets nothing to one that forgets all at each step, the gradients are finite and right."""
    lengths = [3, Q + 3, 2, 2 * Q]
    errors = errors_of_gradients(with_decay(scan_inputs(lengths, dtype=dtype), log_decay), lengths, Q, reverse=reverse)
    assert max(errors.values()) < bound, errors


@DIRECTIONS
@CHUNKS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, EXACT), (torch.float32, 2e-4)], ids=["float64", "float32"])
def test_a_strong_decay_beside_weak_ones(dtype: torch.dtype, bound: float, Q: int, reverse: bool) -> None:
    """An event that forgets nearly all (-50), among events that forget nearly nothing (-0.001), spoils neither."""
    lengths = [3, Q + 3, 2, 2 * Q]
    inputs = scan_inputs(lengths, dtype=dtype)
    strong = torch.rand(inputs.dt.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    assert 0 < strong.sum() < strong.numel()
    inputs = inputs._replace(dt=torch.where(strong, 50.0, 0.001).to(dtype), A=-torch.ones_like(inputs.A))
    expected = definition(in_double(inputs), lengths, reverse=reverse)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), expected) < bound
    errors = errors_of_gradients(inputs, lengths, Q, reverse=reverse)
    assert max(errors.values()) < bound, errors


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_gradients_of_any_size(scale: float) -> None:
    """A gradient that comes in 1e8 times smaller or larger goes out so, at a decay that uses the whole of RANGE."""
    lengths = [3, 67, 2, 128]
    inputs = with_decay(scan_inputs(lengths, dtype=torch.float32), -50.0)
    errors = errors_of_gradients(inputs, lengths, 64, reverse=False, scale=scale)
    assert max(errors.values()) < ROUNDED, errors


@DIRECTIONS
def test_gradients_equal_finite_differences(reverse: bool) -> None:
    """The gradients are those of the values, by finite differences, over a link and within a chunk."""
    inputs = with_gradients(scan_inputs([2, 11], heads=2, head_width=2, state_dim=2))
    layout = make_layout(boundaries_of([2, 11]), chunk=8)
    assert layout.chunks.left.tolist() == [0]
    assert torch.autograd.gradcheck(lambda *six: chunked_scan(*six, layout, reverse=reverse), tuple(inputs))


@given(lengths=lengths_of_histories, reverse=st.booleans(), seed=st.integers(0, 99))
@example(lengths=[40, 40], reverse=False, seed=0)
def test_chunk_size_does_not_matter(lengths: list[int], reverse: bool, seed: int) -> None:
    """Chunks of 8, 16 and 64 positions give the same values."""
    inputs = scan_inputs(lengths, seed=seed)
    eight, sixteen, sixty_four = (fast(inputs, lengths, Q, reverse=reverse) for Q in (8, 16, 64))
    assert eight.abs().max() > 0
    torch.testing.assert_close(eight, sixteen, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(sixteen, sixty_four, rtol=EXACT, atol=EXACT)


@given(lengths=lengths_of_histories.filter(lambda lengths: len(lengths) > 1), reverse=st.booleans(), data=st.data())
def test_neighbours_do_not_matter(lengths: list[int], reverse: bool, data: st.DataObject) -> None:
    """A history in a packed row reads as it does alone."""
    cu_seqlens = boundaries_of(lengths).tolist()
    user = data.draw(st.integers(0, len(lengths) - 1))
    start, stop = cu_seqlens[user], cu_seqlens[user + 1]
    x, dt, A, B, C, D = scan_inputs(lengths)
    alone = ScanInputs(x[start:stop], dt[start:stop], A, B[start:stop], C[start:stop], D)
    packed = fast(ScanInputs(x, dt, A, B, C, D), lengths, 16, reverse=reverse)
    assert packed[:start].abs().sum() + packed[stop:].abs().sum() > 0
    torch.testing.assert_close(packed[start:stop], fast(alone, [stop - start], 16, reverse=reverse), rtol=EXACT, atol=EXACT)


def test_the_inputs_are_not_changed() -> None:
    """Neither pass writes into what it was given."""
    inputs = scan_inputs([3, 20])
    before = [values.clone() for values in inputs]
    given_ = with_gradients(inputs)
    gradients(fast(given_, [3, 20], 8, reverse=False), given_)
    for values, copy in zip(given_, before, strict=True):
        torch.testing.assert_close(values.detach(), copy, rtol=0, atol=0)


def test_strided_inputs() -> None:
    """Slices of one wide projection, whose rows lie apart in memory, are read as their copies are."""
    x, dt, A, B, C, D = scan_inputs([3, 20])
    wide = torch.cat([x.flatten(1), B, C, dt], dim=1)
    sliced_x, sliced_B, sliced_C, sliced_dt = wide.split([6, 4, 4, 2], dim=1)
    sliced = ScanInputs(sliced_x.unflatten(1, (2, 3)), sliced_dt, A, sliced_B, sliced_C, D)
    assert not sliced.x.is_contiguous()
    copied = fast(ScanInputs(x, dt, A, B, C, D), [3, 20], 8, reverse=False)
    torch.testing.assert_close(fast(sliced, [3, 20], 8, reverse=False), copied, rtol=0, atol=0)


def test_the_base_block_shrinks_as_the_decay_grows() -> None:
    """A float32 chunk of 64 is one block up to -140 / 64 a step, and blocks of 32, 16, 8 beyond."""
    chunks = make_layout(boundaries_of([64])).chunks
    sizes = [
        chunked._decays(torch.full((64, 1), log_decay), chunks, reverse=False).base.size
        for log_decay in (-0.1, -2.1, -2.3, -4.3, -4.5, -8.7, -8.9, -1000.0)
    ]
    assert sizes == [64, 64, 32, 32, 16, 16, 8, 8]
