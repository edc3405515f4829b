"""Personal popularity: what the user took most often, then what most users took."""

import numpy as np
import pytest
import torch

from ssd4rec.baselines import personal_popularity
from ssd4rec.baselines.personal_popularity import PersonalPopularity

COUNTS = np.array([0, 5, 1, 0, 7])


@pytest.mark.parametrize("block", [1, 1 << 21])
def test_own_items_come_first(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By how often they occur, those that occur as often by popularity; an unknown item counts for nothing."""
    monkeypatch.setattr(personal_popularity, "BLOCK_ELEMENTS", block)
    items, cu_seqlens = torch.tensor([2, 3, 2, 0, 1, 3, 0]), torch.tensor([0, 4, 6, 7])
    blocks = [scores.clone() for _, scores in PersonalPopularity(COUNTS).score_blocks(items, cu_seqlens)]
    order = torch.cat(blocks).argsort(dim=1, descending=True) + 1
    assert order.tolist() == [[2, 3, 4, 1], [1, 3, 4, 2], [4, 1, 2, 3]]


def test_it_counts_the_training_events() -> None:
    """`fit` counts the items of packed sequences; no popularity reaches a single occurrence in the user's own history."""
    fitted = PersonalPopularity.fit(np.array([4, 4, 1, 0, 4]), np.array([0, 3, 5]), 4)
    torch.testing.assert_close(fitted.popularity, torch.tensor([1, 0, 0, 3], dtype=torch.float64) / 5)
    assert PersonalPopularity(np.array([0, 10**12])).popularity.item() < 1
