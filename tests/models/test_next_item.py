"""An item table, a backbone, and the same table to score with."""

import math

import pytest
import torch
from torch import Tensor, nn

from rows import boundaries_of, relative_error, shaken
from ssd4rec.config import SSD4RecConfig
from ssd4rec.errors import ConfigError, ShapeError
from ssd4rec.models.next_item import NextItemModel, count_parameters
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops.sampled_softmax import NegativeSampler, make_negative_sampler

ITEMS = torch.tensor([3, 1, 2, 0, 4])
BOUNDARIES = boundaries_of([2, 3])
READS = pytest.mark.parametrize("read", ["encode", "encode_prefixes"])


class Echo(nn.Module):
    """A backbone whose state is the vector of the event itself."""

    width = 2

    def encode(self, embedded: Tensor, cu_seqlens: Tensor) -> Tensor:
        return embedded[cu_seqlens[1:] - 1]

    def encode_prefixes(self, embedded: Tensor, cu_seqlens: Tensor) -> Tensor:
        assert int(cu_seqlens[-1]) == len(embedded)
        return embedded


def small_model(**settings: object) -> NextItemModel:
    torch.manual_seed(0)
    return shaken(NextItemModel(SSD4Rec(SSD4RecConfig(width=6, state_dim=3, head_width=4, **settings)), catalog_size=4))


def test_encode_reads_the_rows_of_the_table() -> None:
    """Sequences 3 1 and 2 0 4, each known by its last event: rows 1 and 4."""
    model = NextItemModel(Echo(), catalog_size=4)
    assert torch.equal(model.encode(ITEMS, BOUNDARIES), model.table.weight[[1, 4]])


def test_encode_prefixes_reads_every_position() -> None:
    """Row t is the state of the prefix that ends at position t."""
    model = NextItemModel(Echo(), catalog_size=4)
    assert torch.equal(model.encode_prefixes(ITEMS, BOUNDARIES), model.table.weight[ITEMS])


def test_scores_are_products_with_the_same_table() -> None:
    """Vectors (1, 0), (0, 1), (1, 1) score the state (2, 5) with 2, 5 and 7: column j is item j + 1, and the mask has none."""
    model = NextItemModel(Echo(), catalog_size=3)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [1, 0], [0, 1], [1, 1]]))
    assert model.score(torch.tensor([[2.0, 5.0]])).tolist() == [[2, 5, 7]]


def test_loss_by_hand() -> None:
    """Scores 0, ln 3 for items 1 and 2: item 1 costs ln 4, item 2 ln 4/3."""
    model = NextItemModel(Echo(), catalog_size=2)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [0, 0], [1, 0]]))
    state = torch.tensor([[math.log(3), 0.0]])
    assert model.loss(state, torch.tensor([1])).item() == pytest.approx(math.log(4))
    assert model.loss(state, torch.tensor([2])).item() == pytest.approx(math.log(4 / 3))


def test_a_sampled_loss_by_hand() -> None:
    """Scores 0, ln 3, ln 3 for items 1 … 3, item 2 the only negative, expected 1/2 a time: item 1 costs ln(1 + 2 * 3)."""
    model = NextItemModel(Echo(), catalog_size=3)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [0, 0], [1, 0], [1, 0]]))
    proposal = NegativeSampler(torch.tensor([1]), torch.ones(1, dtype=torch.float64), torch.tensor([0.5]).log(), 1)
    state = torch.tensor([[math.log(3), 0.0]])
    assert model.loss(state, torch.tensor([1]), proposal).item() == pytest.approx(math.log(7))
    assert model.loss(state, torch.tensor([2]), proposal).item() == pytest.approx(0)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_smoothed_loss_by_hand(sampled: bool) -> None:
    """Scores 0, ln 4 for items 1 and 2, the mask far away. Half of item 2's probability is shared: 3/4 ln 5/4 + 1/4 ln 5."""
    model = NextItemModel(Echo(), catalog_size=2)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[9.0, 9], [0, 0], [1, 0]]))
    proposal = make_negative_sampler(torch.ones(2), 0.0, 2) if sampled else None
    loss = model.loss(torch.tensor([[math.log(4), 0.0]]), torch.tensor([2]), proposal, smoothing=0.5)
    assert loss.item() == pytest.approx(0.75 * math.log(5 / 4) + 0.25 * math.log(5))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_sampled_loss_teaches_the_full_one_where_all_items_are_drawn(sparse: bool) -> None:
    """Loss and the gradient of the table, dense or of the touched rows, are those of the full softmax; the mask has none."""
    model, states, targets = small_model(), torch.randn(3, 6, dtype=torch.float64), torch.tensor([1, 2, 4])
    full = model.loss(states, targets)
    expected = torch.autograd.grad(full, model.table.weight)[0]
    model.table.sparse = sparse
    sampled = model.loss(states, targets, make_negative_sampler(torch.ones(model.catalog_size), 0.0, model.catalog_size))
    found = torch.autograd.grad(sampled, model.table.weight)[0]
    assert found.is_sparse == sparse
    assert sampled.item() == pytest.approx(full.item(), rel=1e-12)
    torch.testing.assert_close(found.to_dense() if sparse else found, expected)


