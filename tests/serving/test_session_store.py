"""Many users: the answers are those of their whole histories, whether a state is kept or not."""

import pytest

from served import HISTORY, recommender, same
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.session import Session
from ssd4rec.serving.session_store import Sessions


@pytest.mark.parametrize("wiring", ["top", "all"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_each_answer_is_that_of_the_whole_history(kept, wiring):
    """Three users in turns, from their first event past `keep_from`, with room for 0, 1 or 2 states; "all" never has one."""
    model = recommender(bidirectional=wiring)
    sessions, so_far = Sessions(model, keep_from=4, kept=kept), {user: [] for user in ("a", "b", "c")}
    for place, item in enumerate([*HISTORY, "unknown", 6]):
        for user, past in so_far.items():
            past.append(item if user == "a" else (place * len(past)) % 12)
            sessions.add(user, past[-1])
            same(sessions.recommend(user, 5), model.recommend(past, 5))
    assert len(sessions) == 3
    assert sessions.kept == (("a", "b", "c")[3 - kept :] if wiring == "top" else ())
    assert (sessions.bytes > 0) == (kept > 0 and wiring == "top")
    assert all(sessions.history(user) == tuple(past) for user, past in so_far.items())


def test_only_long_histories_get_a_state_and_the_one_out_of_use_goes():
    """Room for two: asking a, b, a, c drops b; short d gets none. Adding events asks for nothing."""
    sessions = Sessions(recommender(), keep_from=4, kept=2)
    for user in "abc":
        sessions.add(user, *HISTORY)
    sessions.add("d", 1, 2, 3)
    assert sessions.kept == ()
    for user in "abacd":
        sessions.recommend(user)
    assert sessions.kept == ("a", "c")
    assert sessions.bytes == 2 * Session(recommender(), HISTORY).bytes


def test_a_state_takes_up_new_events_without_reading_old_ones(monkeypatch):
    """After the first answer the history is not read again."""
    model = recommender()
    sessions = Sessions(model, keep_from=4)
    sessions.add("a", *HISTORY)
    sessions.recommend("a")
    for name in ("encode", "prefill"):
        monkeypatch.setattr(model.artifact.model, name, lambda *_: pytest.fail("read again"))
    sessions.add("a", 4, 6)
    found = sessions.recommend("a", 5)
    monkeypatch.undo()
    same(found, model.recommend([*HISTORY, 4, 6], 5))


def test_a_new_user_gets_the_popular_items():
    """So does one who was forgotten; neither is remembered for having asked."""
    sessions = Sessions(recommender(), keep_from=0)
    sessions.add("a", *HISTORY)
    assert sessions.recommend("a").source == "model"
    sessions.forget("a")
    sessions.forget("nobody")
    assert sessions.recommend("a").source == sessions.recommend("b").source == "popular"
    assert sessions.history("a") == ()
    assert len(sessions) == 0


def test_requests_are_those_of_recommend():
    """Options and errors, with a state and without."""
    model = recommender()
    for keep_from in (1, 100):
        sessions = Sessions(model, keep_from=keep_from)
        sessions.add("a", *HISTORY, "unknown")
        for options in ({"k": 20}, {"exclude_seen": False}, {"allow": [1, 6, 8]}, {"deny": [6]}, {"unknown_items": "popular"}):
            same(sessions.recommend("a", **options), model.recommend([*HISTORY, "unknown"], **options))
        with pytest.raises(DataError, match="1 of 11 items are not in the catalog"):
            sessions.recommend("a", unknown_items="raise")


def test_a_saved_session_is_taken_over(tmp_path):
    """Out of one service and into another: no event is read again."""
    model = recommender()
    Session(model, HISTORY).save(tmp_path / "a")
    sessions = Sessions(model, keep_from=4, kept=1)
    sessions.add("a", 1, 2)
    sessions.put("a", Session.load(tmp_path / "a", model))
    assert sessions.kept == ("a",)
    sessions.add("a", 4)
    same(sessions.recommend("a", 5), model.recommend([*HISTORY, 4], 5))
    sessions.put("short", Session(model, [1, 2]))
    assert sessions.kept == ("a",)
    assert sessions.history("short") == (1, 2)
    sessions.put("a", Session(model, [1, 2]))
    assert sessions.kept == ()
    assert sessions.history("a") == (1, 2)


def test_what_cannot_be_taken_is_refused():
    """A session of another recommender, counts below 0, what is no id; nothing has changed then."""
    sessions = Sessions(recommender())
    with pytest.raises(DataError, match="of another recommender"):
        sessions.put("a", Session(recommender(), HISTORY))
    with pytest.raises(DataError, match="an item id is a text or a number"):
        sessions.add("a", [1, 2])
    assert len(sessions) == 0
    for counts in ({"keep_from": -1}, {"kept": -1}):
        with pytest.raises(ConfigError, match="keep_from and kept are counts"):
            Sessions(recommender(), **counts)


def test_a_session_given_away_can_go_on():
    """What its giver adds later is not added for the user."""
    model = recommender()
    given, sessions = Session(model, HISTORY), Sessions(model, keep_from=4)
    sessions.put("a", given)
    given.add(8)
    sessions.add("a", 4)
    same(sessions.recommend("a", 5), model.recommend([*HISTORY, 4], 5))
    assert sessions.history("a") == (*HISTORY, 4)
