"""Recommendations for histories of ids."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import worlds
from ssd4rec.artifact import Artifact
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DataError, DivergedError, ShapeError
from ssd4rec.evaluation import scoring
from ssd4rec.models.next_item import make_model
from ssd4rec.serving.recommender import Recommendations, Recommender, as_frame
from ssd4rec.serving.topk import largest
from ssd4rec.training.loop import fit


@pytest.fixture(scope="module")
def cycle():
    """A model that has learned 0, 1, …, 11, 0, …; every user starts somewhere."""
    world, config = worlds.world(worlds.cycle()), worlds.config()
    model = make_model(config, len(world.catalog))
    fit(model, world.histories, world.split, config.training)
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    return Recommender(Artifact(model.eval(), world.catalog, config, {}, counts))


def items(result):
    return [each.item for each in result.items]


@pytest.mark.thorough
def test_the_next_item_of_the_cycle_is_ranked_first(cycle):
    """After 3, 4, 5 comes 6; after 11 comes 0: for histories that no user had."""
    one, other = cycle.recommend([[3, 4, 5], [11]], k=1)
    assert items(one) == [6]
    assert items(other) == [0]
    assert one.source == "model"
    assert one.items[0].rank == 1


def test_a_batch_equals_single_calls_for_any_neighbors(cycle):
    """A batch equals one by one, whatever the neighbors."""
    histories = [[3, 4, 5], [11], list(range(12)) * 3, [7, 7, 7]]
    together = cycle.recommend(histories, k=5)
    for history, result in zip(histories, together, strict=True):
        alone = cycle.recommend(history, k=5)
        assert items(result) == items(alone)
        np.testing.assert_allclose(
            [each.score for each in result.items], [each.score for each in alone.items], rtol=1e-4, atol=1e-5
        )


def test_block_size_does_not_change_the_result(cycle, monkeypatch):
    """One history a block gives what all together give."""
    histories = [[3, 4], [5], [6, 7, 8]]
    together = [items(result) for result in cycle.recommend(histories)]
    monkeypatch.setattr(scoring, "LEAST_ROWS", 1)
    monkeypatch.setattr(scoring, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(scoring, "BLOCK_ITEMS", 5)
    assert [items(result) for result in cycle.recommend(histories)] == together


def test_seen_items_are_excluded_by_default(cycle):
    """After the whole cycle but 7, only 7 is new."""
    history = [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6]
    result = cycle.recommend(history, k=3)
    assert items(result) == [7]
    assert result.warnings == ("only 1 candidates are available, fewer than the requested 3",)
    assert len(items(cycle.recommend(history, k=12, exclude_seen=False))) == 12


def test_allow_and_deny_restrict_the_candidates(cycle):
    """Only allowed items come, denied ones never."""
    assert set(items(cycle.recommend([3], k=10, allow=[6, 8, 9]))) == {6, 8, 9}
    assert 4 not in items(cycle.recommend([3], k=12, deny=[4]))
    assert items(cycle.recommend([3], k=5, allow=[6, 8], deny=[6, 777])) == [8]
    with pytest.raises(DataError, match="1 items of `allow` are not in the catalog, the first is 777"):
        cycle.recommend([3], allow=[777])


def test_unknown_items_are_ignored_and_reported(cycle):
    """The rest of the history decides; the first three are named."""
    result = cycle.recommend([777, 3, 888, 4, 5], k=1)
    assert items(result) == [6]
    assert result.unknown_items == (777, 888)
    assert result.warnings == ("2 items of the history are not in the catalog and ignored: 777, 888",)
    (note,) = cycle.recommend([71, 72, 3, 73, 74], k=1).warnings
    assert note == "4 items of the history are not in the catalog and ignored: 71, 72, 73, …"


def test_unknown_items_can_raise(cycle):
    """The first one is named."""
    with pytest.raises(DataError, match="1 of 2 items are not in the catalog, the first is 777"):
        cycle.recommend([3, 777], unknown_items="raise")


@pytest.mark.parametrize(("history", "option"), [([777], "skip"), ([], "skip"), ([3, 777], "popular")])
def test_popular_items_replace_unknown_histories(cycle, history, option):
    """They are the most frequent of training, and it is said."""
    counts = cycle.artifact.training_counts[1:]
    result = cycle.recommend(history, k=3, exclude_seen=False, unknown_items=option)
    assert result.source == "popular"
    assert [each.score for each in result.items] == sorted(counts.tolist(), reverse=True)[:3]
    assert "popular" in result.warnings[-1]


def test_filters_apply_to_popular_items(cycle):
    """Seen ones are left out, denied ones too, and equal counts are ordered by item number."""
    counts = dict(zip(cycle.artifact.catalog.ids.to_list(), cycle.artifact.training_counts[1:].tolist(), strict=True))
    order = sorted(counts, key=lambda item: -counts[item])
    result = cycle.recommend([order[0], 777], k=3, deny=[order[2]], unknown_items="popular")
    assert items(result) == [order[1], order[3], order[4]]
    assert result.warnings == (
        "1 item of the history is not in the catalog: 777",
        "the history contains unknown items: these are the most popular items",
    )


def test_each_history_of_a_batch_falls_back_on_its_own(cycle):
    """Known, unknown, empty, known: the model, the popular items twice, the model."""
    many = cycle.recommend([[3, 4, 5], [777], [], [11]], k=1)
    assert [result.source for result in many] == ["model", "popular", "popular", "model"]
    assert (items(many[0]), items(many[3])) == ([6], [0])
    assert many[1].items == many[2].items == cycle.recommend([], k=1).items


def test_the_empty_list_is_one_history(cycle):
    """That of a new user, not a batch of none; a list that holds an empty one is a batch of one."""
    assert isinstance(cycle.recommend([], k=1), Recommendations)
    assert cycle.recommend([[]], k=1) == [cycle.recommend([], k=1)]


def test_ties_are_broken_by_item_index(cycle):
    """A model with constant scores gives the first k items."""
    model = make_model(worlds.config(), len(cycle.artifact.catalog))
    with torch.no_grad():
        model.table.weight[1:] = 0.0
    constant = Recommender(replace(cycle.artifact, model=model.eval()))
    result = constant.recommend([cycle.artifact.catalog.ids[0]], k=4)
    assert items(result) == cycle.artifact.catalog.ids[1:5].to_list()


def test_arrays_and_series_are_accepted(cycle):
    """Arrays and polars series, one or many."""
    assert items(cycle.recommend(np.array([3, 4, 5]), k=1)) == [6]
    assert items(cycle.recommend(pl.Series([3, 4, 5]), k=1)) == [6]
    assert [items(result) for result in cycle.recommend(pl.Series([[3, 4, 5], [11]]), k=1)] == [[6], [0]]


def test_invalid_arguments_raise_clear_errors(cycle):
    """A string for a list, k = 0, a misspelt choice, ids and lists mixed."""
    with pytest.raises(DataError, match=r"expected a list of item ids, found the string 'abc'; use \['abc'\]"):
        cycle.recommend("abc")
    with pytest.raises(ConfigError, match="k must be a positive integer, found 0"):
        cycle.recommend([3], k=0)
    with pytest.raises(ConfigError, match="found 'ignore'"):
        cycle.recommend([3], unknown_items="ignore")
    with pytest.raises(DataError, match="found a mixture"):
        cycle.recommend([3, [4]])
    with pytest.raises(DataError, match="expected a list of item ids, found the string '4'"):
        cycle.recommend([3], allow="4")


@pytest.mark.parametrize("history", [5, None, {3, 4}, {"a": 1}, b"34", pl.DataFrame({"item": [3, 4]})])
def test_unordered_or_scalar_histories_are_rejected(cycle, history):
    """A number, nothing, a set, a mapping, bytes, a frame: the error names the type and says what to give."""
    with pytest.raises(DataError, match=rf"oldest first.*found {type(history).__name__}: pass a list, a tuple, an array"):
        cycle.recommend(history)


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", None, True])
def test_k_must_be_a_positive_integer(cycle, k):
    """Anything else is shown as it came."""
    with pytest.raises(ConfigError, match=f"k must be a positive integer, found {k!r}"):
        cycle.recommend([3], k=k)


def test_ids_must_be_hashable(cycle):
    """A record is none."""
    with pytest.raises(DataError, match="item ids must be strings or numbers"):
        cycle.recommend([(1, [2])])
    with pytest.raises(DataError, match=r"item ids must be strings or numbers, found \{'item': 3\}; pass the ids only"):
        cycle.recommend([{"item": 3}])


def test_ids_of_the_wrong_type_are_explained(cycle):
    """The text "3" is not the number 3; the note and the error say so."""
    hint = r"ids in this catalog are int, such as \d+, but this one is str; see Catalog.parse"
    result = cycle.recommend(["3", "4"], k=1)
    assert result.source == "popular"
    assert re.search(hint, result.warnings[0])
    with pytest.raises(DataError, match=hint):
        cycle.recommend(["3"], unknown_items="raise")
    assert items(cycle.recommend(cycle.artifact.catalog.parse(["3", "4", "5"]), k=1)) == [6]


def test_no_candidates_give_an_empty_result(cycle):
    """Nothing allowed, or everything seen: no items, and a note."""
    for result in (cycle.recommend([3], k=2, allow=[]), cycle.recommend(list(range(12)), k=2)):
        assert result.items == ()
        assert result.warnings == ("only 0 candidates are available, fewer than the requested 2",)


def test_k_beyond_the_catalog_returns_all_items(cycle):
    """Twelve items, one seen: of a million eleven come, each once, ranks 1 to 11."""
    result = cycle.recommend([3], k=10**6)
    assert sorted(items(result)) == [item for item in range(12) if item != 3]
    assert [each.rank for each in result.items] == list(range(1, 12))


def test_a_diverged_model_raises(cycle):
    """Scores that are not numbers are an error, not an order."""
    model = make_model(worlds.config(), len(cycle.artifact.catalog))
    with torch.no_grad():
        model.table.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"scores that are not finite: .* lower training\.learning_rate"):
        Recommender(replace(cycle.artifact, model=model.eval())).recommend([3])


def test_as_frame_has_one_row_per_recommendation(cycle):
    """Columns user_id, item_id, score, rank; users are 0, 1, … unless they are named."""
    many = cycle.recommend([[3, 4, 5], [11]], k=2)
    frame = as_frame(many, ["ann", "bob"])
    assert frame.columns == ["user_id", "item_id", "score", "rank"]
    assert frame["user_id"].to_list() == ["ann", "ann", "bob", "bob"]
    assert frame["item_id"].to_list() == [*items(many[0]), *items(many[1])]
    assert frame["rank"].to_list() == [1, 2, 1, 2]
    assert as_frame(many)["user_id"].to_list() == [0, 0, 1, 1]
    assert as_frame([]).columns == frame.columns
    with pytest.raises(ShapeError, match=r"expected one user per history \(2\), found 1"):
        as_frame(many, ["ann"])


@given(
    st.lists(st.lists(st.sampled_from([-torch.inf, -1.0, 0.0, 0.5, 2.0]), min_size=6, max_size=6), min_size=1), st.integers(1, 8)
)
def test_largest_equals_a_stable_sort(rows, k):
    """By score, then by item number, without what is forbidden (-inf): ties at the edge included."""
    result = largest(torch.tensor(rows), k)
    for row, (numbers, scores) in zip(rows, result, strict=True):
        expected = [place for place in sorted(range(6), key=lambda place: -row[place]) if row[place] > -torch.inf][:k]
        assert numbers.tolist() == [place + 1 for place in expected]
        assert scores.tolist() == [row[place] for place in expected]


@pytest.mark.thorough
@given(st.lists(st.lists(st.integers(0, 14), max_size=20), min_size=1, max_size=8), st.booleans(), st.integers(1, 12))
def test_any_batch_equals_single_calls(cycle, histories, exclude_seen, k):
    """Whatever the neighbors, unknown items (12, 13, 14) and empty histories among them."""
    together = cycle.recommend(histories, k=k, exclude_seen=exclude_seen)
    for history, result in zip(histories, together, strict=True):
        alone = cycle.recommend(history, k=k, exclude_seen=exclude_seen)
        assert items(result) == items(alone)
        assert (result.source, result.warnings, result.unknown_items) == (alone.source, alone.warnings, alone.unknown_items)
        assert [each.score for each in result.items] == pytest.approx([each.score for each in alone.items], rel=1e-4, abs=1e-4)


def test_items_without_training_interactions_are_not_candidates_unless_allowed(cycle):
    """Item 6 has no training interactions: it is recommended only if it is listed in `allow`."""
    counts = cycle.artifact.training_counts.copy()
    counts[cycle.artifact.catalog.indices([6])] = 0
    untrained = Recommender(replace(cycle.artifact, training_counts=counts))
    assert items(cycle.recommend([3, 4, 5], k=1)) == [6]
    assert 6 not in items(untrained.recommend([3, 4, 5], k=12))
    assert items(untrained.recommend([3, 4, 5], k=1, allow=[6, 8])) == [6]


@pytest.mark.parametrize(
    "arguments", [{"exclude_seen": "no"}, {"allow": 5}, {"deny": {1}}, {"unknown_items": []}, {"histories": np.array(3)}]
)
def test_wrong_argument_types_raise_errors_of_the_library(cycle, arguments):
    """No foreign exception for a wrong type."""
    with pytest.raises((ConfigError, DataError)):
        cycle.recommend(**{"histories": [3], **arguments})


def test_item_vectors_are_those_of_the_model(cycle):
    """One row an item, in the order of the catalog."""
    frame = cycle.item_vectors
    assert frame.columns == ["item_id", "vector"]
    assert frame["item_id"].equals(cycle.artifact.catalog.ids.alias("item_id"))
    assert (frame["vector"].to_numpy() == cycle.artifact.model.item_vectors.detach().numpy()).all()
    titled = replace(cycle.artifact.catalog, titles=pl.Series("title", [f"item {each}" for each in cycle.artifact.catalog.ids]))
    assert Recommender(replace(cycle.artifact, catalog=titled)).item_vectors["title"].equals(titled.titles)


def test_similar_items_have_the_largest_cosines(cycle):
    """As numpy computes them; an item without training interactions is not similar to anything."""
    vectors = cycle.item_vectors["vector"].to_numpy().astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = cycle.artifact.catalog.ids.to_list()
    cosines = sorted(
        ((float(unit[ids.index(3)] @ unit[place]), item) for place, item in enumerate(ids) if item != 3), reverse=True
    )
    similar = cycle.similar_items(3, k=4)
    assert [each.item for each in similar] == [item for _, item in cosines[:4]]
    assert [each.score for each in similar] == pytest.approx([cosine for cosine, _ in cosines[:4]], abs=1e-5)
    assert [each.rank for each in similar] == [1, 2, 3, 4]
    assert len(cycle.similar_items(3, k=100)) == len(ids) - 1
    counts = cycle.artifact.training_counts.copy()
    counts[ids.index(similar[0].item) + 1] = 0
    untrained = Recommender(replace(cycle.artifact, training_counts=counts)).similar_items(3, k=4)
    assert [each.item for each in untrained][:3] == [each.item for each in similar][1:]
    with pytest.raises(DataError, match="1 of 1 items are not in the catalog, the first is 99; pass an item of the catalog"):
        cycle.similar_items(99)
    with pytest.raises(DataError, match=r"item ids must be strings or numbers, found \[3\]"):
        cycle.similar_items([3])
    with pytest.raises(ConfigError, match="k must be a positive integer, found True"):
        cycle.similar_items(3, k=True)
