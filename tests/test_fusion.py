"""Counted transitions and repeats beside a model: chosen by validation, the same wherever the model is asked."""

from dataclasses import replace

import pytest
import torch

import worlds
from rows import shaken
from ssd4rec.artefact import Artefact
from ssd4rec.backbones.prior import Prior
from ssd4rec.data.split import training_counts
from ssd4rec.evaluation import prior as module
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.evaluation.prior import REPEATS, WEIGHTS, Silent, choose_prior
from ssd4rec.experiment import count_transitions
from ssd4rec.model import make_model
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


def test_each_prior_ranks_as_an_evaluation_with_it(world, untrained, counted):
    """One reading for all gives what an evaluation with each one gives; the best ones are chosen."""
    found = choose_prior(untrained, counted, world.histories, world.split.validation, token_budget=64)
    assert (list(found.by_weight), list(found.by_repeats)) == (list(WEIGHTS), list(REPEATS))
    first = max(WEIGHTS, key=lambda weight: ndcg_of(untrained, world, Prior(counted, weight)))
    for repeat, figure in found.by_repeats.items():
        assert figure == pytest.approx(ndcg_of(untrained, world, Prior(counted, first, repeat)), abs=1e-12)
    for weight, figure in found.by_weight.items():
        assert figure == pytest.approx(ndcg_of(untrained, world, Prior(counted, weight, found.prior.repeats)), abs=1e-12)
    assert found.alone == pytest.approx(ndcg_of(untrained, world, None), abs=1e-12)
    assert found.ndcg == max(found.by_weight.values()) == found.by_weight[found.prior.weight]


def ndcg_of(model, world, prior):
    return evaluate(model, world.histories, world.split.validation, prior=prior).ndcg[10]


def test_a_model_that_knows_nothing_trusts_the_counts(world, counted):
    """In the cycle counting knows all; the first weight at which nothing is wrong is taken."""
    found = choose_prior(make_model(worlds.config(), len(world.catalogue)), counted, world.histories, world.split.validation)
    assert found.ndcg == 1.0
    assert found.prior.weight > 0
    assert all(figure < 1.0 for weight, figure in found.by_weight.items() if weight < found.prior.weight)


def test_a_model_that_knows_all_needs_no_prior(world, counted):
    """Of equally good ones the first is taken: none."""
    found = choose_prior(Knowing(len(world.catalogue)), counted, world.histories, world.split.validation)
    assert not found.prior
    assert (found.prior.weight, found.prior.repeats) == (0.0, 0.0)


@pytest.mark.parametrize(("rows", "sign"), [([[1, 2, 3, 4], [4, 3, 1, 2], [2, 4, 1, 3]], -1), ([[1, 2, 1, 2], [3, 4, 3, 4]], 1)])
def test_whether_items_recur_is_found_out(rows, sign):
    """Nobody has anything twice, or everybody everything: a model that knows nothing learns which from a handful of users."""
    data = worlds.world(rows * 5)
    silent = Knowing(len(data.catalogue))
    silent.item_vectors = torch.zeros_like(silent.item_vectors)
    found = choose_prior(silent, count_transitions(data), data.histories, data.split.validation, weights=(0.0,))
    assert found.prior.repeats * sign > 0
    assert found.ndcg > found.alone


def test_a_prior_is_chosen_under_the_protocol_that_it_is_used_under(world, untrained, counted):
    """With seen items filtered each weight has the figure of a filtered evaluation, and repeats are left at the first number."""
    asked = (world.histories, world.split.validation)
    found = choose_prior(untrained, counted, *asked, seen="filtered")
    for weight, figure in found.by_weight.items():
        of_it = evaluate(untrained, *asked, seen="filtered", prior=Prior(counted, weight)).ndcg[10]
        assert figure == pytest.approx(of_it, abs=1e-12)
    assert found.alone == pytest.approx(evaluate(untrained, *asked, seen="filtered").ndcg[10], abs=1e-12)
    assert found.alone != pytest.approx(evaluate(untrained, *asked).ndcg[10])
    assert found.by_repeats.keys() == {0.0}
    given = choose_prior(untrained, counted, *asked, seen="filtered", repeats=(-3.0,))
    assert (given.prior.repeats, given.by_weight) == (-3.0, found.by_weight)  # kept for who is asked with seen items


@pytest.mark.parametrize("repeats", [-8.0, 8.0])
def test_repeats_do_not_point_at_the_target_where_seen_items_are_removed(repeats):
    """Items recur; with the others removed the target is the only seen candidate: a number for seen items would name it."""
    world = worlds.world([[10 * user + event % 4 for event in range(9)] for user in range(12)])
    model, counted = shaken(make_model(worlds.config(), len(world.catalogue))).eval(), count_transitions(world)
    asked = (model, world.histories, world.split.test)
    with_it = evaluate(*asked, seen="filtered", prior=Prior(counted, 0.5, repeats)).ranks
    assert with_it.tolist() == evaluate(*asked, seen="filtered", prior=Prior(counted, 0.5)).ranks.tolist()
    assert evaluate(*asked, prior=Prior(counted, 0.5, repeats)).ranks.tolist() != evaluate(*asked).ranks.tolist()


@pytest.mark.parametrize("seen", ["kept", "filtered"])
def test_a_prior_is_chosen_by_what_it_is_then_measured_by_where_histories_are_cut(world, untrained, counted, seen):
    """Seen is what lies before the last three events too, in both."""
    cut = replace(world.split.validation, max_length=3)
    chosen = choose_prior(untrained, counted, world.histories, cut, seen=seen)
    measured = evaluate(untrained, world.histories, cut, seen=seen, prior=chosen.prior)
    assert chosen.prior
    assert chosen.ndcg == pytest.approx(measured.ndcg[10])


def test_many_targets_are_thinned(world, untrained, counted, monkeypatch):
    """Every other user decides, where half of all may."""
    monkeypatch.setattr(module, "TARGETS", len(world.split.validation) // 2)
    asked = []
    choose_prior(untrained, counted, world.histories, world.split.validation, progress=lambda *each: asked.append(each))
    assert {total for _, total in asked} == {len(world.split.validation) // 2}


def test_recommendations_follow_the_raised_scores(world, untrained, counted):
    """Alone and as a session that grows: model and counts together, in the order of their sum."""
    counts = training_counts(world.histories, world.split.train, len(world.catalogue))
    prior = Prior(counted, 2.0, -1.0)
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


def test_a_silent_model_lets_the_prior_speak(world, counted):
    """Counts in place of a model rank as the counting baseline does; with nothing counted everything ties."""
    asked = (world.histories, world.split.validation)
    silent = Silent(len(world.catalogue))
    assert (evaluate(silent, *asked, prior=Prior(counted, 1.0)).ranks == evaluate(counted, *asked).ranks).all()
    assert (evaluate(silent, *asked).ranks == len(world.catalogue)).all()
