"""A training step on a GPU is the training step: the loss and the gradients of the CPU in float64 on the same weights.

Run: python -m pytest -m gpu tests/gpu
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rows import boundaries_of
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
    return PackedBatch(items[0], boundaries_of(lengths).to(device), items[1])


def loss_and_gradients(model: NextItemModel, device: str, config: TrainingConfig) -> tuple[Tensor, list[Tensor]]:
    return learned(model, prepare(batch("cpu"), config).to(device), device, config)


def learned(model: NextItemModel, prepared: TrainingBatch, device: str, config: TrainingConfig) -> tuple[Tensor, list[Tensor]]:
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
        loss = next_item_loss(model, prepared, config)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize(("precision", "bound"), [("32-true", 1e-4), ("bf16-mixed", 5e-2)])
@pytest.mark.parametrize(("objective", "layers"), [("all-positions", 1), ("per-prefix", 1), ("per-prefix", 2)])
@pytest.mark.parametrize("form", ["auto", "torch"])
def test_loss_and_gradients(form: dispatch.Form, objective: str, layers: int, precision: str, bound: float) -> None:
    """Float32 to 1e-4 and bfloat16 to 5e-2 of each gradient's norm: one pass, prefixes, two layers that both read both ways."""
    torch.manual_seed(0)
    exact = TrainingConfig.model_validate({"objective": objective, "mask_ratio": 0.0})
    settings = exact.model_copy(update={"precision": precision})
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, dropout=0.0, layers=layers, bidirectional="all")), ITEMS)
    expected_loss, expected = loss_and_gradients(copy.deepcopy(model).double(), "cpu", exact)
    with dispatch.using(form):
        loss, found = loss_and_gradients(model.cuda(), "cuda", settings)
    assert abs(float(loss) / float(expected_loss) - 1) < bound
    compared = 0
    for (name, _), value, truth in zip(model.named_parameters(), found, expected, strict=True):
        if truth is None or not truth.any():
            continue
        assert float((value.double().cpu() - truth).norm() / truth.norm()) < bound, name
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
@pytest.mark.parametrize("form", ["auto", "torch"])
def test_a_step_waits_for_nothing(form: dispatch.Form, objective: str, precision: str) -> None:
    """From the copy of a prepared batch to Adam's step torch sees no call that waits for the GPU."""
    config = TrainingConfig.model_validate({"objective": objective, "precision": precision})
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64)), ITEMS).cuda()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    prepared = prepare(batch("cpu", copies=5), config)  # over 3,072 events torch sorts them for the table's gradient

    def step() -> None:
        optimizer.zero_grad()
        with dispatch.using(form), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
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
def test_the_same_bits_twice(objective: str) -> None:
    """With torch's deterministic algorithms a step gives the same loss and gradients, bit for bit."""
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
def test_the_front_door_opens_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, with nothing asked for, a step of the paper's wiring and one of one pass run every kernel."""
    ran = set()

    def counted(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            ran.add(name)
            return kernel(*arguments, **keywords)

        return run

    kernels = "scan", "backward_prefix_readout", "convolve_both_ways", "convolve", "gated_norm", "linear_cross_entropy"
    for name in kernels:
        monkeypatch.setattr(triton, name, counted(name, getattr(triton, name)))
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, layers=2, bidirectional="all")), ITEMS).cuda()
    config = TrainingConfig.model_validate({"objective": "per-prefix"})
    next_item_loss(model, prepare(batch("cpu"), config).to("cuda"), config)
    one_pass = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, layers=2)), ITEMS).cuda()
    next_item_loss(one_pass, prepare(batch("cpu"), TrainingConfig()).to("cuda"), TrainingConfig())
    assert ran == set(kernels)
