"""The short way to the scores of all items: products of a state and item vectors, and what the history adds to them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.evaluation.scoring import BLOCK_ELEMENTS, LEAST_ROWS
from ssd4rec.fusion import ScoreFusion
from ssd4rec.layers.repeat_logits import SCALE, RepeatLogits
from ssd4rec.layers.request_time import GAP_BINS, HOURS, WEEKDAYS
from ssd4rec.service.user_state import Indices, ScoreJob
from ssd4rec.serving.recommender import Recommender

COPIED_ELEMENTS = 1 << 24  # of item vectors that are kept a second time, item by item: 64 MiB in float32


@dataclass(frozen=True)
class ProductScores:
    """Scores the catalog with fewer operations than `ServedModel.slow_candidates`: most of their time is overhead.

    Repeat logits and a repeat bias change the scores of items in the history only, so they are not computed where these are
    excluded.
    """

    columns: Tensor  # [D, V] item vectors
    repeat_logits: RepeatLogits | None
    fusion: ScoreFusion | None
    newest: int | None  # events that the model and the fusion read; None: all

    def of(self, jobs: Sequence[ScoreJob]) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their scores [rows, V], -inf for items that are not candidates; the next ones overwrite them.

        Args:
            jobs: whose states have read something.
        """
        items = self.columns.shape[1]
        size = min(len(jobs), max(BLOCK_ELEMENTS // items, LEAST_ROWS))
        cells = self.columns.new_empty(size, items + 1)  # column 0 takes the unknown items of the histories
        for start in range(0, len(jobs), size):
            rows = slice(start, min(start + size, len(jobs)))
            part = jobs[rows]
            scores = cells[: len(part), 1:]
            vectors = [job.state.vector for job in part if job.state.vector is not None]
            torch.mm(vectors[0] if len(vectors) == 1 else torch.cat(vectors), self.columns, out=scores)
            for row, job in enumerate(part):
                self._add_history(scores[row], vectors[row], job)
                if job.exclude_seen:
                    cells[row].index_fill_(0, torch.from_numpy(job.state.indices), -torch.inf)
                if job.excluded is not None:
                    scores[row].masked_fill_(torch.from_numpy(job.excluded), -torch.inf)
            yield rows, scores

    def _add_history(self, scores: Tensor, vector: Tensor, job: ScoreJob) -> None:
        if self.repeat_logits is None and self.fusion is None:
            return
        history = job.state.indices
        history = history[history > 0]
        if self.repeat_logits is not None and not job.exclude_seen:
            _add_repeat_logits(self.repeat_logits, scores, vector, history)
        if self.fusion is not None:
            places, added = _pair_scores(self.fusion.pairs, history if self.newest is None else history[-self.newest :])
            values = scores.numpy()
            values[places] += self.fusion.weight * added.astype(values.dtype)
            if not job.exclude_seen:
                values[history - 1] += self.fusion.repeat_bias  # once, even if an item occurs twice


def product_scores(recommender: Recommender) -> ProductScores | None:
    """Return the short way of a model; None: it has none.

    For one state the product is about a third faster if the item vectors lie in memory column by column.
    """
    artifact = recommender.artifact
    with torch.inference_mode():
        columns = artifact.model.item_vectors.T
        if columns.dtype not in {torch.float32, torch.float64} or columns.device.type != "cpu":
            return None
        columns = columns.contiguous() if columns.numel() <= COPIED_ELEMENTS else columns
    fusion = artifact.fusion or None  # one without effect is False
    return ProductScores(columns, artifact.model.repeat_logits, fusion, artifact.config.data.max_length)


def vector_at(rows: npt.NDArray[np.floating], vector: Tensor, at: int, last_event: int) -> Tensor:
    """Do `RequestTime.forward` for one request.

    Args:
        rows: [bins, 2 D] of its table.
        vector: [1, D].
        at: time of the request, in seconds since 1970.
        last_event: the same of the last event; not after `at`.
    """
    gap = min(int(2 * math.log2(1 + at - last_event)), GAP_BINS - 1)
    row = rows[gap] + rows[GAP_BINS + at // 3600 % HOURS] + rows[GAP_BINS + HOURS + at // 86400 % WEEKDAYS]
    width = vector.shape[1]
    return torch.from_numpy(vector.numpy() * (1 + row[:width]) + row[width:])


def _add_repeat_logits(layer: RepeatLogits, scores: Tensor, vector: Tensor, history: Indices) -> None:
    """Do `RepeatLogits.raised` for one history."""
    items, gaps, counts = np.unique(history[::-1], return_index=True, return_counts=True)  # a gap is that of the latest one
    weights = (SCALE * layer.weight + layer.state_weight @ vector[0].to(layer.weight.dtype)).tolist()
    after = history[1:][history[:-1] == history[-1:]]
    transitions = np.bincount(np.searchsorted(items, after), minlength=len(items))
    features = [np.ones(len(items)), np.log1p(gaps), np.log(counts), np.log1p(transitions)]
    if layer.log_popularity is not None:
        features.append(layer.log_popularity.numpy()[items])
    features = features[: len(weights)]
    scores.numpy()[items - 1] += sum(weight * feature for weight, feature in zip(weights, features, strict=True))


def _pair_scores(pairs: ItemPairs, history: Indices) -> tuple[Indices, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Do `ItemPairs.raises` for one history: places in the catalog, and what fusion with weight 1 adds there."""
    scores = np.zeros(pairs.catalog_size)
    for back, item in enumerate(history[: -pairs.window - 1 : -1].tolist()):
        entries = slice(*pairs.edges[item - 1 : item + 1].tolist())
        scores[pairs.columns[entries]] += pairs.fade**back * pairs.weights[entries]  # an item has each pair once
    places = np.flatnonzero(scores)
    added = np.log1p(np.abs(scores[places]) / pairs.floor)
    return places, np.copysign(added, scores[places]).astype(np.float32)
