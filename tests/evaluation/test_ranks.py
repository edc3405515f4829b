"""Ranks, pessimistic and exact."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd4rec.errors import DivergedError, ShapeError
from ssd4rec.evaluation import scoring as module
from ssd4rec.evaluation.ranks import check_targets, rank_targets, ranks_from_blocks, rounding_of
from ssd4rec.evaluation.scoring import ScoredBlock, score_blocks, scored_blocks


def ranks_from_states(states, vectors, targets, seen=None):
    """Score and rank as `rank_examples` does with encoded examples."""
    packed = seen or (torch.zeros(len(states), dtype=torch.int64), torch.arange(len(states) + 1))
    blocks = scored_blocks(score_blocks(states, vectors), packed, exclude_seen=seen is not None)
    return ranks_from_blocks(blocks, targets, rounding_of(states, vectors, targets))


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
    with pytest.raises(DivergedError, match=r"not finite for 1 of 2 sequences: .* lower training\.learning_rate"):
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
    rows, cu_seqlens = torch.repeat_interleave(lengths), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    expected = []
    for row in range(histories):
        own = vectors[targets[row] - 1] @ states[row]
        gone = set(seen[rows == row].tolist()) - {int(targets[row])}
        expected.append(sum(1 for item in range(1, classes + 1) if item not in gone and vectors[item - 1] @ states[row] >= own))
    expected_ranks = [int((vectors @ states[row] >= vectors[targets[row] - 1] @ states[row]).sum()) for row in range(histories)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAST_ROWS", 1)
        patch.setattr(module, "BLOCK_ELEMENTS", classes * data.draw(st.integers(1, 4)))
        assert ranks_from_states(states, vectors, targets, (seen, cu_seqlens)).tolist() == expected
        assert ranks_from_states(states, vectors, targets).tolist() == expected_ranks


@pytest.mark.parametrize("target", [0, 4])
def test_a_target_outside_of_the_catalogue_is_an_error(target):
    """Three items are numbered 1, 2, 3: there is no 0 and no 4."""
    with pytest.raises(ShapeError, match=rf"item indices 1 … 3 that the model scores, found {target}; use sequences"):
        check_targets(torch.tensor([1, target]), 3)


@pytest.mark.parametrize("target", [0, 4])
def test_all_targets_are_checked_at_the_first_block(target):
    """One that only a later block would rank is found too."""
    blocks = (ScoredBlock(slice(row, row + 1), torch.zeros(1, 3), None) for row in range(2))
    with pytest.raises(ShapeError, match=rf"item indices 1 … 3 that the model scores, found {target}; use sequences"):
        ranks_from_blocks(blocks, torch.tensor([1, target]))
    assert len(list(blocks)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [7, 2049, 4100])
@pytest.mark.parametrize("width", [3, 64, 256])
def test_item_vectors_that_are_all_alike_earn_the_worst_rank(classes, width, dtype):
    """A matrix product gives equal vectors scores that differ in the last bits from column to column; they still tie."""
    states, vector = torch.randn(17, width, dtype=dtype), torch.randn(width, dtype=dtype)
    targets = torch.randint(1, classes + 1, (17,))
    assert ranks_from_states(states, vector.expand(classes, width).contiguous(), targets).tolist() == [classes] * 17


def test_scores_further_apart_than_rounding_do_not_tie():
    """One part in ten thousand is not a rounding error: the item that scores more is alone at rank 1."""
    states, vectors = torch.randn(1, 64), torch.randn(64)
    better = vectors + 1e-4 * torch.sign(states[0]) * vectors.abs()
    assert ranks_from_states(states, torch.stack([vectors, better]), torch.tensor([2])).tolist() == [1]


PEAK = """
import resource, torch
from ssd4rec.evaluation.ranks import ranks_from_blocks
from ssd4rec.evaluation.scoring import score_blocks, scored_blocks
torch.set_num_threads(1)
states, vectors, targets = torch.randn(2000, 2), torch.randn(200_000, 2), torch.randint(1, 200_001, (2000,))
seen, cu_seqlens = torch.randint(1, 200_001, (20_000,)), torch.arange(0, 20_001, 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ranks_from_blocks(scored_blocks(score_blocks(states, vectors), (seen, cu_seqlens), exclude_seen=True), targets)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_histories():
    """2,000 histories over 200,000 items have 1,600 MB of scores; at most 200 MB are held at once, seen items removed too."""
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 200 * 1024
