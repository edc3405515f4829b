"""A model learns worlds whose right answer is known."""

import numpy as np
import torch

import worlds
from ssd4rec.config import Config
from ssd4rec.evaluation.evaluate import Ranking, evaluate
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.pipeline import Prepared
from ssd4rec.training.loop import fit


def learn(world: Prepared, settings: Config) -> tuple[NextItemModel, Ranking]:
    model = make_model(settings, len(world.catalog))
    fit(model, world.histories, world.split, settings.training)
    return model, evaluate(model, world.histories, world.split.test, cutoffs=(1,))


def test_in_a_cycle_every_next_item_is_named():
    """In the cycle world the trained model reaches hit rate 1 at 1."""
    _, ranking = learn(worlds.world(worlds.cycle()), worlds.config())
    assert len(ranking.ranks) == 60
    assert ranking.hit_rate[1] == 1.0


def test_with_the_prefix_objective_a_cycle_is_learnt_too():
    """One example a prefix reaches hit rate 1 at 1 as well."""
    settings = worlds.config(objective="per-prefix", max_epochs=6, batch_size=64)
    _, ranking = learn(worlds.world(worlds.cycle()), settings)
    assert ranking.hit_rate[1] == 1.0


def test_no_recommendation_crosses_between_clans():
    """The best half of the catalog of each user is the clan's own."""
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


def test_the_first_item_is_remembered():
    """In the echo world the name after the marker is the history's first item, many events ago."""
    settings, world = worlds.config(max_epochs=40, patience=40, token_budget=512), worlds.world(worlds.echo())
    model, _ = learn(world, settings)
    ranking = evaluate(model, world.histories, world.split.validation, cutoffs=(1,))
    assert ranking.hit_rate[1] >= 0.95
