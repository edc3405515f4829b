"""The weight of the counted transitions: chosen by validation, the same wherever a model is asked."""

import pytest
import torch

import worlds
from rows import shaken
from ssd4rec.artefact import Artefact
from ssd4rec.backbones.transitions import TransitionPrior
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.evaluation.prior import WEIGHTS, choose_prior
from ssd4rec.experiment import count_transitions, make_model, training_counts
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.session import Session


@pytest.fixture(scope="module")
def world():
    return worlds.world(worlds.cycle())


@pytest.fixture(scope="module")
def untrained(world):
    return shaken(make_model(worlds.config(), len(world.catalogue))).eval()


@pytest.fixture(scope="module")
def counted(world):
    return count_transitions(world)


class Knowing(torch.nn.Module):
    """Scores the item after the last one highest, by so much that no count can change it."""

    def __init__(self, items):
        super().__init__()
        self.item_vectors = torch.eye(items)

    def encode(self, items, boundaries):
        return 1e4 * self.item_vectors[items[boundaries[1:] - 1] % len(self.item_vectors)]


def test_each_weight_ranks_as_a_prior_of_that_weight(world, untrained, counted):
    """One reading for all weights gives what an evaluation with each one gives."""
    found = choose_prior(untrained, counted, world.histories, world.split.validation, token_budget=64)
    assert list(found.ndcg) == list(WEIGHTS)
    for weight in WEIGHTS:
        prior = TransitionPrior(counted, weight) if weight else None
        alone = evaluate(untrained, world.histories, world.split.validation, prior=prior)
        assert found.ndcg[weight] == pytest.approx(alone.ndcg[10], abs=1e-12)


def test_a_model_that_knows_nothing_trusts_the_counts(world, counted):
    """In the cycle counting knows all; the first weight at which nothing is wrong is taken."""
    found = choose_prior(make_model(worlds.config(), len(world.catalogue)), counted, world.histories, world.split.validation)
    assert found.prior is not None
    assert found.ndcg[found.prior.weight] == 1.0
    assert all(figure < 1.0 for weight, figure in found.ndcg.items() if weight < found.prior.weight)


def test_a_model_that_knows_all_needs_no_counts(world, counted):
    """Of equally good weights the smallest is taken: none."""
    assert choose_prior(Knowing(len(world.catalogue)), counted, world.histories, world.split.validation).prior is None


def test_recommendations_follow_the_raised_scores(world, untrained, counted):
    """Alone and as a session that grows: model and counts together, in the order of their sum."""
    counts = training_counts(world.histories, world.split.train, len(world.catalogue))
    prior = TransitionPrior(counted, 2.0)
    recommender = Recommender(Artefact(untrained, world.catalogue, worlds.config(), {}, counts, prior))
    history = [3, 4, 5, "unknown", 6]
    numbers = torch.tensor([number for number in recommender.numbers([history])[0].tolist() if number])
    edges = torch.tensor([0, len(numbers)])
    with torch.inference_mode():
        alone = untrained.encode(numbers, edges) @ untrained.item_vectors.T
    ((_, raised),) = prior.raised([(slice(0, 1), alone.clone())], numbers, edges)
    assert not torch.equal(raised, alone)
    session = Session(recommender, history[:2])
    for item in history[2:]:
        session.add(item)
    for answer in (recommender.recommend(history, 12, exclude_seen=False), session.recommend(12, exclude_seen=False)):
        found = recommender.artefact.catalogue.numbers([each.item for each in answer.items])
        assert found.tolist() == (raised[0].argsort(descending=True) + 1).tolist()
        expected = raised[0].sort(descending=True).values
        torch.testing.assert_close(
            torch.tensor([each.score for each in answer.items], dtype=raised.dtype), expected, rtol=1e-5, atol=1e-5
        )
