"""Counterfactuals: verified by `recommend`, no event in them without need, and honest where there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import explained
from explained import FADING_SUM_AROUND
from ssd4rec.explain import counterfactual

HISTORY = [3, 4, 5, 9, 1, 0, 99, 11, 2, 2, 7, 3]  # 99 is not in the catalog


def rank_without(made, history, positions, item, exclude_seen):
    """Rank by `recommend` after the shortened history, the items of the full one denied if seen items are."""
    shorter = [each for place, each in enumerate(history) if place not in positions]
    deny = history if exclude_seen else None
    (ranked,) = [each for each in made.recommend(shorter, 12, exclude_seen=False, deny=deny).items if each.item == item] or [None]
    return ranked


@pytest.mark.thorough
@pytest.mark.parametrize("backbone", [{}, {"layers": 2}, FADING_SUM_AROUND, {"request_time": True}], ids=str)
@pytest.mark.parametrize("exclude_seen", [True, False])
@settings(max_examples=6)
@given(history=st.lists(st.sampled_from([*range(12), 99]), min_size=1, max_size=8).filter(lambda each: set(each) != {99}))
def test_counterfactuals_hold(backbone, exclude_seen, history):
    """The item leaves the first k, and returns when any of the events is put back."""
    made = explained.recommender(**backbone)
    for item in range(0, 12, 3):
        for k in (1, 3):
            result = made.explain(history, item, "counterfactual", k=k, exclude_seen=exclude_seen)
            if not result.success:
                assert (result.removed, result.score_without, result.rank_without) == ((), None, None)
                assert result.note
                continue
            positions = [event.position for event in result.removed]
            assert positions == sorted(set(positions))
            assert [event.item for event in result.removed] == [history[position] for position in positions]
            assert result.rank <= k < result.rank_without
            ranked = rank_without(made, history, positions, item, exclude_seen)
            assert ranked.rank == result.rank_without
            assert ranked.score == pytest.approx(result.score_without, abs=1e-9)
            for kept_out in positions if len(positions) > 1 else []:
                fewer = [position for position in positions if position != kept_out]
                assert rank_without(made, history, fewer, item, exclude_seen).rank <= k


@pytest.mark.parametrize(
    ("item", "options", "note"),
    [
        (3, {}, "the item is in the history, and seen items are excluded: it is not recommended"),
        (None, {"k": 1}, "the item has rank 4: it is not among the first 1"),
        (6, {"k": 12}, "one event remains, and the item is still among the first 12"),
    ],
)
def test_why_there_is_none(item, options, note):
    """The note says it."""
    made = explained.recommender()
    last = made.recommend(HISTORY, 12).items[-1]
    result = made.explain(HISTORY, last.item if item is None else item, "counterfactual", **options)
    assert not result.success
    assert result.note == note.replace("rank 4", f"rank {last.rank}")


def test_the_search_ends(monkeypatch):
    """After so many events."""
    monkeypatch.setattr(counterfactual, "MOST_REMOVED", 2)
    result = explained.recommender().explain(HISTORY, 6, "counterfactual", k=12)
    assert result.note == "without 2 events the item is still among the first 12; the search ended there"


@pytest.mark.parametrize("backbone", [{}, {"layers": 2}, {"input_fade": 0.7}], ids=str)
def test_later_turns_choose_from_the_best_events(backbone, monkeypatch):
    """Where events are read again; the result is verified all the same."""
    monkeypatch.setattr(counterfactual, "MOST_REMOVED", 6)
    monkeypatch.setattr(counterfactual, "CANDIDATES", 7)
    made = explained.recommender(**backbone)
    first = made.recommend(HISTORY, 1).items[0].item
    result = made.explain(HISTORY, first, "counterfactual", k=1)
    assert result.success
    positions = [event.position for event in result.removed]
    assert rank_without(made, HISTORY, positions, first, exclude_seen=True).rank == result.rank_without > 1


def test_the_search_in_a_long_history_ends_early(monkeypatch):
    """Where whole histories are read again."""
    monkeypatch.setattr(counterfactual, "MOST_READ", 1)
    result = explained.recommender(layers=2).explain(HISTORY, 6, "counterfactual", k=12)
    assert result.note == "without 3 events the item is still among the first 12; the search ended there"
