"""Many users: the answers are those of their whole histories, whether a state is kept or not."""

import pytest

from served import HISTORY, assert_same, recommender
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.session import Session
from ssd4rec.serving.session_store import SessionStore


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["top", "all"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_each_answer_is_that_of_the_whole_history(kept, variant):
    """Three users in turns, with room for 0, 1 or 2 states; "all" never has one."""
    model = recommender(bidirectional=variant)
    store, so_far = SessionStore(model, min_state_length=4, max_states=kept), {user: [] for user in ("a", "b", "c")}
    for place, item in enumerate([*HISTORY, "unknown", 6]):
        for user, past in so_far.items():
            past.append(item if user == "a" else (place * len(past)) % 12)
            store.add(user, past[-1])
            assert_same(store.recommend(user, 5), model.recommend(past, 5))
    assert len(store) == 3
    assert tuple(store._sessions) == (("a", "b", "c")[3 - kept :] if variant == "top" else ())
    assert (store.state_bytes > 0) == (kept > 0 and variant == "top")
    assert all(store.history(user) == tuple(past) for user, past in so_far.items())


@pytest.mark.parametrize("kept", [0, 1])
def test_answers_at_a_time(kept):
    """The time of the request is read with and without a state."""
    model, times = recommender(request_time=True), {"at": "2024-05-06T18:00", "last_event": "2024-05-06T17:40"}
    store = SessionStore(model, min_state_length=4, max_states=kept)
    store.add("a", *HISTORY)
    assert_same(store.recommend("a", 5, **times), model.recommend(HISTORY, 5, **times))


def test_only_long_histories_get_a_state_and_the_one_out_of_use_goes():
    """Room for two: asking a, b, a, c drops b; short d gets none. Adding events asks for nothing."""
    store = SessionStore(recommender(), min_state_length=4, max_states=2)
    for user in "abc":
        store.add(user, *HISTORY)
    store.add("d", 1, 2, 3)
    assert tuple(store._sessions) == ()
    for user in "abacd":
        store.recommend(user)
    assert tuple(store._sessions) == ("a", "c")
    assert store.state_bytes == 2 * Session(recommender(), HISTORY).state_bytes


def test_a_state_takes_up_new_events_without_reading_old_ones(monkeypatch):
    """After the first answer the history is not read again."""
    model = recommender()
    store = SessionStore(model, min_state_length=4)
    store.add("a", *HISTORY)
    store.recommend("a")
    for name in ("encode", "prefill"):
        monkeypatch.setattr(model.artifact.model, name, lambda *_: pytest.fail("read again"))
    store.add("a", 4, 6)
    result = store.recommend("a", 5)
    monkeypatch.undo()
    assert_same(result, model.recommend([*HISTORY, 4, 6], 5))


def test_a_new_user_gets_the_popular_items():
    """So does one who was forgotten; neither is remembered for having asked."""
    store = SessionStore(recommender(), min_state_length=0)
    store.add("a", *HISTORY)
    assert store.recommend("a").source == "model"
    store.delete("a")
    store.delete("nobody")
    assert store.recommend("a").source == store.recommend("b").source == "popular"
    assert store.history("a") == ()
    assert len(store) == 0


def test_requests_are_those_of_recommend():
    """Options and errors, with a state and without."""
    model = recommender()
    for min_state_length in (1, 100):
        store = SessionStore(model, min_state_length=min_state_length)
        store.add("a", *HISTORY, "unknown")
        for options in ({"k": 20}, {"exclude_seen": False}, {"allow": [1, 6, 8]}, {"deny": [6]}, {"unknown_items": "popular"}):
            assert_same(store.recommend("a", **options), model.recommend([*HISTORY, "unknown"], **options))
        with pytest.raises(DataError, match="1 of 11 items are not in the catalog"):
            store.recommend("a", unknown_items="raise")


def test_a_saved_session_is_taken_over(tmp_path):
    """Out of one service and into another: no event is read again."""
    model = recommender()
    Session(model, HISTORY).save(tmp_path / "a")
    store = SessionStore(model, min_state_length=4, max_states=1)
    store.add("a", 1, 2)
    store.put("a", Session.load(tmp_path / "a", model))
    assert tuple(store._sessions) == ("a",)
    store.add("a", 4)
    assert_same(store.recommend("a", 5), model.recommend([*HISTORY, 4], 5))
    store.put("short", Session(model, [1, 2]))
    assert tuple(store._sessions) == ("a",)
    assert store.history("short") == (1, 2)
    store.put("a", Session(model, [1, 2]))
    assert tuple(store._sessions) == ()
    assert store.history("a") == (1, 2)


def test_invalid_sessions_and_limits_are_refused():
    """A session of another recommender, negative limits and invalid ids change nothing."""
    store = SessionStore(recommender())
    with pytest.raises(DataError, match="belongs to another recommender"):
        store.put("a", Session(recommender(), HISTORY))
    with pytest.raises(DataError, match="item ids must be strings or numbers"):
        store.add("a", [1, 2])
    assert len(store) == 0
    for counts in ({"min_state_length": -1}, {"max_states": -1}):
        with pytest.raises(ConfigError, match="min_state_length and max_states must be"):
            SessionStore(recommender(), **counts)


def test_a_session_given_away_can_go_on():
    """What its giver adds later is not added for the user."""
    model = recommender()
    original, store = Session(model, HISTORY), SessionStore(model, min_state_length=4)
    store.put("a", original)
    original.add(8)
    store.add("a", 4)
    assert_same(store.recommend("a", 5), model.recommend([*HISTORY, 4], 5))
    assert store.history("a") == (*HISTORY, 4)
