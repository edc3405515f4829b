"""Properties of recommendation lists, against their definitions with loops."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import worlds
from ssd4rec.data.split import training_counts
from ssd4rec.evaluation import lists as module
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.evaluation.lists import LIST_LENGTH, measure_lists
from ssd4rec.evaluation.ranks import TopLists
from ssd4rec.pipeline import count_sequential_rules

ITEMS = 6
histories = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=4, max_size=9), min_size=1, max_size=12)


def by_loops(lists, rows, counts):
    users = [{item: {u for u, row in enumerate(rows) if item in row} for item in range(1, ITEMS + 1)}][0]
    similarity = lambda i, j: len(users[i] & users[j]) / max(1.0, math.sqrt(len(users[i]) * len(users[j])))  # noqa: E731
    lift, diversity = [], []
    for row, recommended in zip(rows, lists, strict=True):
        items = [item for item in recommended if item]
        if items and np.mean([counts[item] for item in row]):
            lift.append(np.mean([counts[item] for item in items]) / np.mean([counts[item] for item in row]) - 1)
        if len(items) > 1:
            diversity.append(1 - np.mean([similarity(i, j) for i, j in itertools.combinations(items, 2)]))
    every = [item for recommended in lists for item in recommended if item]
    return {
        "coverage": len(set(every)) / ITEMS,
        "popularity_lift": np.mean(lift) if lift else math.nan,
        "diversity": np.mean(diversity) if diversity else math.nan,
        "novelty": -np.mean([math.log2(max(1, counts[item]) / counts.sum()) for item in every]) if every else math.nan,
    }


@pytest.mark.thorough
@settings(max_examples=30)
@given(histories, st.data())
def test_the_properties_are_those_of_loops(rows, data):
    """Lists may be shorter than others, and items may have no training events."""
    world = worlds.world([*rows, list(range(ITEMS))])
    test = world.split.test
    own = [
        world.histories.items[world.histories.offsets[u] : t].tolist() for u, t in zip(test.user, test.first_target, strict=True)
    ]
    catalog_size = len(world.catalog)
    counts = np.array([0, *(data.draw(st.lists(st.integers(0, 9), min_size=catalog_size, max_size=catalog_size)))])
    counts[1] += 1
    lists = np.zeros((len(own), 3), dtype=np.int64)
    for row in lists:
        items = data.draw(st.lists(st.integers(1, catalog_size), max_size=3, unique=True))
        row[: len(items)] = items
    actual = asdict(measure_lists(lists, world.histories, test, counts))
    assert actual.pop("length") == 3
    assert actual == pytest.approx(by_loops(lists.tolist(), own, counts), nan_ok=True)


def test_some_lists_and_users_stand_for_all(monkeypatch):
    """Every other one, where half of them may be measured; coverage and novelty still use all lists."""
    world = worlds.world(worlds.two_clans())
    test, counts = world.split.test, np.bincount(world.histories.items, minlength=len(world.catalog) + 1)
    random = np.random.default_rng(0)
    lists = np.array([random.permutation(len(world.catalog))[:5] + 1 for _ in range(len(test))])
    whole = measure_lists(lists, world.histories, test, counts)
    monkeypatch.setattr(module, "DIVERSITY_LISTS", len(test) // 2)
    monkeypatch.setattr(module, "DIVERSITY_USERS", len(test) // 2)
    some = measure_lists(lists, world.histories, test, counts)
    assert (some.coverage, some.novelty) == (whole.coverage, whole.novelty)
    assert some.diversity != whole.diversity
    assert some.diversity == pytest.approx(whole.diversity, abs=0.1)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_an_evaluation_measures_the_first_items_by_score(exclude_seen):
    """The lists that a full sort of the scores gives, in every report that has training counts."""
    world = worlds.world(worlds.two_clans())
    rules = count_sequential_rules(world)
    test, catalog_size = world.split.test, len(world.catalog)
    counts = training_counts(world.histories, world.split.train, catalog_size)
    lists = []
    for user, stop in zip(test.user, test.first_target, strict=True):
        history = torch.from_numpy(world.histories.items[world.histories.offsets[user] : stop].astype(np.int64))
        ((_, scores),) = rules.score_blocks(history, torch.tensor([0, len(history)]))
        if exclude_seen:
            scores[0, history - 1] = -torch.inf
        lists.append(scores[0].topk(LIST_LENGTH).indices.numpy() + 1)
    ranking = evaluate(rules, world.histories, test, exclude_seen=exclude_seen, training_counts=counts)
    expected = measure_lists(np.array(lists), world.histories, test, counts)
    assert asdict(ranking.lists) == pytest.approx(asdict(expected), rel=0.05)  # ties
    assert ranking.report()["lists"] == asdict(ranking.lists)
    assert evaluate(rules, world.histories, test).lists is None


def test_short_lists_end_with_zeros():
    """Fewer candidates than places: what is left out does not come back."""
    lists = TopLists(2, 4)
    lists.add(np.array([0, 1]), slice(1, 2), torch.tensor([[3.0, 5.0, 4.0]]), torch.tensor([[False, False, True]]))
    assert lists.items.tolist() == [[0, 0, 0, 0], [2, 1, 0, 0]]
