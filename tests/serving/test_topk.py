"""The selection of the largest scores by groups of columns equals a full sort."""

import numpy as np
import pytest
import torch

from ssd4rec.errors import DivergedError
from ssd4rec.serving import topk
from ssd4rec.serving.topk import largest, select_largest


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    """Use groups for short rows too."""
    monkeypatch.setattr(topk, "GROUPED_FROM", 1)


@pytest.mark.parametrize("items", [32 * 40, 32 * 40 + 1, 3333])
@pytest.mark.parametrize("levels", [None, 3, 400], ids=["distinct", "most are equal", "some are equal"])
def test_groups_select_the_values_of_a_sort_and_ties_by_item(items, levels, monkeypatch):
    random = torch.Generator().manual_seed(items)
    scores = torch.randn(20, items, generator=random)
    if levels is not None:
        scores = torch.randint(levels, (20, items), generator=random).float()
    scores[torch.rand(20, items, generator=random) < 0.3] = -torch.inf
    scores[7] = -torch.inf
    scores[8, 10:] = -torch.inf
    for k in (1, 9):
        values, columns = select_largest(scores, k + 1)
        assert torch.equal(values, scores.topk(k + 1, dim=1).values)
        assert torch.equal(scores.gather(1, columns), values)
        assert all(len(set(row)) == k + 1 for row in columns.tolist())
        results = largest(scores, k)
        monkeypatch.setattr(topk, "GROUPED_FROM", 1 << 40)
        for (ours, our_scores), (theirs, their_scores) in zip(results, largest(scores, k), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(our_scores, their_scores)
        monkeypatch.setattr(topk, "GROUPED_FROM", 1)


def test_a_score_that_is_not_a_number_is_reported():
    scores = torch.randn(3, 1500)
    scores[1, 700] = torch.nan
    with pytest.raises(DivergedError, match="not finite"):
        largest(scores, 5)


def test_the_best_items_are_selected_by_groups(monkeypatch):
    calls = []
    monkeypatch.setattr(topk, "select_largest", lambda scores, count: calls.append(count) or select_largest(scores, count))
    assert [row[0].tolist() for row in largest(torch.eye(2, 1500), 1)] == [[1], [2]]
    assert calls == [2]
