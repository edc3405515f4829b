"""Backend dispatch: which backend runs an operation, and that both give the same result."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from packed import cu_seqlens_of, relative_error, scan_inputs
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.layers.bissd import BiSSDLayer
from ssd4rec.layers.step import prefill
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


KERNELS = ["scan", "backward_prefix_readout", "convolve", "convolve_bidirectional", "gated_norm", "linear_cross_entropy"]


def refuse(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("this backend must not run")


def batch() -> PackedBatch:
    items = torch.randint(1, ITEMS + 1, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return PackedBatch(items[0], cu_seqlens_of(LENGTHS), items[1])


def loss_and_gradients(backend: dispatch.Backend, objective: str, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=16, state_dim=16, dropout=0.0, **settings)), ITEMS)
    config = TrainingConfig.model_validate({"objective": objective, "mask_ratio": 0.0})
    with dispatch.use_backend(backend):
        loss = next_item_loss(model, batch(), config)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    actual = {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    return {"loss": loss, **actual}


def check(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare up to float32 rounding; the gradients of dt and A are small differences of large terms."""
    assert actual.keys() == expected.keys()
    assert len(actual) > 10
    for name, value in expected.items():
        bound = 1e-3 if name.endswith(("A_log", "dt_bias")) else 1e-5
        assert relative_error(actual[name], value) < bound, name


