"""Targets and cost of a pass; both objectives have the same targets."""

import numpy as np
import pytest
import torch

import worlds
from ssd4rec.config import DataConfig, TrainingConfig, load_config
from ssd4rec.data.packing import materialize_batch
from ssd4rec.data.split import make_split
from ssd4rec.models.next_item import make_model
from ssd4rec.training.objective import cut_batches, masked, next_item_loss, pass_cost, plan_pass

HISTORIES = worlds.cycle(users=7)


def whole_pass(objective, **settings):
    world = worlds.world(HISTORIES)
    config = TrainingConfig(objective=objective, mask_ratio=0.0, token_budget=10_000, **settings)
    plan = plan_pass(world.split.train, config, epoch=0)
    assert len(plan.batches) == 1
    return world, config, materialize_batch(world.histories, plan.examples, plan.batches[0])


def test_one_pass_has_the_loss_and_gradients_of_every_prefix():
    """In float64 the two objectives are one, to 1e-12."""
    losses, gradients = [], []
    for objective in ("all-positions", "per-prefix"):
        world, config, batch = whole_pass(objective)
        model = make_model(worlds.config(), len(world.catalog)).double()
        loss = next_item_loss(model, batch, config)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_fillers_change_nothing():
    """The loss of both objectives is the same with free positions between the histories."""
    for objective in ("all-positions", "per-prefix"):
        world, config, batch = whole_pass(objective)
        model = make_model(worlds.config(), len(world.catalog)).double()
        plan = plan_pass(world.split.train, config, epoch=0)
        (placed,) = plan.batches
        spread = placed._replace(start=placed.start + 3 * np.arange(1, len(placed.rows) + 1), size=placed.size + 500)
        apart = materialize_batch(world.histories, plan.examples, spread)
        assert (apart.items == 0).sum() > (batch.items == 0).sum()
        losses = [next_item_loss(model, each, config).item() for each in (batch, apart)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-12)


@pytest.mark.parametrize(
    ("objective", "backbone"), [("all-positions", "ssd4rec"), ("per-prefix", "ssd4rec"), ("masked-item", "bert4rec")]
)
def test_labels_are_smoothed_under_each_objective(objective, backbone):
    """Half a share lies half-way between none and all, which differ."""
    world, config, batch = whole_pass(objective)
    model = make_model(load_config("quick", [f'backbone.name="{backbone}"']), len(world.catalog)).double().eval()
    with torch.no_grad():
        model.table.weight.normal_(generator=torch.Generator().manual_seed(1))
        none, half, all_alike = (
            next_item_loss(model, batch, config.model_copy(update={"label_smoothing": share})).item() for share in (0.0, 0.5, 1.0)
        )
    assert half == pytest.approx((none + all_alike) / 2)
    assert abs(all_alike - none) > 0.1


def test_masking_spares_targets_and_hits_its_share():
    """A quarter of the inputs becomes item 0, the rest stays."""
    torch.manual_seed(0)
    items = torch.arange(1, 40_001)
    actual = masked(items, 0.25)
    assert (actual == 0).double().mean() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(actual[actual > 0], items[actual > 0])
    assert torch.equal(masked(items, 0.0), items)


def test_examples_longer_than_a_batch_are_reported():
    """A history of 101 events has 98 prefixes of 1 to 98 events, 4,851 in all: 50 a batch are 2 batches, and need room."""
    world = worlds.world([list(range(101))])
    prefix = TrainingConfig(objective="per-prefix", batch_size=50, token_budget=10_000)
    assert cut_batches(world.split.train, prefix) is None
    enough = prefix.model_copy(update={"token_budget": 5_000})  # under twice the most that 50 could take: it is looked at
    assert cut_batches(world.split.train, enough) is None
    small = prefix.model_copy(update={"token_budget": 1_024})
    sentence = cut_batches(world.split.train, small)
    batches = len(plan_pass(world.split.train, small, epoch=0).batches)
    assert batches > 2
    assert sentence.startswith("training.token_budget = 1,024 has no room for training.batch_size = 50 examples: ")
    assert f"{batches} batches per pass instead of 2" in sentence
    assert cut_batches(world.split.train, small.model_copy(update={"objective": "all-positions"})) is None
    assert cut_batches(world.split.train, small.model_copy(update={"batch_size": None})) is None


def shown(plan):
    return [(batch.rows.tolist(), batch.start.tolist(), batch.size) for batch in plan.batches]


def test_a_plan_is_a_function_of_seed_and_epoch():
    """Equal for equal (seed, epoch), different for another epoch."""
    world = worlds.world(worlds.cycle())
    config = TrainingConfig(token_budget=64)
    first, again, other = (plan_pass(world.split.train, config, epoch) for epoch in (3, 3, 4))
    assert shown(first) == shown(again)
    assert shown(first) != shown(other)


def test_sampled_prefixes_are_so_many_of_each_history():
    """Two prefixes per sequence, sampled again in each epoch."""
    world = worlds.world(HISTORIES)
    config = TrainingConfig(objective="per-prefix", prefixes_per_sequence=2)
    plans = [plan_pass(world.split.train, config, epoch).examples for epoch in (0, 1)]
    targets = world.split.train.stop - world.split.train.first_target
    for examples in plans:
        assert np.bincount(examples.user, minlength=7).tolist() == np.minimum(targets, 2).tolist()
    assert plans[0].stop.tolist() != plans[1].stop.tolist()


def test_the_cost_of_both_objectives_is_counted():
    """One history of 6 events trains 3 targets: 3 tokens in one pass, 1 + 2 + 3 by prefixes."""
    world = worlds.world([[1, 2, 3, 4, 5, 6]])
    once = pass_cost(world.split.train, TrainingConfig())
    every = pass_cost(world.split.train, TrainingConfig(objective="per-prefix"))
    assert (once.targets, once.tokens, once.tokens_of_other) == (3, 3, 6)
    assert (every.targets, every.tokens, every.tokens_of_other) == (3, 6, 3)
    assert every.advice(TrainingConfig(objective="per-prefix")) is None


def test_a_greatest_length_bounds_what_is_read_under_either_objective():
    """12 events train 9 targets, each from at most 4 events: 4 + 4 + 4 + 3 in windows, 1 + 2 + 3 + 6 x 4 by prefixes."""
    train = make_split(worlds.world([list(range(12))]).histories, DataConfig(max_length=4)).train
    for objective, tokens in (("all-positions", 15), ("per-prefix", 30)):
        config = TrainingConfig(objective=objective)
        cost = pass_cost(train, config)
        assert (cost.targets, cost.tokens) == (9, tokens)
        examples = plan_pass(train, config, epoch=0).examples
        assert (examples.targets, int(examples.lengths.sum()), int(examples.lengths.max())) == (9, tokens, 4)
    masked = pass_cost(train, TrainingConfig(objective="masked-item", mask_ratio=0.0))
    assert (masked.targets, masked.tokens) == (4, 15 + 4)  # each of the four windows gets a blank at its end
    sampled = pass_cost(train, TrainingConfig(objective="per-prefix", prefixes_per_sequence=9))
    assert (sampled.targets, sampled.tokens) == (9, 30)


def test_a_dear_objective_is_answered_with_the_cheap_one():
    """A history of 102 events costs 50 times the tokens by prefixes: the advice names the setting."""
    world = worlds.world([list(range(102))])
    config = TrainingConfig(objective="per-prefix")
    advice = pass_cost(world.split.train, config).advice(config)
    assert advice is not None
    assert "50 times" in advice
    assert "training.objective=all-positions" in advice
