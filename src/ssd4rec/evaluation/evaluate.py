"""Rank every target of a part of the split, and report under a protocol."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec.array_types import CuSeqlens, Items, Scores, States
from ssd4rec.config import TieOrder
from ssd4rec.data.packing import pack_with_full_history
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.errors import ConfigError, DataError, ShapeError
from ssd4rec.evaluation.metrics import Ranks, hit_rate, mrr, ndcg
from ssd4rec.evaluation.ranks import raised_by_repeats, ranks_from_blocks, ranks_from_states
from ssd4rec.fusion import ScoreFusion

Progress = Callable[[int, int], None]  # (done, all)
NO_RANK = 2**53  # of a target that is not among the candidates; beyond every cutoff


class Ranker(Protocol):
    """What can be measured: it reads histories and scores the catalog."""

    @property
    def item_vectors(self) -> Tensor:
        """[V, D]: row j is the vector of item number j + 1."""
        ...

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """[T] packed histories -> [B, D]; the score of an item is the product with its vector."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """What can be measured although its scores are no products."""

    catalog_size: int

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """[T] packed histories -> which of them, and their scores [rows, V], a few at a time."""
        ...


@dataclass(frozen=True)
class EvaluationProtocol:
    """What decides whether two figures may be compared."""

    split: str  # "leave-last-out", or the moments of a split by time
    candidates: str  # what the target is ranked among
    exclude_seen: bool  # whether items of the history are left out of the candidates
    ties: str  # whose favor equal scores count in
    k_core: int  # k of the filter before the split
    tie_order: TieOrder  # what orders a user's events at the same time, and so decides which is the last one
    max_length: int | None  # events that the model was given of a longer history (its own window may be shorter); None: all
    targets: int  # how many were ranked

    def as_dict(self) -> dict[str, object]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """Some of the targets."""

    name: str
    targets: int
    hit_rate: float  # at the first cut-off
    ndcg: float


@dataclass(frozen=True)
class Ranking:
    """The ranks of all targets, and what is said of them."""

    ranks: Ranks  # [targets], 1-based, in the order of the examples
    cutoffs: tuple[int, ...]
    protocol: EvaluationProtocol
    by_length: tuple[Group, ...]  # events of the user before the target
    by_popularity: tuple[Group, ...]  # training events of the target

    @property
    def hit_rate(self) -> Mapping[int, float]:
        """HR at each cut-off."""
        return {cutoff: hit_rate(self.ranks, cutoff) for cutoff in self.cutoffs}

    @property
    def ndcg(self) -> Mapping[int, float]:
        """NDCG at each cut-off."""
        return {cutoff: ndcg(self.ranks, cutoff) for cutoff in self.cutoffs}

    @property
    def mrr(self) -> Mapping[int, float]:
        """MRR at each cut-off."""
        return {cutoff: mrr(self.ranks, cutoff) for cutoff in self.cutoffs}

    def as_dict(self) -> dict[str, float]:
        """{"hr@10": …, "ndcg@10": …, "mrr@10": …, "hr@20": …}."""
        figures = {}
        for cutoff in self.cutoffs:
            figures[f"hr@{cutoff}"] = hit_rate(self.ranks, cutoff)
            figures[f"ndcg@{cutoff}"] = ndcg(self.ranks, cutoff)
            figures[f"mrr@{cutoff}"] = mrr(self.ranks, cutoff)
        return figures

    def with_misses(self, count: int) -> "Ranking":
        """Add targets that cannot be ranked, such as items outside of the catalog, as misses; the groups stay as they are."""
        if not count:
            return self
        ranks = np.concatenate([self.ranks, np.full(count, NO_RANK, dtype=np.int64)])
        return replace(self, ranks=ranks, protocol=replace(self.protocol, targets=len(ranks)))

    def report(self) -> dict[str, object]:
        """JSON-able: the part of an artifact's report that `ssd4rec evaluate` shows; groups are at the first cut-off."""
        return {
            "protocol": self.protocol.as_dict(),
            "test": self.as_dict(),
            "test_groups": {
                "by_length": [asdict(group) for group in self.by_length],
                "by_popularity": [asdict(group) for group in self.by_popularity],
            },
        }


def make_protocol(
    histories: Sequences, examples: Examples, catalog_size: int, *, split: str, exclude_seen: bool = False
) -> EvaluationProtocol:
    """Under which protocol the targets of a part of a split are ranked.

    Args:
        histories: where the items lie.
        examples: what is read and asked.
        catalog_size: V.
        split: how the examples came about.
        exclude_seen: whether items of the history are left out of the candidates; training never excludes them in validation.
    """
    single = examples.prefixes()
    return EvaluationProtocol(
        split=split,
        candidates=f"whole catalog, {catalog_size} items",
        exclude_seen=exclude_seen,
        ties="worst rank",
        k_core=histories.filtering.k,
        tie_order=histories.tie_order,
        max_length=_longest_cut(histories, single),
        targets=len(single),
    )


