"""Ranking a whole part of the split."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import worlds
from ssd4rec.backbones.popularity import Popularity
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.evaluate import evaluate, refuse_other_protocol
from ssd4rec.experiment import make_model, training_counts

# items a=1 b=2 c=3 d=4 by first appearance; the last event of each user is its test target
HISTORIES = [[10, 20, 10, 30, 20], [10, 20, 30, 40, 10], [10, 30, 10, 20, 40]]


@pytest.fixture
def world():
    return worlds.world(HISTORIES)


def counts_of(world):
    return training_counts(world.histories, world.split.train, len(world.catalogue))


def test_training_counts_leave_validation_and_test_out(world):
    """Training events: 10 20 10 | 10 20 30 | 10 30 10 -> item 10 five times, 20 twice, 30 twice, 40 never."""
    assert counts_of(world).tolist() == [0, 5, 2, 2, 0]


def test_popularity_is_ranked_with_ties_against_it(world):
    """Targets 20 (tied with 30), 10 (first), 40 (last): ranks 3, 1, 4."""
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.test, cutoffs=(1, 3))
    assert ranking.ranks.tolist() == [3, 1, 4]
    assert ranking.as_dict() == pytest.approx(
        {"hr@1": 1 / 3, "ndcg@1": 1 / 3, "mrr@1": 1 / 3, "hr@3": 2 / 3, "ndcg@3": 1.5 / 3, "mrr@3": (1 / 3 + 1) / 3}
    )


def test_filtered_items_are_no_candidates(world):
    """The first user has seen 10 20 30, the target 20 stays: rank 1 of 20 and 40; the others likewise."""
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.test, seen="filtered")
    assert ranking.ranks.tolist() == [1, 1, 1]
    assert ranking.protocol.seen == "filtered"


def test_batches_do_not_change_ranks(world):
    """One history at a time gives what all together give."""
    model = make_model(worlds.config(), len(world.catalogue))
    together = evaluate(model, world.histories, world.split.test)
    alone = evaluate(model, world.histories, world.split.test, token_budget=1)
    np.testing.assert_array_equal(together.ranks, alone.ranks)


def test_the_model_is_left_in_the_mode_it_was_in(world):
    """Dropout is off while ranking only."""
    model = make_model(worlds.config(), len(world.catalogue)).train()
    evaluate(model, world.histories, world.split.test)
    assert model.training


def test_groups_cover_every_target(world):
    """By length and by popularity, each target is counted once."""
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.test, training_counts=counts_of(world))
    assert sum(group.targets for group in ranking.by_length) == 3
    assert sum(group.targets for group in ranking.by_popularity) == 3
    assert ranking.by_popularity[0].name == "never seen in training"
    assert ranking.by_popularity[0].targets == 1


def test_nothing_to_rank_is_an_error(world):
    """An empty part of the split has no figures."""
    empty = replace(world.split.test, **{name: np.zeros(0, dtype=np.int64) for name in ("user", "start", "first_target", "stop")})
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(Popularity(counts_of(world)), world.histories, empty)


def test_a_diverged_model_has_no_figures(world):
    """Weights that are not numbers are found out."""
    model = make_model(worlds.config(), len(world.catalogue))
    with torch.no_grad():
        model.table.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="scores that are not numbers"):
        evaluate(model, world.histories, world.split.test)


def test_figures_of_other_protocols_are_not_compared(world):
    """Seen items kept or filtered decide the number; the refusal says so."""
    model = Popularity(counts_of(world))
    kept = evaluate(model, world.histories, world.split.test).protocol
    filtered = evaluate(model, world.histories, world.split.test, seen="filtered").protocol
    refuse_other_protocol(kept, kept)
    with pytest.raises(ConfigError, match="seen 'kept' against 'filtered'"):
        refuse_other_protocol(kept, filtered)
