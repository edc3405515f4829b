"""numba's kernels equal PyTorch's operations in float64: values and every gradient."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from packed import (
    Mixer,
    ScanInputs,
    cu_seqlens_of,
    definition,
    gradient_errors,
    in_double,
    relative_error,
    scan_inputs,
    with_decay,
)
from ssd4rec.ops import cross_entropy, dispatch, keyed_random, numba
from ssd4rec.ops.cross_entropy import AddedLogits
from ssd4rec.ops.gather import split_columns
from ssd4rec.ops.repeats import prefix_items
from ssd4rec.ops.segments import make_layout

if not numba.available():
    pytest.skip("numba is not installed", allow_module_level=True)

ROUNDED = 3e-6  # float32, relative to the largest value of the float64 result
LENGTHS = [[1], [2], [3], [4], [5], [1, 2, 3, 4, 5, 20, 1], [7, 200, 1, 1, 90]]


@pytest.fixture(autouse=True)
def _several_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd4rec.ops.numba.rows.POSITIONS", 16)


def both(operation: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the output and all gradients: of numba's kernel, and of PyTorch in float64."""
    narrow = [values.float().requires_grad_() for values in inputs]
    wide = [values.detach().double().requires_grad_() for values in narrow]
    with dispatch.use_backend("numba"):
        actual = operation(*narrow)
    expected = operation(*wide)
    incoming = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    return (
        [actual, *torch.autograd.grad(actual, narrow, incoming)],
        [expected, *torch.autograd.grad(expected, wide, incoming.double())],
    )


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        if theirs.abs().max() > 0:
            assert relative_error(ours, theirs) < ROUNDED
        else:
            assert not ours.any()


def wide_mixer(lengths: list[int], conv_width: int) -> Mixer:
    """Return inputs whose rows are whole vectors."""
    return Mixer(sum(lengths), conv_width, head_width=16, state_dim=16)


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [1, 13, 300])
def test_gated_norm(rows: int) -> None:
    random = torch.Generator().manual_seed(rows)
    inputs = [torch.randn(shape, generator=random) for shape in ((rows, 48), (rows, 48), (48,))]
    assert_equal(*both(lambda *each: dispatch.gated_norm(*each, 1e-5), inputs))


@pytest.mark.thorough
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_gated_norm_of_both(lengths: list[int]) -> None:
    random, rows, layout = torch.Generator().manual_seed(3), sum(lengths), make_layout(cu_seqlens_of(lengths))
    inputs = [torch.randn(shape, generator=random) for shape in ((rows, 48), (rows, 48), (rows, 48), (48,))]
    assert_equal(*both(lambda *each: dispatch.gated_norm_of_both(*each, 1e-5, 0.3, layout), inputs))


@pytest.mark.kernels
@pytest.mark.parametrize("conv_width", [1, 2, 4, 5])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_convolve(lengths: list[int], conv_width: int, reverse: bool) -> None:
    layout = make_layout(cu_seqlens_of(lengths))
    mixer = wide_mixer(lengths, conv_width)
    assert_equal(*both(lambda *each: dispatch.convolve(*each, layout, reverse=reverse), mixer.parts[:3]))


@pytest.mark.thorough
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_fading_sum(lengths: list[int]) -> None:
    random = torch.Generator().manual_seed(2)
    inputs = [torch.randn(sum(lengths), 7, generator=random), torch.tensor([-0.3])]
    assert_equal(*both(lambda *each: dispatch.fading_sum(*each, cu_seqlens_of(lengths)), inputs))


