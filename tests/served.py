"""Recommenders with untrained models in which every event matters, and a comparison of their results."""

import torch

import worlds
from packed import randomized
from ssd4rec.artifact import Artifact
from ssd4rec.config import Config, SSD4RecConfig
from ssd4rec.data.split import training_counts
from ssd4rec.models.next_item import make_model
from ssd4rec.serving.recommender import Recommendations, Recommender

HISTORY = [3, 4, 5, 9, 1, 0, 11, 2, 2, 7]


def recommender(**backbone: object) -> Recommender:
    """An untrained model with weights large enough that every event matters."""
    settings = {"width": 16, "state_dim": 8, "head_width": 8, "dropout": 0.0, "layers": 2, "backward_weight": 0.7} | backbone
    return recommender_of(worlds.config().model_copy(update={"backbone": SSD4RecConfig(**settings)}))


def recommender_of(config: Config) -> Recommender:
    """Any settings, the items of the cycle world."""
    world = worlds.world(worlds.cycle())
    model = randomized(make_model(config, len(world.catalog))).eval()
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    return Recommender(Artifact(model, world.catalog, config, {}, counts))


def assert_same(actual: Recommendations, expected: Recommendations) -> None:
    """Check that items, warnings and source are equal, and scores to 1e-5."""
    assert [each.item for each in actual.items] == [each.item for each in expected.items]
    scores = [torch.tensor([each.score for each in one.items]) for one in (actual, expected)]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)
    assert (actual.unknown_items, actual.source, actual.warnings) == (expected.unknown_items, expected.source, expected.warnings)
