"""The projection of item features, against its definition as a loop."""

import numpy as np
import polars as pl
import pytest
import torch

import worlds
from ssd4rec.config import FeaturesConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.item_features import encode_item_features
from ssd4rec.data.item_table import read_item_table
from ssd4rec.layers.item_features import FeatureProjection
from ssd4rec.models.next_item import append_items, fold_features, make_model
from ssd4rec.ops.sampled_softmax import make_negative_sampler

IDS = list(range(1, 13))


def features_of(numbers: bool = True, categories: bool = True):
    rng = np.random.default_rng(0)
    frame = {"item_id": [*IDS, 100, 101]}
    if categories:
        frame["genre"] = [rng.choice(list("wxyz"), rng.integers(0, 4), replace=False).tolist() for _ in frame["item_id"]]
        frame["brand"] = rng.choice(["p", "q"], len(frame["item_id"])).tolist()
    if numbers:
        frame["image"] = rng.normal(size=(len(frame["item_id"]), 3)).tolist()
    config = FeaturesConfig(min_items=1)
    return encode_item_features(read_item_table(pl.DataFrame(frame), config), Catalog(pl.Series("id", IDS)), config)


def slow(projection: FeatureProjection, features, item: int) -> torch.Tensor:
    """Return p_j, one category and one number after the other."""
    total = torch.zeros(projection.categories.shape[1])
    for place in range(features.encoded.offsets[item], features.encoded.offsets[item + 1]):
        total += features.encoded.weights[place] * projection.categories[features.encoded.codes[place]]
    for place, number in enumerate(features.encoded.vectors[item]):
        total += float(number) * projection.numbers[place]
    return total.detach()


@pytest.mark.parametrize(("numbers", "categories"), [(True, True), (True, False), (False, True)])
def test_equals_the_loop(numbers, categories):
    features = features_of(numbers, categories)
    projection = FeatureProjection(features, 8)
    for items in (
        torch.arange(15),
        torch.tensor([3, 3, 0, 14]),
        torch.tensor([[1, 2], [0, 5]]),
        torch.tensor([], dtype=torch.int64),
    ):
        expected = [slow(projection, features, int(item)) for item in items.flatten()]
        expected = torch.stack(expected) if expected else torch.zeros(0, 8)
        torch.testing.assert_close(projection(items).detach(), expected.unflatten(0, items.shape))


def test_item_vectors_are_the_table_plus_the_projection():
    features = features_of()
    model = make_model(worlds.config(), 12, features)
    plain = make_model(worlds.config(), 12)
    assert all(torch.equal(model.state_dict()[name], values) for name, values in plain.state_dict().items())
    expected = torch.stack([model.table.weight[item] + slow(model.features, features, item) for item in IDS])
    torch.testing.assert_close(model.item_vectors, expected)
    items, cu_seqlens = torch.tensor([1, 5, 2]), torch.tensor([0, 3])
    torch.testing.assert_close(model.embed(items, cu_seqlens), expected[items - 1])


def test_folding_changes_no_score_and_new_items_have_the_projection_alone():
    features = features_of()
    model = make_model(worlds.config(), 12, features).eval()
    items, cu_seqlens = torch.tensor([1, 5, 2]), torch.tensor([0, 3])
    with torch.no_grad():
        before = model.score(model.encode(items, cu_seqlens))
        expected = torch.stack([slow(model.features, features, item) for item in (13, 14)])
        projected = model.features(torch.tensor([13, 14]))
        fold_features(model)
        after = model.score(model.encode(items, cu_seqlens))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)  # the sum of table and projection may round otherwise
        append_items(model, projected)
        torch.testing.assert_close(model.item_vectors[12:], expected)
        appended = model.score(model.encode(items, cu_seqlens))[:, :12]
        torch.testing.assert_close(appended, before, rtol=0, atol=1e-6)
    assert (model.catalog_size, len(model.item_vectors)) == (14, 14)


def test_id_dropout_is_drawn_by_step_and_is_off_in_evaluation():
    projection = FeatureProjection(features_of(), 8, id_dropout=0.5)
    rows, items = torch.ones(15, 8), torch.arange(15)
    torch.manual_seed(0)
    projection.draw_without_id()
    with torch.no_grad():
        added = projection.add_to(rows, items) - projection(items)
        kinds = added.round().unique(dim=0)
        assert {tuple(row) for row in kinds.tolist()} == {(0.0,) * 8, (1.0,) * 8}
        assert added[0].round().eq(1).all()  # the mask keeps its row
        torch.testing.assert_close(projection.add_to(rows, items), projection.add_to(rows, items))
        torch.testing.assert_close(projection.eval().add_to(rows, items) - projection(items), rows)


def test_the_fingerprint_is_that_of_the_features():
    assert features_of().fingerprint() == features_of().fingerprint() != features_of(numbers=False).fingerprint()


def test_every_parameter_learns_with_both_softmaxes():
    features = features_of()
    for sampler in (None, make_negative_sampler(torch.ones(12), 0.5, 4)):
        model = make_model(worlds.config(), 12, features)
        states = model.encode_prefixes(torch.tensor([1, 5, 2]), torch.tensor([0, 3]))
        model.loss(states, torch.tensor([5, 2, 3]), sampler, 0.1 if sampler is None else 0.0).backward()
        assert model.features.categories.grad.abs().sum() > 0
        assert model.features.numbers.grad.abs().sum() > 0
