"""Recommend items for histories of item ids, including users the model has never seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast, get_args, overload

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from ssd4rec._csr import IntArray, split_rows
from ssd4rec.artifact import Artifact, add_items, load_artifact
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.errors import ConfigError, DataError, ShapeError
from ssd4rec.fusion import ScoreFusion
from ssd4rec.models.next_item import fingerprint
from ssd4rec.serving.arguments import Ids, Moment, as_batch, as_ids, to_seconds, unknown_ids
from ssd4rec.serving.retrieval import TARGET_RECALL, ApproximateIndex, Request
from ssd4rec.serving.topk import TopK, largest, measured_index, top_items

if TYPE_CHECKING:
    from ssd4rec.explain.results import Explanation, Level

UnknownItems = Literal["skip", "raise", "popular"]
UNKNOWN_ITEMS = get_args(UnknownItems)
MAX_UNKNOWN_SHOWN = 3  # unknown item ids quoted in a warning


@dataclass(frozen=True)
class Recommendation:
    """One recommended item."""

    item: object  # item id, in the type of the catalog
    title: str | None
    score: float  # comparable within one list only; the number of training interactions when source is "popular"
    rank: int  # 1-based


@dataclass(frozen=True)
class Recommendations:
    """The ranked items for one history."""

    items: tuple[Recommendation, ...]
    unknown_items: tuple[object, ...]  # ids of the history that are not in the catalog
    source: Literal["model", "popular"]  # "popular": the history could not be used, so the most popular items are returned
    warnings: tuple[str, ...] = ()


class RecommendOptions(TypedDict, total=False):
    """The options of `Recommender.recommend`."""

    exclude_seen: bool
    allow: Ids | None
    deny: Ids | None
    unknown_items: UnknownItems
    at: Moment | Sequence[Moment] | None
    last_event: Moment | Sequence[Moment] | None


class ExplainOptions(TypedDict, total=False):
    """The options of `Recommender.explain`."""

    k: int
    exclude_seen: bool
    last: int
    at: Moment | None
    last_event: Moment | None


class Recommender:
    """A trained model that recommends items.

    Calls do not change any state, so one instance can be shared between threads.

    Args:
        artifact: a saved model, as returned by `load_artifact`.
        index: for approximate retrieval, see `approximate`; None: every item is scored.
    """

    def __init__(self, artifact: Artifact, index: ApproximateIndex | None = None) -> None:
        self.artifact, self.index = artifact, index
        self._fingerprint: tuple[object, str] = (None, "")  # (state of the weights when hashed, hash)

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu") -> "Recommender":
        """Load a model folder written by `save` or by `ssd4rec train --out`.

        Raises:
            ArtifactError: the folder is missing, damaged, or was written by an incompatible version.
            BackendError: the device is not available.
        """
        return cls(load_artifact(directory, device))

    def save(self, directory: str | Path) -> None:
        """Save the model as a folder that `ssd4rec.load` and the command line read.

        The folder is either complete or absent. An existing model at the same path is replaced.

        Raises:
            ArtifactError: the folder cannot be written, or it contains something other than a model.
        """
        artifact = self.artifact
        # Fusion that changes no score is not stored, so a loaded model has none although its settings ask for it.
        fusion = artifact.fusion or ScoreFusion(SequentialRules.nothing(len(artifact.catalog)), 0.0)
        report = {**artifact.report, "artifact": str(directory)}
        replace(artifact, report=report, fusion=fusion).save(directory)

    def add_items(self, items: Any) -> "Recommender":
        """Return a recommender that knows the items of a table by their features; nothing is trained.

        Args:
            items: a file or a data frame with item ids and the columns of features that the model was trained with. Items that
                are in the catalog already are left as they are.

        Raises:
            ConfigError: the model was trained without features.
            DataError: the table cannot be read, lacks a column of the training, or has no new item.
        """
        from ssd4rec.data.item_table import read_item_table  # noqa: PLC0415 - reading tables takes pyarrow

        return Recommender(add_items(self.artifact, read_item_table(items, self.artifact.config.features)))

    @property
    def report(self) -> Mapping[str, Any]:
        """The training report: data, model, protocol, metrics, training history, seconds and versions."""
        return self.artifact.report

    @property
    def item_vectors(self) -> pl.DataFrame:
        """The vectors of all items: columns item_id, title (if there are titles) and vector (float32, one array a row).

        Row j is item index j + 1; the model's score of an item is the product of its vector with that of the history.
        """
        catalog, vectors = self.artifact.catalog, self.artifact.model.item_vectors.detach().float().cpu().numpy()
        columns = [catalog.ids.alias("item_id")] + ([] if catalog.titles is None else [catalog.titles.alias("title")])
        return pl.DataFrame([*columns, pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))])

    def similar_items(self, item: object, k: int = 10) -> tuple[Recommendation, ...]:
        """Return the items whose vectors have the largest cosine with that of an item, the most similar first.

        Args:
            item: id of an item; it is not among the results, nor are items without training interactions.
            k: maximum number of items.

        Returns:
            Items whose score is the cosine. Ties are broken by item index.

        Raises:
            ConfigError: k is not a positive integer.
            DataError: the item is not in the catalog.
        """
        request = self.request(k, exclude_seen=True, allow=None, deny=None, unknown_items="raise")
        ids = as_ids([item])
        index = int(self.artifact.catalog.indices(ids)[0])
        self._check_known(ids, np.array([index]), "items", "pass an item of the catalog")
        with torch.inference_mode():
            vectors = torch.nn.functional.normalize(self.artifact.model.item_vectors.float(), dim=1)
            scores = (vectors @ vectors[index - 1])[None].cpu()
            scores[0, index - 1] = -torch.inf
            if request.excluded is not None:
                scores[0].masked_fill_(torch.from_numpy(request.excluded), -torch.inf)
            ((indices, values),) = largest(scores, min(request.k, scores.shape[1]))
        return self.to_recommendations(1, (), TopK(indices, values, "model"), request).items

    @overload
    def recommend(  # type: ignore[overload-overlap]  # a list of lists also matches the second signature; this one is narrower
        self,
        histories: Sequence[list[Any] | tuple[Any, ...] | pl.Series],
        k: int = ...,
        **options: Unpack[RecommendOptions],
    ) -> list[Recommendations]: ...

    @overload
    def recommend(self, histories: Ids, k: int = ..., **options: Unpack[RecommendOptions]) -> Recommendations: ...

    def recommend(
        self,
        histories: Ids | Sequence[Ids],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        unknown_items: UnknownItems = "skip",
        at: Moment | Sequence[Moment] | None = None,
        last_event: Moment | Sequence[Moment] | None = None,
    ) -> Recommendations | list[Recommendations]:
        """Recommend the next items for one history or for a list of histories.

        Args:
            histories: item ids in chronological order, oldest first, or a list of such lists. An empty list is one empty
                history (a new user); for a batch that may be empty use `recommend(batch) if batch else []`.
            k: maximum number of items for each history.
            exclude_seen: exclude items that are in the history.
            allow: restrict the candidates to these items. By default every item with training interactions is a candidate;
                items without any are candidates only when they are listed here.
            deny: exclude these items.
            unknown_items: how to treat ids that are not in the catalog: ignore them and report them ("skip"), raise an error
                ("raise"), or return the most popular items for that history ("popular").
            at: when the next item is wanted, for a model with `backbone.request_time`: a `datetime` (UTC where it has no zone),
                ISO text or seconds since 1970; one for all histories, or a list with one for each. By default the time is not
                known, which such a model is trained for too.
            last_event: when the last interaction of each history was, like `at`; needed with it.

        Returns:
            Recommendations for one history, or a list with one entry per history. A history without any known item gets the
            most popular items, and `source` says so. Ties in score are broken by item index.

        Raises:
            ConfigError: k is not a positive integer, `unknown_items` is not one of the three values, or `at` is passed to a model
                that does not read it or without `last_event`.
            DataError: an unknown item with "raise", an unknown id in `allow`, an argument that is not a list of ids, or a moment
                that cannot be read or lies before the last event.
            DivergedError: the model produced scores that are not finite.
        """
        request = self.request(k, exclude_seen=exclude_seen, allow=allow, deny=deny, unknown_items=unknown_items)
        batch, is_single = as_batch(histories)
        indices = self.indices(batch, unknown_items)
        best = self.top_items(indices, request, self.request_times(len(batch), at, last_event))
        results = [
            self.to_recommendations(len(history), unknown_ids(history, row), top, request)
            for history, row, top in zip(batch, indices, best, strict=True)
        ]
        return results[0] if is_single else results

    @overload
    def explain(  # type: ignore[overload-overlap]  # a list is an object too
        self,
        history: Ids,
        item: list[Any] | tuple[Any, ...] | pl.Series,
        level: "Level" = ...,
        **options: Unpack[ExplainOptions],
    ) -> "list[Explanation]": ...

    @overload
    def explain(self, history: Ids, item: object, level: "Level" = ..., **options: Unpack[ExplainOptions]) -> "Explanation": ...

    def explain(
        self,
        history: Ids,
        item: object,
        level: "Level" = "effects",
        *,
        k: int = 10,
        exclude_seen: bool = True,
        last: int = 200,
        at: Moment | None = None,
        last_event: Moment | None = None,
    ) -> "Explanation | list[Explanation]":
        """Explain why an item is recommended after a history.

        Args:
            history: item ids, oldest first. Ids that are not in the catalog are not read, and are reported.
            item: id of the item to explain, or a list of ids. An item need not be recommended to be explained.
            level: "parts", the score as a sum of model, co-occurrence and repeat bias; "weights", where the SSD layer looked;
                "effects", the change of score and rank without each event; "counterfactual", events without which the item is
                not among the first k.
            k: length of the list that a counterfactual takes the item out of.
            exclude_seen: ranks are those of `recommend` with the same setting.
            last: models with several layers or without SSD layers read every shortened history: at most this many, and of
                histories of more than 1,000 events fewer.
            at: when the next item is wanted, see `recommend`. The time stays the same when events are left out.
            last_event: when the last event of the history was; needed with `at`.

        Returns:
            `Parts`, `Weights`, `Effects` or `Counterfactual`, as `level` says; a list of them for a list of items.

        Raises:
            ConfigError: an unknown level, k or `last` below 1, weights of a model without SSD layers, or `at` as in `recommend`.
            DataError: an item that is not in the catalog, a history without any item of the catalog, or a moment that cannot be
                read or lies before the last event.
            DivergedError: a score is not a number.
        """
        from ssd4rec.explain.explain import Explainer  # noqa: PLC0415 - recommending does not wait for it
        from ssd4rec.explain.results import LEVELS  # noqa: PLC0415

        if level not in LEVELS:
            raise ConfigError(f"level must be one of {', '.join(LEVELS)}; found {level!r}")
        for name, value in (("k", k), ("last", last)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"{name} must be a number of items or events, 1 or more; found {value!r}")
        many = isinstance(item, list | tuple | np.ndarray | pl.Series)
        items, ids = as_ids(cast("Ids", item) if many else [item]), as_ids(history)
        indices = self.artifact.catalog.indices(items)
        self._check_known(items, indices, "items to explain", "explain items of the catalog")
        (numbers,) = self.indices([ids])
        times = self.request_times(1, at, last_event)
        explainer = Explainer(self.artifact, ids, numbers, times, exclude_seen=exclude_seen, last=int(last))
        results = explainer.explain(indices.tolist(), level, int(k))
        return results if many else results[0]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights; computed once and again only after the weights have changed."""
        # An in-place update raises the version counter, a replacement changes the address. Inference tensors have no counter.
        weights = self.artifact.model.state_dict().values()
        state = [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in weights]  # noqa: SLF001 - torch API
        if self._fingerprint[0] != state:
            self._fingerprint = state, fingerprint(self.artifact.model)
        return self._fingerprint[1]

    def approximate(self, histories: Sequence[Ids], target_recall: float = TARGET_RECALL) -> "Recommender":
        """Return a recommender that finds its candidates with an index, for catalogs that are too large to score every item.

        Scores and their order are exact, repeat logits and score fusion included, but items can be missed: how many is measured
        with these histories, and written in the warnings of every answer. Items of the history and those that co-occur with its
        last items are never missed. With `allow` or `deny`, every item is scored as before.

        Args:
            histories: item ids of users like those to come, some hundred at least.
            target_recall: share of the 100 best items that is found at least.

        Raises:
            ConfigError: no history has an item of the catalog.
            BackendError: faiss is not installed.
        """
        return self.approximate_from(self.indices([as_ids(history) for history in histories]), target_recall)

    def approximate_from(self, histories: Sequence[IntArray], target_recall: float = TARGET_RECALL) -> "Recommender":
        """Do `approximate` with histories of item indices."""
        known_histories = [row[row > 0] for row in histories if row.any()]
        if not known_histories:
            raise ConfigError("approximate retrieval is measured with histories, and none of these has an item of the catalog")
        index = measured_index(self.artifact, known_histories, self._excluded_items(None, None), target_recall)
        return Recommender(self.artifact, index)

    @property
    def supports_incremental(self) -> bool:
        """Whether a recurrent state can replace the history: the model is causal below its top layer and reads all events."""
        return self.artifact.model.supports_incremental and self.artifact.config.data.max_length is None

    def request(self, k: int, *, exclude_seen: bool, allow: Ids | None, deny: Ids | None, unknown_items: UnknownItems) -> Request:
        """Validate the arguments of `recommend` and translate item ids to item indices.

        Raises:
            ConfigError: see `recommend`.
            DataError: see `recommend`.
        """
        if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
            raise ConfigError(f"k must be a positive integer, found {k!r}")
        if not isinstance(exclude_seen, bool | np.bool_):
            raise ConfigError(f"exclude_seen must be True or False, found {exclude_seen!r}")
        if not isinstance(unknown_items, str) or unknown_items not in UNKNOWN_ITEMS:
            raise ConfigError(f'unknown_items must be "skip", "raise" or "popular", found {unknown_items!r}')
        return Request(
            k=int(k),
            exclude_seen=bool(exclude_seen),
            excluded=self._excluded_items(allow, deny),
            require_known_history=unknown_items == "popular",
            index=self.index if allow is None and deny is None else None,
        )

    def top_items(self, histories: Sequence[IntArray], request: Request, times: IntArray | None = None) -> list[TopK]:
        """Return the top-k item indices for histories of item indices; see `topk.top_items`."""
        return top_items(self.artifact, histories, request, times)

    def request_times(
        self, histories: int, at: Moment | Sequence[Moment] | None, last_event: Moment | Sequence[Moment] | None
    ) -> IntArray | None:
        """Return gap and moment of each request in seconds, [histories, 2]; None: they are not known.

        Raises:
            ConfigError: the model does not read them, or one of the two is missing.
            DataError: a moment cannot be read, or the request is before the last event.
        """
        if at is None and last_event is None:
            return None
        if self.artifact.model.request_time is None:
            raise ConfigError(
                "this model does not read the time of a request; leave out `at` and `last_event`, or train one that does: "
                "--set backbone.request_time=true"
            )
        if at is None or last_event is None:
            missing = "at" if at is None else "last_event"
            raise ConfigError(f"the time of a request and that of the last event belong together, and `{missing}` is missing")
        moments, before = (to_seconds(name, each, histories) for name, each in (("at", at), ("last_event", last_event)))
        if (moments < before).any():
            row = int(np.flatnonzero(moments < before)[0])
            raise DataError(
                f"request {row + 1} of {histories} is {before[row] - moments[row]:,} seconds before the last event of its "
                f"history; `at` must not be before `last_event`"
            )
        return np.stack([moments - before, moments], axis=1)

    def indices(self, histories: list[list[object]], unknown_items: UnknownItems = "skip") -> list[IntArray]:
        """Translate item ids to item indices; 0 = unknown.

        Raises:
            DataError: an unknown item with "raise".
        """
        flat = [item for history in histories for item in history]
        indices = self.artifact.catalog.indices(flat)
        if unknown_items == "raise":
            self._check_known(flat, indices, "items", 'remove them, or use unknown_items="skip" or "popular"')
        return split_rows(indices, np.cumsum([0, *map(len, histories)]))

    def _excluded_items(self, allow: Ids | None, deny: Ids | None) -> npt.NDArray[np.bool_] | None:
        """[V]: True for items that must not be recommended; None when every item is a candidate."""
        catalog = self.artifact.catalog
        if allow is None:
            excluded = ~self.artifact.candidates
        else:
            allowed = as_ids(allow)
            indices = catalog.indices(allowed)
            self._check_known(allowed, indices, "items of `allow`", "remove them")
            excluded = np.ones(len(catalog) + 1, dtype=np.bool_)
            excluded[indices] = False
        if deny is not None:
            excluded[catalog.indices(as_ids(deny))] = True  # ids that are not in the catalog cannot be recommended anyway
        return excluded[1:] if excluded[1:].any() else None

    def _check_known(self, ids: list[object], indices: IntArray, what: str, advice: str) -> None:
        if missing := unknown_ids(ids, indices):
            first = f"{missing[0]!r}{self._type_hint(missing[0])}"
            raise DataError(f"{len(missing)} of {len(ids)} {what} are not in the catalog, the first is {first}; {advice}")

    def _type_hint(self, item: object) -> str:
        """Point out ids of the wrong type: the text "7" is not the number 7."""
        example = self.artifact.catalog.ids[0]
        if isinstance(item, type(example)):
            return ""
        expected, actual = type(example).__name__, type(item).__name__
        return f" (ids in this catalog are {expected}, such as {example!r}, but this one is {actual}; see Catalog.parse)"

    def to_recommendations(
        self, history_length: int, unknown: tuple[object, ...], top: TopK, request: Request
    ) -> Recommendations:
        """Translate top-k item indices to ids and titles, and add warnings.

        Args:
            history_length: number of events in the history.
            unknown: item ids of the history that are not in the catalog.
            top: the top-k items.
            request: the validated request.
        """
        catalog = self.artifact.catalog
        ids, titles = catalog.ids_of(top.items), catalog.titles_of(top.items)
        rows = zip(ids, [None] * len(ids) if titles is None else titles, top.scores.tolist(), strict=True)
        items = tuple(Recommendation(item, title, score, rank) for rank, (item, title, score) in enumerate(rows, start=1))
        warnings = []
        if unknown:
            warnings.append(self._describe_unknown(unknown, top.source))
        if request.index is not None and top.source == "model":
            warnings.append(request.index.warning)
        if top.source == "popular":
            reason = "contains no known item" if len(unknown) == history_length else "contains unknown items"
            warnings.append(f"the history {reason}: these are the most popular items")
        if len(items) < request.k:
            warnings.append(f"only {len(items)} candidates are available, fewer than the requested {request.k}")
        return Recommendations(items, unknown, top.source, tuple(warnings))

    def _describe_unknown(self, unknown: tuple[object, ...], source: Literal["model", "popular"]) -> str:
        count = f"{len(unknown)} items of the history are" if len(unknown) > 1 else "1 item of the history is"
        shown = ", ".join(repr(item) for item in unknown[:MAX_UNKNOWN_SHOWN]) + (
            ", …" if len(unknown) > MAX_UNKNOWN_SHOWN else ""
        )
        outcome = " and ignored" if source == "model" else ""
        return f"{count} not in the catalog{outcome}: {shown}{self._type_hint(unknown[0])}"


def as_frame(results: Sequence[Recommendations], users: Sequence[object] | pl.Series | None = None) -> pl.DataFrame:
    """Convert recommendations to a data frame.

    Args:
        results: the result of `recommend` for a list of histories.
        users: one user id per history; by default 0, 1, 2, …

    Returns:
        Columns user_id, item_id, score, rank (1-based), one row per recommended item.

    Raises:
        ShapeError: the number of users differs from the number of histories.
    """
    user_ids = list(range(len(results)) if users is None else users)
    if len(user_ids) != len(results):
        raise ShapeError(f"expected one user per history ({len(results)}), found {len(user_ids)} users")
    rows = [
        (user, each.item, each.score, each.rank) for user, result in zip(user_ids, results, strict=True) for each in result.items
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "score", "rank"], orient="row", infer_schema_length=None)
