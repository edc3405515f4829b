"""Recommendations for histories of item ids, of users whom the model need not have seen."""

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args, overload

import numpy as np
import numpy.typing as npt
import polars as pl

from ssd4rec._csr import IntArray
from ssd4rec.artifact import Artifact, load_artifact
from ssd4rec.errors import ConfigError, DataError, ShapeError
from ssd4rec.models.next_item import fingerprint
from ssd4rec.serving.topk import Request, TopK, top_items

UnknownItems = Literal["skip", "raise", "popular"]
UNKNOWN_ITEMS = get_args(UnknownItems)
UNKNOWN_SHOWN = 3  # of the unknown items in a note
Ids = Sequence[object]


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
    unknown_items: tuple[object, ...]  # ids of the history that the catalog does not know
    source: Literal["model", "popular"]  # "popular": nothing was read, because nothing was known, or something was not
    notes: tuple[str, ...] = ()


class Recommender:
    """A finished model, ready to recommend. Asking changes nothing: several threads may share one.

    Args:
        artifact: from `load_artifact`.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._fingerprint: tuple[object, str] = (None, "")  # of which weights, and what it is

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu") -> "Recommender":
        """Read a folder that `train --out` wrote.

        Raises:
            ArtifactError: it is missing, damaged, or of another version.
            BackendError: there is no such device.
        """
        return cls(load_artifact(directory, device))

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
            histories: item ids in the order of time, oldest first; or a list of such lists. The empty list is one history, that
                of a new user: for a batch that may be empty write `recommend(batch) if batch else []`.
            k: how many items at most.
            exclude_seen: leave out items of the history.
            allow: only these items are candidates; None: the whole catalog.
            deny: these are not.
            unknown_items: ids that the catalog does not know are skipped and reported ("skip"), an error ("raise"), or make
                the whole history fall back to popular items ("popular").

        Returns:
            For one history its recommendations, for a list of histories a list. A history in which nothing is known gets the
            popular items and says so. Equal scores are ordered by item number.

        Raises:
            ConfigError: k is not 1 or more, or `unknown_items` is none of the three.
            DataError: an unknown item under "raise", an unknown id in `allow`, what is no list of ids.
            DivergedError: the model gave scores that are not numbers.
        """
        request = self.request(k, exclude_seen=exclude_seen, allow=allow, deny=deny, unknown_items=unknown_items)
        many, one = _as_histories(histories)
        numbers = self.numbers(many, unknown_items)
        results = [
            self.answer(len(history), unknown_of(history, part), best, request)
            for history, part, best in zip(many, numbers, self.best(numbers, request), strict=True)
        ]
        return results[0] if one else results

    def fingerprint(self) -> str:
        """SHA-256 of the model's weights, worked out when it is first asked for, and again where torch has changed a weight."""
        # changed in place: another count; replaced: another address. Tensors that were made in inference mode have no count.
        weights = self.artifact.model.state_dict().values()
        state = [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in weights]  # noqa: SLF001 - torch's
        if self._fingerprint[0] != state:
            self._fingerprint = state, fingerprint(self.artifact.model)
        return self._fingerprint[1]

    @property
    def supports_incremental(self) -> bool:
        """Whether a state stands for the history: the model must read so, and all of it, where `data.max_length` cuts nothing."""
        return self.artifact.model.supports_incremental and self.artifact.config.data.max_length is None

    def request(self, k: int, *, exclude_seen: bool, allow: Ids | None, deny: Ids | None, unknown_items: UnknownItems) -> Request:
        """Check what `recommend` was asked for, and put it into item numbers.

        Raises:
            ConfigError: see `recommend`.
            DataError: see `recommend`.
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"k is how many items to recommend, 1 or more; found {k!r}")
        if unknown_items not in UNKNOWN_ITEMS:
            raise ConfigError(f'unknown_items is "skip", "raise" or "popular"; found {unknown_items!r}')
        return Request(int(k), exclude_seen, self._forbidden(allow, deny), trust_only_known=unknown_items == "popular")

    def best(self, histories: Sequence[IntArray], request: Request) -> list[TopK]:
        """What comes next, in item numbers: see `top_items`."""
        kept = self.artifact
        return top_items(kept.model, kept.training_counts, histories, request, kept.fusion, kept.config.data.max_length)

    def numbers(self, histories: list[list[object]], unknown_items: UnknownItems = "skip") -> list[IntArray]:
        """Item ids as item numbers, 0 = unknown.

        Raises:
            DataError: an unknown item under "raise".
        """
        flat = [item for history in histories for item in history]
        numbers = self.artifact.catalog.numbers(flat)
        if unknown_items == "raise":
            self._refuse_unknown(flat, numbers, "items", 'leave them out, or choose unknown_items="skip" or "popular"')
        edges = np.cumsum([0, *(len(history) for history in histories)])
        return [numbers[start:stop] for start, stop in pairwise(edges.tolist())]

    def _forbidden(self, allow: Ids | None, deny: Ids | None) -> npt.NDArray[np.bool_] | None:
        if allow is None and deny is None:
            return None
        catalog = self.artifact.catalog
        forbidden = np.zeros(len(catalog) + 1, dtype=np.bool_)
        if allow is not None:
            allowed = as_ids(allow)
            numbers = catalog.numbers(allowed)
            self._refuse_unknown(allowed, numbers, "items of `allow`", "leave them out")
            forbidden[:] = True
            forbidden[numbers] = False
        if deny is not None:
            forbidden[catalog.numbers(as_ids(deny))] = True  # what is not in the catalog is not recommended anyway
        return forbidden[1:]

    def _refuse_unknown(self, ids: list[object], numbers: IntArray, what: str, advice: str) -> None:
        if missing := [item for item, number in zip(ids, numbers.tolist(), strict=True) if not number]:
            first = f"{missing[0]!r}{self._hint(missing[0])}"
            raise DataError(f"{len(missing)} of {len(ids)} {what} are not in the catalog, the first {first}; {advice}")

    def _hint(self, item: object) -> str:
        """The text "7" is not the number 7: the slip that makes every id unknown."""
        known = self.artifact.catalog.ids[0]
        if isinstance(item, type(known)):
            return ""
        return f" (ids here are {type(known).__name__} such as {known!r}, this is {type(item).__name__}; see Catalog.parse)"

    def answer(self, events: int, unknown: tuple[object, ...], best: TopK, request: Request) -> Recommendations:
        """Put the best item numbers into ids, titles and notes.

        Args:
            events: of the history.
            unknown: its item ids that the catalog does not know.
            best: what comes next.
            request: what was asked for.
        """
        catalog = self.artifact.catalog
        ids, titles = catalog.ids_of(best.items), catalog.titles_of(best.items)
        rows = zip(ids, [None] * len(ids) if titles is None else titles, best.scores.tolist(), strict=True)
        items = tuple(Recommendation(item, title, score, rank) for rank, (item, title, score) in enumerate(rows, start=1))
        notes = []
        if unknown:
            many, are, were = (f"{len(unknown)} items", "are", "were") if len(unknown) > 1 else ("1 item", "is", "was")
            came_of_it = f" and {were} skipped" if best.source == "model" else ", so nothing was read"
            shown = ", ".join(repr(item) for item in unknown[:UNKNOWN_SHOWN]) + (", …" if len(unknown) > UNKNOWN_SHOWN else "")
            which = f"{many} of the history {are} not in the catalog ({shown})"
            notes.append(f"{which}{came_of_it}{self._hint(unknown[0])}")
        if best.source == "popular":
            why = "nothing known in the history" if len(unknown) == events else "unknown items in the history"
            notes.append(f"{why}: the popular items are given")
        if len(items) < request.k:
            notes.append(f"only {len(items)} candidates were left, {request.k} were asked for")
        return Recommendations(items, unknown, best.source, tuple(notes))


def unknown_of(ids: list[object], numbers: IntArray) -> tuple[object, ...]:
    """The ids whose item number is 0."""
    return tuple(ids[place] for place in np.flatnonzero(numbers == 0))


def as_frame(many: Sequence[Recommendations], users: Sequence[object] | pl.Series | None = None) -> pl.DataFrame:
    """Recommendations as a table.

    Args:
        many: of `recommend` for a list of histories.
        users: whose they are; None: 0, 1, 2, …

    Returns:
        Columns user_id, item_id, score, rank (1-based): a row for each recommended item.

    Raises:
        ShapeError: not one user for each history.
    """
    owners = list(range(len(many)) if users is None else users)
    if len(owners) != len(many):
        raise ShapeError(f"expected one user for each of the {len(many)} histories, found {len(owners)} users")
    rows = [(user, each.item, each.score, each.rank) for user, found in zip(owners, many, strict=True) for each in found.items]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "score", "rank"], orient="row", infer_schema_length=None)


def _as_histories(histories: Ids | Sequence[Ids]) -> tuple[list[list[object]], bool]:
    """The histories, and whether it was one alone."""
    if isinstance(histories, str):
        raise DataError(f"a history is a list of item ids, found the string {histories!r}; write [{histories!r}]")
    entries = _in_order(histories)
    nested = [isinstance(entry, list | tuple | np.ndarray | pl.Series) for entry in entries]
    if entries and all(nested):
        return [as_ids(cast("Ids", entry)) for entry in entries], False
    if any(nested):
        raise DataError(
            "expected item ids, or lists of item ids, found both in one list; give one history, or a list of histories"
        )
    return [as_ids(entries)], True


def as_ids(ids: Ids) -> list[object]:
    """A history as a list.

    Raises:
        DataError: it is a single text, has no order, or holds what is no id.
    """
    if isinstance(ids, str):
        raise DataError(f"expected a list of item ids, found the string {ids!r}; write [{ids!r}]")
    found = [entry.item() if isinstance(entry, np.generic) else entry for entry in _in_order(ids)]
    if strange := [entry for entry in found if not isinstance(entry, Hashable)]:
        raise DataError(f"an item id is a text or a number, found {strange[0]!r}; give the ids alone, oldest first")
    return found


def _in_order(values: object) -> list[object]:
    # Sets have no order, mappings and frames are more than a list.
    if isinstance(values, bytes | Mapping | Set | pl.DataFrame) or not isinstance(values, Iterable):
        raise DataError(
            f"expected a list of item ids, oldest first, or a list of such lists; found {type(values).__name__}: "
            f"give a list, a tuple, an array or a polars series"
        )
    return list(values)
