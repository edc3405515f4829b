"""Effects equal what `recommend` says of every shortened history."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explained import FADING_SUM_AROUND, VARIANTS, config_of, recommender, scores_and_ranks, with_fusion
from ssd4rec.baselines.ease import EASEPairs
from ssd4rec.baselines.sequential_ridge import SequentialRidge
from ssd4rec.config import BERT4RecConfig, GRU4RecConfig, Mamba4RecConfig, SASRecConfig, SSD4RecConfig
from ssd4rec.explain import reading
from ssd4rec.layers.item_features import EncodedRows, FeatureProjection

HISTORY = [3, 4, 5, 9, 1, 0, 99, 11, 2, 2, 7, 3]  # 99 is not in the catalog
SMALL = {"width": 8, "dropout": 0.0}


def assert_exact(recommender, history, items, *, exclude_seen, **options):
    """Every event: score and rank of the shortened history, less those of the full one."""
    shortened = [history[:place] + history[place + 1 :] for place in range(len(history))]
    every, *every_without = scores_and_ranks(recommender, [history, *shortened], exclude_seen=False, everything=True)
    candidates, *candidates_without = scores_and_ranks(recommender, [history, *shortened], exclude_seen=exclude_seen)
    scale = max(1.0, *(abs(score) for score, _ in every.values()))
    explanations = recommender.explain(history, items, exclude_seen=exclude_seen, **options)
    for item, explanation in zip(items, explanations, strict=True):
        score, rank = every[item][0], candidates.get(item, (None, None))[1]
        assert explanation.item == item
        assert explanation.score == pytest.approx(score, abs=1e-12 * scale)
        assert explanation.rank == rank
        assert [effect.position for effect in explanation.events] == list(range(len(history)))
        assert [effect.item for effect in explanation.events] == history
        for effect, scores, ranks in zip(explanation.events, every_without, candidates_without, strict=True):
            without, new = scores[item][0], ranks.get(item, (None, None))[1]
            if without is None:
                assert effect.score_change is None
            else:
                assert effect.score_change == pytest.approx(without - score, abs=1e-12 * scale)
            assert effect.rank_change == (None if rank is None or new is None else new - rank)
    return explanations


histories = st.lists(st.sampled_from([*range(12), 99]), min_size=1, max_size=20).filter(lambda history: set(history) != {99})


@pytest.mark.thorough
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=6)
@given(history=histories)
def test_effects_equal_rereading(variant, exclude_seen, history):
    """Score and rank of every item for every event: fusion, repeated and unknown items, one event and many."""
    explanations = assert_exact(recommender(**VARIANTS[variant]), history, list(range(12)), exclude_seen=exclude_seen)
    assert {each.method for each in explanations} == {"one-pass"}


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("max_length", [1, 3, 11, 20])
def test_effects_with_a_limit_on_the_length(max_length, exclude_seen):
    """Leaving out an event lets the model read one event more."""
    assert_exact(recommender(max_length=max_length), HISTORY, list(range(12)), exclude_seen=exclude_seen)


@pytest.mark.parametrize(
    "backbone",
    [
        Mamba4RecConfig(**SMALL, state_dim=4, head_width=8, layers=1),
        SASRecConfig(**SMALL, max_length=6),
        GRU4RecConfig(**SMALL, hidden=8),
        BERT4RecConfig(**SMALL),
    ],
    ids=lambda backbone: backbone.name,
)
def test_effects_of_other_models(backbone):
    """Exact too; the answer says how they were computed."""
    made = with_fusion(config_of(backbone, max_length=8))
    (explanation, *_) = assert_exact(made, HISTORY, list(range(12)), exclude_seen=True)
    assert explanation.method == ("one-pass" if backbone.name == "mamba4rec" else "re-reading")


@pytest.mark.thorough
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"repeat_logits": "bias"}, "one-pass"),
        ({"repeat_logits": "popularity"}, "one-pass"),
        ({"norm_first": True, "repeat_logits": "popularity"}, "one-pass"),
        ({"input_fade": 0.7}, "re-reading"),
        ({"input_fade": 0.7, "input_skip": True}, "re-reading"),
        ({"input_skip": True}, "one-pass"),
        ({"norm_first": True, **FADING_SUM_AROUND, "repeat_logits": "popularity"}, "one-pass"),
        ({"norm_first": True, "input_fade": 0.7, "repeat_logits": "bias"}, "re-reading"),
        ({"request_time": True}, "one-pass"),
        ({"request_time": True, "layers": 2, "repeat_logits": "popularity"}, "re-reading"),
    ],
)
def test_effects_with_what_surrounds_the_network(settings, method, exclude_seen):
    """Learned repeat logits change with every shortened history, and so does a fading sum; the time of the request stays.

    One that the layer reads changes all of its later inputs.
    """
    (explanation, *_) = assert_exact(recommender(**settings), HISTORY, list(range(12)), exclude_seen=exclude_seen)
    assert explanation.method == method


@pytest.mark.parametrize("bidirectional", ["all", "top", "none"])
def test_effects_of_several_layers(bidirectional):
    """Exact, by re-reading."""
    made = recommender(layers=2, bidirectional=bidirectional)
    (explanation, *_) = assert_exact(made, HISTORY, list(range(12)), exclude_seen=True)
    assert explanation.method == "re-reading"
    assert explanation.omitted == 0


def test_rereading_is_limited_to_the_last_events():
    """Older ones are counted, not listed; unknown ones do not count."""
    made = recommender(layers=2)
    everything, limited = made.explain(HISTORY, 6), made.explain(HISTORY, 6, last=4)
    assert (limited.omitted, everything.omitted) == (7, 0)
    assert [effect.position for effect in limited.events] == [6, 8, 9, 10, 11]
    for effect in limited.events:  # batches of other sizes round in another way
        expected = everything.events[effect.position]
        assert (effect.item, effect.rank_change) == (expected.item, expected.rank_change)
        assert effect.score_change == pytest.approx(expected.score_change, abs=1e-12)
    assert recommender().explain(HISTORY, 6, last=4).omitted == 0


def test_few_events_of_a_long_history_are_left_out(monkeypatch):
    """Where shortened histories are read, the work of one explanation is bounded; the others are counted."""
    made, history = recommender(layers=2), [*range(12)] * 4
    everything = made.explain(history, 6)
    monkeypatch.setattr(reading, "MOST_READ", 5 * len(history))
    limited = made.explain(history, 6)
    assert (everything.omitted, limited.omitted) == (0, len(history) - 5)
    assert [each.position for each in limited.events] == [each.position for each in everything.events[-5:]]
    changes = [[each.score_change for each in one.events[-5:]] for one in (limited, everything)]
    assert changes[0] == pytest.approx(changes[1], abs=1e-12)


@pytest.mark.parametrize("settings", [{}, FADING_SUM_AROUND, {"layers": 2}], ids=str)
def test_effects_with_item_features(settings):
    """The vectors that the network reads include the projection of the features."""
    made = recommender(**settings)
    model, rows = made.artifact.model, len(made.artifact.catalog) + 1
    ones = np.ones(rows, dtype=np.float32)
    encoded = EncodedRows(np.arange(rows) % 3, ones, np.arange(rows + 1), ones[:, None])
    features = SimpleNamespace(encoded=encoded, categories=3, fingerprint=lambda: "features")
    model.features = FeatureProjection(features, model.table.weight.shape[1]).double()
    torch.nn.init.normal_(model.features.categories)
    assert_exact(made, HISTORY, [6, 9], exclude_seen=True)


@pytest.mark.thorough
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_ranks_over_a_large_catalog(scale, exclude_seen, monkeypatch):
    """Scoring only the items that can change places, in small blocks, gives the ranks of scoring all."""
    import worlds  # noqa: PLC0415
    from ssd4rec.explain import effects  # noqa: PLC0415

    monkeypatch.setattr(worlds, "cycle", lambda: [list(range(400))] * 3)
    monkeypatch.setattr(effects, "BLOCK_ROWS", 3)
    made = recommender()
    made.artifact.model.table.weight.data *= scale
    history = [*range(0, 100, 3), 7, 7, 0]
    assert_exact(made, history, [0, 7, 50, 101, 399], exclude_seen=exclude_seen)


def test_learned_repeat_logits_are_repeat_bias():
    """Of items of the history only."""
    parts = recommender(repeat_logits="popularity").explain(HISTORY, [3, 6], "parts")
    assert [part.repeat_bias != 0.0 for part in parts] == [True, False]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("window", [4, 50])
@pytest.mark.parametrize("pairs", [SequentialRidge, EASEPairs])
def test_co_occurrence_with_negative_weights(exclude_seen, pairs, window, monkeypatch):
    """A regression lowers the scores of some items; every part and effect is as exact as with counts, whatever it reads."""
    monkeypatch.setattr(pairs, "window", window)
    made = with_fusion(config_of(SSD4RecConfig(width=8, state_dim=4, head_width=8, layers=1, dropout=0.0)), pairs=pairs)
    assert_exact(made, HISTORY, list(range(12)), exclude_seen=exclude_seen)
    parts = made.explain(HISTORY, list(range(12)), "parts", exclude_seen=False)
    assert min(each.co_occurrence for each in parts) < 0 < max(each.co_occurrence for each in parts)
    assert all(each.score == each.model + each.co_occurrence + each.repeat_bias for each in parts)


def test_without_score_fusion():
    """The model alone."""
    assert_exact(recommender(fusion=False), HISTORY, list(range(12)), exclude_seen=True)
