"""The next-item model: item embeddings, an encoder, and scores from the same table."""

import math

import pytest
import torch
from torch import Tensor, nn

from packed import cu_seqlens_of, randomized, relative_error
from ssd4rec.config import SSD4RecConfig
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.models.next_item import NextItemModel, count_parameters
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.sampled_softmax import NegativeSampler, make_negative_sampler

ITEMS = torch.tensor([3, 1, 2, 0, 4])
BOUNDARIES = cu_seqlens_of([2, 3])
READS = pytest.mark.parametrize("read", ["encode", "encode_prefixes"])


class Echo(nn.Module):
    """An encoder that returns the embedding of each position."""

    width = 2

    def encode(self, embedded: Tensor, cu_seqlens: Tensor) -> Tensor:
        return embedded[cu_seqlens[1:] - 1]

    def encode_prefixes(self, embedded: Tensor, cu_seqlens: Tensor) -> Tensor:
        assert int(cu_seqlens[-1]) == len(embedded)
        return embedded


def small_model(**settings: object) -> NextItemModel:
    torch.manual_seed(0)
    return randomized(NextItemModel(SSD4Rec(SSD4RecConfig(width=6, state_dim=3, head_width=4, **settings)), catalog_size=4))


def test_encode_by_hand() -> None:
    """Sequences 3 1 and 2 0 4 are represented by their last items: rows 1 and 4."""
    model = NextItemModel(Echo(), catalog_size=4)
    assert torch.equal(model.encode(ITEMS, BOUNDARIES), model.table.weight[[1, 4]])


def test_encode_prefixes_by_hand() -> None:
    """Row t represents the prefix that ends at position t."""
    model = NextItemModel(Echo(), catalog_size=4)
    assert torch.equal(model.encode_prefixes(ITEMS, BOUNDARIES), model.table.weight[ITEMS])


def test_scores_use_the_item_embeddings() -> None:
    """Embeddings (1, 0), (0, 1), (1, 1) score (2, 5) with 2, 5 and 7: column j is item j + 1, without the mask."""
    model = NextItemModel(Echo(), catalog_size=3)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [1, 0], [0, 1], [1, 1]]))
    assert model.score(torch.tensor([[2.0, 5.0]])).tolist() == [[2, 5, 7]]


def test_loss_by_hand() -> None:
    """Scores 0 and ln 3 for items 1 and 2: the losses are ln 4 and ln 4/3."""
    model = NextItemModel(Echo(), catalog_size=2)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [0, 0], [1, 0]]))
    state = torch.tensor([[math.log(3), 0.0]])
    assert model.loss(state, torch.tensor([1])).item() == pytest.approx(math.log(4))
    assert model.loss(state, torch.tensor([2])).item() == pytest.approx(math.log(4 / 3))


def test_sampled_loss_by_hand() -> None:
    """Scores 0, ln 3, ln 3 for items 1 … 3, item 2 the only negative with expected count 1/2: item 1 has loss ln(1 + 2 * 3)."""
    model = NextItemModel(Echo(), catalog_size=3)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [0, 0], [1, 0], [1, 0]]))
    proposal = NegativeSampler(torch.tensor([1]), torch.ones(1, dtype=torch.float64), torch.tensor([0.5]).log(), 1)
    state = torch.tensor([[math.log(3), 0.0]])
    assert model.loss(state, torch.tensor([1]), proposal).item() == pytest.approx(math.log(7))
    assert model.loss(state, torch.tensor([2]), proposal).item() == pytest.approx(0)


@pytest.mark.parametrize("sampled", [False, True])
def test_label_smoothing_by_hand(sampled: bool) -> None:
    """Scores 0 and ln 4 for items 1 and 2; smoothing 1/2 of item 2 gives 3/4 ln 5/4 + 1/4 ln 5."""
    model = NextItemModel(Echo(), catalog_size=2)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [0, 0], [1, 0]]))
    proposal = make_negative_sampler(torch.ones(2), 0.0, 2) if sampled else None
    loss = model.loss(torch.tensor([[math.log(4), 0.0]]), torch.tensor([2]), proposal, smoothing=0.5)
    assert loss.item() == pytest.approx(0.75 * math.log(5 / 4) + 0.25 * math.log(5))


@pytest.mark.parametrize("sparse", [False, True])
def test_sampled_loss_of_all_items_equals_the_full_loss(sparse: bool) -> None:
    """Loss and table gradient, dense or sparse, equal those of the full softmax; the mask has no gradient."""
    model, states, targets = small_model(), torch.randn(3, 6, dtype=torch.float64), torch.tensor([1, 2, 4])
    full = model.loss(states, targets)
    expected = torch.autograd.grad(full, model.table.weight)[0]
    model.table.sparse = sparse
    sampled = model.loss(states, targets, make_negative_sampler(torch.ones(model.catalog_size), 0.0, model.catalog_size))
    actual = torch.autograd.grad(sampled, model.table.weight)[0]
    assert actual.is_sparse == sparse
    assert sampled.item() == pytest.approx(full.item(), rel=1e-12)
    torch.testing.assert_close(actual.to_dense() if sparse else actual, expected)


def test_the_mask_is_never_a_candidate() -> None:
    """Difference D2: the embedding of item 0 changes neither scores nor loss and gets no gradient from scoring."""
    model, states = small_model(), torch.randn(3, 6, dtype=torch.float64)
    scores, loss = model.score(states), model.loss(states, torch.tensor([1, 2, 4]))
    loss.backward()
    assert model.table.weight.grad[0].eq(0).all()
    assert model.table.weight.grad[1:].ne(0).all()
    with torch.no_grad():
        model.table.weight[0] += 100
    assert torch.equal(model.score(states), scores)
    assert torch.equal(model.loss(states, torch.tensor([1, 2, 4])), loss)


