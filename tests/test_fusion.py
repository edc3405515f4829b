"""Score fusion: tuned on the validation set, and applied wherever the model is used."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

import worlds
from packed import randomized
from ssd4rec import pipeline
from ssd4rec.artifact import Artifact
from ssd4rec.config import load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.split import training_counts
from ssd4rec.evaluation import tune_fusion as module
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.evaluation.metrics import ndcg_gains
from ssd4rec.evaluation.tune_fusion import REPEAT_BIASES, WEIGHTS, ZeroScorer, best_candidate, gains_of, tune_fusion
from ssd4rec.fusion import PAIR_MODELS, ScoreFusion, look_up
from ssd4rec.models.next_item import make_model
from ssd4rec.pipeline import count_sequential_rules
from ssd4rec.pipeline.training import fit_pairs
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.session import Session


@pytest.fixture(scope="module")
def world():
    return worlds.world(worlds.cycle())


@pytest.fixture(scope="module")
def untrained(world):
    return randomized(make_model(worlds.config(), len(world.catalog))).eval()


@pytest.fixture(scope="module")
def counted(world):
    return count_sequential_rules(world)


class Knowing(torch.nn.Module):
    """Scores the item after the last one highest, by so much that no count can change it."""

    def __init__(self, items):
        super().__init__()
        self.item_vectors = torch.eye(items)

    def encode(self, items, cu_seqlens):
        return 1e4 * self.item_vectors[items[cu_seqlens[1:] - 1] % len(self.item_vectors)]


@pytest.mark.thorough
def test_tuning_and_evaluation_agree_for_each_fusion(world, untrained, counted):
    """One reading for all gives what an evaluation with each one gives; the best ones are chosen."""
    tuned = tune_fusion(untrained, counted, world.histories, world.split.validation, token_budget=64)
    assert (list(tuned.by_weight), list(tuned.by_repeat_bias)) == (list(WEIGHTS), list(REPEAT_BIASES))
    first = max(WEIGHTS, key=lambda weight: gains_with(untrained, world, ScoreFusion(counted, weight)).mean())
    for repeat, figure in tuned.by_repeat_bias.items():
        assert figure == pytest.approx(ndcg_of(untrained, world, ScoreFusion(counted, first, repeat)), abs=1e-12)
    for weight, figure in tuned.by_weight.items():
        assert figure == pytest.approx(
            ndcg_of(untrained, world, ScoreFusion(counted, weight, tuned.fusion.repeat_bias)), abs=1e-12
        )
    assert tuned.alone == pytest.approx(ndcg_of(untrained, world, None), abs=1e-12)
    assert tuned.ndcg == tuned.by_weight[tuned.fusion.weight]
    own, alone = gains_with(untrained, world, tuned.fusion), gains_with(untrained, world, None)
    assert tuned.gain[0] == pytest.approx((own - alone).mean())
    assert tuned.gain[2] - tuned.gain[1] == pytest.approx(2 * 1.96 * (own - alone).std() / len(own) ** 0.5)
    others = [ScoreFusion(counted, *each) for each in product(WEIGHTS[::3], REPEAT_BIASES[::5])]
    best = max(gains_with(untrained, world, each).mean() for each in others)
    assert own.mean() >= best - 0.02  # the search looks at a line at a time


def gains_with(model, world, fusion):
    return gains_of(evaluate(model, world.histories, world.split.validation, fusion=fusion).ranks)


def test_the_simplest_of_equally_good_fusions_is_chosen():
    """Fewer parts first, then a smaller weight, then a smaller bias; a larger mean gain counts more than any of them."""
    low, high = np.array([0.5, 0.3]), np.array([0.4, 0.5])
    assert best_candidate({(1.0, -4.0): high, (2.0, 0.0): high, (3.0, 0.0): high, (0.0, 0.0): low}) == (2.0, 0.0)
    assert best_candidate({(1.0, -4.0): high, (1.0, -2.0): high, (0.5, -8.0): low, (2.0, -1.0): high}) == (1.0, -2.0)


def quick_network(data, epochs):
    """A network that learned a little, and everything a fusion of it needs."""
    config = worlds.config(max_epochs=epochs)
    return pipeline.fit(data, config).model.eval()


def assert_no_worse_than_the_parts(model, pairs, data):
    """On the test set, with the interval of the paired difference as the noise."""
    fusion = tune_fusion(model, pairs, data.histories, data.split.validation).fusion
    parts = {
        "model": (model, replace(fusion, weight=0.0)),
        "co-occurrence": (ZeroScorer(len(data.catalog)), ScoreFusion(pairs, 1.0, fusion.repeat_bias)),
    }
    both = ndcg_gains(evaluate(model, data.histories, data.split.test, fusion=fusion).ranks, 10)
    for name, (part, its_fusion) in parts.items():
        alone = ndcg_gains(evaluate(part, data.histories, data.split.test, fusion=its_fusion).ranks, 10)
        loss = alone - both
        assert loss.mean() <= 2 * loss.std() / len(loss) ** 0.5, (name, alone.mean(), both.mean(), fusion.weight)


def shuffled(rows):
    random = np.random.default_rng(0)
    return [random.permutation(row).tolist() for row in rows]


@pytest.mark.thorough
@pytest.mark.parametrize("pairs", PAIR_MODELS)
@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize(
    "rows", [worlds.cycle(), shuffled(worlds.cycle()), worlds.two_clans()], ids=["cycle", "shuffled", "clans"]
)
def test_fusion_is_not_below_its_best_part(rows, epochs, pairs):
    """A network that learned nothing or a little, next to counts that know all, little, or half."""
    data = worlds.world(rows)
    model = quick_network(data, epochs) if epochs else make_model(worlds.config(), len(data.catalog)).eval()
    fitted = fit_pairs(pairs, data, data.split.train)
    assert_no_worse_than_the_parts(model, fitted, data)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", PAIR_MODELS)
@pytest.mark.parametrize("epochs", [1, 6])
@pytest.mark.parametrize("name", ["ml-100k", "ml-latest-small-2016", "movietweetings-100k"])
def test_fusion_is_not_below_its_best_part_on_real_data(name, epochs, pairs):
    """With few users, and a network that learned little or more."""
    config = load_config("quick", [f"training.max_epochs={epochs}"])
    data = pipeline.prepare(read_interactions(worlds.real_file(f"{name}.inter.gz")), None, config)
    model = pipeline.fit(data, config).model.eval()
    assert_no_worse_than_the_parts(model, fit_pairs(pairs, data, data.split.train), data)


def ndcg_of(model, world, fusion):
    return evaluate(model, world.histories, world.split.validation, fusion=fusion).ndcg[10]


def test_a_model_that_knows_nothing_trusts_the_counts(world, counted):
    """In the cycle counting knows all; the first weight at which nothing is wrong is taken."""
    tuned = tune_fusion(make_model(worlds.config(), len(world.catalog)), counted, world.histories, world.split.validation)
    assert tuned.ndcg == 1.0
    assert tuned.fusion.weight > 0
    assert all(figure < 1.0 for weight, figure in tuned.by_weight.items() if weight < tuned.fusion.weight)


def test_a_model_that_knows_all_needs_no_fusion(world, counted):
    """Of equally good ones the first is taken: none."""
    tuned = tune_fusion(Knowing(len(world.catalog)), counted, world.histories, world.split.validation)
    assert not tuned.fusion
    assert (tuned.fusion.weight, tuned.fusion.repeat_bias) == (0.0, 0.0)


@pytest.mark.parametrize(("rows", "sign"), [([[1, 2, 3, 4], [4, 3, 1, 2], [2, 4, 1, 3]], -1), ([[1, 2, 1, 2], [3, 4, 3, 4]], 1)])
def test_whether_items_recur_is_found_out(rows, sign):
    """Nobody has anything twice, or everybody everything: a model that knows nothing learns which from a handful of users."""
    data = worlds.world(rows * 5)
    silent = Knowing(len(data.catalog))
    silent.item_vectors = torch.zeros_like(silent.item_vectors)
    tuned = tune_fusion(silent, count_sequential_rules(data), data.histories, data.split.validation, weights=(0.0,))
    assert tuned.fusion.repeat_bias * sign > 0
    assert tuned.ndcg > tuned.alone


def test_fusion_is_tuned_under_the_protocol_of_evaluation(world, untrained, counted):
    """With seen items excluded each weight is scored without them, and the repeat bias keeps its first value."""
    arguments = (world.histories, world.split.validation)
    tuned = tune_fusion(untrained, counted, *arguments, exclude_seen=True)
    for weight, figure in tuned.by_weight.items():
        of_it = evaluate(untrained, *arguments, exclude_seen=True, fusion=ScoreFusion(counted, weight)).ndcg[10]
        assert figure == pytest.approx(of_it, abs=1e-12)
    assert tuned.alone == pytest.approx(evaluate(untrained, *arguments, exclude_seen=True).ndcg[10], abs=1e-12)
    assert tuned.alone != pytest.approx(evaluate(untrained, *arguments).ndcg[10])
    assert tuned.by_repeat_bias.keys() == {0.0}
    fixed = tune_fusion(untrained, counted, *arguments, exclude_seen=True, repeat_bias=(-3.0,))
    assert (fixed.fusion.repeat_bias, fixed.by_weight) == (-3.0, tuned.by_weight)  # kept for who is asked with seen items


@pytest.mark.parametrize("repeat_bias", [-8.0, 8.0])
def test_repeats_do_not_point_at_the_target_where_seen_items_are_removed(repeat_bias):
    """With repeats and seen items excluded, the target is the only seen candidate, so a repeat bias would reveal it."""
    world = worlds.world([[10 * user + event % 4 for event in range(9)] for user in range(12)])
    model, counted = randomized(make_model(worlds.config(), len(world.catalog))).eval(), count_sequential_rules(world)
    arguments = (model, world.histories, world.split.test)
    with_it = evaluate(*arguments, exclude_seen=True, fusion=ScoreFusion(counted, 0.5, repeat_bias)).ranks
    assert with_it.tolist() == evaluate(*arguments, exclude_seen=True, fusion=ScoreFusion(counted, 0.5)).ranks.tolist()
    assert (
        evaluate(*arguments, fusion=ScoreFusion(counted, 0.5, repeat_bias)).ranks.tolist() != evaluate(*arguments).ranks.tolist()
    )


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_fusion_is_tuned_on_the_metric_reported_when_max_length_cuts(world, untrained, counted, exclude_seen):
    """Seen is what lies before the last three events too, in both."""
    cut = replace(world.split.validation, max_length=3)
    selected = tune_fusion(untrained, counted, world.histories, cut, exclude_seen=exclude_seen)
    measured = evaluate(untrained, world.histories, cut, exclude_seen=exclude_seen, fusion=selected.fusion)
    assert selected.fusion
    assert selected.ndcg == pytest.approx(measured.ndcg[10])


def test_many_targets_are_thinned(world, untrained, counted, monkeypatch):
    """Every other user decides, where half of all may."""
    monkeypatch.setattr(module, "TARGETS", len(world.split.validation) // 2)
    arguments = []
    tune_fusion(untrained, counted, world.histories, world.split.validation, progress=lambda *each: arguments.append(each))
    assert {total for _, total in arguments} == {len(world.split.validation) // 2}


def test_recommendations_follow_the_raised_scores(world, untrained, counted):
    """Alone and as a session that grows: model and counts together, in the order of their sum."""
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    fusion = ScoreFusion(counted, 2.0, -1.0)
    recommender = Recommender(Artifact(untrained, world.catalog, worlds.config(), {}, counts, fusion))
    history = [3, 4, 5, "unknown", 6]
    numbers = torch.tensor([number for number in recommender.indices([history])[0].tolist() if number])
    edges = torch.tensor([0, len(numbers)])
    with torch.inference_mode():
        alone = untrained.encode(numbers, edges) @ untrained.item_vectors.T
    raised = alone.clone()
    fusion.add(raised, look_up(counted, numbers, edges, slice(0, 1)))
    assert not torch.equal(raised, alone)
    session = Session(recommender, history[:2])
    for item in history[2:]:
        session.add(item)
    for answer in (recommender.recommend(history, 12, exclude_seen=False), session.recommend(12, exclude_seen=False)):
        tuned = recommender.artifact.catalog.indices([each.item for each in answer.items])
        assert tuned.tolist() == (raised[0].argsort(descending=True) + 1).tolist()
        expected = raised[0].sort(descending=True).values
        torch.testing.assert_close(
            torch.tensor([each.score for each in answer.items], dtype=raised.dtype), expected, rtol=1e-5, atol=1e-5
        )


def test_fusion_alone_ranks_with_a_zero_scorer(world, counted):
    """Counts in place of a model rank as the counting baseline does; with nothing counted everything ties."""
    arguments = (world.histories, world.split.validation)
    silent = ZeroScorer(len(world.catalog))
    assert (evaluate(silent, *arguments, fusion=ScoreFusion(counted, 1.0)).ranks == evaluate(counted, *arguments).ranks).all()
    assert (evaluate(silent, *arguments).ranks == len(world.catalog)).all()
