"""Learned logits for the items that a sequence already holds, from the training to the answer."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import worlds
from packed import randomized
from served import HISTORY, assert_same, recommender_of
from ssd4rec import pipeline
from ssd4rec.artifact import load_artifact, save_artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.config import SSD4RecConfig, load_config
from ssd4rec.data.packing import pack
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.layers.repeat_logits import SCALE, RepeatLogits
from ssd4rec.models.next_item import NextItemModel, append_items, make_model
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.session import Session
from ssd4rec.training.continuation import grow
from ssd4rec.training.loop import fit
from ssd4rec.training.objective import next_item_loss

KINDS = pytest.mark.parametrize("kind", ["bias", "recency", "transitions", "popularity"])
BACKBONES = pytest.mark.parametrize("name", ["ssd4rec", "sasrec", "gru4rec", "caser", "mamba4rec", "sigma", "bert4rec"])


def settings(name: str = "ssd4rec", kind: str = "recency", *overrides: str):
    return load_config(
        "quick",
        [
            f'backbone.name="{name}"',
            f'backbone.repeat_logits="{kind}"',
            "backbone.width=16",
            "backbone.dropout=0.0",
            "data.min_interactions=1",
            "training.token_budget=256",
            "training.mask_ratio=0.0",
            "training.label_smoothing=0.0",
            "fusion.cooccurrence=0.0",
            "fusion.repeat_bias=0.0",
            *overrides,
        ],
    )


def model_of(config, items: int) -> NextItemModel:
    model = make_model(config, items)
    model.repeat_logits.set_popularity(np.arange(items + 1)[::-1] ** 2)
    with torch.no_grad():
        for number, parameter in enumerate(model.repeat_logits.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(number), std=0.3)
    return model


def by_definition(model: NextItemModel, states: Tensor, histories: list[list[int]]) -> Tensor:
    """Scores with the logits of each item worked out one at a time; histories hold item indices, 0: no item."""
    scores = states @ model.item_vectors.T
    logits = model.repeat_logits
    rows = []
    for row, history in enumerate(histories):
        coefficients = SCALE * logits.weight + logits.state_weight @ states[row]
        added = torch.zeros_like(scores[row])
        for item in {item for item in history if item}:
            gap, count = history[::-1].index(item), history.count(item)
            transitions = list(pairwise(history)).count((history[-1], item)) if history[-1] else 0
            popularity = 1.0 if logits.log_popularity is None else float(logits.log_popularity[item].exp())
            features = torch.tensor([1.0, 1.0 + gap, float(count), 1.0 + transitions, popularity], dtype=states.dtype)
            features[1:] = features[1:].log()
            added[item - 1] = coefficients @ features[: len(coefficients)]
        rows.append(scores[row] + added)
    return torch.stack(rows)


@KINDS
def test_scores_equal_the_definition(kind: str) -> None:
    """Histories with repeats and with places of no item."""
    model = model_of(settings(kind=kind), 6).double().eval()
    histories = [[1, 2, 1, 0, 3], [5], [4, 4, 4, 0]]
    items = torch.tensor([item for history in histories for item in history])
    cu_seqlens = torch.tensor([0, 5, 6, 10])
    states = model.encode(items, cu_seqlens)
    torch.testing.assert_close(model.score(states, (items, cu_seqlens)), by_definition(model, states, histories))


def test_a_fresh_model_adds_nothing() -> None:
    """Weights start at zero: the first scores are those without the option, bit for bit."""
    plain, extended = (make_model(settings(kind=kind), 6).eval() for kind in ("none", "recency"))
    items, cu_seqlens = torch.tensor([1, 2, 1, 4]), torch.tensor([0, 3, 4])
    scores = [model.score(model.encode(items, cu_seqlens), (items, cu_seqlens)) for model in (plain, extended)]
    assert torch.equal(*scores)


@pytest.mark.thorough
@KINDS
@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_training_asks_for_the_scores_that_are_served(kind: str, objective: str) -> None:
    """The loss and its gradients are those of the scores of every prefix, one at a time."""
    config = settings("ssd4rec", kind, f'training.objective="{objective}"')
    world = worlds.world(worlds.two_clans(users=4), config)
    model = model_of(config, len(world.catalog)).double().eval()
    examples = world.split.train.prefixes() if objective == "per-prefix" else world.split.train.windows()
    (batch,) = pack(world.histories, examples, 10_000)
    losses = []
    for single in pack(world.histories, world.split.train.prefixes(), 1):  # a batch for each prefix
        states = model.encode(single.items, single.cu_seqlens)
        scores = by_definition(model, states, [single.items.tolist()])
        losses.append(F.cross_entropy(scores, single.last_targets - 1))
    expected, actual = torch.stack(losses).mean(), next_item_loss(model, batch, config.training)
    torch.testing.assert_close(actual, expected)
    parameters = [model.repeat_logits.weight, model.repeat_logits.state_weight, model.table.weight]
    for one, other in zip(torch.autograd.grad(actual, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.thorough
@BACKBONES
def test_every_backbone_learns_that_nothing_recurs(name: str) -> None:
    """Each user meets each of 12 items at most once: seen items lose their rank without a word from outside."""
    config = settings(name, "bias", "training.max_epochs=4", "training.learning_rate=1e-2")
    random = torch.Generator().manual_seed(0)
    histories = [torch.randperm(12, generator=random)[:8].tolist() for _ in range(150)]
    world = worlds.world(histories, config)
    model = make_model(config, len(world.catalog))
    fit(model, world.histories, world.split, config.training)
    ranks = {exclude: evaluate(model, world.histories, world.split.test, exclude_seen=exclude).ranks for exclude in (False, True)}
    assert abs(ranks[False].mean() - ranks[True].mean()) < 0.3
    assert ranks[False].max() <= 6  # 12 items, 7 of them seen: five candidates and a tie at most


@pytest.mark.thorough
@KINDS
def test_recommendations_are_the_scores_and_sessions_agree(kind: str) -> None:
    """A list from the recommender has the scores of the definition; a session gives the same list event by event."""
    config = settings(kind=kind).model_copy(
        update={"backbone": SSD4RecConfig(width=16, state_dim=8, head_width=8, dropout=0.0, layers=2, repeat_logits=kind)}
    )
    served = recommender_of(config)
    session, so_far = Session(served), []
    for item in [*HISTORY, "unknown", 3]:
        session.add(item)
        so_far.append(item)
        assert_same(session.recommend(5, exclude_seen=False), served.recommend(so_far, 5, exclude_seen=False))
    numbers = served.artifact.catalog.indices(so_far)
    items = torch.from_numpy(numbers[numbers > 0])
    model = served.artifact.model
    with torch.inference_mode():
        states = model.encode(items, torch.tensor([0, len(items)]))
        expected = by_definition(model, states, [items.tolist()])[0]
    answer = served.recommend(so_far, 12, exclude_seen=False)
    scores = {each.item: each.score for each in answer.items}
    for item, number in zip(so_far, numbers.tolist(), strict=True):
        if number:
            assert scores[item] == pytest.approx(float(expected[number - 1]), abs=1e-4)


def test_an_artifact_keeps_them(tmp_path) -> None:
    """Saved and loaded, the model gives the same recommendations, seen items among the candidates."""
    config = settings()
    served = recommender_of(config)
    artifact = served.artifact
    counts = training_counts(worlds.world(worlds.cycle(), config).histories, worlds.world(worlds.cycle(), config).split.train, 12)
    save_artifact(tmp_path / "model", randomized(artifact.model), artifact.catalog, config, {}, counts)
    loaded = load_artifact(tmp_path / "model")
    assert torch.equal(loaded.model.repeat_logits.weight, artifact.model.repeat_logits.weight)
    assert_same(Recommender(loaded).recommend(HISTORY, 12, exclude_seen=False), served.recommend(HISTORY, 12, exclude_seen=False))


def test_the_popularity_is_that_of_the_training_set(tmp_path) -> None:
    """It is part of the saved model; new items are as popular as none, or in a continued training as the average."""
    config = settings("ssd4rec", "popularity", "training.max_epochs=1")
    world = worlds.world(worlds.two_clans(users=6), config)
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    expected = torch.tensor(np.log((1 + counts) / (1 + counts[1:].mean())), dtype=torch.float32)
    pipeline.train(world, config, tmp_path / "model")
    model = load_artifact(tmp_path / "model").model
    torch.testing.assert_close(model.repeat_logits.log_popularity, expected)
    grown, _ = grow(model, config, len(counts) + 1, SequentialRules.nothing(len(counts) + 1))
    torch.testing.assert_close(grown.repeat_logits.log_popularity, F.pad(expected, (0, 2)))
    append_items(model, torch.zeros(2, 16))
    torch.testing.assert_close(model.repeat_logits.log_popularity, torch.cat([expected, expected[:1].repeat(2)]))


def test_scores_without_a_history_are_refused() -> None:
    """States alone do not say what was seen."""
    model = make_model(settings(), 6)
    with pytest.raises(ShapeError, match="pass history="):
        model.score(torch.zeros(1, 16))
    with pytest.raises(ShapeError, match="needs the prefixes"):
        model.loss(torch.zeros(1, 16), torch.tensor([1]))
    with pytest.raises(ConfigError, match=r"use advance\(\) and score\(\)"):
        model.step(model.new_cache(1), torch.tensor([1]))


def test_zero_initial_logits_are_parameters_of_the_width() -> None:
    """One weight a feature, and one a feature and channel of the state."""
    assert [tuple(each.shape) for each in RepeatLogits(8, "bias", 5).parameters()] == [(1,), (1, 8)]
    assert [tuple(each.shape) for each in RepeatLogits(8, "recency", 5).parameters()] == [(3,), (3, 8)]