def test_the_mask_embedding_is_trained() -> None:
    """Item 0 has its own embedding, which affects masked sequences and gets a gradient."""
    model = small_model()
    states = model.encode(torch.tensor([0, 1, 2]), cu_seqlens_of([3]))
    model.loss(states, torch.tensor([3])).backward()
    assert model.table.weight.grad[0].ne(0).all()


def test_embeddings_are_tied() -> None:
    """Input and scoring share one table: no other parameter has the size of the catalog."""
    model = small_model()
    assert [tuple(p.shape) for p in model.parameters() if 5 in p.shape or 4 in p.shape[:1]].count((5, 6)) == 1
    assert model.item_vectors.data_ptr() == model.table.weight[1:].data_ptr()


def test_initial_table() -> None:
    """Every row of the table is N(0, 0.02), including the mask."""
    torch.manual_seed(0)
    weight = NextItemModel(SSD4Rec(SSD4RecConfig(width=64)), catalog_size=500).table.weight
    assert weight.shape == (501, 64)
    assert weight.mean().item() == pytest.approx(0, abs=5e-4)
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert weight[0].std().item() == pytest.approx(0.02, rel=0.3)


@READS
@pytest.mark.parametrize(
    ("items", "cu_seqlens", "shown"),
    [
        (torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 6]), r"\(2, 3\) and \(2,\), cu_seqlens ending with \[6\]"),
        (torch.ones(5, dtype=torch.int64), torch.tensor([[0, 5]]), r"\(5,\) and \(1, 2\), cu_seqlens ending with \[5\]"),
        (torch.ones(5, dtype=torch.int64), torch.tensor(5), r"\(5,\) and \(\), cu_seqlens ending with \[5\]"),
        (torch.ones(5, dtype=torch.int64), torch.tensor([0, 4]), r"\(5,\) and \(2,\), cu_seqlens ending with \[4\]"),
        (torch.ones(5, dtype=torch.int64), torch.tensor([0, 6]), r"\(5,\) and \(2,\), cu_seqlens ending with \[6\]"),
    ],
)
def test_mismatched_items_and_cu_seqlens(read: str, items: Tensor, cu_seqlens: Tensor, shown: str) -> None:
    """Items that are not flat, or whose length differs from the last of cu_seqlens, are an error that shows both."""
    expected = rf"items must be \[T\] and cu_seqlens \[B \+ 1\] with last value T, found shapes {shown}"
    with pytest.raises(ShapeError, match=expected):
        getattr(small_model(), read)(items, cu_seqlens)


@READS
def test_empty_cu_seqlens(read: str) -> None:
    """Empty cu_seqlens are an error."""
    nothing = torch.tensor([], dtype=torch.int64)
    with pytest.raises(ShapeError):
        getattr(small_model(), read)(nothing, nothing)


def test_encode_prefixes_of_an_unsupported_model() -> None:
    """The error of the encoder is raised."""
    with pytest.raises(ConfigError, match="all-positions training needs"):
        small_model(bidirectional="all", layers=2).encode_prefixes(ITEMS, BOUNDARIES)


@pytest.mark.thorough
def test_model_learns() -> None:
    """Twenty steps on one batch reduce its loss."""
    model = small_model(bidirectional="top", dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = model.loss(model.encode_prefixes(ITEMS, BOUNDARIES), torch.tensor([1, 2, 3, 4, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_all_positions_loss_equals_per_prefix_loss() -> None:
    """The mean loss over all prefixes of two sequences and its gradients are the same from one pass and from five examples."""
    targets = torch.tensor([1, 2, 3, 4, 1])
    examples = [[3], [3, 1], [2], [2, 0], [2, 0, 4]]
    one_pass, separate = small_model(), small_model()
    loss = one_pass.loss(one_pass.encode_prefixes(ITEMS, BOUNDARIES), targets)
    packed = torch.tensor([item for example in examples for item in example])
    expected = separate.loss(separate.encode(packed, cu_seqlens_of([len(example) for example in examples])), targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for (name, ours), theirs in zip(one_pass.named_parameters(), separate.parameters(), strict=True):
        if theirs.grad is not None:
            assert relative_error(ours.grad, theirs.grad) < 1e-10, name


def test_count_parameters_ignores_frozen_ones() -> None:
    """3 * 2 + 2 = 8 parameters, and 2 if the weight is frozen."""
    layer = nn.Linear(3, 2)
    assert count_parameters(layer) == 8
    layer.weight.requires_grad_(False)
    assert count_parameters(layer) == 2


def test_input_dropout_drops_what_is_read_and_not_what_scores() -> None:
    """In training about half of the numbers that an Echo reads are zero and the others doubled; item vectors stay whole."""
    torch.manual_seed(0)
    model = NextItemModel(Echo(), catalog_size=400, input_dropout=0.5)
    items, cu_seqlens = torch.arange(1, 401), cu_seqlens_of([400])
    encoded = model.train().encode_prefixes(items, cu_seqlens)
    dropped = encoded == 0
    assert 0.4 < dropped.double().mean() < 0.6
    torch.testing.assert_close(encoded[~dropped], 2 * model.item_vectors[~dropped])
    assert torch.equal(model.eval().encode_prefixes(items, cu_seqlens), model.item_vectors)
