"""Recommendations for histories of ids."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import worlds
from ssd4rec.artefact import Artefact
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.experiment import make_model, training_counts
from ssd4rec.serving import recommender as module
from ssd4rec.serving.recommender import Recommender
from ssd4rec.training.fit import fit


@pytest.fixture(scope="module")
def cycle():
    """A model that has learnt 0, 1, …, 11, 0, …; every user starts somewhere."""
    world, config = worlds.world(worlds.cycle()), worlds.config()
    model = make_model(config, len(world.catalogue))
    fit(model, world.histories, world.split, config.training)
    counts = training_counts(world.histories, world.split.train, len(world.catalogue))
    return Recommender(Artefact(model.eval(), world.catalogue, config, {}, counts))


def items(found):
    return [each.item for each in found.items]


def test_the_next_of_the_cycle_comes_first(cycle):
    """After 3, 4, 5 comes 6; after 11 comes 0: for histories that no user had."""
    one, other = cycle.recommend([[3, 4, 5], [11]], k=1)
    assert items(one) == [6]
    assert items(other) == [0]
    assert one.source == "model"
    assert one.items[0].rank == 1


def test_one_history_gives_one_answer_and_many_a_list(cycle):
    """A batch equals one by one, whatever the neighbours."""
    histories = [[3, 4, 5], [11], list(range(12)) * 3, [7, 7, 7]]
    together = cycle.recommend(histories, k=5)
    for history, found in zip(histories, together, strict=True):
        alone = cycle.recommend(history, k=5)
        assert items(found) == items(alone)
        np.testing.assert_allclose(
            [each.score for each in found.items], [each.score for each in alone.items], rtol=1e-4, atol=1e-5
        )


def test_blocks_do_not_change_the_answer(cycle, monkeypatch):
    """One history a block gives what all together give."""
    histories = [[3, 4], [5], [6, 7, 8]]
    together = [items(found) for found in cycle.recommend(histories)]
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1)
    assert [items(found) for found in cycle.recommend(histories)] == together


def test_seen_items_are_left_out_unless_asked_for(cycle):
    """After the whole cycle but 7, only 7 is new."""
    history = [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6]
    found = cycle.recommend(history, k=3)
    assert items(found) == [7]
    assert found.notes == ("only 1 candidates were left, 3 were asked for",)
    assert len(items(cycle.recommend(history, k=12, exclude_seen=False))) == 12


def test_allow_and_deny_choose_the_candidates(cycle):
    """Only allowed items come, denied ones never."""
    assert set(items(cycle.recommend([3], k=10, allow=[6, 8, 9]))) == {6, 8, 9}
    assert 4 not in items(cycle.recommend([3], k=12, deny=[4]))
    assert items(cycle.recommend([3], k=5, allow=[6, 8], deny=[6, 777])) == [8]
    with pytest.raises(DataError, match="1 items of `allow` are not in the catalogue, the first 777"):
        cycle.recommend([3], allow=[777])


def test_unknown_items_are_skipped_and_reported(cycle):
    """The rest of the history decides."""
    found = cycle.recommend([777, 3, 888, 4, 5], k=1)
    assert items(found) == [6]
    assert found.unknown_items == (777, 888)
    assert found.notes == ("2 items of the history are not in the catalogue and were skipped",)


def test_unknown_items_raise_when_asked_to(cycle):
    """The first one is named."""
    with pytest.raises(DataError, match="1 of 2 items are not in the catalogue, the first 777"):
        cycle.recommend([3, 777], unknown_items="raise")


@pytest.mark.parametrize(("history", "option"), [([777], "skip"), ([], "skip"), ([3, 777], "popular")])
def test_where_nothing_is_known_the_popular_items_come(cycle, history, option):
    """They are the most frequent of training, and it is said."""
    counts = cycle.artefact.training_counts[1:]
    found = cycle.recommend(history, k=3, unknown_items=option)
    assert found.source == "popular"
    assert [each.score for each in found.items] == sorted(counts.tolist(), reverse=True)[:3]
    assert "popular" in found.notes[-1]


def test_equal_scores_are_ordered_by_item_number(cycle):
    """A model that scores everything alike gives the first k items."""
    model = make_model(worlds.config(), len(cycle.artefact.catalogue))
    with torch.no_grad():
        model.table.weight[1:] = 0.0
    constant = Recommender(replace(cycle.artefact, model=model.eval()))
    found = constant.recommend([cycle.artefact.catalogue.ids[0]], k=4)
    assert items(found) == cycle.artefact.catalogue.ids[1:5].to_list()


def test_other_sequences_are_histories_too(cycle):
    """Arrays and polars series, one or many."""
    assert items(cycle.recommend(np.array([3, 4, 5]), k=1)) == [6]
    assert items(cycle.recommend(pl.Series([3, 4, 5]), k=1)) == [6]
    assert [items(found) for found in cycle.recommend(pl.Series([[3, 4, 5], [11]]), k=1)] == [[6], [0]]


def test_slips_are_answered(cycle):
    """A string for a list, k = 0, a misspelt choice, ids and lists mixed."""
    with pytest.raises(DataError, match=r"a history is a list of item ids, found the string 'abc'; write \['abc'\]"):
        cycle.recommend("abc")
    with pytest.raises(ConfigError, match="1 or more; found 0"):
        cycle.recommend([3], k=0)
    with pytest.raises(ConfigError, match="found 'ignore'"):
        cycle.recommend([3], unknown_items="ignore")
    with pytest.raises(DataError, match="found both in one list"):
        cycle.recommend([3, [4]])
    with pytest.raises(DataError, match="expected a list of item ids, found the string '4'"):
        cycle.recommend([3], allow="4")
