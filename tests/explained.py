"""Recommenders for the tests of explanations, and the slow definition of an effect: recommend after the shortened history."""

from dataclasses import replace
from functools import partial

import numpy as np

import served
import worlds
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import SSD4RecConfig
from ssd4rec.fusion import ScoreFusion
from ssd4rec.serving.recommender import Recommender

FADING_SUM_AROUND = {"input_fade": 0.7, "input_skip": True, "fade_skip_only": True}
VARIANTS = {
    "both directions": {},
    "mirrored back": {"mirror_back": True},
    "forward only": {"bidirectional": "none"},
    "wide convolution": {"conv_width": 7},
    "no convolution": {"conv_width": 1},
    "normalized, no feed-forward": {"norm_embedding": True, "feed_forward": False},
    "norm first": {"norm_first": True},
    "skip": {"input_skip": True},
    "fading sum around": {"norm_first": True, **FADING_SUM_AROUND},
}


def recommender(*, fusion: bool = True, max_length: int | None = None, **backbone: object) -> Recommender:
    """A random float64 model of one small layer over 12 items, with random score fusion.

    One with `request_time` answers for one time.
    """
    sizes = {"width": 8, "state_dim": 4, "head_width": 8, "dropout": 0.0, "layers": 1, "backward_weight": 0.7} | backbone
    made = with_fusion(config_of(SSD4RecConfig(**sizes), max_length), fusion=fusion)
    if sizes.get("request_time"):
        for name in ("recommend", "explain"):
            setattr(made, name, partial(getattr(made, name), at="2024-05-06T18:00", last_event="2024-05-06T17:40"))
    return made


def config_of(backbone, max_length=None):
    """Settings with a backbone and the number of events that it reads."""
    config = worlds.config()
    return config.model_copy(update={"backbone": backbone, "data": config.data.model_copy(update={"max_length": max_length})})


def with_fusion(config, *, fusion: bool = True, pairs: type[ItemPairs] = SequentialRules) -> Recommender:
    """The recommender of some settings; fusion with a repeat bias and random co-occurrence scores, those of counts positive."""
    made = served.recommender_of(config)
    made.artifact.training_counts[4] = 0  # an item without training events is not recommended
    if not fusion:
        return made
    items = len(made.artifact.catalog)
    random = np.random.default_rng(3)
    columns = np.concatenate([np.sort(random.choice(items, 5, replace=False)) for _ in range(items)])
    weights = random.uniform(-1.0 if pairs is not SequentialRules else 0.01, 1.0, 5 * items).astype(np.float32)
    cooccurrence = pairs(np.arange(0, 5 * items + 1, 5), columns.astype(np.int32), weights)
    return Recommender(replace(made.artifact, fusion=ScoreFusion(cooccurrence, 0.3, -0.4)))


def scores_and_ranks(
    recommender: Recommender, histories: list[list[object]], *, exclude_seen: bool, everything: bool = False
) -> list[dict[object, tuple[float | None, int]]]:
    """Score and rank of every candidate of each history by `recommend`; popular items have no score of the model.

    With `everything`, items without training events are candidates too.
    """
    every = recommender.artifact.catalog.ids.to_list() if everything else None
    answers = recommender.recommend(histories, len(recommender.artifact.catalog), exclude_seen=exclude_seen, allow=every)
    return [
        {each.item: (each.score if answer.source == "model" else None, each.rank) for each in answer.items} for answer in answers
    ]
