"""Ranks, pessimistic and exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd4rec.errors import DataError
from ssd4rec.evaluation import ranks as module
from ssd4rec.evaluation.ranks import rank_targets, ranks_of_states


def test_the_rank_counts_who_scores_higher():
    """Scores .1 .9 .5: item 2 is first, item 3 second, item 1 third."""
    scores = torch.tensor([[0.1, 0.9, 0.5]]).expand(3, 3)
    assert rank_targets(scores, torch.tensor([1, 2, 3])).tolist() == [3, 1, 2]


def test_a_constant_model_earns_the_worst_rank():
    """Equal scores count against the target."""
    assert rank_targets(torch.zeros(2, 5), torch.tensor([1, 4])).tolist() == [5, 5]


def test_removed_candidates_do_not_count_but_the_target_always_does():
    """Item 2 scores best but is removed; as the target it stays."""
    scores, removed = torch.tensor([[0.1, 0.9, 0.5]]).expand(2, 3), torch.tensor([[False, True, False]]).expand(2, 3)
    assert rank_targets(scores, torch.tensor([3, 2]), removed).tolist() == [1, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_an_error(bad):
    """A diverged model gets no rank at all."""
    with pytest.raises(DataError, match="scores that are not numbers for 1 of 2 histories"):
        rank_targets(torch.tensor([[0.0, 1.0], [bad, 1.0]]), torch.tensor([1, 1]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_blocks_of_any_size_give_the_ranks_of_the_definition(data):
    """Block by block, seen items kept or removed, the ranks are those of sorting all scores."""
    histories, classes = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 12))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    # small whole numbers: ties are common and products exact
    states = torch.randint(-2, 3, (histories, 3), generator=generator).double()
    vectors = torch.randint(-2, 3, (classes, 3), generator=generator).double()
    targets = torch.randint(1, classes + 1, (histories,), generator=generator)
    lengths = torch.randint(1, 4, (histories,), generator=generator)
    seen = torch.randint(0, classes + 1, (int(lengths.sum()),), generator=generator)
    rows = torch.repeat_interleave(lengths)
    expected = []
    for row in range(histories):
        own = vectors[targets[row] - 1] @ states[row]
        gone = set(seen[rows == row].tolist()) - {int(targets[row])}
        expected.append(sum(1 for item in range(1, classes + 1) if item not in gone and vectors[item - 1] @ states[row] >= own))
    kept = [int((vectors @ states[row] >= vectors[targets[row] - 1] @ states[row]).sum()) for row in range(histories)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ELEMENTS", classes * data.draw(st.integers(1, 4)))
        assert ranks_of_states(states, vectors, targets, seen, rows).tolist() == expected
        assert ranks_of_states(states, vectors, targets).tolist() == kept