def test_cpu_uses_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operation of a training step uses a kernel for CPU tensors, whether Triton is installed or not."""
    monkeypatch.setattr(triton, "load_kernels", refuse)
    assert torch.isfinite(loss_and_gradients("auto", "all-positions")["loss"])
    assert torch.isfinite(loss_and_gradients("auto", "per-prefix", layers=2, bidirectional="all")["loss"])


@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_training_step_calls_each_kernel(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Triton backend, two layers call every kernel, in both directions where a layer is bidirectional."""
    calls = set()

    def recorded(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.add((name, keywords.get("reverse", False)))
            with dispatch.use_backend("torch"):
                return getattr(dispatch, name)(*arguments, **keywords)

        return call

    fake = SimpleNamespace(**{name: recorded(name) for name in KERNELS})
    monkeypatch.setattr(triton, "load_kernels", lambda _: fake)
    bidirectional = "top" if objective == "all-positions" else "all"
    loss_and_gradients("triton", objective, layers=2, bidirectional=bidirectional)
    expected = {(name, False) for name in KERNELS} | {("scan", True), ("convolve", True)}
    if (
        objective == "all-positions"
    ):  # the backward direction of the top layer is `backward_prefix_readout`, the layer below has none
        expected -= {("convolve_bidirectional", False), ("scan", True), ("convolve", True)}
    else:
        expected.remove(("backward_prefix_readout", False))
    assert calls == expected


def test_sizes_without_a_kernel() -> None:
    """P = 8 has no kernel, so PyTorch runs even with the Triton backend."""
    inputs, layout = scan_inputs([3, 4], head_width=8, state_dim=16, dtype=torch.float32), make_layout(cu_seqlens_of([3, 4]))
    with dispatch.use_backend("triton"):
        assert torch.equal(dispatch.scan(*inputs, layout), chunked_scan(*inputs, layout))


def test_float64_uses_torch() -> None:
    """The kernels support at most 32 bits, so PyTorch runs float64 even with the Triton backend."""
    inputs, layout = scan_inputs([3, 4], head_width=16, state_dim=16), make_layout(cu_seqlens_of([3, 4]))
    row, weight, bias = torch.randn(7, 64, dtype=torch.float64), torch.ones(64, 4).double(), torch.ones(64).double()
    with dispatch.use_backend("triton"):
        assert torch.equal(dispatch.scan(*inputs, layout), chunked_scan(*inputs, layout))
        assert torch.equal(dispatch.convolve(row, weight, bias, layout), convolve(row, weight, bias, layout))
        actual = dispatch.backward_prefix_readout(row, weight, bias, inputs.dt, inputs.A, inputs.D, layout, 16)
    assert torch.equal(actual, backward_prefix_readout(row, weight, bias, inputs.dt, inputs.A, inputs.D, layout, 16))


@pytest.mark.parametrize(("heads", "state_dim", "conv_width"), [(8, 16, 4), (2, 8, 4), (2, 16, 5)], ids=["P=4", "N=8", "K=5"])
def test_prefix_readout_of_sizes_without_a_kernel(heads: int, state_dim: int, conv_width: int) -> None:
    """PyTorch runs even with the Triton backend."""
    layout, channels = make_layout(cu_seqlens_of([3, 4])), 32 + 2 * state_dim
    inputs = torch.randn(7, channels), torch.ones(channels, conv_width), torch.ones(channels)
    rates = torch.ones(7, heads), -torch.ones(heads), torch.ones(heads)
    with dispatch.use_backend("triton"):
        actual = dispatch.backward_prefix_readout(*inputs, *rates, layout, state_dim)
    assert torch.equal(actual, backward_prefix_readout(*inputs, *rates, layout, state_dim))


def test_selection_ends_with_its_block() -> None:
    """The backend is restored, also after an exception."""
    with dispatch.use_backend("triton"):
        assert dispatch.uses_triton(torch.ones(1))
    with pytest.raises(AssertionError, match="must not run"), dispatch.use_backend("triton"):
        refuse()
    assert not dispatch.uses_triton(torch.ones(1))


@pytest.mark.parametrize(
    ("cuda", "version", "capability", "expected"),
    [
        (False, None, None, r"PyTorch: no CUDA device is available \(Triton is not installed\)"),
        (False, "3.7.1", None, r"no CUDA device is available \(Triton 3.7.1 is installed and would run on one\)"),
        (True, None, (9, 0), "PyTorch: Triton is not installed; torch for CUDA installs it"),
        (True, "3.7.1", (7, 5), r"PyTorch: the Triton kernels need an NVIDIA GPU of compute capability 8.0 or later"),
        (True, "3.7.1", (9, 0), r"Triton 3.7.1 kernels for head_width in \(16, 32, 64\) and state_dim in \(16, 32, 64, 128\)"),
    ],
)
def test_describe_backend(
    cuda: bool, version: str | None, capability: tuple[int, int] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` prints which backend runs, and why."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton, "version", lambda: version)
    triton.capable.cache_clear()
    try:
        assert re.search(expected, dispatch.describe_backend())
    finally:
        triton.capable.cache_clear()


def interpreted(test: Callable[..., None]) -> Callable[..., None]:
    for mark in INTERPRETED:
        test = mark(test)
    return test


@interpreted
def test_all_positions_step_equals_torch() -> None:
    """One bidirectional layer: the kernels give the same loss and gradients as PyTorch."""
    check(loss_and_gradients("triton", "all-positions"), loss_and_gradients("torch", "all-positions"))


@interpreted
def test_prefilled_cache_equals_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution of `prefill` is dispatched too; the cache agrees to 1e-5."""
    torch.manual_seed(0)
    config = SSD4RecConfig(width=16, state_dim=16, dropout=0.0)
    layer, layout = BiSSDLayer(config, bidirectional=True).eval(), make_layout(cu_seqlens_of(LENGTHS))
    hidden, calls = torch.randn(sum(LENGTHS), 16), []
    module = triton.load_kernels(hidden)
    convolve_kernel = module.convolve
    monkeypatch.setattr(module, "convolve", lambda *args, **options: calls.append(options) or convolve_kernel(*args, **options))
    with torch.inference_mode():
        expected, _ = prefill(layer, hidden, layout)
        assert not calls
        with dispatch.use_backend("triton"):
            actual, _ = prefill(layer, hidden, layout)
    assert len(calls) == 1
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(actual, name), value, rtol=1e-5, atol=1e-6, msg=name)


@interpreted
@pytest.mark.slow
def test_per_prefix_step_equals_torch() -> None:
    """Two bidirectional layers: scan and convolution in both directions."""
    settings = {"layers": 2, "bidirectional": "all"}
    check(loss_and_gradients("triton", "per-prefix", **settings), loss_and_gradients("torch", "per-prefix", **settings))


@interpreted
def test_half_precision_step() -> None:
    """Under autocast to float16 (the interpreter lacks bfloat16) decays stay float32 and the loss agrees to 1e-2."""
    with torch.autocast("cpu", torch.float16):
        actual = loss_and_gradients("triton", "all-positions")
    assert actual["loss"].dtype == torch.float32
    expected = loss_and_gradients("torch", "all-positions")
    assert relative_error(actual["loss"], expected["loss"]) < 1e-2
    assert {gradient.dtype for gradient in actual.values()} == {torch.float32}
