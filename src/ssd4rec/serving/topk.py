"""The best items of each history: exact, equal scores by item number, in memory that does not grow with the histories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssd4rec._csr import IntArray
from ssd4rec.array_types import CuSeqlens, Items, Packed, Scores, States
from ssd4rec.data.packing import consecutive
from ssd4rec.errors import DivergedError
from ssd4rec.evaluation.ranks import score_blocks
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.segments import cells_of_items, to_device

TOKEN_BUDGET = 32768  # events read at once


@dataclass(frozen=True)
class Request:
    """What may be recommended."""

    k: int  # items a history at most
    exclude_seen: bool  # items of the history are no candidates
    forbidden: npt.NDArray[np.bool_] | None  # [V]: items that are no candidates; None: all are
    trust_only_known: bool  # a history with an unknown item is given popular items


class TopK(NamedTuple):
    """The best items of one history, the best first."""

    items: IntArray  # [k or fewer] item numbers
    scores: npt.NDArray[np.float64]  # of the model, or training events
    source: Literal["model", "popular"]


def top_items(
    model: NextItemModel,
    training_counts: IntArray,
    histories: Sequence[IntArray],
    request: Request,
    fusion: ScoreFusion | None = None,
    max_length: int | None = None,
) -> list[TopK]:
    """Read histories and choose the best candidates of each; where nothing is known, the most popular ones.

    Args:
        model: in evaluation mode.
        training_counts: [V + 1] training events of each item number.
        histories: item numbers, oldest first; 0 stands for an unknown item, which is not read.
        request: what may be chosen.
        fusion: what is known without learning, added to the model's scores.
        max_length: the model is given so many events, the last that are known; None: all.

    Returns:
        One for each history; fewer than k items where there are fewer candidates.

    Raises:
        DivergedError: a score is not a number.
    """
    fall_back = [_falls_back(history, request) for history in histories]
    known = [history[history > 0] for history, falls in zip(histories, fall_back, strict=True) if not falls]
    unknown = [history for history, falls in zip(histories, fall_back, strict=True) if falls]
    by_model, by_popularity = (
        iter(_by_model(model, known, request, fusion, max_length)),
        iter(_by_popularity(training_counts, unknown, request)),
    )
    return [next(by_popularity if falls else by_model) for falls in fall_back]


def largest(scores: Scores, k: int) -> list[tuple[IntArray, npt.NDArray[np.float64]]]:
    """The k largest scores of each row, by score and then by item number; those of -inf are left out.

    Args:
        scores: [B, V]; column j scores item number j + 1.
        k: how many.

    Returns:
        For each row item numbers and scores, the best first.

    Raises:
        DivergedError: a score is not a number.
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if not (values[:, 0] < torch.inf).all():
        raise DivergedError(
            "the model gave scores that are not numbers; it has diverged: lower training.learning_rate and train it again"
        )
    if values.shape[1] > k:
        # Of equal scores at the edge topk takes any; these rows are sorted whole.
        tied = (values[:, k] == values[:, k - 1]) & (values[:, k] > -torch.inf)
        columns[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, : k + 1]
    columns = columns[:, :k].sort(dim=1).values
    by_score = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    numbers = columns.gather(1, by_score.indices).cpu().numpy() + 1
    best = by_score.values.cpu().double().numpy()
    return [(numbers[row][each > -np.inf], each[each > -np.inf]) for row, each in enumerate(best)]


def _by_model(
    model: NextItemModel, histories: list[IntArray], request: Request, fusion: ScoreFusion | None, max_length: int | None
) -> list[TopK]:
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    batches = consecutive(lengths, TOKEN_BUDGET)
    return [
        best for batch in batches for best in _read(model, [histories[place] for place in batch], request, fusion, max_length)
    ]


def _read(
    model: NextItemModel, histories: list[IntArray], request: Request, fusion: ScoreFusion | None, max_length: int | None
) -> list[TopK]:
    device = model.item_vectors.device
    seen = _packed(histories, device)
    items, cu_seqlens = seen if max_length is None else _packed([history[-max_length:] for history in histories], device)
    with torch.inference_mode():
        return best_of_states(model, model.encode(items, cu_seqlens), items, cu_seqlens, request, fusion, seen)


def _packed(histories: list[IntArray], device: torch.device) -> Packed:
    cu_seqlens = torch.tensor([0, *accumulate(map(len, histories))])  # on the CPU: nothing waits for a GPU to read them
    return to_device(torch.from_numpy(np.concatenate(histories)), device), cu_seqlens


def best_of_states(
    model: NextItemModel,
    states: States,
    items: Items,
    cu_seqlens: CuSeqlens,
    request: Request,
    fusion: ScoreFusion | None = None,
    seen: Packed | None = None,
) -> list[TopK]:
    """The best candidates of histories that have been read.

    Args:
        model: scores the states.
        states: [B, D].
        items: int64 [T] the histories' item numbers, end to end.
        cu_seqlens: int64 [B + 1]; on the CPU, nothing waits for a GPU to read them.
        request: what may be chosen.
        fusion: what is known without learning, added to the model's scores.
        seen: the same histories whole, where only their ends were read; None: they were.

    Raises:
        DivergedError: a score is not a number.
    """
    forbidden = None if request.forbidden is None else torch.from_numpy(request.forbidden).to(states.device)
    found: list[TopK] = []
    with torch.inference_mode():
        blocks = score_blocks(states, model.item_vectors)
        for rows, scores in fusion.raised(blocks, items, cu_seqlens, seen) if fusion else blocks:
            if request.exclude_seen:
                scores.view(-1)[cells_of_items(*(seen or (items, cu_seqlens)), rows, scores.shape[1])] = -torch.inf
            if forbidden is not None:
                scores.masked_fill_(forbidden, -torch.inf)
            found += (TopK(numbers, values, "model") for numbers, values in largest(scores, request.k))
    return found


def _falls_back(history: IntArray, request: Request) -> bool:
    return not history.any() or (request.trust_only_known and not history.all())


def _by_popularity(training_counts: IntArray, histories: list[IntArray], request: Request) -> Iterator[TopK]:
    if not histories:
        return
    order = np.argsort(-training_counts[1:], kind="stable") + 1
    if request.forbidden is not None:
        order = order[~request.forbidden[order - 1]]
    for history in histories:
        items = order[: request.k + len(history)]
        if request.exclude_seen:
            items = items[~np.isin(items, history)]
        items = items[: request.k]
        yield TopK(items, training_counts[items].astype(np.float64), "popular")
