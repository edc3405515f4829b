"""A training step reads no number off its device: on a GPU each such read would wait for everything before it.

The meta device holds shapes and no numbers: what asks for one is an error there, so a step that runs there waits for nothing.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from packed import cu_seqlens_of
from ssd4rec.config import SSD4RecConfig, TrainingConfig
from ssd4rec.data.packing import PackedBatch
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch
from ssd4rec.ops.sampled_softmax import make_negative_sampler
from ssd4rec.ops.segments import make_layout
from ssd4rec.training.objective import next_item_loss, prepare
from watched import Watched

LENGTHS = [1, 2, 3, 70, 300, 5, 64]
ITEMS = 50


def batch() -> PackedBatch:
    items = torch.randint(1, ITEMS + 1, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return PackedBatch(items[0], cu_seqlens_of(LENGTHS), items[1])


def model(**settings: Any) -> NextItemModel:
    return NextItemModel(SSD4Rec(SSD4RecConfig(width=16, state_dim=16, **settings)), ITEMS)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("all-positions", {}),
        ("all-positions", {"layers": 2, "norm_embedding": True, "mirror_back": True}),
        ("per-prefix", {"layers": 2, "bidirectional": "all"}),
    ],
    ids=["all-positions", "mirrored-back", "per-prefix"],
)
def test_a_step_waits_for_nothing(objective: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of a prepared batch on a device without numbers, with the torch form that any device can take."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for the meta device
    config = TrainingConfig.model_validate({"objective": objective})
    prepared = prepare(batch(), config).to("meta")
    ours = model(**settings).to("meta")
    with dispatch.use_backend("torch"), Watched("meta") as watched:
        next_item_loss(ours, prepared, config).backward()
    assert watched.seen > 100
    assert watched.waited == []
    assert ours.table.weight.grad is not None


@pytest.mark.thorough
def test_a_sampled_softmax_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negatives are drawn on the CPU: their number and their probabilities are known there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    prepared = prepare(batch(), TrainingConfig()).to("meta")
    proposal = make_negative_sampler(torch.ones(ITEMS), power=0.5, negatives=10)
    with Watched("meta") as watched:
        next_item_loss(model().to("meta"), prepared, TrainingConfig(), proposal).backward()
    assert watched.seen > 100
    assert watched.waited == []


def test_a_batch_that_was_not_prepared_waits() -> None:
    """The test above would fail for code that asks for the positions of the targets on the device is refused there."""
    on_device = batch().to("meta")
    with pytest.raises(NotImplementedError):
        next_item_loss(model().to("meta"), on_device, TrainingConfig())


def test_a_read_is_seen() -> None:
    """The watch sees `.item()` and a choice by mask, and nothing in a sum."""
    with Watched("cpu") as watched:
        torch.ones(3).sum()
        assert watched.waited == []
        torch.ones(3)[torch.tensor([True, False, True])]
        torch.ones(()).item()
    assert any("index" in name for name in watched.waited)
    assert any("_local_scalar_dense" in name for name in watched.waited)


def test_a_layout_is_made_without_waiting() -> None:
    """From cu_seqlens on the CPU the layout on another device is made of operations that wait for nothing; its shapes are those
    of the layout on the CPU."""
    expected = make_layout(cu_seqlens_of(LENGTHS))
    with Watched("meta") as watched:
        actual = make_layout(cu_seqlens_of(LENGTHS), device=torch.device("meta"))
    assert watched.waited == []
    assert actual.seq_idx.shape == expected.seq_idx.shape
    assert actual.chunks.before.shape == expected.chunks.before.shape
    assert [type(level) for level in actual.chunks.levels] == [type(level) for level in expected.chunks.levels]
    assert actual.seq_start.device.type == "meta"
