"""A model as the service uses it: ids as text, masks of hidden items, scores for many requests at once."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec.config import dump_config
from ssd4rec.data.packing import consecutive
from ssd4rec.evaluation.scoring import score_states, scored_blocks
from ssd4rec.ops.segments import flat_score_index
from ssd4rec.service.live import equal_share_groups
from ssd4rec.service.products import ProductScores, product_scores, vector_at
from ssd4rec.service.user_state import Indices, Mask, RequestMoment, ScoreJob, UserState
from ssd4rec.serving.recommender import Recommender
from ssd4rec.serving.retrieval import Request
from ssd4rec.serving.topk import TopK, largest

EVENTS_AT_ONCE = 8192  # of histories that are read together
STATE_FORMAT = "1"  # raise it when the code computes or arranges states in another way: older snapshots are not read then
EVENTS_PER_STEP = 200  # of a history that take as long to read as one more event does by a step


@dataclass
class ServedModel:
    """A version of a model, loaded.

    Args:
        version: its name.
        folder: where it was read from.
        recommender: of the artifact.
        modified: when its manifest was written, in seconds since 1970.
    """

    version: str
    folder: Path
    recommender: Recommender
    modified: float = 0.0
    ids: list[str] = field(init=False)  # item index j is ids[j - 1]
    titles: list[str | None] = field(init=False)
    index_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        catalog = self.recommender.artifact.catalog
        self.ids = [str(each) for each in catalog.ids.to_list()]
        self.titles = [None] * len(self.ids) if catalog.titles is None else catalog.titles.to_list()
        self.index_of = {text: index for index, text in enumerate(self.ids, start=1)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return self.recommender.fingerprint()

    @cached_property
    def key(self) -> str:
        """The name of this model in live metrics: a version that was trained again is another model."""
        return f"{self.version}@{self.fingerprint[:12]}"

    @cached_property
    def identity(self) -> str:
        """SHA-256 of everything that a state depends on: weights, catalog and settings. Snapshots are stored under it."""
        parts = (STATE_FORMAT, self.fingerprint, dump_config(self.recommender.artifact.config), *self.ids)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @cached_property
    def popularity(self) -> tuple[Indices, list[float]]:
        """The popularity group of each item index, and the share of each group in training; see `equal_share_groups`."""
        return equal_share_groups(self.recommender.artifact.training_counts)

    @cached_property
    def excluded(self) -> Mask | None:
        """Items that the library recommends only where they are allowed by name, such as those that training never saw."""
        request = self.recommender.request(1, exclude_seen=False, allow=None, deny=None, unknown_items="skip")
        return request.excluded

    @cached_property
    def _search_keys(self) -> list[tuple[str, str]]:
        """Title and id of each item, without case."""
        return [((title or "").casefold(), text.casefold()) for title, text in zip(self.titles, self.ids, strict=True)]

    def search(self, query: str, limit: int) -> list[int]:
        """Return item indices whose title contains a text or whose id starts with it, the best match first.

        An equal id comes first, then an equal title, titles that start with the text, ids that do, and titles that contain it;
        among equals the item with more training interactions.
        """
        text = query.strip().casefold()
        counts = self.recommender.artifact.training_counts
        ranked = []
        for index, (title, key) in enumerate(self._search_keys, start=1):
            tests = (key == text, title == text, title.startswith(text), key.startswith(text), text in title)
            if any(tests):
                ranked.append((tests.index(True), -int(counts[index]), index))
        return [index for _, _, index in nsmallest(limit, ranked)]

    @property
    def incremental(self) -> bool:
        """Whether a state takes up one more event without the events before it."""
        return self.recommender.supports_incremental

    @property
    def reads_request_time(self) -> bool:
        """Whether answers depend on the time of the request."""
        return self.recommender.artifact.model.request_time is not None

    def at(self, state: UserState, moment: RequestMoment | None) -> UserState:
        """Return a state at the time of a request, for scoring alone; None: the time is not known, or the model does not read it.

        The state that takes up events, is cached and is stored does not depend on the time.
        """
        rows = self._request_time_rows
        if moment is None or state.vector is None or rows is None:
            return state
        return UserState(state.indices, None, vector_at(rows, state.vector, **moment.in_seconds()))

    @cached_property
    def _request_time_rows(self) -> npt.NDArray[np.floating] | None:
        layer = self.recommender.artifact.model.request_time
        return None if layer is None else layer.table.weight.detach().numpy()

    def indices(self, ids: Sequence[str]) -> Indices:
        """Return item indices, 0 for unknown ids."""
        lookup = self.index_of
        return np.fromiter((lookup.get(each, 0) for each in ids), dtype=np.int64, count=len(ids))

    def read(self, indices: Indices) -> UserState:
        """Read a whole history."""
        (state,) = self.read_together([indices])
        return state

    def read_together(self, histories: Sequence[Indices]) -> list[UserState]:
        """Read whole histories, in a packed batch if the model reads event by event.

        Most of the time that a short history takes is spent between its operations, not in them.
        """
        states = [UserState(indices) for indices in histories]
        readable = [state for state in states if state.indices.any()]
        if not readable:
            return states
        if not self.incremental:
            return [state for indices in histories for state in self.read_many([indices])]
        with torch.inference_mode():
            cache, vectors = self.recommender.artifact.model.prefill(*_packed([state.indices for state in readable]))
            if len(readable) == 1:
                readable[0].cache, readable[0].vector = cache, vectors
            else:
                for row, state in enumerate(readable):
                    part = slice(row, row + 1)  # copied: a view would keep the whole batch in memory
                    state.cache = [type(layer)(*(each[part].clone() for each in layer)) for layer in cache]
                    state.vector = vectors[part].clone()
        return states

    def step(self, state: UserState, indices: Indices) -> UserState:
        """Read further events of a history; the old state is not changed."""
        together = np.concatenate([state.indices, indices])
        in_catalog = indices[indices > 0]
        if not len(in_catalog):
            return UserState(together, state.cache, state.vector)
        if state.cache is None or len(in_catalog) > 8 + len(state.indices) // EVENTS_PER_STEP:
            return self.read(together)
        cache, vector = state.cache, state.vector
        with torch.inference_mode():
            for index in in_catalog.tolist():
                cache, vector = self.recommender.artifact.model.advance(cache, torch.tensor([index]))
        return UserState(together, cache, vector)

    def read_many(self, histories: Sequence[Indices]) -> list[UserState]:
        """Read whole histories together; the states are for scoring and do not take up further events."""
        states = [UserState(indices) for indices in histories]
        readable = [state for state in states if state.indices.any()]
        newest = self.recommender.artifact.config.data.max_length
        lengths = np.array([min(np.count_nonzero(state.indices), newest or len(state.indices)) for state in readable], np.int64)
        with torch.inference_mode():
            for rows in consecutive(lengths, EVENTS_AT_ONCE):
                batch = [readable[row] for row in rows.tolist()]
                vectors = self.recommender.artifact.model.encode(*_packed([state.indices for state in batch], newest))
                for state, vector in zip(batch, vectors.split(1), strict=True):
                    state.vector = vector
        return states

    def score(self, jobs: Sequence[ScoreJob]) -> list[TopK]:
        """Return the best candidates of each job, scored together; popular items where the state has read nothing."""
        popular = [job.state.vector is None or (job.only_known and not job.state.indices.all()) for job in jobs]
        from_model = iter(self._score([job for job, is_popular in zip(jobs, popular, strict=True) if not is_popular]))
        return [self._popular(job) if is_popular else next(from_model) for job, is_popular in zip(jobs, popular, strict=True)]

    def _popular(self, job: ScoreJob) -> TopK:
        request = Request(job.k, job.exclude_seen, job.excluded, require_known_history=job.only_known)
        return self.recommender.top_items([job.state.indices], request)[0]

    def ranks(self, jobs: Sequence[ScoreJob], index: int) -> list[int | None]:
        """Return the rank of an item in the answer to each job; None: it is not a candidate, or nothing was read."""
        ranks: list[int | None] = [None] * len(jobs)
        places = [place for place, job in enumerate(jobs) if job.state.vector is not None]
        with torch.inference_mode():
            for rows, scores in self._candidates([jobs[place] for place in places]):
                own = scores[:, index - 1 : index]
                before = (scores > own).sum(1) + (scores[:, : index - 1] == own).sum(1)
                for place, score, better in zip(places[rows], own[:, 0].tolist(), before.tolist(), strict=True):
                    ranks[place] = None if score == -torch.inf else better + 1
        return ranks

    def rank_targets(self, states: Sequence[UserState], targets: Indices) -> list[int | None]:
        """Return the rank of one item after each history, counted from 1; ties count against it.

        The candidates are those of the evaluation that the model was trained with (`evaluation.exclude_seen`).

        Args:
            states: histories, read.
            targets: an item index for each; 0: an item that is not in the catalog.

        Returns:
            None where the item is not a candidate, or nothing known was read.
        """
        exclude_seen = self.recommender.artifact.config.evaluation.exclude_seen
        places = [place for place, state in enumerate(states) if state.vector is not None and targets[place]]
        ranks: list[int | None] = [None] * len(states)
        jobs = [ScoreJob(states[place], 1, exclude_seen, self.excluded, only_known=False) for place in places]
        with torch.inference_mode():
            for rows, scores in self._candidates(jobs):
                columns = torch.from_numpy(targets[places[rows]] - 1)[:, None]
                values = scores.gather(1, columns)
                better = (scores >= values).sum(1)
                for place, rank, value in zip(places[rows], better.tolist(), values[:, 0].tolist(), strict=True):
                    ranks[place] = rank if math.isfinite(value) else None
        return ranks

    def _score(self, jobs: list[ScoreJob]) -> list[TopK]:
        results: list[TopK] = []
        with torch.inference_mode():
            for rows, scores in self._candidates(jobs):
                best = largest(scores, min(max(job.k for job in jobs[rows]), scores.shape[1]))
                for job, (indices, values) in zip(jobs[rows], best, strict=True):
                    results.append(TopK(indices[: job.k], values[: job.k], "model"))
        return results

    def _candidates(self, jobs: list[ScoreJob]) -> Iterator[tuple[slice, Tensor]]:
        if not jobs:
            return iter(())
        return self.slow_candidates(jobs) if self._products is None else self._products.of(jobs)

    @cached_property
    def _products(self) -> ProductScores | None:
        return product_scores(self.recommender)

    def slow_candidates(self, jobs: list[ScoreJob]) -> Iterator[tuple[slice, Tensor]]:
        """Yield the scores of some jobs [rows, V], -inf for items that are not candidates; the next ones overwrite them."""
        artifact = self.recommender.artifact
        seen = _packed([job.state.indices for job in jobs])
        cut = artifact.config.data.max_length
        packed = seen if cut is None else _packed([job.state.indices for job in jobs], cut)
        states = torch.cat([job.state.vector for job in jobs if job.state.vector is not None])
        blocks = score_states(artifact.model, states, seen)
        removed = _packed([job.state.indices if job.exclude_seen else job.state.indices[:0] for job in jobs])
        for rows, scores, _ in scored_blocks(blocks, packed, full=seen, fusion=artifact.fusion):
            scores.view(-1)[flat_score_index(*removed, rows, scores.shape[1])] = -torch.inf
            for row, job in enumerate(jobs[rows]):
                if job.excluded is not None:
                    scores[row].masked_fill_(torch.from_numpy(job.excluded), -torch.inf)
            yield rows, scores

    def similar(self, index: int, k: int, excluded: Mask | None) -> list[tuple[int, float]]:
        """Return the items whose vectors have the largest cosine with that of an item."""
        with torch.inference_mode():
            vectors = self._unit_vectors
            scores = (vectors @ vectors[index - 1])[None]
            scores[0, index - 1] = -torch.inf
            if excluded is not None:
                scores[0].masked_fill_(torch.from_numpy(excluded), -torch.inf)
            ((indices, values),) = largest(scores, min(k, scores.shape[1]))
        return list(zip(indices.tolist(), values.tolist(), strict=True))

    @cached_property
    def _unit_vectors(self) -> Tensor:
        return torch.nn.functional.normalize(self.recommender.artifact.model.item_vectors, dim=1)


def _packed(histories: list[Indices], newest: int | None = None) -> tuple[Tensor, Tensor]:
    parts = [each[each > 0][-(newest or len(each)) :] for each in histories]
    return torch.from_numpy(np.concatenate(parts)), torch.tensor([0, *accumulate(map(len, parts))])
