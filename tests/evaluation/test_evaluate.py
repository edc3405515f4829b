"""Ranking a whole part of the split."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import worlds
from ssd4rec.baselines.popularity import Popularity
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DataError, DivergedError, ShapeError
from ssd4rec.evaluation.evaluate import _by_popularity, evaluate, make_protocol
from ssd4rec.evaluation.tune_fusion import ZeroScorer
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import count_sequential_rules

# items a=1 b=2 c=3 d=4 by first appearance; the last event of each user is its test target
HISTORIES = [[10, 20, 10, 30, 20], [10, 20, 30, 40, 10], [10, 30, 10, 20, 40]]


@pytest.fixture
def world():
    return worlds.world(HISTORIES)


def counts_of(world):
    return training_counts(world.histories, world.split.train, len(world.catalog))


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
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.test, exclude_seen=True)
    assert ranking.ranks.tolist() == [1, 1, 1]
    assert ranking.protocol.exclude_seen


def test_batches_do_not_change_ranks(world):
    """One history at a time gives what all together give."""
    model = make_model(worlds.config(), len(world.catalog))
    together = evaluate(model, world.histories, world.split.test)
    alone = evaluate(model, world.histories, world.split.test, token_budget=1)
    np.testing.assert_array_equal(together.ranks, alone.ranks)


def test_the_model_is_left_in_the_mode_it_was_in(world):
    """Dropout is off while ranking only."""
    model = make_model(worlds.config(), len(world.catalog)).train()
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


def test_a_diverged_model_has_no_metrics(world):
    """Weights that are not numbers are found out."""
    model = make_model(worlds.config(), len(world.catalog))
    with torch.no_grad():
        model.table.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="scores that are not finite"):
        evaluate(model, world.histories, world.split.test)


def test_fusion_needs_scores_that_are_products(world):
    """It would change nothing, and its figures would seem to have it; one that changes nothing may stand there."""
    counted = count_sequential_rules(world)
    arguments = (counted, world.histories, world.split.test)
    with pytest.raises(ConfigError, match="and SequentialRules has none; evaluate it without fusion"):
        evaluate(*arguments, fusion=ScoreFusion(counted, 1.0))
    assert (evaluate(*arguments, fusion=ScoreFusion(counted, 0.0)).ranks == evaluate(*arguments).ranks).all()


def test_a_protocol_says_how_much_of_a_history_was_read(world):
    """All histories have four events before the test target: cut at 2 it says 2, cut at 4 nothing is cut."""
    model, part = Popularity(counts_of(world)), world.split.test
    assert evaluate(model, world.histories, part).protocol.max_length is None
    assert evaluate(model, world.histories, replace(part, max_length=4)).protocol.max_length is None
    assert evaluate(model, world.histories, replace(part, max_length=2)).protocol.max_length == 2


def test_seen_items_include_events_beyond_the_length_limit():
    """A model is given the last two events: the items before these are removed and rated down all the same, and counted."""
    world = worlds.world([[10 * (user + event) for event in range(4 + user)] for user in range(5)])
    whole, cut = world.split.test, replace(world.split.test, max_length=2)
    popularity = Popularity(counts_of(world))
    assert (
        evaluate(popularity, world.histories, whole, exclude_seen=True).ranks.tolist()
        != evaluate(popularity, world.histories, whole).ranks.tolist()
    )
    arguments = [
        {"model": popularity, "exclude_seen": True},
        {"model": ZeroScorer(len(world.catalog)), "fusion": ScoreFusion(SequentialRules.nothing(len(world.catalog)), 0.0, -1.0)},
    ]
    for options in arguments:
        actual, expected = (evaluate(sequences=world.histories, examples=part, **options) for part in (cut, whole))
        assert actual.protocol.max_length == 2
        assert (actual.ranks == expected.ranks).all()
        assert actual.by_length == expected.by_length


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_protocol_can_be_described_without_ranking(world, exclude_seen):
    """It is the one that an evaluation of the same part reports, what was cut included."""
    part = replace(world.split.validation, max_length=2)
    protocol = make_protocol(world.histories, part, len(world.catalog), split="mine", exclude_seen=exclude_seen)
    assert (
        protocol
        == evaluate(Popularity(counts_of(world)), world.histories, part, split="mine", exclude_seen=exclude_seen).protocol
    )
    assert protocol.max_length == 2


def test_a_protocol_names_everything_that_decides_the_number(world):
    """Split, candidates, seen items, ties, k-core, what orders equal times, length, and how many targets."""
    assert evaluate(Popularity(counts_of(world)), world.histories, world.split.test).protocol.as_dict() == {
        "split": "unknown",
        "candidates": "whole catalog, 4 items",
        "exclude_seen": False,
        "ties": "worst rank",
        "k_core": 1,
        "tie_order": "file",
        "max_length": None,
        "targets": 3,
    }


def test_each_part_of_the_model_is_left_in_the_mode_it_was_in(world):
    """A part that was frozen by its owner stays so, while the rest goes on training."""
    model = make_model(worlds.config(), len(world.catalog)).train()
    model.table.eval()
    evaluate(model, world.histories, world.split.test)
    assert model.backbone.training
    assert not model.table.training


def test_several_targets_a_row_are_ranked_one_by_one(world):
    """The training set asks for 2 targets a user: 20 10 | 20 30 | 30 10 rank 3 1 | 3 3 | 3 1 by popularity."""
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.train)
    assert ranking.ranks.tolist() == [3, 1, 3, 3, 3, 1]


def test_the_head_is_the_fewest_items_that_hold_a_third_of_the_events(world):
    """Counts 5 2 2 0: item 10 alone holds 5 of 9, 20 and 30 hold the next third, 40 was never seen."""
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.test, training_counts=counts_of(world))
    assert [(group.name, group.targets) for group in ranking.by_popularity] == [
        ("never seen in training", 1),
        ("middle, 2-4 training events", 1),
        ("head, 5+ training events", 1),
    ]


def test_rare_items_are_a_group_where_the_tail_has_more():
    """With thirds at 20 and 40 events, items with fewer than 10 are measured apart from the rest of the tail."""
    popularity = np.array([5, 9, 10, 19, 20, 40])
    counts = np.array([0, *[40] * 10, *[20] * 20, *[10] * 40])
    groups = [(group.name, group.targets) for group in _by_popularity(np.ones(6, np.int64), popularity, counts, 10)]
    assert groups == [
        ("rare, 1-9 training events", 2),
        ("tail, 10-19 training events", 2),
        ("middle, 20-39 training events", 1),
        ("head, 40+ training events", 1),
    ]


def test_groups_by_length_count_the_events_that_are_read(world):
    """Four events are read before each test target, two when cut at two."""
    model = Popularity(counts_of(world))
    assert [group.name for group in evaluate(model, world.histories, world.split.test).by_length] == ["1-4 events"]
    group = evaluate(model, world.histories, world.split.test, cutoffs=(1,)).by_length[0]
    assert (group.targets, group.hit_rate, group.ndcg) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_progress_counts_targets(world):
    """The calls rise to all targets."""
    calls = []
    evaluate(
        Popularity(counts_of(world)), world.histories, world.split.test, token_budget=4, progress=lambda *call: calls.append(call)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_histories_of_another_catalogue_are_an_error(world):
    """A model of three items cannot rank histories of four."""
    model = make_model(worlds.config(), 3)
    with pytest.raises(ShapeError, match="item indices up to 4, the model scores 3 items; use sequences of the catalog"):
        evaluate(model, world.histories, world.split.test)


@pytest.mark.parametrize("cutoffs", [(), (0, 10)])
def test_cutoffs_are_ranks(world, cutoffs):
    """None at all, or a rank of 0, is an error."""
    with pytest.raises(ConfigError, match="cutoffs are ranks, 1 or more"):
        evaluate(Popularity(counts_of(world)), world.histories, world.split.test, cutoffs=cutoffs)


def test_a_metric_of_the_table_is_reported_at_every_cutoff(world, monkeypatch):
    monkeypatch.setattr("ssd4rec.evaluation.evaluate.METRICS", {"worst": lambda ranks, k: float(max(ranks) + k)})
    ranking = evaluate(Popularity(counts_of(world)), world.histories, world.split.test, cutoffs=(1, 5))
    worst = float(max(ranking.ranks))
    assert ranking.as_dict() == {"worst@1": worst + 1, "worst@5": worst + 5}
    assert ranking.report()["test"] == ranking.as_dict()
