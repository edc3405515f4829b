"""Adam for the rows that a step touches."""

import torch
from torch import nn

from ssd4rec.training.row_adam import RowAdam


def train(optimizer, table, other, touched, steps=5):
    random = torch.Generator().manual_seed(0)
    for step in range(steps):
        gradients = torch.randn(len(table), 3, generator=random, dtype=torch.float64)
        rows = torch.tensor(touched(step))
        table.grad = torch.sparse_coo_tensor(rows[None], gradients[rows], table.shape, check_invariants=True)
        other.grad = gradients[0].clone()
        optimizer.step()


def parameters():
    torch.manual_seed(1)
    return nn.Parameter(torch.randn(6, 3, dtype=torch.float64)), nn.Parameter(torch.randn(3, dtype=torch.float64))


def some(step):
    return [step % 6, (step + 2) % 6]


def test_rows_that_are_always_touched_have_adam():
    """Touched at every step, table and other parameters become those of torch's dense Adam."""
    (table, other), (dense, twin_other) = parameters(), parameters()
    train(RowAdam([other], table, 0.1), table, other, lambda _: list(range(6)))
    random, adam = torch.Generator().manual_seed(0), torch.optim.Adam([dense, twin_other], lr=0.1)
    for _ in range(5):
        dense.grad = torch.randn(6, 3, generator=random, dtype=torch.float64)
        twin_other.grad = dense.grad[0].clone()
        adam.step()
    torch.testing.assert_close(table, dense, rtol=1e-10, atol=0)
    torch.testing.assert_close(other, twin_other, rtol=1e-10, atol=0)


def test_rows_that_are_touched_at_times_have_sparse_adam():
    """Touched now and then, the table becomes that of torch.optim.SparseAdam, but for where the 1e-8 in the divisor stands."""
    (table, other), (sparse, twin_other) = parameters(), parameters()
    train(RowAdam([other], table, 0.1), table, other, some)
    train(torch.optim.SparseAdam([sparse], lr=0.1), sparse, twin_other, some)
    torch.testing.assert_close(table, sparse, rtol=1e-5, atol=0)


def test_a_row_that_is_not_touched_rests():
    """Rows 0 and 1 are touched once, then four steps without them leave them as they are; no other row moves."""
    table, other = parameters()
    before, optimizer = table.detach().clone(), RowAdam([other], table, 0.1)
    train(optimizer, table, other, lambda _: [0, 1], steps=1)
    after = table.detach().clone()
    assert (after[:2] != before[:2]).all()
    assert torch.equal(after[2:], before[2:])
    train(optimizer, table, other, lambda _: [2], steps=4)
    assert torch.equal(table[:2], after[:2])


def test_a_row_touched_twice_in_a_step_is_touched_by_the_sum():
    """An item that is read twice has one step by the sum of its gradients."""
    table, other = parameters()
    twin, twin_other = parameters()
    values = torch.ones(2, 3, dtype=torch.float64)
    table.grad = torch.sparse_coo_tensor(torch.tensor([[3, 3]]), values, table.shape, check_invariants=True)
    twin.grad = torch.sparse_coo_tensor(torch.tensor([[3]]), 2 * values[:1], table.shape, check_invariants=True)
    RowAdam([other], table, 0.1).step()
    RowAdam([twin_other], twin, 0.1).step()
    assert torch.equal(table, twin)


def test_its_state_is_saved_and_loaded(tmp_path):
    """Five steps are three, saved and loaded, and two more."""
    whole, other = parameters()
    train(RowAdam([other], whole, 0.1), whole, other, lambda _: [1, 4])
    table, twin_other = parameters()
    first = RowAdam([twin_other], table, 0.1)
    train(first, table, twin_other, lambda _: [1, 4], steps=3)
    torch.save(first.state_dict(), tmp_path / "state")
    second = RowAdam([twin_other], table, 0.1)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    random = torch.Generator().manual_seed(0)
    gradients_ = [torch.randn(6, 3, generator=random, dtype=torch.float64) for _ in range(5)]
    for gradient in gradients_[3:]:
        rows = torch.tensor([1, 4])
        table.grad = torch.sparse_coo_tensor(rows[None], gradient[rows], table.shape, check_invariants=True)
        twin_other.grad = gradient[0].clone()
        second.step()
    assert torch.equal(table, whole)
    assert torch.equal(twin_other, other)
