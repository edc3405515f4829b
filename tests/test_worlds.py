"""A model learns synthetic data sets with a known answer."""

import numpy as np
import pytest
import torch

import worlds
from ssd4rec.config import Config
from ssd4rec.evaluation.evaluate import Ranking, evaluate
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.pipeline import Prepared
from ssd4rec.training.loop import fit

pytestmark = pytest.mark.thorough


def learn(world: Prepared, settings: Config) -> tuple[NextItemModel, Ranking]:
    model = make_model(settings, len(world.catalog))
    fit(model, world.histories, world.split, settings.training)
    return model, evaluate(model, world.histories, world.split.test, cutoffs=(1,))


def test_all_positions_training_learns_a_cycle():
    """On the cycle the trained model reaches hit rate 1 at 1."""
    _, ranking = learn(worlds.world(worlds.cycle()), worlds.config())
    assert len(ranking.ranks) == 60
    assert ranking.hit_rate[1] == 1.0


def test_per_prefix_training_learns_a_cycle():
    """One example per prefix reaches hit rate 1 at 1, too."""
    settings = worlds.config(objective="per-prefix", max_epochs=6, batch_size=64)
    _, ranking = learn(worlds.world(worlds.cycle()), settings)
    assert ranking.hit_rate[1] == 1.0


def test_recommendations_stay_within_the_group():
    """The top half of the catalog of each user is that of the group."""
    world = worlds.world(worlds.two_clans())
    model, _ = learn(world, worlds.config())
    histories, ids = world.histories, np.array(world.catalog.ids.to_list())
    model.eval()
    with torch.inference_mode():
        cu_seqlens = torch.from_numpy(histories.offsets.astype(np.int64))
        scores = model.score(model.encode(torch.from_numpy(histories.items.astype(np.int64)), cu_seqlens))
    best = ids[scores.topk(10).indices.numpy()]
    assert len(ids) == 20
    np.testing.assert_array_equal(best % 2, np.repeat(np.arange(60) % 2, 10).reshape(60, 10))


def test_long_range_dependency():
    """In the echo data the item after the marker is the first item of the sequence, many positions back."""
    settings, world = worlds.config(max_epochs=40, patience=40, token_budget=512), worlds.world(worlds.echo())
    model, _ = learn(world, settings)
    ranking = evaluate(model, world.histories, world.split.validation, cutoffs=(1,))
    assert ranking.hit_rate[1] >= 0.95
