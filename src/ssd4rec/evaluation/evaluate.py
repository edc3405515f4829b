"""Evaluate a model on a part of the split, and report under a protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from ssd4rec._csr import IntArray
from ssd4rec.config import TieOrder
from ssd4rec.data.request_times import RequestTime
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.concentration import popularity_thirds
from ssd4rec.evaluation.lists import LIST_LENGTH, ListProperties, measure_lists
from ssd4rec.evaluation.metrics import METRICS, Ranks, hit_rate, mean_with_interval, mrr, ndcg, ndcg_gains
from ssd4rec.evaluation.ranks import TopLists, rank_examples
from ssd4rec.evaluation.scoring import Ranker, Scorer, catalog_size_of, reads_request_times
from ssd4rec.fusion import ScoreFusion

Progress = Callable[[int, int], None]  # (done, all)
NO_RANK = 2**53  # of a target that is not among the candidates; beyond every cutoff

RARE = 10  # training events; items with fewer are a group of targets of their own


@dataclass(frozen=True)
class EvaluationProtocol:
    """Everything that decides whether two metrics are comparable."""

    split: str  # "leave-last-out", or the moments of a split by time
    candidates: str  # the items that the target is ranked among
    exclude_seen: bool  # whether items of the history are left out of the candidates
    ties: str  # how equal scores count
    k_core: int  # k of the filter before the split
    tie_order: TieOrder  # order of a user's simultaneous events, which decides which one is the last
    max_length: int | None  # most events of a sequence that the model reads (its own window may be shorter); None: all
    targets: int  # number of ranked targets
    request_time: str | None = None  # "known", "unknown" or "shuffled"; None: the model does not read times

    def as_dict(self) -> dict[str, object]:
        """Return the values for JSON."""
        values = asdict(self)
        if self.request_time is None:
            del values["request_time"]
        return values


@dataclass(frozen=True)
class Group:
    """Metrics of some of the targets."""

    name: str
    targets: int
    hit_rate: float  # at the first cutoff
    ndcg: float


@dataclass(frozen=True)
class Ranking:
    """The ranks of all targets, and their metrics."""

    ranks: Ranks  # [targets], 1-based, in the order of the examples
    cutoffs: tuple[int, ...]
    protocol: EvaluationProtocol
    by_length: tuple[Group, ...]  # events of the user before the target
    by_popularity: tuple[Group, ...]  # training events of the target
    lists: ListProperties | None = None  # None: the training events are not known

    @property
    def hit_rate(self) -> Mapping[int, float]:
        """HR at each cutoff."""
        return {cutoff: hit_rate(self.ranks, cutoff) for cutoff in self.cutoffs}

    @property
    def ndcg(self) -> Mapping[int, float]:
        """NDCG at each cutoff."""
        return {cutoff: ndcg(self.ranks, cutoff) for cutoff in self.cutoffs}

    @property
    def mrr(self) -> Mapping[int, float]:
        """MRR at each cutoff."""
        return {cutoff: mrr(self.ranks, cutoff) for cutoff in self.cutoffs}

    def as_dict(self) -> dict[str, float]:
        """Return all metrics at all cutoffs: {"hr@10": …, "ndcg@10": …, "mrr@10": …, "hr@20": …}."""
        return {f"{name}@{cutoff}": metric(self.ranks, cutoff) for cutoff in self.cutoffs for name, metric in METRICS.items()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return 95 % intervals of HR and NDCG at each cutoff over the targets, by the normal approximation."""
        intervals = {}
        for cutoff in self.cutoffs:
            for name, values in (("hr", (self.ranks <= cutoff).astype(np.float64)), ("ndcg", ndcg_gains(self.ranks, cutoff))):
                _, low, high = mean_with_interval(values)
                intervals[f"{name}@{cutoff}"] = (max(low, 0.0), min(high, 1.0))
        return intervals

    def with_misses(self, count: int) -> "Ranking":
        """Add targets that cannot be ranked, such as items outside of the catalog, as misses; the groups stay as they are."""
        if not count:
            return self
        ranks = np.concatenate([self.ranks, np.full(count, NO_RANK, dtype=np.int64)])
        return replace(self, ranks=ranks, protocol=replace(self.protocol, targets=len(ranks)))

    def report(self) -> dict[str, object]:
        """Return the part of a report that `ssd4rec evaluate` shows, as JSON values; groups are at the first cutoff."""
        return {
            "protocol": self.protocol.as_dict(),
            "test": self.as_dict(),
            "test_groups": {
                "by_length": [asdict(group) for group in self.by_length],
                "by_popularity": [asdict(group) for group in self.by_popularity],
            },
            **self.report_lists(),
        }

    def report_lists(self) -> dict[str, object]:
        """Return the part of a report about the recommended lists, as JSON values."""
        return {} if self.lists is None else {"lists": asdict(self.lists)}


def make_protocol(
    sequences: Sequences, examples: Examples, catalog_size: int, *, split: str, exclude_seen: bool = False
) -> EvaluationProtocol:
    """Return the protocol under which the targets of a part of a split are ranked; see `EvaluationProtocol`."""
    single = examples.prefixes()
    return EvaluationProtocol(
        split=split,
        candidates=f"whole catalog, {catalog_size} items",
        exclude_seen=exclude_seen,
        ties="worst rank",
        k_core=sequences.filtering.k,
        tie_order=sequences.tie_order,
        max_length=_longest_cut(sequences, single),
        targets=len(single),
    )