@pytest.mark.thorough
@pytest.mark.parametrize("features", [1, 3, 4, 5])
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["unshifted", "shifted"])
@pytest.mark.parametrize("lengths", LENGTHS[5:], ids=str)
def test_added_logits(lengths: list[int], scale: float, features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The softmax with repeat logits in several tiles and blocks, with targets among the items of the prefix and others."""
    monkeypatch.setattr(cross_entropy, "TILE_BYTES", 4 * 8 * 64)
    monkeypatch.setattr(cross_entropy, "MAX_ROWS", 64)
    random, total = torch.Generator().manual_seed(3), sum(lengths)
    items, targets = (torch.randint(30, (total,), generator=random) for _ in range(2))
    prefixes = prefix_items(items, cu_seqlens_of(lengths), torch.arange(total))
    inputs = [scale**0.5 * torch.randn(shape, generator=random) for shape in ((total, 5), (30, 5))]
    inputs.append(scale * torch.randn(total, features, generator=random))
    popularity = 0.3 * torch.randn(31, generator=random) if features == 5 else None

    def loss(states: Tensor, table: Tensor, coefficients: Tensor) -> Tensor:
        return dispatch.linear_cross_entropy(states, table, targets, AddedLogits(coefficients, prefixes, popularity))

    assert_equal(*both(loss, inputs))


@pytest.mark.kernels
@pytest.mark.parametrize("width", [1, 15, 16, 33, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads", [1, 5])
def test_exp_and_sum(width: int, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponentials differ from PyTorch's in the last place at most, and the sums are those of the rounded exponentials."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    random = torch.Generator().manual_seed(width)
    scores = (20 * torch.randn(7, width, generator=random)).to(dtype)
    before = torch.rand(7, 1, generator=random)
    actual, expected = scores.clone(), scores.double()
    total, expected_total = before.clone(), before.double()
    numba.load_kernels().exp_and_sum_(actual, total)
    cross_entropy.exp_and_sum_(expected, expected_total)
    torch.testing.assert_close(actual.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(total.double(), before + actual.double().sum(1, keepdim=True), rtol=1e-6, atol=0)


@pytest.mark.kernels
def test_bfloat16_numbers_are_rounded_as_by_pytorch() -> None:
    """To the nearest, and a tie to the even number; zero, infinities and NaN stay what they are."""
    bits = torch.arange(0, 1 << 16, dtype=torch.int32) << 16
    upper = bits.view(torch.float32)
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    numbers = torch.where(upper.isfinite()[:, None], bits[:, None] | lower, bits[:, None]).view(torch.float32).flatten()
    out = torch.empty_like(numbers, dtype=torch.bfloat16)
    simd_copy(numbers.numpy(), out.view(torch.uint16).numpy())
    assert torch.equal(out.isnan(), numbers.isnan())
    expected = numbers.bfloat16()
    assert torch.equal(out[~out.isnan()], expected[~expected.isnan()])
    back = torch.empty_like(numbers)
    simd_copy(out.view(torch.uint16).numpy(), back.numpy())
    assert torch.equal(back.nan_to_num(), out.float().nan_to_num())


@pytest.mark.thorough
@pytest.mark.parametrize("lengths", LENGTHS[5:], ids=str)
def test_added_logits_in_bfloat16(lengths: list[int]) -> None:
    """Under autocast, numba's kernels and PyTorch's operations give the same to the digits of bfloat16."""
    random, total = torch.Generator().manual_seed(3), sum(lengths)
    items, targets = (torch.randint(30, (total,), generator=random) for _ in range(2))
    prefixes = prefix_items(items, cu_seqlens_of(lengths), torch.arange(total))
    inputs = [torch.randn(shape, generator=random).requires_grad_() for shape in ((total, 5), (30, 5), (total, 4))]

    def results() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = dispatch.linear_cross_entropy(*inputs[:2], targets, AddedLogits(inputs[2], prefixes))
        return [loss, *torch.autograd.grad(loss, inputs)]

    assert_close_in_bfloat16(results)


@pytest.mark.thorough
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_feed_forward_in_bfloat16(p: float) -> None:
    random = torch.Generator().manual_seed(1)
    shapes = (300, 16), (64, 16), (64,), (16, 64), (16,)
    inputs = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]

    def results() -> list[Tensor]:
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16):
            out = dispatch.feed_forward(*inputs, p, training=True)
        assert out.dtype == torch.bfloat16
        return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]

    assert_close_in_bfloat16(results)


@pytest.mark.kernels
@pytest.mark.parametrize("conv_width", [1, 2, 4, 5])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_backward_prefix_readout(lengths: list[int], conv_width: int) -> None:
    layout = make_layout(cu_seqlens_of(lengths))
    mixer = wide_mixer(lengths, conv_width)
    assert_equal(*both(lambda *each: dispatch.backward_prefix_readout(*each, layout, 16), mixer.parts))


@pytest.mark.kernels
def test_backward_prefix_readout_of_a_long_sequence() -> None:
    """The weights of its last positions are too small for a normal float32 number."""
    lengths = [400]
    mixer = wide_mixer(lengths, 4)
    mixer.A = torch.tensor([-0.3, -1.0], dtype=torch.float64)
    layout = make_layout(cu_seqlens_of(lengths))
    assert_equal(*both(lambda *each: dispatch.backward_prefix_readout(*each, layout, 16), mixer.parts))


@pytest.mark.kernels
def test_rows_that_are_not_whole_vectors_are_left_to_pytorch() -> None:
    mixer, layout = Mixer(300, 4, dtype=torch.float32), make_layout(cu_seqlens_of([300]))
    with dispatch.use_backend("numba"):
        out, y = dispatch.convolve(*mixer.parts[:3], layout), dispatch.backward_prefix_readout(*mixer.parts, layout, 4)
    assert torch.equal(out, dispatch.convolve(*mixer.parts[:3], layout))
    assert torch.equal(y, dispatch.backward_prefix_readout(*mixer.parts, layout, 4))


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(1, 1), (13, 24), (700, 5)], ids=str)
@pytest.mark.parametrize("keyed", [False, True], ids=["generator", "keyed"])
def test_dropout(shape: tuple[int, int], keyed: bool) -> None:
    """The same elements are dropped, and the results have the same bits."""
    keys = torch.arange(shape[0]) if keyed else None
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    for x, backend in zip(inputs, ("torch", "numba"), strict=True):
        torch.manual_seed(5)
        with dispatch.use_backend(backend), keyed_random.keyed(keys):
            dispatch.dropout(x, 0.3, training=True).square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


@pytest.mark.kernels
@pytest.mark.parametrize("rows", [1, 300, 5000])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_feed_forward(rows: int, scale: float, threads: int, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # of the kernels
    random = torch.Generator().manual_seed(rows)
    shapes = (rows, 16), (64, 16), (64,), (16, 64), (16,)
    inputs = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    inputs[0] *= scale

    def operation(*each: Tensor) -> Tensor:
        torch.manual_seed(7)
        return dispatch.feed_forward(*each, p, training=True)

    assert_equal(*both(operation, inputs))


def assert_equal_with_any_threads(results: Callable[[], list[Tensor]]) -> None:
    """Check that numba gives what PyTorch gives, and the same bits with one thread and with three."""
    with dispatch.use_backend("torch"):
        expected = results()
    threads = torch.get_num_threads()
    with dispatch.use_backend("numba"):
        try:
            torch.set_num_threads(1)
            single = results()
            torch.set_num_threads(3)
            several = results()
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(single, several, strict=True))
    assert max(relative_error(*pair) for pair in zip(single, expected, strict=True)) < ROUNDED


def assert_close_in_bfloat16(results: Callable[[], list[Tensor]]) -> None:
    """Check that numba's kernels and PyTorch give the same to two digits, in the same types."""
    with dispatch.use_backend("numba"):
        actual = results()
    with dispatch.use_backend("torch"):
        expected = results()
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert relative_error(ours.float(), theirs.float()) < 2e-2


def simd_copy(source: Any, out: Any) -> None:
    """Copy numbers with the functions that kernels use, the odd vectors one number at a time."""
    simd = import_module("ssd4rec.ops.numba.simd")
    lanes, load, number_at, put, store = simd.LANES, simd.load, simd.number_at, simd.put, simd.store

    @simd.njit
    def copy(source: Any, out: Any) -> None:
        for j in range(0, len(out), lanes):
            if j // lanes % 2:
                for i in range(j, j + lanes):
                    put(out, i, number_at(source, i))
            else:
                store(out, j, load(source, j))

    copy(source, out)


def scanned(inputs: ScanInputs, lengths: list[int], *, reverse: bool) -> Tensor:
    with dispatch.use_backend("numba"):
        return dispatch.scan(*inputs, make_layout(cu_seqlens_of(lengths)), reverse=reverse)


def wide_inputs(lengths: list[int]) -> ScanInputs:
    return scan_inputs(lengths, heads=2, head_width=16, state_dim=32, dtype=torch.float32)


def assert_scan_equals_definition(inputs: ScanInputs, lengths: list[int], bound: float, *, reverse: bool) -> None:
    expected = definition(in_double(inputs), lengths, reverse=reverse)
    actual = scanned(inputs, lengths, reverse=reverse)
    assert actual.dtype == torch.float32
    assert relative_error(actual, expected) < bound
    errors = gradient_errors(lambda each: scanned(each, lengths, reverse=reverse), inputs, lengths, reverse=reverse)
    assert max(errors.values()) < bound, errors


@pytest.mark.kernels
@pytest.mark.parametrize("lengths", [*LENGTHS, [31, 32, 33, 64, 65], [7, 9, 15, 16, 17]], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_scan(lengths: list[int], reverse: bool) -> None:
    assert_scan_equals_definition(wide_inputs(lengths), lengths, ROUNDED, reverse=reverse)


@pytest.mark.kernels
@pytest.mark.parametrize("log_decay", [0.0, -0.001, -10.0, -50.0, -1000.0])
def test_scan_with_any_decay(log_decay: float) -> None:
    lengths = [3, 35, 70]
    assert_scan_equals_definition(with_decay(wide_inputs(lengths), log_decay), lengths, ROUNDED, reverse=False)


@pytest.mark.kernels
def test_scan_with_strong_decays_among_weak_ones() -> None:
    lengths = [3, 35, 70]
    inputs = wide_inputs(lengths)
    strong = torch.rand(inputs.dt.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    inputs = inputs._replace(dt=torch.where(strong, 50.0, 0.001), A=-torch.ones(2))
    assert_scan_equals_definition(inputs, lengths, 2e-4, reverse=False)


@pytest.mark.kernels
def test_scan_of_columns_of_a_wider_matrix_and_several_threads() -> None:
    """As the mixer splits its channels; the number of threads changes no bit, and odd widths are left to PyTorch."""
    lengths = [50, 3, 1, 200, 17] * 3
    inputs = wide_inputs(lengths)
    layout = make_layout(cu_seqlens_of(lengths))
    wide = torch.cat([inputs.x.flatten(1), inputs.B, inputs.C], 1)

    def results() -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (wide, inputs.dt, inputs.A, inputs.D)]
        x, B, C = split_columns(leaves[0], [32, 32, 32])
        y = dispatch.scan(x.unflatten(1, (2, 16)), leaves[1], leaves[2], B, C, leaves[3], layout)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    assert_equal_with_any_threads(results)
    narrow = scan_inputs(lengths, dtype=torch.float32)
    assert torch.equal(scanned(narrow, lengths, reverse=False), dispatch.scan(*narrow, layout))


@pytest.mark.kernels
def test_scan_does_not_hide_a_number_that_is_not_finite() -> None:
    inputs = wide_inputs([5])
    broken = [inputs._replace(**{name: torch.full_like(getattr(inputs, name), torch.nan)}) for name in ScanInputs._fields]
    assert not any(scanned(each, [5], reverse=False).isfinite().any() for each in broken)


@pytest.mark.kernels
def test_columns_of_a_wider_matrix_and_several_threads() -> None:
    """Channels are a part of the output of in_proj; the number of threads changes no bit."""
    lengths = [50, 3, 1, 200, 17] * 3
    layout, mixer = make_layout(cu_seqlens_of(lengths)), wide_mixer(lengths, 4)
    wide = torch.randn(sum(lengths), 90)
    wide[:, 9:73] = mixer.channels

    def results() -> list[Tensor]:
        source = wide.clone().requires_grad_()
        inputs = [source[:, 9:73], *(values.float().requires_grad_() for values in mixer.parts[1:])]
        y = dispatch.backward_prefix_readout(*inputs, layout, 16)
        out = dispatch.convolve(*inputs[:3], layout)
        return [y, out, *torch.autograd.grad(y.square().sum() + out.square().sum(), [source, *inputs[1:]])]

    assert_equal_with_any_threads(results)


@pytest.mark.thorough
def test_bfloat16_next_to_float32_is_computed_in_float32() -> None:
    """As under autocast: the output is float32, the gradient of a bfloat16 input bfloat16."""
    y, gate = (torch.randn(5, 16).bfloat16().requires_grad_() for _ in range(2))
    weight = torch.randn(16)
    with dispatch.use_backend("numba"):
        actual = dispatch.gated_norm(y, gate, weight, 1e-5)
    expected = dispatch.gated_norm(y.double(), gate.double(), weight.double(), 1e-5)
    assert actual.dtype == torch.float32
    assert relative_error(actual, expected) < ROUNDED
    assert torch.autograd.grad(actual.sum(), [y])[0].dtype == torch.bfloat16


def test_kernels_are_for_training_steps_of_some_size_in_float32() -> None:
    large, small = torch.ones(numba.SMALLEST, 1), torch.ones(numba.SMALLEST - 1, 1)
    assert dispatch.uses_numba(large)
    assert not dispatch.uses_numba(small)
    assert not dispatch.uses_numba(large.double())
    assert dispatch.uses_numba(large, large.bfloat16())
    assert not dispatch.uses_numba(large.bfloat16())
    with torch.no_grad():
        assert not dispatch.uses_numba(large)
    with dispatch.use_backend("torch"):
        assert not dispatch.uses_numba(large)
    with dispatch.use_backend("numba"):
        assert dispatch.uses_numba(small)


@pytest.mark.thorough
def test_a_number_that_is_not_finite_is_not_hidden() -> None:
    """A training that diverges must be noticed."""
    y, ones, weight = torch.ones(2, 16), torch.ones(2, 16), torch.ones(16)
    y[0, 3], y[1, 5] = torch.nan, torch.inf
    with dispatch.use_backend("numba"):
        out = dispatch.gated_norm(y, ones, weight, 1e-5)
        assert not out[0].isfinite().any()
        assert not dispatch.gated_norm(ones, torch.full((2, 16), torch.nan), weight, 1e-5).isfinite().any()
        values = dispatch.feed_forward(y, torch.ones(16, 16), weight, torch.ones(16, 16), weight, 0.5, training=True)
    assert not out[1].isfinite().all()
    assert not values.isfinite().any()


def test_only_ops_numba_imports_numba() -> None:
    source = Path(numba.__file__).parents[2]
    pattern = re.compile(r"^\s*(import numba\b|from numba\b)", re.MULTILINE)
    importing = {path for path in source.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))}
    assert importing
    assert {path.parent for path in importing} == {Path(numba.__file__).parent}


ANNOUNCED = """
import logging, sys, torch
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
from ssd4rec.ops import numba
for _ in range(2):
    kernels = numba.load_kernels()
    kernels.exp_and_sum_(torch.ones(8, 8), torch.zeros(8, 1))
    kernels.exp_and_sum_(torch.ones(8, 8, dtype=torch.bfloat16), torch.zeros(8, 1))
"""


@pytest.mark.thorough
def test_compiling_is_announced_once(tmp_path: Path) -> None:
    """Kernels of the cache are not compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = partial(subprocess.run, [sys.executable, "-c", ANNOUNCED], env=environment, capture_output=True, text=True, check=True)
    assert run().stdout == "compiling the training step for this machine, once (about half a minute)\n"
    assert run().stdout == ""
