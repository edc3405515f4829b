"""Approximate retrieval for large catalogs: an inverted file of item vectors (faiss), with its recall measured.

Scoring every item takes time in proportion to the catalog. An inverted file groups the vectors around centers and scores only
the groups whose centers score highest. The items that it finds are scored and ordered exactly. The share of the best items that
it finds is measured when it is made, with states of the model's own users.

faiss was chosen over hnswlib: an inverted file is made in one pass and adds 8 bytes an item, a graph of neighbors takes minutes
for a million items and 150 to 300 bytes an item; and its results do not depend on the number of threads.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec.errors import BackendError, ConfigError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel

VECTORS_PER_LIST = 64  # the number of lists is a power of 2, at least √V
TRAINED_ON = 64  # vectors a list that its centers are computed from, at most
TARGET_RECALL = 0.99
MEASURED_K = 100


def available() -> bool:
    """Whether faiss is installed; `pip install 'ssd4rec[retrieval]'` installs it."""
    return find_spec("faiss") is not None


@dataclass(frozen=True)
class ApproximateIndex:
    """An inverted file of the items that may be recommended; `make_index` makes one."""

    index: Any  # faiss.IndexIVFFlat
    probes: int  # lists that a search visits
    recall: float  # share of the exact 100 best items that it finds
    queries: int  # states that the recall was measured on

    @property
    def warning(self) -> str:
        """One sentence for every answer."""
        return (
            f"approximate retrieval: {self.recall:.1%} of the {MEASURED_K} best items are found, measured with {self.queries:,} "
            f"histories"
        )

    def search(self, states: Tensor, count: int) -> IntArray:
        """Return `count` candidates of each state by rising item index; 0 stands for none. [B, D] -> [B, count]."""
        _, items = self.index.search(_as_float32(states), count, params=_parameters(self.probes))
        return np.sort(np.maximum(items, 0), axis=1)


def make_index(
    model: NextItemModel,
    states: Tensor,
    excluded: npt.NDArray[np.bool_] | None,
    fusion: ScoreFusion | None,
    target_recall: float = TARGET_RECALL,
) -> ApproximateIndex:
    """Make an inverted file, and visit as many lists as the recall on these states needs.

    Args:
        model: whose item vectors are indexed.
        states: [B, D] of histories like those to come, some hundred at least.
        excluded: [V]: True for items that are never recommended.
        fusion: of the model.
        target_recall: of the 100 best items. If no number of lists reaches it, all are visited.

    Raises:
        ConfigError: the scores of the model are not products of a state and item vectors alone.
        BackendError: faiss is not installed.
    """
    if fusion or model.repeat_logits is not None:
        what = "score fusion" if fusion else "repeat logits"
        raise ConfigError(
            f"approximate retrieval needs scores that are products of a state and item vectors, and this model has {what}; "
            f'use retrieval = "exact"'
        )
    faiss = _faiss()
    vectors = _as_float32(model.item_vectors)
    items = np.arange(1, len(vectors) + 1) if excluded is None else np.flatnonzero(~excluded) + 1
    vectors = vectors[items - 1]
    lists = 1 << max(int(np.ceil(np.log2(max(len(items) / VECTORS_PER_LIST, 1)) / 2 + 3)), 0)
    lists = min(lists, max(len(items) // 2, 1))
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 1, TRAINED_ON, 1
    index.train(vectors)
    index.add_with_ids(vectors, items)
    queries, count = _as_float32(states), min(MEASURED_K, len(items))
    exact = index.search(queries, count, params=_parameters(lists))[1]
    probes = 1
    while True:
        share = _recall(index.search(queries, count, params=_parameters(probes))[1], exact)
        if share >= target_recall or probes == lists:
            return ApproximateIndex(index, probes, share, len(queries))
        probes = min(2 * probes, lists)


def candidate_scores(model: NextItemModel, states: Tensor, candidates: Tensor) -> Tensor:
    """Return the exact scores of candidates, -inf where there is none. [B, D], int64 [B, n] -> [B, n]."""
    rows = model.item_vectors[(candidates - 1).clamp(min=0)]
    scores = torch.bmm(rows, states[:, :, None])[:, :, 0]
    return scores.masked_fill_(candidates == 0, -torch.inf)


def _recall(items: IntArray, exact: IntArray) -> float:
    hits = sum(len(np.intersect1d(ours, theirs)) for ours, theirs in zip(items, exact, strict=True))
    return hits / exact.size


def _as_float32(values: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = values.detach().float().cpu().contiguous().numpy()
    return array


def _parameters(probes: int) -> Any:
    return _faiss().SearchParametersIVF(nprobe=probes)


def _faiss() -> ModuleType:
    try:
        import faiss  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BackendError("approximate retrieval needs faiss; pip install 'ssd4rec[retrieval]'") from error
    module: ModuleType = faiss
    return module
