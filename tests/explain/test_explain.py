"""`Recommender.explain`: the levels, one and many items, JSON, and what it refuses."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import polars as pl
import pytest
import torch

from explained import VARIANTS, config_of, recommender, with_fusion
from ssd4rec.config import SASRecConfig
from ssd4rec.errors import ConfigError, DataError, DivergedError
from ssd4rec.explain.reading import Reading
from ssd4rec.explain.results import LEVELS
from ssd4rec.explain.weights import rows_of_read_out
from ssd4rec.serving.recommender import Recommender

HISTORY = [3, 4, 5, 9, 1, 0, 99, 11, 2, 2, 7, 3]  # 99 is not in the catalog


def reading_of(made):
    """The items of HISTORY that are in the catalog, as the model reads them."""
    (numbers,) = made.indices([HISTORY])
    return Reading(made.artifact, numbers[numbers > 0], None)


@pytest.mark.parametrize("fusion", [True, False])
def test_parts_add_up_to_the_score(fusion):
    """Exactly, and to the score of `recommend`; the bias belongs to items of the history."""
    made = recommender(fusion=fusion)
    for recommended in made.recommend(HISTORY, 12, exclude_seen=False).items:
        parts = made.explain(HISTORY, recommended.item, "parts", exclude_seen=False)
        assert parts.score == parts.model + parts.co_occurrence + parts.repeat_bias
        assert parts.score == pytest.approx(recommended.score, abs=1e-12)
        assert parts.rank == recommended.rank
        assert parts.repeat_bias == (-0.4 if fusion and recommended.item in HISTORY else 0.0)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_sum_to_y(variant, layers):
    """The rows times x, plus D x, give the y of the scan that the layer reads out, in both directions."""
    made = recommender(**VARIANTS[variant], layers=layers)
    reading = reading_of(made)
    scans = []
    (*_, top) = made.artifact.model.backbone.layers
    gated = top.mixer.gated
    top.mixer.gated = lambda y, gate: scans.append(y) or gated(y, gate)  # the y that the read-out computes, one direction each
    with torch.inference_mode():
        layer, *rows = rows_of_read_out(reading)
        _ = reading.state
    assert layer == layers - 1
    rows = [row for row in rows if row is not None]
    assert len(rows) == len(scans)
    for row, y in zip(rows, scans, strict=True):
        total = (row.weights[..., None] * row.x).sum(0) + row.skip
        torch.testing.assert_close(total, y[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_length", [None, 4])
def test_weights_of_each_event(max_length):
    """One weight for each head; shares add up to 1; events that are not read have none."""
    made = recommender(max_length=max_length)
    weights = made.explain(HISTORY, 6, "weights")
    heads = made.artifact.model.backbone.layers[0].mixer.heads
    positions = [event.position for event in weights.events if event.forward]
    assert positions == ([8, 9, 10, 11] if max_length else [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11])
    assert {len(event.forward) for event in weights.events} == {0, heads}
    assert [event.item for event in weights.events] == HISTORY
    for direction in ("forward_share", "backward_share"):
        assert sum(getattr(event, direction) for event in weights.events) == pytest.approx(1.0)


def test_weights_of_a_model_that_reads_forward_only():
    """Nothing backward."""
    weights = recommender(bidirectional="none").explain(HISTORY, 6, "weights")
    assert all(event.backward == () and event.backward_share == 0.0 for event in weights.events)


def test_weights_need_an_ssd_layer():
    """The error says what to use."""
    made = with_fusion(config_of(SASRecConfig(width=8, dropout=0.0)))
    with pytest.raises(ConfigError, match=r'needs a model that reads out an SSD layer .*, found SASRec; use level = "effects"'):
        made.explain(HISTORY, 6, "weights")


def test_weights_need_one_network():
    """Each of several has weights of its own."""
    with pytest.raises(ConfigError, match=r"needs one network, found backbone\.members = 2"):
        recommender(members=2).explain(HISTORY, 6, "weights")


@pytest.mark.parametrize("level", LEVELS)
def test_one_item_gives_one_explanation_and_many_a_list(level):
    """Lists, tuples, arrays and series; the same as one by one."""
    made = recommender()
    encode_each = [made.explain([3, 4, 99, 3], item, level) for item in (6, 8)]
    for items in ([6, 8], (6, 8), np.array([6, 8]), pl.Series([6, 8])):
        assert made.explain([3, 4, 99, 3], items, level) == encode_each
    assert made.explain(HISTORY, [], level) == []


@pytest.mark.parametrize("level", LEVELS)
def test_explanations_are_frozen_json_values(level):
    """`as_dict` survives JSON; unknown items are reported."""
    explanation = recommender().explain(HISTORY, 6, level)
    values = explanation.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert (values["level"], values["item"], values["unknown_items"]) == (level, 6, [99])
    with pytest.raises(FrozenInstanceError):
        explanation.score = 0.0


def test_titles_come_along():
    """Of the item and of every event."""
    made = recommender()
    catalog = made.artifact.catalog.with_titles(pl.DataFrame({"id": list(range(12)), "title": [f"no. {n}" for n in range(12)]}))
    titled = Recommender(replace(made.artifact, catalog=catalog))
    effects = titled.explain(HISTORY, 6)
    assert effects.title == "no. 6"
    assert [event.title for event in effects.events] == [None if item == 99 else f"no. {item}" for item in HISTORY]


def test_effects_are_the_default_level():
    """The reason that people are shown."""
    made = recommender()
    assert made.explain(HISTORY, 6) == made.explain(HISTORY, 6, "effects")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([3], 77), DataError, "1 of 1 items to explain are not in the catalog, the first is 77; explain items of the catalog"),
        (([3], [6, "6"]), DataError, "the first is '6' .ids in this catalog are int"),
        (([], 6), DataError, "at least one item of the catalog, found an empty history"),
        (([99, 98], 6), DataError, "found 2 items that are not in the catalog; such a user gets the popular items"),
        (("abc", 6), DataError, "expected a list of item ids, found the string"),
        (([3], 6, "reasons"), ConfigError, "level must be one of parts, weights, effects, counterfactual; found 'reasons'"),
    ],
)
def test_mistakes_are_answered(arguments, error, message):
    """With the value, the expectation and what to do."""
    with pytest.raises(error, match=message):
        recommender().explain(*arguments)


@pytest.mark.parametrize("name", ["k", "last"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "7"])
def test_numbers_are_1_or_more(name, value):
    """Whole ones."""
    with pytest.raises(ConfigError, match=f"{name} must be a number of items or events, 1 or more; found"):
        recommender().explain([3], 6, **{name: value})


def test_a_model_that_has_diverged():
    """No explanation of scores that are not numbers."""
    made = recommender()
    with torch.no_grad():
        made.artifact.model.table.weight[3:] = torch.nan
    with pytest.raises(DivergedError, match="the model gave scores that are not numbers"):
        made.explain([3], 6)