def evaluate(  # noqa: PLR0913 - the parts of a protocol
    model: Ranker | Scorer,
    histories: Sequences,
    examples: Examples,
    *,
    cutoffs: Sequence[int] = (10, 20),
    exclude_seen: bool = False,
    split: str = "not said",
    token_budget: int = 32768,
    training_counts: IntArray | None = None,
    progress: Progress | None = None,
    fusion: ScoreFusion | None = None,
) -> Ranking:
    """Rank every target among the whole catalog, in memory that does not grow with the number of users.

    Args:
        model: reads histories and scores items.
        histories: where the items lie.
        examples: what is read and asked; each target is asked on its own.
        cutoffs: k of the metrics.
        exclude_seen: leave the items of the history out of the candidates, except the target itself: all events before the
            target count, however many of them the model reads. False is the protocol of most papers.
        split: how the examples came about, for the protocol.
        token_budget: events read at once.
        training_counts: [V + 1] training events of each item number, for the groups by popularity.
        progress: called with (targets ranked, all targets).
        fusion: what is known without learning, added to the scores of a `Ranker`. Where seen items are filtered its `repeat_bias`
            are left out: the target is the only seen item among the candidates, and they would point at it.

    Returns:
        The ranks in the order of the examples, and the figures.

    Raises:
        ConfigError: there is no cut-off, or one below 1; a fusion beside a `Scorer`.
        DataError: there is nothing to rank.
        DivergedError: the model's scores are not numbers.
        ShapeError: histories and model are not of the same catalog.
    """
    if not cutoffs or min(cutoffs) < 1:
        raise ConfigError(f"cutoffs are ranks, 1 or more, e.g. (10, 20); found {tuple(cutoffs)}")
    if fusion and isinstance(model, Scorer):
        raise ConfigError(
            f"a fusion raises scores that are products of states and item vectors, and {type(model).__name__} has none; "
            f"measure it without one"
        )
    single = examples.prefixes()
    if not len(single):
        raise DataError("nothing to evaluate: this part of the split has no targets; check the split and the k-core")
    if exclude_seen and fusion is not None:
        fusion = replace(fusion, repeat_bias=0.0)
    ranks = _rank(
        model, histories, single, token_budget, exclude_seen=exclude_seen, progress=progress or _in_silence, fusion=fusion
    )
    protocol = make_protocol(histories, single, _catalog_size(model), split=split, exclude_seen=exclude_seen)
    by_popularity: Iterable[Group] = ()
    if training_counts is not None:
        popularity = training_counts[histories.items[single.first_target]]
        by_popularity = _by_popularity(ranks, popularity, training_counts, cutoffs[0])
    by_length = _by_length(ranks, single.first_target - histories.offsets[single.user], cutoffs[0])
    return Ranking(ranks, tuple(cutoffs), protocol, tuple(by_length), tuple(by_popularity))


def _rank(
    model: Ranker | Scorer,
    histories: Sequences,
    single: Examples,
    token_budget: int,
    *,
    exclude_seen: bool,
    progress: Progress,
    fusion: ScoreFusion | None,
) -> Ranks:
    ranks, done = [], 0
    with torch.inference_mode(), evaluating(model):
        _check_catalog(histories, _catalog_size(model))
        device = torch.device("cpu") if isinstance(model, Scorer) else model.item_vectors.device
        for batch, past in pack_with_full_history(histories, single, token_budget, device):
            read, targets, had = (batch.items, batch.cu_seqlens), batch.last_targets, (past.items, past.cu_seqlens)
            seen = had if exclude_seen else None
            if isinstance(model, Scorer):
                ranked = ranks_from_blocks(model.score_blocks(*read), targets, seen)
            else:
                fused = partial(fusion.raised, items=batch.items, cu_seqlens=batch.cu_seqlens, seen=had) if fusion else None
                states = model.encode(*read)
                raised = raised_by_repeats(model, states, *had, then=fused)
                ranked = ranks_from_states(states, model.item_vectors, targets, seen, raised)
            ranks.append(ranked.cpu())
            done += len(targets)
            progress(done, len(single))
    return torch.cat(ranks).numpy()


def _catalog_size(model: Ranker | Scorer) -> int:
    return model.catalog_size if isinstance(model, Scorer) else int(model.item_vectors.shape[0])


def _check_catalog(histories: Sequences, items: int) -> None:
    if (largest := int(histories.items.max())) > items:
        raise ShapeError(
            f"the histories have item numbers up to {largest}, the model scores {items} items; "
            f"give histories of the catalog that the model was made for"
        )


def _longest_cut(histories: Sequences, single: Examples) -> int | None:
    """How much was read of the histories that were not read from their first event."""
    cut = single.start > histories.offsets[single.user]
    return int((single.first_target - single.start)[cut].max()) if cut.any() else None


def _by_length(ranks: Ranks, lengths: IntArray, cutoff: int) -> Iterator[Group]:
    edges = [1, 5, 10, 20, 50, 100, 200]
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        name = f"{low}+ events" if high is None else f"{low}-{high - 1} events"
        yield from _group(name, ranks[(lengths >= low) & (lengths < (high or np.inf))], cutoff)


def _by_popularity(ranks: Ranks, popularity: IntArray, counts: IntArray, cutoff: int) -> Iterator[Group]:
    """Head: the fewest items that make up a third of the training events; middle: those up to two thirds; tail: the rest.

    Items with equally many events are in one group.
    """
    yield from _group("never seen in training", ranks[popularity == 0], cutoff)
    falling = np.sort(counts[1:])[::-1]
    thirds = np.searchsorted(3 * np.cumsum(falling), [falling.sum(), 2 * falling.sum()])
    head, middle = np.maximum(falling[thirds], 1).tolist()
    yield from _group(f"tail, 1-{middle - 1} training events", ranks[(popularity > 0) & (popularity < middle)], cutoff)
    yield from _group(f"middle, {middle}-{head - 1} training events", ranks[(popularity >= middle) & (popularity < head)], cutoff)
    yield from _group(f"head, {head}+ training events", ranks[popularity >= head], cutoff)


def _group(name: str, ranks: Ranks, cutoff: int) -> Iterator[Group]:
    if len(ranks):
        yield Group(name, len(ranks), hit_rate(ranks, cutoff), ndcg(ranks, cutoff))


@contextmanager
def evaluating(model: Ranker | Scorer) -> Iterator[None]:
    """Dropout off inside; afterwards every part is in the mode that it was in."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if isinstance(model, torch.nn.Module):
            model.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _in_silence(done: int, total: int) -> None:
    del done, total
