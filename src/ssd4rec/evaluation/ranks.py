"""The rank of a target among the whole catalog."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, Scores, States
from ssd4rec.errors import DivergedError, ShapeError
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.ops.segments import cells_of_items

BLOCK_ELEMENTS = 1 << 20  # scores held at once: 4 MiB in float32, still in the cache when they are counted
LEAST_ROWS = 32  # histories scored at once however many items there are: fewer make thin products
BLOCK_ITEMS = 2048  # items worked on at once: what is made of a block of their scores stays in the cache
Blocks = Iterable[tuple[slice, Scores]]  # which histories, and their scores [rows, V], a few at a time


def rank_targets(scores: Scores, targets: Tensor, removed: Tensor | None = None, rounding: Tensor | None = None) -> Tensor:
    """1-based rank of each target, ties counted against it: how many candidates score at least as high, itself included.

    A model that scores everything alike earns V, the worst rank.

    Args:
        scores: [B, V]; column j scores item number j + 1.
        targets: int64 [B] item numbers, 1 … V.
        removed: bool [B, V], candidates that are left out; the target never is. None: all V are candidates.
        rounding: [B], scores that are below the target's by no more than this are equal to it. None: only equal ones are.

    Returns:
        int64 [B].

    Raises:
        DivergedError: a score is not a finite number.
        ShapeError: a target is not one of the V items.
    """
    _check_targets(targets, scores.shape[1])
    return _rank(scores, targets, removed, rounding)


def removed_at(cells: Tensor, scores: Scores) -> Tensor:
    """bool, shaped as the scores: true at the cells, which count row after row."""
    removed = torch.zeros_like(scores, dtype=torch.bool)
    removed.view(-1)[cells] = True
    return removed


def _rank(scores: Scores, targets: Tensor, removed: Tensor | None, rounding: Tensor | None) -> Tensor:
    place = targets[:, None] - 1
    own = scores.gather(1, place)
    if rounding is not None:
        own -= rounding[:, None]
    ranks = torch.zeros_like(targets)
    total = scores.new_zeros(len(scores))  # finite only if every score is
    for first in range(0, scores.shape[1], BLOCK_ITEMS):
        columns = slice(first, first + BLOCK_ITEMS)
        block = scores[:, columns]
        total += block.sum(dim=1)
        at_least = block >= own
        if removed is not None:
            at_least &= ~removed[:, columns]
        ranks += at_least.sum(dim=1)
    if not torch.isfinite(total).all():
        bad = int((~torch.isfinite(total)).sum())
        raise DivergedError(
            f"the model gave scores that are not numbers for {bad} of {len(scores)} histories; it has diverged: "
            f"lower training.learning_rate and train it again"
        )
    if removed is not None:
        ranks += removed.gather(1, place).squeeze(1)
    return ranks


def ranks_from_states(
    states: States,
    item_vectors: Tensor,
    targets: Tensor,
    seen: tuple[Items, CuSeqlens] | None = None,
    raised: Callable[[Blocks], Blocks] | None = None,
) -> Tensor:
    """`rank_targets` of states @ item_vectors^T, a block of histories at a time, so that memory does not grow with B.

    Scores that rounding alone can tell apart are equal: equal item vectors do not get equal scores to the last bit in every
    column of a matrix product, and a model whose vectors are all alike must earn the worst rank.

    Args:
        states: [B, D].
        item_vectors: [V, D].
        targets: int64 [B] item numbers.
        seen: packed histories, whose items are left out of the candidates; None: they stay.
        raised: what is added to the scores, in place; None: nothing.

    Returns:
        int64 [B].

    Raises:
        DivergedError: a score is not a finite number.
        ShapeError: a target is not one of the V items.
    """
    _check_targets(targets, item_vectors.shape[0])
    states = states.to(item_vectors.dtype)  # under autocast they may be bfloat16
    blocks: Blocks = score_blocks(states, item_vectors)
    if raised is not None:
        blocks = raised(blocks)
    return ranks_from_blocks(blocks, targets, seen, rounding_of(states, item_vectors, targets))


def raised_by_repeats(
    model: object, states: States, items: Items, cu_seqlens: CuSeqlens, then: Callable[[Blocks], Blocks] | None = None
) -> Callable[[Blocks], Blocks] | None:
    """Return what adds a model's learned repeat logits to blocks of its scores; None: nothing is added.

    Args:
        model: its `repeat_logits` are added; a model without them adds nothing.
        states: [B, D] that the scores are made from.
        items: int64 [T] the whole histories, packed.
        cu_seqlens: int64 [B + 1].
        then: what is added to the scores afterwards.
    """
    repeat_logits: RepeatLogits | None = getattr(model, "repeat_logits", None)
    if repeat_logits is None:
        return then
    logits = repeat_logits

    def raised(blocks: Blocks) -> Blocks:
        blocks = logits.raised(blocks, states, items, cu_seqlens)
        return blocks if then is None else then(blocks)

    return raised


def rounding_of(states: States, item_vectors: Tensor, targets: Tensor) -> Tensor:
    """[B] by how much rounding can part two scores of a history that are equal to its target's."""
    lengths: Tensor = states.norm(dim=1) * item_vectors[targets - 1].norm(dim=1)
    return 4 * torch.finfo(states.dtype).eps * lengths


def ranks_from_blocks(
    blocks: Blocks,
    targets: Tensor,
    seen: tuple[Items, CuSeqlens] | None = None,
    rounding: Tensor | None = None,
) -> Tensor:
    """`rank_targets` of scores that are made a few histories at a time.

    Args:
        blocks: which rows, and their scores [rows, V], in order.
        targets: int64 [B] item numbers.
        seen: packed histories, whose items are left out of the candidates; None: they stay.
        rounding: [B], scores that are below the target's by no more than this are equal to it.

    Returns:
        int64 [B].

    Raises:
        DivergedError: a score is not a finite number.
        ShapeError: a target is not one of the V items.
    """
    ranks: list[Tensor] = []
    for rows, scores in blocks:
        if not ranks:  # all targets at the first block: a GPU is waited for at each look
            _check_targets(targets, scores.shape[1])
        removed = None
        if seen is not None:
            removed = removed_at(cells_of_items(*seen, rows, scores.shape[1]), scores)
        ranks.append(_rank(scores, targets[rows], removed, None if rounding is None else rounding[rows]))
    return torch.cat(ranks)


def score_blocks(states: States, item_vectors: Tensor) -> Iterator[tuple[slice, Scores]]:
    """The scores of a few histories at a time.

    Args:
        states: [B, D].
        item_vectors: [V, D].

    Yields:
        Which rows, and their scores [rows, V]; these are overwritten when the next ones are asked for.
    """
    states, item_vectors = states.detach(), item_vectors.detach()
    histories, items = states.shape[0], item_vectors.shape[0]
    size = max(BLOCK_ELEMENTS // items, LEAST_ROWS)
    memory = states.new_empty(min(size, histories), items)
    for start in range(0, histories, size):
        rows = slice(start, min(start + size, histories))
        scores = memory[: rows.stop - start]
        for first in range(0, items, BLOCK_ITEMS):
            columns = slice(first, first + BLOCK_ITEMS)
            torch.mm(states[rows], item_vectors[columns].T, out=scores[:, columns])
        yield rows, scores


def _check_targets(targets: Tensor, items: int) -> None:
    if outside := targets[(targets < 1) | (targets > items)].tolist():
        raise ShapeError(
            f"a target is one of the item numbers 1 … {items} that the model scores, found {outside[0]}; "
            f"give histories of the catalog that the model was made for"
        )
