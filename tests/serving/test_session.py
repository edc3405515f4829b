"""A history that grows: the answers are those of the whole history."""

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
import torch

import worlds
from packed import randomized
from served import HISTORY, assert_same, recommender, recommender_of
from ssd4rec.artifact import Artifact
from ssd4rec.config import SASRecConfig
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ArtifactError, ConfigError, DataError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import fingerprint, make_model
from ssd4rec.pipeline import count_sequential_rules
from ssd4rec.serving import recommender as module
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.session import Session


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["none", "top", "all"])
def test_each_answer_is_that_of_the_whole_history(variant):
    """Event by event, unknown ones among them; "all" cannot step and reads again."""
    model = recommender(bidirectional=variant)
    session = Session(model)
    assert session.recommend(3).source == "popular"
    so_far = []
    for item in [*HISTORY, "unknown", *HISTORY]:
        session.add(item)
        so_far.append(item)
        assert_same(session.recommend(5), model.recommend(so_far, 5))
    assert session.history == tuple(so_far)
    assert (session.state_bytes > 0) == (variant != "all")


@pytest.mark.parametrize("variant", ["top", "all"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_answers_at_a_time(variant, dtype, tolerance):
    """Each answer is that of the whole history at the same time, and the same state answers at any time."""
    model = recommender(bidirectional=variant, request_time=True)
    model.artifact.model.to(dtype)
    session, so_far = Session(model), []
    for day, item in enumerate(["unknown", *HISTORY]):
        session.add(item)
        so_far.append(item)
        last = 1_715_000_000 + 86_400 * day
        times = [{}, *({"at": last + gap, "last_event": last} for gap in (0, 40_000, 10**7))]
        answers = [session.recommend(12, exclude_seen=False, **each) for each in times]
        for each, answer in zip(times, answers, strict=True):
            expected = model.recommend(so_far, 12, exclude_seen=False, **each)
            assert [row.item for row in answer.items] == [row.item for row in expected.items]
            assert [row.score for row in answer.items] == pytest.approx([row.score for row in expected.items], abs=tolerance)
        assert len({answer.items for answer in answers}) == (4 if answers[0].source == "model" else 1)
    with pytest.raises(ConfigError, match="`last_event` is missing"):
        session.recommend(at=last)


def test_a_session_begins_with_a_whole_history():
    """The state is that of adding event by event, and does not grow."""
    model = recommender()
    whole, grown = Session(model, HISTORY), Session(model)
    for item in HISTORY:
        grown.add(item)
    assert_same(whole.recommend(5), grown.recommend(5))
    size = whole.state_bytes
    whole.add(3)
    assert whole.state_bytes == size == grown.state_bytes


def test_a_copy_goes_on_by_itself():
    """An event added to one is not added to the other."""
    model = recommender()
    session = Session(model, HISTORY)
    copy = session.copy()
    session.add("unknown")
    session.add(4)
    copy.add(8)
    assert copy.history == (*HISTORY, 8)
    assert_same(copy.recommend(5), model.recommend([*HISTORY, 8], 5))
    assert_same(session.recommend(5), model.recommend([*HISTORY, "unknown", 4], 5))


def test_an_id_is_looked_up_once(monkeypatch):
    """Ten ids at the beginning, one for each event, none for an answer: its price does not grow with the history."""
    model, looked_up = recommender(), []
    look_up = model.indices
    monkeypatch.setattr(model, "indices", lambda many, *rest: looked_up.extend(*many) or look_up(many, *rest))
    session = Session(model, HISTORY)
    assert looked_up == HISTORY
    session.recommend(5)
    session.add(4)
    session.recommend(5)
    assert looked_up == [*HISTORY, 4]


def test_requests_are_those_of_recommend():
    """k, seen items, allowed and denied ones, unknown ones."""
    model = recommender()
    for history in (HISTORY, [*HISTORY, "unknown"]):
        session = Session(model, history)
        for options in ({"k": 20}, {"exclude_seen": False}, {"allow": [1, 6, 8]}, {"deny": [6]}, {"unknown_items": "popular"}):
            assert_same(session.recommend(**options), model.recommend(history, **options))
    with pytest.raises(DataError, match="1 of 11 items are not in the catalog"):
        session.recommend(unknown_items="raise")
    with pytest.raises(ConfigError, match="k must be a positive integer"):
        session.recommend(0)


def test_any_backbone_has_sessions():
    """SASRec reads the history again each time."""
    model = recommender_of(worlds.config().model_copy(update={"backbone": SASRecConfig(width=16, dropout=0.0)}))
    session = Session(model, HISTORY)
    session.add(5)
    assert_same(session.recommend(5), model.recommend([*HISTORY, 5], 5))
    with pytest.raises(ConfigError, match="SASRec does not support incremental inference; use ssd4rec or mamba4rec"):
        model.artifact.model.new_cache(1)


@pytest.mark.parametrize("history", [[], ["unknown"], HISTORY], ids=["empty", "unknown", "ten"])
def test_a_saved_session_goes_on(history, tmp_path):
    """Saved, loaded, one more event: bit for bit what the unsaved one gives."""
    model = recommender()
    session = Session(model, history)
    session.save(tmp_path / "user.safetensors")
    loaded = Session.load(tmp_path / "user.safetensors", model)
    assert loaded.history == tuple(history)
    for each in (session, loaded):
        each.add(5)
    assert loaded.recommend(5) == session.recommend(5)


def test_a_session_in_half_precision_is_half_as_large_and_nearly_the_same(tmp_path):
    """Under 60 % of the bytes; scores within 1 %."""
    model = recommender(width=64, state_dim=64)
    session = Session(model, HISTORY)
    session.save(tmp_path / "full")
    session.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = Session.load(tmp_path / "half", model)
    for each in (session, loaded):
        each.add(5)
    scores = [
        torch.tensor([result.score for result in each.recommend(12, exclude_seen=False).items]) for each in (loaded, session)
    ]
    assert not torch.equal(*scores)
    torch.testing.assert_close(*scores, rtol=0.01, atol=0.01 * scores[1].abs().max().item())


def test_sums_that_never_fade_are_saved_in_full(tmp_path):
    """In half precision too: saved and loaded twenty times, they are bit for bit what they were."""
    model = recommender()
    session, before = Session(model, HISTORY), Session(model, HISTORY)
    for _ in range(20):
        session.save(tmp_path / "user", half=True)
        session = Session.load(tmp_path / "user", model)
    for result, expected in zip(session._cache, before._cache, strict=True):
        assert torch.equal(result.backward_sum, expected.backward_sum)
        assert torch.equal(result.log_decay, expected.log_decay)
        assert not torch.equal(result.ssm_state, expected.ssm_state)
    assert before._cache[-1].backward_sum.abs().max() > 0


def test_the_weights_are_hashed_once(tmp_path, monkeypatch):
    """Saving and loading again and again costs no pass over all weights; a weight that was changed or replaced is noticed."""
    model, hashed = recommender(), []
    monkeypatch.setattr(module, "fingerprint", lambda weights: hashed.append(weights) or fingerprint(weights))
    session = Session(model, HISTORY)
    for _ in range(3):
        session.save(tmp_path / "user")
        session = Session.load(tmp_path / "user", model)
    assert len(hashed) == 1
    table = model.artifact.model.table
    with torch.no_grad():
        table.weight[0, 0] += 1
    assert model.fingerprint() == fingerprint(model.artifact.model)
    table.weight = torch.nn.Parameter(table.weight + 1)
    assert model.fingerprint() == fingerprint(model.artifact.model)
    assert len(hashed) == 3


def test_a_session_of_weights_without_a_count_of_changes_is_saved(tmp_path):
    """Made in inference mode, as by a service that runs in it."""
    with torch.inference_mode():
        model = recommender()
    Session(model, HISTORY).save(tmp_path / "user")
    assert Session.load(tmp_path / "user", model).history == tuple(HISTORY)


def test_a_long_history_grows_without_being_copied():
    """The 100,001st event takes no memory for those before it, of which numbers alone are 800 KB."""
    session = Session(recommender(), ["unknown"] * 100_000)
    session.add("unknown")  # the lists make room for many more
    tracemalloc.start()
    try:
        session.add("unknown")
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 50_000
    assert len(session.history) == 100_002


@pytest.mark.thorough
def test_sessions_of_one_recommender_may_have_a_thread_each():
    """Eight histories at once: each answer is the one of its own history."""
    model = recommender()
    pasts = [[*HISTORY[shift:], *HISTORY[:shift]] for shift in range(8)]

    def answer(past):
        session = Session(model)
        for item in past:
            session.add(item)
        return session.recommend(5)

    with ThreadPoolExecutor(4) as pool:
        result = list(pool.map(answer, pasts))
    for each, past in zip(result, pasts, strict=True):
        assert_same(each, model.recommend(past, 5))


def test_a_session_of_another_model_is_refused(tmp_path):
    """Its state would mean nothing."""
    model = recommender()
    Session(model, HISTORY).save(tmp_path / "user")
    with torch.no_grad():
        model.artifact.model.table.weight[3, 0] += 1
    with pytest.raises(ArtifactError, match="belongs to another model; start a new session"):
        Session.load(tmp_path / "user", model)


def test_files_that_are_not_a_session_are_refused(tmp_path):
    """Missing, cut short, or something else."""
    model = recommender()
    with pytest.raises(ArtifactError, match="cannot read the session"):
        Session.load(tmp_path / "missing", model)
    Session(model, HISTORY).save(tmp_path / "user")
    whole = (tmp_path / "user").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    with pytest.raises(ArtifactError, match="cannot read the session"):
        Session.load(tmp_path / "cut", model)
    (tmp_path / "json").write_text(json.dumps({"history": [1]}))
    with pytest.raises(ArtifactError, match="cannot read the session"):
        Session.load(tmp_path / "json", model)
    (tmp_path / "other").write_bytes(whole.replace(b"ssd4rec session 2", b"ssd4rec session 9"))
    with pytest.raises(ArtifactError, match="has the format 'ssd4rec session 9', expected 'ssd4rec session 2'"):
        Session.load(tmp_path / "other", model)


def test_a_session_that_cannot_be_written_leaves_nothing(tmp_path):
    """The folder is missing, or is a file; or an id is neither text nor number: JSON would refuse it, or make a list of it."""
    model = recommender()
    (tmp_path / "file").touch()
    for place in ("missing/user", "file/user", ""):
        with pytest.raises(ArtifactError, match=r"cannot write the session to .*; choose another path"):
            Session(model, HISTORY).save(tmp_path / place)
    for strange in (date(2026, 1, 1), (1, 2)):
        with pytest.raises(ArtifactError, match=r"the history contains (datetime|\(1, 2\)).*; use one of these as item ids"):
            Session(model, [3, strange]).save(tmp_path / "user")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_length_limit_applies_in_serving_and_seen_items_stay_seen(tmp_path):
    """With data.max_length = 3 the last three events are read, by a session too; the items before them stay left out."""
    world, config = worlds.world(worlds.cycle()), worlds.config()
    cut = config.model_copy(update={"data": config.data.model_copy(update={"max_length": 3})})
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    model = randomized(make_model(config, len(world.catalog))).eval()
    fusion = ScoreFusion(count_sequential_rules(world), 0.5, -1.0)
    whole, short = (Recommender(Artifact(model, world.catalog, each, {}, counts, fusion)) for each in (config, cut))
    history = [7, 3, 4, 5, "unknown", 6]
    ranked, latest = short.recommend(history, 12, exclude_seen=False).items, [4, 5, 6]
    by_item = {each.item: each.score for each in whole.recommend(latest, 12, exclude_seen=False).items}
    by_item |= {item: by_item[item] - 1.0 for item in (7, 3)}  # what `repeat_bias` takes from all that was seen
    assert {each.item: each.score for each in ranked} == pytest.approx(by_item, abs=1e-5)
    assert ranked != whole.recommend(history, 12, exclude_seen=False).items
    remaining = [each.item for each in short.recommend(history, 12).items]
    assert set(remaining).isdisjoint({7, 3, 4, 5, 6})
    session = Session(short, history[:2])
    for item in history[2:]:
        session.add(item)
    assert (session.state_bytes, short.supports_incremental, whole.supports_incremental) == (0, False, True)
    assert [each.item for each in session.recommend(12).items] == remaining
    Session(whole, history).save(tmp_path / "user")  # the same weights: a state of the whole history, which `short` must not use
    assert Session.load(tmp_path / "user", short).recommend(12) == session.recommend(12)


def test_a_damaged_session_is_refused(tmp_path):
    """A flipped bit anywhere in the tensors or in the history is noticed by the checksum."""
    model = recommender()
    Session(model, HISTORY).save(tmp_path / "user")
    intact = (tmp_path / "user").read_bytes()
    for position in (len(intact) - 1, len(intact) // 2, intact.index(b"[3, 4, 5") + 1):
        damaged = bytearray(intact)
        damaged[position] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"damaged|cannot read"):
            Session.load(tmp_path / "damaged", model)


def test_a_session_does_not_replace_links(tmp_path):
    """A symbolic link and its target are left alone."""
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ArtifactError, match="it is a symbolic link; choose another path"):
        Session(recommender(), HISTORY).save(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "link").is_symlink()
