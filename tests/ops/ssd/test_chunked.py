"""The chunked scan equals the reference recurrence: values and gradients for any lengths, decays and chunk size."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from packed import (
    ScanInputs,
    cu_seqlens_of,
    definition,
    gradient_errors,
    gradients,
    in_double,
    relative_error,
    scan_inputs,
    with_decay,
    with_gradients,
)
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd import chunked
from ssd4rec.ops.ssd.chunked import chunked_scan

EXACT = 1e-12  # float64, relative to the largest value
ROUNDED = 3e-6  # float32, relative to the largest value of the float64 reference

DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
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


def fast(inputs: ScanInputs, lengths: list[int], Q: int, *, reverse: bool) -> Tensor:
    return chunked_scan(*inputs, make_layout(cu_seqlens_of(lengths), chunk=Q), reverse=reverse)


def errors_of_gradients(inputs: ScanInputs, lengths: list[int], Q: int, *, reverse: bool, scale: float = 1.0) -> dict[str, float]:
    """Return `gradient_errors` of the chunked scan."""
    return gradient_errors(lambda each: fast(each, lengths, Q, reverse=reverse), inputs, lengths, reverse=reverse, scale=scale)


@DIRECTIONS
@ROWS
def test_equals_the_reference(Q: int, lengths: list[int], reverse: bool) -> None:
    """In float64 the chunked scan equals the recurrence."""
    inputs = scan_inputs(lengths)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), definition(inputs, lengths, reverse=reverse)) < EXACT


@pytest.mark.thorough
@DIRECTIONS
@ROWS
def test_gradients_equal_the_reference(Q: int, lengths: list[int], reverse: bool) -> None:
    """In float64 all six gradients equal those of the recurrence."""
    errors = errors_of_gradients(scan_inputs(lengths), lengths, Q, reverse=reverse)
    assert max(errors.values()) < EXACT, errors


@DIRECTIONS
@CHUNKS
def test_float32_accuracy(Q: int, reverse: bool) -> None:
    """In float32, with several sequences per chunk, the values agree with the float64 reference."""
    lengths = histories_around(Q)["mixed"]
    inputs = scan_inputs(lengths, dtype=torch.float32)
    expected = definition(in_double(inputs), lengths, reverse=reverse)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), expected) < ROUNDED


@DIRECTIONS
@CHUNKS
def test_float32_accuracy_of_gradients(Q: int, reverse: bool) -> None:
    """In float32, with several sequences per chunk, the gradients agree with the float64 reference."""
    lengths = histories_around(Q)["mixed"]
    errors = errors_of_gradients(scan_inputs(lengths, dtype=torch.float32), lengths, Q, reverse=reverse)
    assert max(errors.values()) < ROUNDED, errors


@DIRECTIONS
@CHUNKS
@DTYPES
@DECAYS
def test_any_decay(log_decay: float, dtype: torch.dtype, bound: float, Q: int, reverse: bool) -> None:
    """From no decay to complete decay at each position, nothing overflows and the values are accurate."""
    lengths = [3, Q + 3, 2, 2 * Q]
    inputs = with_decay(scan_inputs(lengths, dtype=dtype), log_decay)
    expected = definition(in_double(inputs), lengths, reverse=reverse)
    assert relative_error(fast(inputs, lengths, Q, reverse=reverse), expected) < bound


@DIRECTIONS
@CHUNKS
@DTYPES
@DECAYS
def test_gradients_for_any_decay(log_decay: float, dtype: torch.dtype, bound: float, Q: int, reverse: bool) -> None:
    """From no decay to complete decay at each position, the gradients are finite and accurate."""
    lengths = [3, Q + 3, 2, 2 * Q]
    errors = errors_of_gradients(with_decay(scan_inputs(lengths, dtype=dtype), log_decay), lengths, Q, reverse=reverse)
    assert max(errors.values()) < bound, errors


@DIRECTIONS
@CHUNKS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, EXACT), (torch.float32, 2e-4)], ids=["float64", "float32"])
def test_strong_decay_among_weak_ones(dtype: torch.dtype, bound: float, Q: int, reverse: bool) -> None:
    """Positions with log decay -50 among positions with -0.001 do not spoil the accuracy."""
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
    """Incoming gradients 1e8 times smaller or larger are handled at a decay that uses the whole RANGE."""
    lengths = [3, 67, 2, 128]
    inputs = with_decay(scan_inputs(lengths, dtype=torch.float32), -50.0)
    errors = errors_of_gradients(inputs, lengths, 64, reverse=False, scale=scale)
    assert max(errors.values()) < ROUNDED, errors


@pytest.mark.thorough
@DIRECTIONS
def test_gradients_equal_finite_differences(reverse: bool) -> None:
    """The gradients agree with finite differences, within a chunk and across chunks."""
    inputs = with_gradients(scan_inputs([2, 11], heads=2, head_width=2, state_dim=2))
    layout = make_layout(cu_seqlens_of([2, 11]), chunk=8)
    assert layout.chunks.before.tolist() == [0]
    assert torch.autograd.gradcheck(lambda *six: chunked_scan(*six, layout, reverse=reverse), tuple(inputs))


@given(lengths=lengths_of_histories, reverse=st.booleans(), seed=st.integers(0, 99))
@example(lengths=[40, 40], reverse=False, seed=0)
def test_chunk_size_does_not_matter(lengths: list[int], reverse: bool, seed: int) -> None:
    """Chunk sizes 8, 16 and 64 give the same values."""
    inputs = scan_inputs(lengths, seed=seed)
    eight, sixteen, sixty_four = (fast(inputs, lengths, Q, reverse=reverse) for Q in (8, 16, 64))
    assert eight.abs().max() > 0
    torch.testing.assert_close(eight, sixteen, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(sixteen, sixty_four, rtol=EXACT, atol=EXACT)


@given(lengths=lengths_of_histories.filter(lambda lengths: len(lengths) > 1), reverse=st.booleans(), data=st.data())
def test_neighbors_do_not_matter(lengths: list[int], reverse: bool, data: st.DataObject) -> None:
    """A sequence in a packed batch gives the same result as alone."""
    cu_seqlens = cu_seqlens_of(lengths).tolist()
    user = data.draw(st.integers(0, len(lengths) - 1))
    start, stop = cu_seqlens[user], cu_seqlens[user + 1]
    x, dt, A, B, C, D = scan_inputs(lengths)
    alone = ScanInputs(x[start:stop], dt[start:stop], A, B[start:stop], C[start:stop], D)
    packed = fast(ScanInputs(x, dt, A, B, C, D), lengths, 16, reverse=reverse)
    assert packed[:start].abs().sum() + packed[stop:].abs().sum() > 0
    torch.testing.assert_close(packed[start:stop], fast(alone, [stop - start], 16, reverse=reverse), rtol=EXACT, atol=EXACT)


def test_inputs_are_not_modified() -> None:
    """Neither pass writes to its inputs."""
    inputs = scan_inputs([3, 20])
    before = [values.clone() for values in inputs]
    leaves = with_gradients(inputs)
    gradients(fast(leaves, [3, 20], 8, reverse=False), leaves)
    for values, copy in zip(leaves, before, strict=True):
        torch.testing.assert_close(values.detach(), copy, rtol=0, atol=0)


def test_strided_inputs() -> None:
    """Strided slices of one projection give the same result as their copies."""
    x, dt, A, B, C, D = scan_inputs([3, 20])
    wide = torch.cat([x.flatten(1), B, C, dt], dim=1)
    sliced_x, sliced_B, sliced_C, sliced_dt = wide.split([6, 4, 4, 2], dim=1)
    sliced = ScanInputs(sliced_x.unflatten(1, (2, 3)), sliced_dt, A, sliced_B, sliced_C, D)
    assert not sliced.x.is_contiguous()
    copied = fast(ScanInputs(x, dt, A, B, C, D), [3, 20], 8, reverse=False)
    torch.testing.assert_close(fast(sliced, [3, 20], 8, reverse=False), copied, rtol=0, atol=0)


def test_base_block_size_depends_on_the_decay() -> None:
    """A float32 chunk of 64 is one block down to a log decay of -140 / 64, and has blocks of 32, 16, 8 below."""
    chunks = make_layout(cu_seqlens_of([64])).chunks
    sizes = [
        chunked._decays(torch.full((64, 1), log_decay), chunks, reverse=False).base.size
        for log_decay in (-0.1, -2.1, -2.3, -4.3, -4.5, -8.7, -8.9, -1000.0)
    ]
    assert sizes == [64, 64, 32, 32, 16, 16, 8, 8]
