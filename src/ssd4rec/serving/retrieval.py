"""Approximate retrieval for large catalogs: an inverted file of item vectors (faiss), with its recall measured.

Scoring every item takes time in proportion to the catalog. An inverted file groups the vectors around centers and scores only
the groups whose centers score highest. The items that it finds are scored and ordered exactly, together with those whose scores
are more than a product of a state and an item vector: items of the history (repeat logits, repeat bias) and items that co-occur
with them (score fusion). The share of the best items that it finds is measured when it is made, with the model's own users.

faiss was chosen over hnswlib: an inverted file is made in one pass and adds 8 bytes an item, a graph of neighbors takes minutes
for a million items and 150 to 300 bytes an item; and its results do not depend on the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, ranges
from ssd4rec.array_types import Packed, Scores, States
from ssd4rec.errors import BackendError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.repeats import sequence_items

VECTORS_PER_LIST = 64  # the number of lists is a power of 2, at least √V
TRAINED_ON = 64  # vectors a list that its centers are computed from, at most
TARGET_RECALL = 0.99
MEASURED_K = 100
CELLS = 1 << 16  # candidates whose vectors are gathered at once


def available() -> bool:
    """Whether faiss is installed; `pip install 'ssd4rec[retrieval]'` installs it."""
    return find_spec("faiss") is not None


@dataclass(frozen=True)
class ApproximateIndex:
    """An inverted file of the items that may be recommended; `make_index` makes one."""

    index: Any  # faiss.IndexIVFFlat
    probes: int  # lists that a search visits
    recall: float  # share of the exact 100 best items that it finds
    queries: int  # histories that the recall was measured on
    catalog_size: int  # V

    @property
    def warning(self) -> str:
        """One sentence for every answer."""
        return (
            f"approximate retrieval: {self.recall:.1%} of the {MEASURED_K} best items are found, measured with {self.queries:,} "
            f"histories"
        )

    def search(self, states: Tensor, count: int) -> IntArray:
        """Return `count` candidates of each state by rising item index; 0 stands for none. [B, D] -> [B, count]."""
        _, items = self.index.search(_as_float32(states), count, params=_faiss().SearchParametersIVF(nprobe=self.probes))
        return np.sort(np.maximum(items, 0), axis=1)


@dataclass(frozen=True)
class Request:
    """Which items may be recommended, in item indices."""

    k: int  # maximum number of items for each history
    exclude_seen: bool  # exclude the items of the history
    excluded: npt.NDArray[np.bool_] | None  # [V]: True for items that must not be recommended; None: none
    require_known_history: bool  # return popular items for a history with an unknown item
    index: ApproximateIndex | None = None  # finds candidates; None: every item is scored


def make_index(item_vectors: Tensor, excluded: npt.NDArray[np.bool_] | None) -> ApproximateIndex:
    """Make an inverted file whose searches visit all lists, until `with_recall` has chosen how many.

    Args:
        item_vectors: [V, D].
        excluded: [V]: True for items that are never recommended.

    Raises:
        BackendError: faiss is not installed.
    """
    faiss = _faiss()
    vectors = _as_float32(item_vectors)
    items = np.arange(1, len(vectors) + 1) if excluded is None else np.flatnonzero(~excluded) + 1
    vectors = vectors[items - 1]
    lists = 1 << max(int(np.ceil(np.log2(max(len(items) / VECTORS_PER_LIST, 1)) / 2 + 3)), 0)
    lists = min(lists, max(len(items) // 2, 1))
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 1, TRAINED_ON, 1
    index.train(vectors)
    index.add_with_ids(vectors, items)
    return ApproximateIndex(index, lists, 1.0, 0, len(item_vectors))


def with_recall(
    index: ApproximateIndex, rank: Callable[[ApproximateIndex], Sequence[IntArray]], target_recall: float = TARGET_RECALL
) -> ApproximateIndex:
    """Return the index with as many visited lists as the recall needs.

    Args:
        index: visits all lists, so that it misses nothing.
        rank: returns the best items of some hundred histories at least, found with an index.
        target_recall: share of these items. If no smaller number of lists reaches it, all are visited.
    """
    exact = rank(index)
    total, probes = max(sum(map(len, exact)), 1), 1
    while True:
        fewer = replace(index, probes=min(probes, index.probes))
        hits = sum(len(np.intersect1d(ours, theirs)) for ours, theirs in zip(rank(fewer), exact, strict=True))
        if hits >= target_recall * total or fewer.probes == index.probes:
            return replace(fewer, recall=hits / total, queries=len(exact))
        probes *= 2


def candidate_scores(
    model: NextItemModel,
    states: States,
    packed: Packed,
    full: Packed,
    request: Request,
    index: ApproximateIndex,
    fusion: ScoreFusion | None = None,
) -> tuple[IntArray, Scores]:
    """Return items that hold the k best of each sequence, as far as the index finds them, and their exact scores.

    An item whose score is just a product can only be missed by the index. All others are among the candidates. Some of
    them may have lost what the index found them for, at most those of the history and those with a negative co-occurrence score,
    so it is asked for that many more.

    The arguments are those of `topk.top_items_from_states`, with `full` for `seen`.

    Returns:
        Item indices [B, n], ascending in each row and 0 where there are fewer, and scores [B, n], -inf there.
    """
    rows, items = len(states), model.catalog_size
    prefixes = sequence_items(*full)
    if request.exclude_seen or model.repeat_logits is None:
        seen, logits = prefixes.cells(slice(0, rows)), None
    else:
        seen, logits = model.repeat_logits.added(states, prefixes).logits(slice(0, rows))
    seen_keys = (seen.row * items + seen.column).cpu().numpy()
    counted, raised = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    if fusion and fusion.weight:
        counted, raised = fusion.pairs.raised_cells(*packed)
    lowered = np.bincount(np.concatenate([seen_keys, counted[raised < 0]]) // items, minlength=rows)
    keys = np.unique(np.concatenate([*_search(index, states, request.k, lowered), counted, seen_keys]))
    keys = keys[~np.isin(keys, seen_keys)] if request.exclude_seen else keys
    keys = keys if request.excluded is None else keys[~request.excluded[keys % items]]
    scores = _products(states, model.item_vectors, keys // items, keys % items)
    if fusion and fusion.weight:
        _add(scores, keys, counted, fusion.weight * torch.from_numpy(raised))
    if logits is not None:
        _add(scores, keys, seen_keys, logits.cpu())
    if not request.exclude_seen and fusion and fusion.repeat_bias:
        _add(scores, keys, seen_keys, torch.full((len(seen_keys),), fusion.repeat_bias))
    return _as_rows(keys, scores, rows, items)


def _search(index: ApproximateIndex, states: States, k: int, more: IntArray) -> Iterator[IntArray]:
    """Yield the keys of the k + `more` items that the index finds for each state; states with similar numbers are one search."""
    items = index.catalog_size
    groups = np.ceil(np.log2(more + 1)).astype(np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        near = index.search(states[torch.from_numpy(rows).to(states.device)], min(k + (1 << int(group)), items))
        yield (rows[:, None] * items + near - 1)[near > 0]


def _products(states: States, vectors: Tensor, row: IntArray, column: IntArray) -> Tensor:
    """Return the products of some states and vectors, float32 on the CPU. [n]."""
    device, products = states.device, torch.empty(len(row))
    for first in range(0, len(row), CELLS):
        part = slice(first, first + CELLS)
        left, right = states[torch.from_numpy(row[part]).to(device)], vectors[torch.from_numpy(column[part]).to(device)]
        products[part] = (left * right).sum(1).cpu()
    return products


def _add(scores: Tensor, keys: IntArray, at: IntArray, values: Tensor) -> None:
    """Add values to the scores of some keys; keys that are not candidates are left out."""
    places = np.searchsorted(keys, at)
    present = places < len(keys)
    present[present] = keys[places[present]] == at[present]
    scores[torch.from_numpy(places[present])] += values[torch.from_numpy(present)].to(scores.dtype)  # no key occurs twice


def _as_rows(keys: IntArray, scores: Tensor, rows: int, items: int) -> tuple[IntArray, Scores]:
    row = keys // items
    counts = np.bincount(row, minlength=rows)
    place = ranges(0, counts)
    table = np.zeros((rows, max(int(counts.max()), 1)), dtype=np.int64)
    padded = scores.new_full(table.shape, -torch.inf)
    table[row, place] = keys % items + 1
    padded[torch.from_numpy(row), torch.from_numpy(place)] = scores
    return table, padded


def _as_float32(values: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = values.detach().float().cpu().contiguous().numpy()
    return array


def _faiss() -> ModuleType:
    try:
        import faiss  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BackendError("approximate retrieval needs faiss; pip install 'ssd4rec[retrieval]'") from error
    module: ModuleType = faiss
    return module
