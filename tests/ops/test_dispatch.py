"""The front door: which form of an operation runs, and that it does not matter which."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rows import boundaries_of, relative_error, scan_inputs
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.step import cache_after
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch, triton
from ssd4rec.ops.convolution import convolve
from ssd4rec.ops.segments import make_layout
from ssd4rec.ops.ssd.chunked import chunked_scan
from ssd4rec.ops.ssd.prefix_readout import backward_prefix_readout
from ssd4rec.training.objective import next_item_loss

INTERPRETED = [
    pytest.mark.kernels,
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernels themselves: tests/gpu"),
    pytest.mark.skipif(not triton.available(), reason="Triton is not installed"),
    pytest.mark.usefixtures("_poisoned"),
]
LENGTHS = [1, 3, 35]
ITEMS = 20


def refuse(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("this form was not to run")


def kernels() -> list[str]:
    return ["scan", "backward_prefix_readout", "convolve", "convolve_both_ways", "gated_norm", "linear_cross_entropy"]


def batch() -> PackedBatch:
    items = torch.randint(1, ITEMS + 1, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return PackedBatch(items[0], boundaries_of(LENGTHS), items[1])


def loss_and_gradients(form: dispatch.Form, objective: str, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=16, state_dim=16, dropout=0.0, **settings)), ITEMS)
    config = TrainingConfig.model_validate({"objective": objective, "mask_ratio": 0.0})
    with dispatch.using(form):
        loss = next_item_loss(model, batch(), config)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    found = {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    return {"loss": loss, **found}


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Float32 rounding; the gradients of dt and A are small differences of large terms."""
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for name, value in expected.items():
        bound = 1e-3 if name.endswith(("A_log", "dt_bias")) else 1e-5
        assert relative_error(found[name], value) < bound, name


def test_a_cpu_takes_the_torch_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether Triton is installed or not, no kernel is asked for a CPU tensor, in any operation of a training step."""
    for name in kernels():
        monkeypatch.setattr(triton, name, refuse)
    assert torch.isfinite(loss_and_gradients("auto", "all-positions")["loss"])
    assert torch.isfinite(loss_and_gradients("auto", "per-prefix", layers=2, bidirectional="all")["loss"])


@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_each_kernel_is_in_the_training_path(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kernels on, two layers ask for every kernel: both directions where a layer reads both ways, one where it does not."""
    asked = set()
    for name in kernels():

        def form(*arguments: Any, name: str = name, **keywords: Any) -> Any:
            asked.add((name, keywords.get("reverse", False)))
            with dispatch.using("torch"):
                return getattr(dispatch, name)(*arguments, **keywords)

        monkeypatch.setattr(triton, name, form)
    bidirectional = "top" if objective == "all-positions" else "all"
    loss_and_gradients("triton", objective, layers=2, bidirectional=bidirectional)
    expected = {(name, False) for name in kernels()} | {("scan", True), ("convolve", True)}
    if (
        objective == "all-positions"
    ):  # the top layer's backward direction is `backward_prefix_readout`, and a layer below it has none
        expected -= {("convolve_both_ways", False), ("scan", True), ("convolve", True)}
    else:
        expected.remove(("backward_prefix_readout", False))
    assert asked == expected


def test_sizes_without_a_kernel() -> None:
    """P = 8 has no kernel: the torch form is taken even where kernels are asked for."""
    inputs, layout = scan_inputs([3, 4], head_width=8, state_dim=16, dtype=torch.float32), make_layout(boundaries_of([3, 4]))
    with dispatch.using("triton"):
        assert torch.equal(dispatch.scan(*inputs, layout), chunked_scan(*inputs, layout))


def test_float64_takes_the_torch_form() -> None:
    """Even where kernels are asked for: they know at most 32 bits, and would round."""
    inputs, layout = scan_inputs([3, 4], head_width=16, state_dim=16), make_layout(boundaries_of([3, 4]))
    row, weight, bias = torch.randn(7, 64, dtype=torch.float64), torch.ones(64, 4).double(), torch.ones(64).double()
    with dispatch.using("triton"):
        assert torch.equal(dispatch.scan(*inputs, layout), chunked_scan(*inputs, layout))
        assert torch.equal(dispatch.convolve(row, weight, bias, layout), convolve(row, weight, bias, layout))
        found = dispatch.backward_prefix_readout(row, weight, bias, inputs.dt, inputs.A, inputs.D, layout, 16)
    assert torch.equal(found, backward_prefix_readout(row, weight, bias, inputs.dt, inputs.A, inputs.D, layout, 16))


