"""A table spread over processes equals one table: losses, gradients, training and files."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ssd4rec.distributed import World
from ssd4rec.errors import ArtifactError
from ssd4rec.ops.cross_entropy import AddedLogits, linear_cross_entropy_reference, smoothing_loss
from ssd4rec.ops.repeats import prefix_items
from ssd4rec.sharded_table import SHARD, RowAdagrad, ShardedTable

WORKER = Path(__file__).with_name("sharded_worker.py")
ITEMS, WIDTH = 101, 6


def shards_of(size, **kwargs):
    """Return the tables of all processes; they are never used together, so they need no group."""
    return [ShardedTable(ITEMS, WIDTH, World(rank, size), seed=5, **kwargs) for rank in range(size)]


def whole(tables):
    out = torch.empty(ITEMS + 1, WIDTH, dtype=tables[0].weight.dtype)
    for rank, table in enumerate(tables):
        out[rank :: len(tables)] = table.weight.detach()
    return out


@pytest.mark.parametrize("size", [2, 3, 7])
def test_initial_rows_do_not_depend_on_the_number_of_processes(size):
    one = whole(shards_of(1))
    assert torch.equal(whole(shards_of(size)), one)
    assert float(one.std()) == pytest.approx(0.02, rel=0.1)
    assert float(one.mean()) == pytest.approx(0, abs=0.003)
    assert not torch.equal(ShardedTable(ITEMS, WIDTH, World(), seed=6).weight, one)


@pytest.mark.parametrize(("items", "width", "size"), [(101, 6, 1), (101, 6, 3), (64, 5, 2), (95, 3, 2), (2, 2, 2)])
def test_the_table_of_a_new_model_does_not_depend_on_the_number_of_processes(items, width, size, monkeypatch):
    """Drawn in blocks, it has the values of an embedding, and later numbers are the same."""
    monkeypatch.setattr("ssd4rec.sharded_table.BLOCK", 32)
    torch.manual_seed(4)
    embedding = torch.nn.init.normal_(torch.nn.Embedding(items + 1, width).weight, std=0.02)
    later = torch.rand(3)
    for rank in range(size):
        torch.manual_seed(4)
        table = ShardedTable.like_embedding(items, width, World(rank, size))
        assert torch.equal(table.weight, embedding[rank::size])
        assert torch.equal(torch.rand(3), later)


def test_added_logits_are_those_of_one_table(monkeypatch):
    """Repeat logits and label smoothing, in several blocks: the loss and gradients of the definition."""
    monkeypatch.setattr("ssd4rec.sharded_softmax.SCORES", 2 * ITEMS + 5)
    table = ShardedTable(ITEMS, WIDTH, World(), dtype=torch.float64)
    torch.nn.init.normal_(table.weight)
    states = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    items, targets = torch.randint(1, 5, (12,)), torch.randint(1, 9, (9,))
    prefixes = prefix_items(items, torch.tensor([0, 7, 12]), torch.arange(9))
    added = AddedLogits(coefficients, prefixes, torch.randn(ITEMS + 1, dtype=torch.float64))
    expected = linear_cross_entropy_reference(states, table.weight[1:], targets - 1, added)
    expected = expected + 0.1 * smoothing_loss(states, table.weight[targets], table.weight[1:])
    loss = table.cross_entropy(states, targets, added, smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    inputs = [states, table.weight, coefficients]
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_losses_of_one_process_equal_pytorch():
    """Full: cross_entropy of the scores. Sampled, with every item drawn once: the same."""
    table = ShardedTable(ITEMS, WIDTH, World(), dtype=torch.float64)
    states = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, ITEMS + 1, (9,))
    expected = F.cross_entropy(states @ table.weight[1:].T, targets - 1)
    expected_gradients = torch.autograd.grad(expected, [states, table.weight])
    for loss in (table.cross_entropy(states, targets), table.sampled_cross_entropy(states, targets, ITEMS)):
        assert loss.item() == pytest.approx(expected.item(), abs=1e-7)
        for ours, theirs in zip(torch.autograd.grad(loss, [states, table.weight]), expected_gradients, strict=True):
            dense = ours.to_dense() if ours.is_sparse else ours
            torch.testing.assert_close(dense, theirs, rtol=0, atol=1e-7)


def test_cross_entropy_in_several_blocks(monkeypatch):
    table = ShardedTable(ITEMS, WIDTH, World(), dtype=torch.float64)
    states, targets = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True), torch.randint(1, ITEMS + 1, (9,))
    results = []
    for scores in (1 << 20, 2 * ITEMS + 5):
        monkeypatch.setattr("ssd4rec.sharded_softmax.SCORES", scores)
        loss = table.cross_entropy(states, targets)
        results.append([loss, *torch.autograd.grad(loss, [states, table.weight])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


def test_row_adagrad_by_hand():
    """The sum of a row is the mean of its squared gradients; other rows and their sums stay."""
    parameter = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = RowAdagrad([parameter], lr=1.0)
    for _ in range(2):
        parameter.grad = torch.sparse_coo_tensor([[1]], torch.tensor([[3.0, 4.0]]), (3, 2), check_invariants=True)
        optimizer.step()
    mean = 12.5
    expected = -3.0 / mean**0.5 - 3.0 / (2 * mean) ** 0.5
    assert parameter[1, 0].item() == pytest.approx(expected)
    assert not parameter[[0, 2]].any()
    assert optimizer.state[parameter]["sum"].tolist() == [0, pytest.approx(25.0), 0]


@pytest.mark.parametrize(("writers", "readers"), [(1, 3), (3, 2), (2, 1)])
def test_files_are_read_by_any_number_of_processes(tmp_path, writers, readers, monkeypatch):
    monkeypatch.setattr("ssd4rec.sharded_table.BLOCK", 10)
    written = shards_of(writers)
    for table in written:
        table.save(tmp_path)
    others = shards_of(readers)
    for table in others:
        torch.nn.init.zeros_(table.weight)
        table.load(tmp_path)
    assert torch.equal(whole(others), whole(written))


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"has no files table-\*"):
        shards_of(1)[0].load(tmp_path)
    for table in shards_of(2):
        table.save(tmp_path)
    with pytest.raises(ArtifactError, match="is of a table with 101 items of width 6, expected 7 of width 6"):
        ShardedTable(7, WIDTH, World()).load(tmp_path)
    (tmp_path / SHARD.format(1, 2)).unlink()
    with pytest.raises(ArtifactError, match="is missing; the folder needs all 2 files"):
        shards_of(1)[0].load(tmp_path)


def run_group(folder, size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    base = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    sources = str(Path(__file__).parents[1] / "src")
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)], env={**os.environ, **base, "PYTHONPATH": sources, "RANK": str(rank)}
        )
        for rank in range(size)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0] * size
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    assert all(result == results[0] for result in results)
    return results[0]


@pytest.mark.slow
def test_training_does_not_depend_on_the_number_of_processes(tmp_path):
    """Full and sampled softmax, 1, 2 and 3 processes, one of them without targets in a step: equal to 1e-12."""
    one = run_group(tmp_path / "one", 1)
    for size in (2, 3):
        several = run_group(tmp_path / str(size), size)
        for name, expected in one.items():
            torch.testing.assert_close(
                torch.tensor(several[name]["losses"]), torch.tensor(expected["losses"]), rtol=0, atol=1e-12
            )
            ours, theirs = (torch.tensor(each["weights"], dtype=torch.float64) for each in (several[name], expected))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        table = ShardedTable(1001, 8, World(), dtype=torch.float64)
        table.load(tmp_path / str(size) / "table")
        torch.testing.assert_close(table.weight.detach(), torch.tensor(one["sampled"]["weights"], dtype=torch.float64))
