"""The short way to the scores of all items, for models whose scores are products of a state and item vectors."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssd4rec.evaluation.scoring import BLOCK_ELEMENTS, LEAST_ROWS
from ssd4rec.service.user_state import ScoreJob
from ssd4rec.serving.recommender import Recommender

COPIED_ELEMENTS = 1 << 24  # of item vectors that are kept a second time, item by item: 64 MiB in float32


def product_columns(recommender: Recommender) -> Tensor | None:
    """Return the item vectors [D, V] of a model; None: its scores are more than products.

    For one state the product is about a third faster if the vectors lie in memory column by column.
    """
    artifact = recommender.artifact
    if artifact.fusion is not None or getattr(artifact.model, "repeat_logits", None) is not None:
        return None
    with torch.inference_mode():
        columns = artifact.model.item_vectors.T
        return columns.contiguous() if columns.numel() <= COPIED_ELEMENTS else columns


def product_scores(columns: Tensor, jobs: Sequence[ScoreJob]) -> Iterator[tuple[slice, Tensor]]:
    """Yield what `ServedModel.slow_candidates` does, with fewer operations: most of the time they take is their overhead.

    Args:
        columns: [D, V], from `product_columns`.
        jobs: whose states have read something.
    """
    items = columns.shape[1]
    size = min(len(jobs), max(BLOCK_ELEMENTS // items, LEAST_ROWS))
    cells = columns.new_empty(size, items + 1)  # column 0 takes the unknown items of the histories
    for start in range(0, len(jobs), size):
        rows = slice(start, min(start + size, len(jobs)))
        part = jobs[rows]
        scores = cells[: len(part), 1:]
        vectors = [job.state.vector for job in part if job.state.vector is not None]
        torch.mm(vectors[0] if len(vectors) == 1 else torch.cat(vectors), columns, out=scores)
        for row, job in enumerate(part):
            if job.exclude_seen:
                cells[row].index_fill_(0, torch.from_numpy(job.state.indices), -torch.inf)
            if job.excluded is not None:
                scores[row].masked_fill_(torch.from_numpy(job.excluded), -torch.inf)
        yield rows, scores