def evaluate(  # noqa: PLR0913 - the parts of a protocol
    model: Ranker | Scorer,
    sequences: Sequences,
    examples: Examples,
    *,
    cutoffs: Sequence[int] = (10, 20),
    exclude_seen: bool = False,
    split: str = "unknown",
    token_budget: int = 32768,
    training_counts: IntArray | None = None,
    progress: Progress | None = None,
    fusion: ScoreFusion | None = None,
    world: World | None = None,
    request_time: RequestTime = "known",
) -> Ranking:
    """Rank every target among the whole catalog, in memory that does not grow with the number of users.

    Args:
        model: encodes sequences and scores items.
        sequences: the events.
        examples: the part of the split; each target is ranked on its own.
        cutoffs: k of the metrics.
        exclude_seen: leave the items of the sequence out of the candidates, except the target itself: all events before the
            target count, however many of them the model reads. False is the protocol of most papers.
        split: how the examples were made, for the protocol.
        token_budget: events encoded at once.
        training_counts: [V + 1] training events of each item index, for the groups by popularity and the properties of lists.
        progress: called with (targets ranked, all targets).
        fusion: score fusion, for a `Ranker`. With `exclude_seen` its repeat bias is not applied: the target is the only seen
            item among the candidates, so the bias would point at it.
        world: the processes that share the work; None: this one alone.
        request_time: the times for a model with `backbone.request_time`: "known", those of the targets; "unknown", none;
            "shuffled", each target gets the time of another one. Others do not read times. Metrics with known times are a
            protocol of their own: a model that answers before the request cannot have them.

    Returns:
        The ranks in the order of the examples, and the metrics.

    Raises:
        ConfigError: no cutoffs, or one below 1; fusion with a `Scorer`.
        DataError: there is nothing to rank.
        DivergedError: a score is not finite.
        ShapeError: sequences and model do not have the same catalog.
    """
    if not cutoffs or min(cutoffs) < 1:
        raise ConfigError(f"cutoffs are ranks, 1 or more, e.g. (10, 20); found {tuple(cutoffs)}")
    if fusion and isinstance(model, Scorer):
        raise ConfigError(
            f"score fusion needs scores that are products of states and item vectors, and {type(model).__name__} has none; "
            f"evaluate it without fusion"
        )
    single = examples.prefixes()
    if not len(single):
        raise DataError("nothing to evaluate: this part of the split has no targets; check the split and the k-core")
    if exclude_seen and fusion is not None:
        fusion = replace(fusion, repeat_bias=0.0)
    lists = None if training_counts is None else TopLists(len(single), min(LIST_LENGTH, catalog_size_of(model)))
    ranks = rank_examples(
        model,
        sequences,
        single,
        token_budget,
        exclude_seen=exclude_seen,
        fusion=fusion,
        world=world,
        progress=progress,
        lists=lists,
        request_time=request_time,
    )
    protocol = make_protocol(sequences, single, catalog_size_of(model), split=split, exclude_seen=exclude_seen)
    if reads_request_times(model):
        protocol = replace(protocol, request_time=request_time)
    by_popularity: tuple[Group, ...] = ()
    properties = None
    if training_counts is not None and lists is not None:
        properties = measure_lists(lists.items, sequences, single, training_counts)
        popularity = training_counts[sequences.items[single.first_target]]
        by_popularity = _by_popularity(ranks, popularity, training_counts, cutoffs[0])
    by_length = _by_length(ranks, single.first_target - sequences.offsets[single.user], cutoffs[0])
    return Ranking(ranks, tuple(cutoffs), protocol, by_length, by_popularity, properties)


def _longest_cut(sequences: Sequences, single: Examples) -> int | None:
    """Return how many events were read of the sequences that were cut; None if none was."""
    cut = single.start > sequences.offsets[single.user]
    return int((single.first_target - single.start)[cut].max()) if cut.any() else None


def _by_length(ranks: Ranks, lengths: IntArray, cutoff: int) -> tuple[Group, ...]:
    edges = (1, 5, 10, 20, 50, 100, 200)
    names = [f"{low}-{high - 1} events" for low, high in pairwise(edges)]
    return _groups(ranks, lengths, edges, [*names, f"{edges[-1]}+ events"], cutoff)


def _by_popularity(ranks: Ranks, popularity: IntArray, counts: IntArray, cutoff: int) -> tuple[Group, ...]:
    """Return a group each for the head, the middle and the tail of the catalog; see `popularity_thirds`.

    Items with equally many events are in the same group. Items with fewer than `RARE` events are a group of their own where
    the tail has more.
    """
    middle, head = popularity_thirds(counts[1:])
    least = RARE if middle > RARE else 1  # 1: no item is rare
    names = (
        "never seen in training",
        f"rare, 1-{least - 1} training events",
        f"tail, {least}-{middle - 1} training events",
        f"middle, {middle}-{head - 1} training events",
        f"head, {head}+ training events",
    )
    return _groups(ranks, popularity, (0, 1, least, middle, head), names, cutoff)


def _groups(ranks: Ranks, values: IntArray, edges: Sequence[int], names: Sequence[str], cutoff: int) -> tuple[Group, ...]:
    """Group targets by a value of each: those from one edge to the next have one name. Groups without targets are left out."""
    place = np.searchsorted(edges, values, side="right") - 1
    members = {name: ranks[place == index] for index, name in enumerate(names)}
    return tuple(
        Group(name, len(each), hit_rate(each, cutoff), ndcg(each, cutoff)) for name, each in members.items() if len(each)
    )
