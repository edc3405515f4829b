"""The rank of a target among the whole catalog."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec.array_types import Scores, States
from ssd4rec.data.request_times import RequestTime
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.errors import DivergedError, ShapeError
from ssd4rec.evaluation import scoring
from ssd4rec.evaluation.metrics import Ranks
from ssd4rec.evaluation.scoring import Ranker, ScoredBlock, Scorer, catalog_size_of, encode_examples, evaluating, score_batch
from ssd4rec.fusion import ScoreFusion


def rank_targets(scores: Scores, targets: Tensor, removed: Tensor | None = None, rounding: Tensor | None = None) -> Tensor:
    """Return the 1-based rank of each target: how many candidates score at least as high, itself included.

    Ties count against the target: a model that scores all items equally has rank V.

    Args:
        scores: [B, V]; column j scores item index j + 1.
        targets: int64 [B] item indices, 1 … V; see `check_targets`.
        removed: bool [B, V], excluded candidates; the target is never excluded. None: all V are candidates.
        rounding: [B], scores below the target's by no more than this tie with it. None: only equal ones do.

    Returns:
        int64 [B].

    Raises:
        DivergedError: a score is not a finite number.
    """
    place = targets[:, None] - 1
    own = scores.gather(1, place)
    if rounding is not None:
        own -= rounding[:, None]
    ranks = torch.zeros_like(targets)
    total = scores.new_zeros(len(scores))  # finite only if every score is
    for first in range(0, scores.shape[1], scoring.BLOCK_ITEMS):
        columns = slice(first, first + scoring.BLOCK_ITEMS)
        block = scores[:, columns]
        total += block.sum(dim=1)
        at_least = block >= own
        if removed is not None:
            at_least &= ~removed[:, columns]
        ranks += at_least.sum(dim=1)
    if not torch.isfinite(total).all():
        bad = int((~torch.isfinite(total)).sum())
        raise not_finite(bad, len(scores))
    if removed is not None:
        ranks += removed.gather(1, place).squeeze(1)
    return ranks


def check_targets(targets: Tensor, items: int) -> None:
    """Raise a `ShapeError` for a target that is not one of the item indices 1 … V; on a GPU this waits for it."""
    if outside := targets[(targets < 1) | (targets > items)].tolist():
        raise ShapeError(
            f"a target is one of the item indices 1 … {items} that the model scores, found {outside[0]}; "
            f"use sequences of the catalog that the model was made for"
        )


def removed_at(cells: Tensor, scores: Scores) -> Tensor:
    """Return a bool tensor of the shape of the scores that is true at the cells, which are flattened indices."""
    removed = torch.zeros_like(scores, dtype=torch.bool)
    removed.view(-1)[cells] = True
    return removed


def not_finite(bad: int, sequences: int) -> DivergedError:
    """Return the error for scores that are not finite."""
    return DivergedError(
        f"the model produced scores that are not finite for {bad} of {sequences} sequences: it diverged; "
        f"lower training.learning_rate and train it again"
    )


def rounding_of(states: States, item_vectors: Tensor, targets: Tensor) -> Tensor:
    """Return by how much rounding can separate scores that are equal to the target's. [B].

    Equal item vectors do not have equal scores to the last bit in every column of a matrix product, and a model whose
    vectors are all equal must have the worst rank.
    """
    return rounding_at(states, item_vectors[targets - 1].norm(dim=1))


def rounding_at(states: States, lengths: Tensor) -> Tensor:
    """Return `rounding_of` from the lengths of the targets' vectors, [B]."""
    rounding: Tensor = 4 * torch.finfo(states.dtype).eps * (states.norm(dim=1) * lengths)
    return rounding


class TopLists:
    """Collects lists of the best items of all examples, of equal length, while their targets are ranked."""

    def __init__(self, examples: int, length: int) -> None:
        self.items = np.zeros((examples, length), dtype=np.int64)  # item indices, best first; 0 where a list is shorter

    def add(self, examples: IntArray, rows: slice, scores: Scores, removed: Tensor | None) -> None:
        """Store the lists of some rows of a batch of examples, from their scores [rows, V] without the removed items."""
        candidates = scores if removed is None else scores.masked_fill(removed, -torch.inf)
        best = candidates.topk(min(self.items.shape[1], scores.shape[1]), dim=1)
        items = torch.where(best.values > -torch.inf, best.indices + 1, 0)
        self.items[examples[rows], : items.shape[1]] = items.cpu().numpy()

    def gather(self, world: World, rows: IntArray) -> None:
        """Fill in the lists that other processes hold; `rows` are those of this process."""
        for column in range(self.items.shape[1] if world.size > 1 else 0):
            self.items[:, column] = world.gather(self.items[rows, column], rows, len(self.items))


def ranks_from_blocks(
    blocks: Iterable[ScoredBlock],
    targets: Tensor,
    rounding: Tensor | None = None,
    on_block: Callable[[slice, Scores, Tensor | None], None] | None = None,
) -> Tensor:
    """Return `rank_targets` of scores that are computed a few rows at a time, in order.

    `on_block` is called with rows, scores and removed candidates of each block.

    Raises:
        DivergedError: a score is not a finite number.
        ShapeError: a target is not one of the V items.
    """
    ranks: list[Tensor] = []
    for rows, scores, seen in blocks:
        if not ranks:  # all targets at the first block: each look waits for a GPU
            check_targets(targets, scores.shape[1])
        removed = None if seen is None else removed_at(seen, scores)
        ranks.append(rank_targets(scores, targets[rows], removed, None if rounding is None else rounding[rows]))
        if on_block:
            on_block(rows, scores, removed)
    return torch.cat(ranks)


def rank_examples(  # noqa: PLR0913 - private to the package: those of `evaluate`
    model: Ranker | Scorer,
    sequences: Sequences,
    examples: Examples,
    token_budget: int,
    *,
    exclude_seen: bool = False,
    fusion: ScoreFusion | None = None,
    world: World | None = None,
    progress: Callable[[int, int], None] | None = None,
    lists: TopLists | None = None,
    request_time: RequestTime = "known",
) -> Ranks:
    """Return the rank of each example's target, in the order of the examples.

    Each target is ranked by exactly one of the processes, from batches that do not depend on their number, and the integer
    ranks are gathered: they are the same on every process, and for any number of processes.

    The arguments are those of `evaluate`; `lists` collects the best items of each example, and `progress` is called with
    (targets ranked by this process, all targets).

    Raises:
        DivergedError: a score is not a finite number.
        ShapeError: sequences and model do not have the same catalog.
    """
    world = world or World()
    ranks, places, done = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    with torch.inference_mode(), evaluating(model):
        if (largest := int(sequences.items.max())) > (scored := catalog_size_of(model)):
            raise ShapeError(
                f"the sequences have item indices up to {largest}, the model scores {scored} items; "
                f"use sequences of the catalog that the model was made for"
            )
        for batch in encode_examples(model, sequences, examples, token_budget, world, request_time):
            targets = batch.packed.last_targets
            rounding = None
            if batch.states is not None and not isinstance(model, Scorer):
                rounding = rounding_of(batch.states, model.item_vectors, targets)
            blocks = score_batch(model, batch, fusion=fusion, exclude_seen=exclude_seen)
            on_block = None if lists is None else partial(lists.add, batch.rows)
            ranks.append(ranks_from_blocks(blocks, targets, rounding, on_block).cpu().numpy())
            places.append(batch.rows)
            done += len(targets)
            if progress:
                progress(done, len(examples))
    if lists is not None:
        lists.gather(world, np.concatenate(places))
    return world.gather(np.concatenate(ranks), np.concatenate(places), len(examples))
