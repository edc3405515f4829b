"""Recommendations for histories of item ids, of users whom the model need not have seen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from ssd4rec.artefact import Artefact, load_artefact
from ssd4rec.data.packing import Numbers, plan_batches
from ssd4rec.errors import ConfigError, DataError

UnknownItems = Literal["skip", "raise", "popular"]
Ids = Sequence[object]
BLOCK_ELEMENTS = 1 << 24  # scores held at once: 64 MiB in float32
TOKEN_BUDGET = 32768  # events read at once


@dataclass(frozen=True)
class Recommendation:
    """One recommended item."""

    item: object  # its id, as it came
    title: str | None
    score: float  # of the model: comparable inside one list; training events, where popular items are given
    rank: int  # 1-based


@dataclass(frozen=True)
class Recommendations:
    """What is recommended to one history."""

    items: tuple[Recommendation, ...]
    unknown_items: tuple[object, ...]  # ids of the history that the catalogue does not know
    source: Literal["model", "popular"]  # "popular": nothing known was left to read
    notes: tuple[str, ...] = ()


class Recommender:
    """A finished model, ready to recommend.

    Args:
        artefact: from `load_artefact`.
    """

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        self._model, self._catalogue = artefact.model, artefact.catalogue

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu") -> "Recommender":
        """Read a folder that `train --out` wrote.

        Raises:
            ArtefactError: it is missing, damaged, or of another version.
        """
        return cls(load_artefact(directory, device))

    @overload
    def recommend(  # type: ignore[overload-overlap]  # a list of lists is a list too; the narrower signature comes first
        self,
        histories: Sequence[list[Any] | tuple[Any, ...] | pl.Series],
        k: int = ...,
        *,
        exclude_seen: bool = ...,
        allow: Ids | None = ...,
        deny: Ids | None = ...,
        unknown_items: UnknownItems = ...,
    ) -> list[Recommendations]: ...

    @overload
    def recommend(
        self,
        histories: Ids,
        k: int = ...,
        *,
        exclude_seen: bool = ...,
        allow: Ids | None = ...,
        deny: Ids | None = ...,
        unknown_items: UnknownItems = ...,
    ) -> Recommendations: ...

    def recommend(
        self,
        histories: Ids | Sequence[Ids],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        unknown_items: UnknownItems = "skip",
    ) -> Recommendations | list[Recommendations]:
        """What comes next.

        Args:
            histories: item ids in the order of time, oldest first; or a list of such lists.
            k: how many items at most.
            exclude_seen: leave out items of the history.
            allow: only these items are candidates; None: the whole catalogue.
            deny: these are not.
            unknown_items: ids that the catalogue does not know are skipped and reported ("skip"), an error ("raise"), or make
                the whole history fall back to popular items ("popular").

        Returns:
            For one history its recommendations, for a list of histories a list. A history in which nothing is known gets the
            popular items and says so. Equal scores are ordered by item number.

        Raises:
            ConfigError: k is not 1 or more, or `unknown_items` is none of the three.
            DataError: an unknown item under "raise", ids that are one string, an unknown id in `allow`.
        """
        if k < 1:
            raise ConfigError(f"k is how many items to recommend, 1 or more; found {k}")
        if unknown_items not in ("skip", "raise", "popular"):
            raise ConfigError(f'unknown_items is "skip", "raise" or "popular"; found {unknown_items!r}')
        many, one = _as_histories(histories)
        numbers, unknown = self._numbers(many, unknown_items)
        if unknown_items == "popular":
            numbers = [np.empty(0, dtype=np.int64) if missing else known for known, missing in zip(numbers, unknown, strict=True)]
        forbidden = self._forbidden(allow, deny)
        found = self.top(numbers, k, exclude_seen=exclude_seen, forbidden=forbidden)
        results = [
            self._result(items, scores, known, missing, k)
            for (items, scores), known, missing in zip(found, numbers, unknown, strict=True)
        ]
        return results[0] if one else results

    def top(
        self, histories: Sequence[Numbers], k: int, *, exclude_seen: bool, forbidden: npt.NDArray[np.bool_] | None = None
    ) -> list[tuple[Numbers, npt.NDArray[np.float64]]]:
        """The k best item numbers and scores of each history of item numbers; an empty history gets popular items.

        Args:
            histories: int64 arrays of item numbers 1 … V.
            k: how many at most.
            exclude_seen: leave out items of the history.
            forbidden: bool [V], items that are no candidates.
        """
        found: list[tuple[Numbers, npt.NDArray[np.float64]]] = [self._popular(k, forbidden)] * len(histories)
        rows = np.array([row for row, history in enumerate(histories) if len(history)], dtype=np.int64)
        lengths = np.array([len(histories[row]) for row in rows], dtype=np.int64)
        limit = max(BLOCK_ELEMENTS // len(self._catalogue), 1)
        for places in plan_batches(lengths, TOKEN_BUDGET, batch_size=limit):
            block = rows[places].tolist()
            best = self._best([histories[row] for row in block], k, forbidden, exclude_seen=exclude_seen)
            for row, result in zip(block, best, strict=True):
                found[row] = result
        return found

    def _best(
        self, histories: list[Numbers], k: int, forbidden: npt.NDArray[np.bool_] | None, *, exclude_seen: bool
    ) -> list[tuple[Numbers, npt.NDArray[np.float64]]]:
        device = self._model.item_vectors.device
        lengths = torch.tensor([len(history) for history in histories])
        items = torch.from_numpy(np.concatenate(histories))
        boundaries = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        with torch.inference_mode():
            scores = self._model.score(self._model.encode(items.to(device), boundaries.to(device))).cpu()
        scores = scores.clone()  # an inference tensor may not be changed outside of its mode
        if exclude_seen:
            scores[torch.repeat_interleave(lengths), items - 1] = -torch.inf
        if forbidden is not None:
            scores[:, torch.from_numpy(forbidden)] = -torch.inf
        # sorted by score, then by item number: a stable sort of the candidates that topk found, ties at the edge included
        results = []
        for row in scores:
            edge = row.topk(min(k, len(row))).values[-1]
            candidates = (row >= edge).nonzero().squeeze(1) if edge > -torch.inf else row.isfinite().nonzero().squeeze(1)
            order = row[candidates].sort(descending=True, stable=True)
            chosen = candidates[order.indices[:k]]
            results.append(((chosen + 1).numpy(), row[chosen].double().numpy()))
        return results

    def _popular(self, k: int, forbidden: npt.NDArray[np.bool_] | None) -> tuple[Numbers, npt.NDArray[np.float64]]:
        counts = self.artefact.training_counts[1:]
        order = np.argsort(-counts, kind="stable")
        if forbidden is not None:
            order = order[~forbidden[order]]
        return order[:k] + 1, counts[order[:k]].astype(np.float64)

    def _numbers(self, histories: list[Ids], unknown_items: UnknownItems) -> tuple[list[Numbers], list[tuple[object, ...]]]:
        flat = [item for history in histories for item in history]
        numbers = self._catalogue.numbers(flat) if flat else np.empty(0, dtype=np.int64)
        if unknown_items == "raise" and (missing := [item for item, number in zip(flat, numbers, strict=True) if not number]):
            raise DataError(
                f"{len(missing)} of {len(flat)} items are not in the catalogue, the first {missing[0]!r}; leave them out, or "
                f'choose unknown_items="skip" or "popular"'
            )
        edges = np.cumsum([0, *(len(history) for history in histories)])
        parts = [numbers[start:stop] for start, stop in pairwise(edges.tolist())]
        unknown = [
            tuple(item for item, number in zip(history, part, strict=True) if not number)
            for history, part in zip(histories, parts, strict=True)
        ]
        return [part[part > 0] for part in parts], unknown

    def _forbidden(self, allow: Ids | None, deny: Ids | None) -> npt.NDArray[np.bool_] | None:
        if allow is None and deny is None:
            return None
        forbidden = np.zeros(len(self._catalogue) + 1, dtype=np.bool_)
        if allow is not None:
            numbers = self._catalogue.numbers(_as_ids(allow))
            if missing := [item for item, number in zip(allow, numbers, strict=True) if not number]:
                raise DataError(
                    f"{len(missing)} items of `allow` are not in the catalogue, the first {missing[0]!r}; leave them out"
                )
            forbidden[:] = True
            forbidden[numbers] = False
        if deny is not None and len(deny):
            forbidden[self._catalogue.numbers(_as_ids(deny))] = True  # an unknown item is not recommended anyway
        return forbidden[1:]

    def _result(
        self, items: Numbers, scores: npt.NDArray[np.float64], known: Numbers, unknown: tuple[object, ...], k: int
    ) -> Recommendations:
        ids, titles = self._catalogue.ids_of(items), self._catalogue.titles_of(items)
        notes = []
        if unknown:
            notes.append(f"{len(unknown)} items of the history are not in the catalogue and were skipped")
        if not len(known):
            notes.append("nothing known in the history: the popular items are given")
        if len(items) < k:
            notes.append(f"only {len(items)} candidates were left, {k} were asked for")
        return Recommendations(
            tuple(
                Recommendation(item, title, score, place + 1)
                for place, (item, title, score) in enumerate(
                    zip(ids, titles if titles is not None else [None] * len(items), scores.tolist(), strict=True)
                )
            ),
            unknown,
            "model" if len(known) else "popular",
            tuple(notes),
        )


def _as_histories(histories: Ids | Sequence[Ids]) -> tuple[list[Ids], bool]:
    if isinstance(histories, str):
        raise DataError(f"a history is a list of item ids, found the string {histories!r}; write [{histories!r}]")
    entries = list(histories)
    nested = [entry for entry in entries if isinstance(entry, list | tuple | np.ndarray | pl.Series)]
    if nested and len(nested) == len(entries):
        return [_as_ids(entry) for entry in nested], False
    if nested:
        raise DataError(
            "expected item ids, or lists of item ids, found both in one list; give one history, or a list of histories"
        )
    return [_as_ids(entries)], True


def _as_ids(ids: Iterable[object]) -> list[object]:
    if isinstance(ids, str):
        raise DataError(f"expected a list of item ids, found the string {ids!r}; write [{ids!r}]")
    return [entry.item() if isinstance(entry, np.generic) else entry for entry in ids]