@pytest.mark.parametrize(("heads", "state_dim", "conv_width"), [(8, 16, 4), (2, 8, 4), (2, 16, 5)], ids=["P=4", "N=8", "K=5"])
def test_prefixes_of_sizes_without_a_kernel(heads: int, state_dim: int, conv_width: int) -> None:
    """They take the torch form even where kernels are asked for."""
    layout, channels = make_layout(boundaries_of([3, 4])), 32 + 2 * state_dim
    inputs = torch.randn(7, channels), torch.ones(channels, conv_width), torch.ones(channels)
    rates = torch.ones(7, heads), -torch.ones(heads), torch.ones(heads)
    with dispatch.using("triton"):
        found = dispatch.backward_prefix_readout(*inputs, *rates, layout, state_dim)
    assert torch.equal(found, backward_prefix_readout(*inputs, *rates, layout, state_dim))


def test_the_choice_ends_with_its_block() -> None:
    """Also when the block ends in an error."""
    with dispatch.using("triton"):
        assert dispatch.kernels_serve(torch.ones(1))
    with pytest.raises(AssertionError, match="was not to run"), dispatch.using("triton"):
        refuse()
    assert not dispatch.kernels_serve(torch.ones(1))


@pytest.mark.parametrize(
    ("cuda", "version", "capability", "expected"),
    [
        (False, None, None, r"torch's own form: torch sees no CUDA device \(Triton is not installed\)"),
        (False, "3.7.1", None, r"sees no CUDA device \(Triton 3.7.1 is installed, and its kernels would run on one\)"),
        (True, None, (9, 0), "torch's own form: Triton is not installed; torch for CUDA brings it"),
        (True, "3.7.1", (7, 5), r"torch's own form: Triton's kernels take NVIDIA GPUs of compute capability 8.0 or later"),
        (True, "3.7.1", (9, 0), r"Triton 3.7.1 kernels for head_width in \(16, 32, 64\) and state_dim in \(16, 32, 64, 128\)"),
    ],
)
def test_what_is_in_use_and_why(
    cuda: bool, version: str | None, capability: tuple[int, int] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` says which form runs, and what it depends on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton, "version", lambda: version)
    triton.capable.cache_clear()
    try:
        assert re.search(expected, dispatch.in_use())
    finally:
        triton.capable.cache_clear()


def interpreted(test: Callable[..., None]) -> Callable[..., None]:
    for mark in INTERPRETED:
        test = mark(test)
    return test


@interpreted
def test_a_step_with_kernels_is_the_step_without() -> None:
    """One pass, one layer that reads both ways: the same loss and gradients, all kernels of the step in a row."""
    check(loss_and_gradients("triton", "all-positions"), loss_and_gradients("torch", "all-positions"))


@interpreted
def test_a_prefilled_state_with_kernels_is_the_state_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution of a state goes through the front door, as that of the layers does; each number of it to 1e-5."""
    torch.manual_seed(0)
    config = SSD4RecConfig(width=16, state_dim=16, dropout=0.0)
    layer, layout = BiSSDLayer(config, bidirectional=True).eval(), make_layout(boundaries_of(LENGTHS))
    hidden, asked = torch.randn(sum(LENGTHS), 16), []
    convolution = triton.convolve
    monkeypatch.setattr(triton, "convolve", lambda *given, **how: asked.append(how) or convolution(*given, **how))
    with torch.inference_mode():
        expected = cache_after(layer, hidden, layout)
        assert not asked
        with dispatch.using("triton"):
            found = cache_after(layer, hidden, layout)
    assert len(asked) == 1
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-5, atol=1e-6, msg=name)


@interpreted
@pytest.mark.slow
def test_a_step_of_prefixes_with_kernels_is_the_step_without() -> None:
    """Prefixes, two layers that both read both ways: the scan and the convolution in both directions."""
    settings = {"layers": 2, "bidirectional": "all"}
    check(loss_and_gradients("triton", "per-prefix", **settings), loss_and_gradients("torch", "per-prefix", **settings))


@interpreted
def test_half_precision_goes_through() -> None:
    """Under autocast to float16 (bfloat16 is beyond the interpreter) decays stay float32 and the loss is right to 1e-2."""
    with torch.autocast("cpu", torch.float16):
        found = loss_and_gradients("triton", "all-positions")
    assert found["loss"].dtype == torch.float32
    expected = loss_and_gradients("torch", "all-positions")
    assert relative_error(found["loss"], expected["loss"]) < 1e-2
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