def test_the_mask_is_never_a_candidate() -> None:
    """Difference D2: the vector of item 0 changes neither scores nor loss, and scoring gives it no gradient."""
    model, states = small_model(), torch.randn(3, 6, dtype=torch.float64)
    scores, loss = model.score(states), model.loss(states, torch.tensor([1, 2, 4]))
    loss.backward()
    assert model.table.weight.grad[0].eq(0).all()
    assert model.table.weight.grad[1:].ne(0).all()
    with torch.no_grad():
        model.table.weight[0] += 100
    assert torch.equal(model.score(states), scores)
    assert torch.equal(model.loss(states, torch.tensor([1, 2, 4])), loss)


def test_the_mask_is_read_and_learnt() -> None:
    """Item 0 has a row of its own that a masked history changes with, and that gets a gradient."""
    model = small_model()
    states = model.encode(torch.tensor([0, 1, 2]), boundaries_of([3]))
    model.loss(states, torch.tensor([3])).backward()
    assert model.table.weight.grad[0].ne(0).all()


def test_the_table_is_tied() -> None:
    """Reading and scoring share one table: the model has no other number with the catalog's size."""
    model = small_model()
    assert [tuple(p.shape) for p in model.parameters() if 5 in p.shape or 4 in p.shape[:1]].count((5, 6)) == 1
    assert model.item_vectors.data_ptr() == model.table.weight[1:].data_ptr()


def test_initial_table() -> None:
    """Every row of the table is N(0, 0.02), that of the mask too."""
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
def test_items_and_boundaries_that_do_not_fit(read: str, items: Tensor, cu_seqlens: Tensor, shown: str) -> None:
    """Items that are not flat, or do not end with the last boundary, are refused, and the message shows both."""
    expected = rf"items \[T\] and cu_seqlens \[B \+ 1\] must be flat and end together, found shapes {shown}"
    with pytest.raises(ShapeError, match=expected):
        getattr(small_model(), read)(items, cu_seqlens)


@READS
def test_no_boundaries_at_all(read: str) -> None:
    """No boundary is no history: refused like any other that does not fit."""
    nothing = torch.tensor([], dtype=torch.int64)
    with pytest.raises(ShapeError):
        getattr(small_model(), read)(nothing, nothing)


def test_encode_prefixes_of_a_backbone_that_cannot() -> None:
    """The backbone's own error comes through."""
    with pytest.raises(ConfigError, match="one pass over a history needs"):
        small_model(bidirectional="all", layers=2).encode_prefixes(ITEMS, BOUNDARIES)


def test_a_model_that_learns() -> None:
    """Twenty steps on one batch lower its loss: every gradient points where it should."""
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


def test_one_pass_loss_equals_the_loss_of_every_prefix() -> None:
    """The mean over all prefixes of two histories is the same from one pass as from five examples, gradients too."""
    targets = torch.tensor([1, 2, 3, 4, 1])
    examples = [[3], [3, 1], [2], [2, 0], [2, 0, 4]]
    once, apart = small_model(), small_model()
    loss = once.loss(once.encode_prefixes(ITEMS, BOUNDARIES), targets)
    packed = torch.tensor([item for example in examples for item in example])
    expected = apart.loss(apart.encode(packed, boundaries_of([len(example) for example in examples])), targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for (name, ours), theirs in zip(once.named_parameters(), apart.parameters(), strict=True):
        if theirs.grad is not None:
            assert relative_error(ours.grad, theirs.grad) < 1e-10, name


def test_count_parameters_leaves_frozen_ones_out() -> None:
    """3 * 2 + 2 = 8 numbers, and 2 once the weight is frozen."""
    layer = nn.Linear(3, 2)
    assert count_parameters(layer) == 8
    layer.weight.requires_grad_(False)
    assert count_parameters(layer) == 2


def test_input_dropout_drops_what_is_read_and_not_what_scores() -> None:
    """In training about half of the numbers that an Echo reads are zero and the others doubled; item vectors stay whole."""
    torch.manual_seed(0)
    model = NextItemModel(Echo(), catalog_size=400, input_dropout=0.5)
    items, cu_seqlens = torch.arange(1, 401), boundaries_of([400])
    read = model.train().encode_prefixes(items, cu_seqlens)
    dropped = read == 0
    assert 0.4 < dropped.double().mean() < 0.6
    torch.testing.assert_close(read[~dropped], 2 * model.item_vectors[~dropped])
    assert torch.equal(model.eval().encode_prefixes(items, cu_seqlens), model.item_vectors)
