"""The rank of a target among the whole catalogue."""

import torch
from torch import Tensor

from ssd4rec.errors import DataError
from ssd4rec.shapes import Scores, States

BLOCK_ELEMENTS = 1 << 24  # scores held at once: 64 MiB in float32


def rank_targets(scores: Scores, targets: Tensor, removed: Tensor | None = None) -> Tensor:
    """1-based rank of each target, ties counted against it: how many candidates score at least as high, itself included.

    A model that scores everything alike earns V, the worst rank.

    Args:
        scores: [B, V]; column j scores item number j + 1.
        targets: int64 [B] item numbers, 1 … V.
        removed: bool [B, V], candidates that are left out; the target never is. None: all V are candidates.

    Returns:
        int64 [B].

    Raises:
        DataError: a score is not a finite number.
    """
    own = scores.gather(1, targets[:, None] - 1)
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).any(dim=1).sum())
        raise DataError(f"the model gave scores that are not numbers for {bad} of {len(scores)} histories; it has diverged")
    above = scores >= own
    if removed is not None:
        above &= ~removed
        above.scatter_(1, targets[:, None] - 1, value=True)
    return above.sum(dim=1)


def ranks_of_states(
    states: States, item_vectors: Tensor, targets: Tensor, seen: Tensor | None = None, seen_rows: Tensor | None = None
) -> Tensor:
    """`rank_targets` of states @ item_vectors^T, a block of histories at a time, so that memory does not grow with B.

    Args:
        states: [B, D].
        item_vectors: [V, D].
        targets: int64 [B] item numbers.
        seen: int64 [events] item numbers that are left out of the candidates of the history in `seen_rows`.
        seen_rows: int64 [events], rising.

    Returns:
        int64 [B].

    Raises:
        DataError: a score is not a finite number.
    """
    classes = item_vectors.shape[0]
    size = max(BLOCK_ELEMENTS // classes, 1)
    ranks = []
    for start in range(0, states.shape[0], size):
        block = slice(start, start + size)
        scores = states[block] @ item_vectors.T
        removed = None
        if seen is not None and seen_rows is not None:
            first, last = torch.searchsorted(seen_rows, torch.tensor([start, start + size], device=seen_rows.device)).tolist()
            removed = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
            known = seen[first:last] > 0
            removed[seen_rows[first:last][known] - start, seen[first:last][known] - 1] = True
        ranks.append(rank_targets(scores, targets[block], removed))
    return torch.cat(ranks)
