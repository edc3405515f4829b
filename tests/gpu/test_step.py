"""A training step on a GPU is the training step: the loss and the gradients of the CPU in float64 on the same weights.

Run: python -m pytest -m gpu tests/gpu
"""

import copy

import pytest
import torch
from torch import Tensor

from rows import boundaries_of
from ssd4rec.backbones.ssd4rec import SSD4Rec
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.model import NextItemModel
from ssd4rec.training.objective import next_item_loss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ITEMS = 3000
LENGTHS = [1, 2, 3, 4, 63, 64, 65, 300, *[5 + place % 17 for place in range(60)]]


def batch(device: str) -> PackedBatch:
    items = torch.randint(1, ITEMS + 1, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0)).to(device)
    return PackedBatch(items[0], boundaries_of(LENGTHS).to(device), items[1])


def loss_and_gradients(model: NextItemModel, device: str, config: TrainingConfig) -> tuple[Tensor, list[Tensor]]:
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
        loss = next_item_loss(model, batch(device), config)
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize(("precision", "bound"), [("32-true", 1e-4), ("bf16-mixed", 5e-2)])
@pytest.mark.parametrize("objective", ["one-pass", "prefix"])
def test_loss_and_gradients(objective: str, precision: str, bound: float) -> None:
    """Float32 to 1e-4 and bfloat16 to 5e-2 of each gradient's norm, for one pass and for prefixes."""
    torch.manual_seed(0)
    exact = TrainingConfig.model_validate({"objective": objective, "mask_ratio": 0.0})
    settings = exact.model_copy(update={"precision": precision})
    model = NextItemModel(SSD4Rec(SSD4RecConfig(width=64, dropout=0.0)), ITEMS)
    expected_loss, expected = loss_and_gradients(copy.deepcopy(model).double(), "cpu", exact)
    loss, found = loss_and_gradients(model.cuda(), "cuda", settings)
    assert abs(float(loss) / float(expected_loss) - 1) < bound
    compared = 0
    for (name, _), value, truth in zip(model.named_parameters(), found, expected, strict=True):
        if truth is None or not truth.any():
            continue
        assert float((value.double().cpu() - truth).norm() / truth.norm()) < bound, name
        compared += 1
    assert compared > 10
