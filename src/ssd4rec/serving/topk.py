"""Exact top-k selection: ties are broken by item index, and memory does not grow with the number of histories."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssd4rec._csr import IntArray
from ssd4rec.array_types import Packed, Scores, States
from ssd4rec.artifact import Artifact
from ssd4rec.data.packing import consecutive
from ssd4rec.errors import DivergedError
from ssd4rec.evaluation.scoring import score_states, scored_blocks
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.segments import to_device
from ssd4rec.serving.retrieval import MEASURED_K, ApproximateIndex, Request, candidate_scores, make_index, with_recall

TOKEN_BUDGET = 32768  # events encoded in one batch
GROUPED_FROM = 1 << 15  # scores a row, from which groups of columns are compared first


class TopK(NamedTuple):
    """The highest-scoring items of one history, best first."""

    items: IntArray  # [k or fewer] item indices
    scores: npt.NDArray[np.float64]  # model scores, or training interactions when source is "popular"
    source: Literal["model", "popular"]


def top_items(artifact: Artifact, histories: Sequence[IntArray], request: Request, times: IntArray | None = None) -> list[TopK]:
    """Encode histories and return the top-k candidates of each; the most popular items where no item is known.

    Args:
        artifact: its model is in evaluation mode.
        histories: item indices, oldest first; 0 is an unknown item, which the model does not read. Only the last
            `data.max_length` known events are encoded.
        request: which items may be recommended.
        times: [histories, 2] gap and moment of each request in seconds; None: not known.

    Returns:
        One entry per history, with fewer than k items if there are fewer candidates.

    Raises:
        DivergedError: a score is not finite.
    """
    use_popular = [_needs_popular_items(history, request) for history in histories]
    known_items = [history[history > 0] for history, popular in zip(histories, use_popular, strict=True) if not popular]
    unknown = [history for history, popular in zip(histories, use_popular, strict=True) if popular]
    if times is not None:
        times = times[[not popular for popular in use_popular]]
    from_model = iter(_by_model(artifact, known_items, request, times))
    from_popularity = iter(_by_popularity(artifact.training_counts, unknown, request))
    return [next(from_popularity if popular else from_model) for popular in use_popular]


def largest(scores: Scores, k: int) -> list[tuple[IntArray, npt.NDArray[np.float64]]]:
    """Return the k largest scores of each row, ordered by score and then by item index; -inf is skipped.

    Args:
        scores: [B, V]; column j scores item index j + 1.
        k: maximum number of items per row.

    Returns:
        For each row item indices and scores, best first.

    Raises:
        DivergedError: a score is not finite.
    """
    best = select_largest(scores, min(k + 1, scores.shape[1]))
    values, columns = best[0].cpu().double().numpy(), best[1].cpu().numpy()
    if not (values[:, 0] < np.inf).all():
        raise DivergedError(
            "the model produced scores that are not finite: it diverged; lower training.learning_rate and retrain"
        )
    if values.shape[1] > k:
        # the selection picks arbitrarily among scores tied at position k, so these rows are sorted completely.
        for row in np.flatnonzero((values[:, k] == values[:, k - 1]) & (values[:, k] > -np.inf)).tolist():
            by_score = scores[row].sort(descending=True, stable=True)
            values[row], columns[row] = (each[: k + 1].cpu().numpy() for each in by_score)
    values, columns = values[:, :k], columns[:, :k]
    order = np.lexsort((columns, -values))  # along each row: by score, then by item index
    rows = zip(values, columns, order, (values > -np.inf).sum(1).tolist(), strict=True)
    return [(items[by[:count]] + 1, row[by[:count]]) for row, items, by, count in rows]


def select_largest(scores: Scores, count: int) -> tuple[Scores, torch.Tensor]:
    """Return the `count` largest scores of each row and their columns, like `torch.topk`; of equal ones it may pick others.

    On a CPU long rows are cut into groups of columns, and only the `count` groups with the largest maxima are searched. They hold
    `count` scores that are at least the smallest of these maxima, and no other group holds a larger one.

    Args:
        scores: [B, V].
        count: at most V.
    """
    size = 64 if scores.shape[1] >= GROUPED_FROM << 4 else 32  # wider groups: fewer maxima to order, but more scores to search
    groups = scores.shape[1] // size
    if scores.device.type != "cpu" or scores.shape[1] < GROUPED_FROM or groups < 4 * count:
        values, columns = scores.topk(count, dim=1)
        return values, columns
    maxima = scores[:, : groups * size].unflatten(1, (groups, size)).amax(2)
    best = maxima.topk(count, dim=1, sorted=False).indices
    candidates = (best[:, :, None] * size + torch.arange(size)).flatten(1)
    rest = torch.arange(groups * size, scores.shape[1]).expand(len(scores), -1)  # fewer columns than a group has
    candidates = torch.cat([candidates, rest], dim=1)
    values, places = scores.gather(1, candidates).topk(count, dim=1)
    return values, candidates.gather(1, places)


def _by_model(artifact: Artifact, histories: list[IntArray], request: Request, times: IntArray | None) -> list[TopK]:
    model, fusion, results = artifact.model, artifact.fusion, []
    for rows, states, packed, seen in _encoded(artifact, histories):
        timed = at_times(model, states, None if times is None else times[rows])
        results += top_items_from_states(model, timed, packed, request, fusion, seen)
    return results


def at_times(model: NextItemModel, states: States, times: IntArray | None) -> States:
    """Return states at the times of their requests, without gradients: see `NextItemModel.at`. [B, D], int64 [B, 2] -> [B, D]."""
    if times is None:
        return states
    with torch.inference_mode():
        return model.at(states, torch.from_numpy(times).to(states.device))


def _encoded(artifact: Artifact, histories: Sequence[IntArray]) -> Iterator[tuple[IntArray, States, Packed, Packed]]:
    """Encode histories in batches; yield which of them, their states, what was read, and the complete histories."""
    model, max_length = artifact.model, artifact.config.data.max_length
    device = model.item_vectors.device
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    for rows in consecutive(lengths, TOKEN_BUDGET):
        complete = [histories[row] for row in rows]
        packed = seen = _pack(complete, device)
        if max_length is not None:
            packed = _pack([history[-max_length:] for history in complete], device)
        with torch.inference_mode():
            states = model.encode(*packed)
        yield rows, states, packed, seen


def measured_index(
    artifact: Artifact, histories: Sequence[IntArray], excluded: npt.NDArray[np.bool_] | None, target_recall: float
) -> ApproximateIndex:
    """Make an index that finds a share of the 100 best unseen items of some histories; all are scored to measure it.

    Args:
        artifact: its model is in evaluation mode.
        histories: item indices, without unknown items; some hundred at least.
        excluded: [V]: True for items that are never recommended.
        target_recall: the share.
    """
    encoded = list(_encoded(artifact, histories))
    request = Request(MEASURED_K, exclude_seen=True, excluded=excluded, require_known_history=False)

    def rank(index: ApproximateIndex) -> list[IntArray]:
        return [
            top.items
            for _, states, packed, seen in encoded
            for top in top_items_from_states(artifact.model, states, packed, replace(request, index=index), artifact.fusion, seen)
        ]

    return with_recall(make_index(artifact.model.item_vectors, excluded), rank, target_recall)


def _pack(histories: list[IntArray], device: torch.device) -> Packed:
    cu_seqlens = torch.tensor([0, *accumulate(map(len, histories))])  # stays on the CPU to avoid a GPU synchronization
    return to_device(torch.from_numpy(np.concatenate(histories)), device), cu_seqlens


def top_items_from_states(
    model: NextItemModel,
    states: States,
    packed: Packed,
    request: Request,
    fusion: ScoreFusion | None = None,
    seen: Packed | None = None,
) -> list[TopK]:
    """Return the top-k candidates for sequences that are already encoded: of all items, or of those that an index finds.

    Args:
        model: scores the states.
        states: [B, D].
        packed: items int64 [T] and cu_seqlens int64 [B + 1] of the sequences; cu_seqlens preferably on the CPU to avoid a GPU
            synchronization.
        request: which items may be recommended; with an index, the scores of the items that it finds are exact.
        fusion: score fusion applied to the model's scores.
        seen: the complete packed sequences, if only the most recent events were encoded; None: the same sequences.

    Raises:
        DivergedError: a score is not finite.
    """
    if request.index is not None:
        with torch.inference_mode():
            candidates, exact = candidate_scores(model, states, packed, seen or packed, request, request.index, fusion)
        best = largest(exact, min(request.k, exact.shape[1]))
        return [TopK(row[places - 1], values, "model") for row, (places, values) in zip(candidates, best, strict=True)]
    excluded = None if request.excluded is None else torch.from_numpy(request.excluded).to(states.device)
    results: list[TopK] = []
    with torch.inference_mode():
        scored = score_states(model, states, seen or packed)
        blocks = scored_blocks(scored, packed, full=seen, fusion=fusion, exclude_seen=request.exclude_seen)
        for _, scores, seen_cells in blocks:
            if seen_cells is not None:
                scores.view(-1)[seen_cells] = -torch.inf
            if excluded is not None:
                scores.masked_fill_(excluded, -torch.inf)
            results += (TopK(indices, values, "model") for indices, values in largest(scores, request.k))
    return results


def _needs_popular_items(history: IntArray, request: Request) -> bool:
    return not history.any() or (request.require_known_history and not history.all())


def _by_popularity(training_counts: IntArray, histories: list[IntArray], request: Request) -> Iterator[TopK]:
    if not histories:
        return
    order = np.argsort(-training_counts[1:], kind="stable") + 1
    if request.excluded is not None:
        order = order[~request.excluded[order - 1]]
    for history in histories:
        items = order[: request.k + len(history)]
        if request.exclude_seen:
            items = items[~np.isin(items, history)]
        items = items[: request.k]
        yield TopK(items, training_counts[items].astype(np.float64), "popular")
