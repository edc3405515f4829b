"""A training step on a GPU equals the step on the CPU in float64 with the same weights: loss and gradients.

Run: python -m pytest -m gpu tests/gpu
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from packed import cu_seqlens_of
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch, triton
from ssd4rec.training.objective import TrainingBatch, next_item_loss, prepare

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ITEMS = 3000
LENGTHS = [1, 2, 3, 4, 63, 64, 65, 300, *[5 + place % 17 for place in range(60)]]


def batch(device: str, copies: int = 1) -> PackedBatch:
    lengths = LENGTHS * copies
    items = torch.randint(1, ITEMS + 1, (2, sum(lengths)), generator=torch.Generator().manual_seed(0)).to(device)
    return PackedBatch(items[0], cu_seqlens_of(lengths).to(device), items[1])


def loss_and_gradients(model: NextItemModel, device: str, config: TrainingConfig) -> tuple[Tensor, list[Tensor]]:
    return learned(model, prepare(batch("cpu"), config).to(device), device, config)


def learned(model: NextItemModel, prepared: TrainingBatch, device: str, config: TrainingConfig) -> tuple[Tensor, list[Tensor]]:
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
        loss = next_item_loss(model, prepared, config)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize(("precision", "bound"), [("32-true", 1e-4), ("bf16-mixed", 5e-2)])
@pytest.mark.parametrize(("objective", "layers"), [("all-positions", 1), ("per-prefix", 1), ("per-prefix", 2)])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_loss_and_gradients(backend: dispatch.Backend, objective: str, layers: int, precision: str, bound: float) -> None:
    """Gradients agree to 1e-4 (float32) and 5e-2 (bfloat16) of their norm, for both objectives and two bidirectional layers."""
    torch.manual_seed(0)
    exact = TrainingConfig.model_validate({"objective": objective, "mask_ratio": 0.0})
    settings = exact.model_copy(update={"precision": precision})
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, dropout=0.0, layers=layers, bidirectional="all")), ITEMS)
    expected_loss, expected = loss_and_gradients(copy.deepcopy(model).double(), "cpu", exact)
    with dispatch.use_backend(backend):
        loss, actual = loss_and_gradients(model.cuda(), "cuda", settings)
    assert abs(float(loss) / float(expected_loss) - 1) < bound
    compared = 0
    for (name, _), value, truth in zip(model.named_parameters(), actual, expected, strict=True):
        if truth is None or not truth.any():
            continue
        assert float((value.double().cpu() - truth).norm() / truth.norm()) < bound, name
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_step_does_not_synchronize(backend: dispatch.Backend, objective: str, precision: str) -> None:
    """Nothing synchronizes with the GPU from the copy of a prepared batch to the step of Adam."""
    config = TrainingConfig.model_validate({"objective": objective, "precision": precision})
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64)), ITEMS).cuda()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    prepared = prepare(batch("cpu", copies=5), config)  # above 3,072 positions torch sorts them for the gradient of the table

    def step() -> None:
        optimizer.zero_grad()
        with dispatch.use_backend(backend), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = next_item_loss(model, prepared.to("cuda"), config)
        loss.backward()
        optimizer.step()

    step()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_step_is_deterministic(objective: str) -> None:
    """With deterministic algorithms, two steps give the same loss and gradients bit for bit."""
    config = TrainingConfig.model_validate({"objective": objective, "precision": "bf16-mixed"})
    torch.manual_seed(0)
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, dropout=0.0)), ITEMS).cuda()
    prepared = prepare(batch("cpu"), config.model_copy(update={"mask_ratio": 0.0})).to("cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (learned(model, prepared, "cuda", config.model_copy(update={"mask_ratio": 0.0})) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first[0], second[0])
    compared = [torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True) if a is not None]
    assert len(compared) > 10
    assert all(compared)


@pytest.mark.skipif(not triton.available(), reason="Triton is not installed")
def test_automatic_dispatch_runs_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, steps of per-prefix and all-positions training together run every kernel."""
    ran = set()

    def counted(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            ran.add(name)
            return kernel(*arguments, **keywords)

        return run

    kernels = "scan", "backward_prefix_readout", "convolve_bidirectional", "convolve", "gated_norm", "linear_cross_entropy"
    module = triton.load_kernels(torch.empty(0, device="cuda"))
    for name in kernels:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, layers=2, bidirectional="all")), ITEMS).cuda()
    config = TrainingConfig.model_validate({"objective": "per-prefix"})
    next_item_loss(model, prepare(batch("cpu"), config).to("cuda"), config)
    one_pass = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, layers=2)), ITEMS).cuda()
    next_item_loss(one_pass, prepare(batch("cpu"), TrainingConfig()).to("cuda"), TrainingConfig())
    assert ran == set(kernels)
