"""The best items of each history: exact, equal scores by item number, in memory that does not grow with the histories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssd4rec.backbones.prior import Prior
from ssd4rec.data.packing import consecutive
from ssd4rec.errors import DivergedError
from ssd4rec.evaluation.ranks import score_blocks
from ssd4rec.model import NextItemModel
from ssd4rec.ops.segments import cells_of_items, to_device
from ssd4rec.ragged import Numbers
from ssd4rec.shapes import Boundaries, Items, Packed, Scores, States

TOKEN_BUDGET = 32768  # events read at once


@dataclass(frozen=True)
class Request:
    """What may be recommended."""

    k: int  # items a history at most
    exclude_seen: bool  # items of the history are no candidates
    forbidden: npt.NDArray[np.bool_] | None  # [V]: items that are no candidates; None: all are
    trust_only_known: bool  # a history with an unknown item is given popular items


class Best(NamedTuple):
    """The best items of one history, the best first."""

    items: Numbers  # [k or fewer] item numbers
    scores: npt.NDArray[np.float64]  # of the model, or training events
    source: Literal["model", "popular"]


def best_items(
    model: NextItemModel,
    training_counts: Numbers,
    histories: Sequence[Numbers],
    request: Request,
    prior: Prior | None = None,
    max_length: int | None = None,
) -> list[Best]:
    """Read histories and choose the best candidates of each; where nothing is known, the most popular ones.

    Args:
        model: in evaluation mode.
        training_counts: [V + 1] training events of each item number.
        histories: item numbers, oldest first; 0 stands for an unknown item, which is not read.
        request: what may be chosen.
        prior: what is known without learning, added to the model's scores.
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
        iter(_by_model(model, known, request, prior, max_length)),
        iter(_by_popularity(training_counts, unknown, request)),
    )
    return [next(by_popularity if falls else by_model) for falls in fall_back]


def largest(scores: Scores, k: int) -> list[tuple[Numbers, npt.NDArray[np.float64]]]:
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
    model: NextItemModel, histories: list[Numbers], request: Request, prior: Prior | None, max_length: int | None
) -> list[Best]:
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    batches = consecutive(lengths, TOKEN_BUDGET)
    return [best for batch in batches for best in _read(model, [histories[place] for place in batch], request, prior, max_length)]


def _read(
    model: NextItemModel, histories: list[Numbers], request: Request, prior: Prior | None, max_length: int | None
) -> list[Best]:
    device = model.item_vectors.device
    seen = _packed(histories, device)
    items, boundaries = seen if max_length is None else _packed([history[-max_length:] for history in histories], device)
    with torch.inference_mode():
        return best_of_states(model, model.encode(items, boundaries), items, boundaries, request, prior, seen)


def _packed(histories: list[Numbers], device: torch.device) -> Packed:
    boundaries = torch.tensor([0, *accumulate(map(len, histories))])  # on the CPU: nothing waits for a GPU to read them
    return to_device(torch.from_numpy(np.concatenate(histories)), device), boundaries


def best_of_states(
    model: NextItemModel,
    states: States,
    items: Items,
    boundaries: Boundaries,
    request: Request,
    prior: Prior | None = None,
    seen: Packed | None = None,
) -> list[Best]:
    """The best candidates of histories that have been read.

    Args:
        model: scores the states.
        states: [B, D].
        items: int64 [T] the histories' item numbers, end to end.
        boundaries: int64 [B + 1]; on the CPU, nothing waits for a GPU to read them.
        request: what may be chosen.
        prior: what is known without learning, added to the model's scores.
        seen: the same histories whole, where only their ends were read; None: they were.

    Raises:
        DivergedError: a score is not a number.
    """
    forbidden = None if request.forbidden is None else torch.from_numpy(request.forbidden).to(states.device)
    found: list[Best] = []
    with torch.inference_mode():
        blocks = score_blocks(states, model.item_vectors)
        for rows, scores in prior.raised(blocks, items, boundaries, seen) if prior else blocks:
            if request.exclude_seen:
                scores.view(-1)[cells_of_items(*(seen or (items, boundaries)), rows, scores.shape[1])] = -torch.inf
            if forbidden is not None:
                scores.masked_fill_(forbidden, -torch.inf)
            found += (Best(numbers, values, "model") for numbers, values in largest(scores, request.k))
    return found


def _falls_back(history: Numbers, request: Request) -> bool:
    return not history.any() or (request.trust_only_known and not history.all())


def _by_popularity(training_counts: Numbers, histories: list[Numbers], request: Request) -> Iterator[Best]:
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
        yield Best(items, training_counts[items].astype(np.float64), "popular")
