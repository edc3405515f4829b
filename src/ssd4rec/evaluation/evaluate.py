"""Rank every target of a part of the split, and report under a protocol."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from ssd4rec.config import Seen
from ssd4rec.data.histories import Histories
from ssd4rec.data.packing import Numbers, pack
from ssd4rec.data.split import Examples
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.metrics import Ranks, hit_rate, mrr, ndcg
from ssd4rec.evaluation.ranks import ranks_of_states
from ssd4rec.shapes import Boundaries, Items, States

Progress = Callable[[int, int], None]  # (done, all)


class Ranker(Interface):
    """What can be measured: it reads histories and scores the catalogue."""

    @property
    def item_vectors(self) -> Tensor:
        """[V, D]: row j is the vector of item number j + 1."""
        ...

    def encode(self, items: Items, boundaries: Boundaries) -> States:
        """[T] packed histories -> [B, D]; the score of an item is the product with its vector."""
        ...


@dataclass(frozen=True)
class Protocol:
    """What decides whether two figures may be compared."""

    split: str  # "leave-last-out", or the moments of a split by time
    candidates: str  # what the target is ranked among
    seen: Seen  # whether items of the history stay among the candidates
    ties: str  # whose favour equal scores count in
    k_core: int  # k of the filter before the split
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
    protocol: Protocol
    by_length: tuple[Group, ...]  # events that were read
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
            figures[f"hr@{cutoff}"] = self.hit_rate[cutoff]
            figures[f"ndcg@{cutoff}"] = self.ndcg[cutoff]
            figures[f"mrr@{cutoff}"] = self.mrr[cutoff]
        return figures

    def groups_as_dict(self) -> dict[str, list[dict[str, object]]]:
        """JSON-able groups; `hit_rate` and `ndcg` are at the first cut-off."""
        return {
            "by_length": [asdict(group) for group in self.by_length],
            "by_popularity": [asdict(group) for group in self.by_popularity],
        }


def refuse_other_protocol(ours: Protocol, theirs: Protocol) -> None:
    """Two figures may be compared only if they answer the same question.

    Raises:
        ConfigError: they do not; it names what differs.
    """
    mine, other = ours.as_dict(), theirs.as_dict()
    if different := [f"{key} {mine[key]!r} against {other[key]!r}" for key in mine if mine[key] != other[key]]:
        raise ConfigError(f"these figures cannot be compared: {'; '.join(different)}; measure both under one protocol")


def evaluate(  # noqa: PLR0913 - the parts of a protocol
    model: Ranker,
    histories: Histories,
    examples: Examples,
    *,
    cutoffs: Sequence[int] = (10, 20),
    seen: Seen = "kept",
    split: str = "leave-last-out",
    token_budget: int = 32768,
    training_counts: Numbers | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank every target among the whole catalogue, in memory that does not grow with the number of users.

    Args:
        model: reads histories and scores items.
        histories: where the items lie.
        examples: what is read and asked; each target is asked on its own.
        cutoffs: k of the metrics.
        seen: "kept": items of the history can be recommended again (the field's protocol); "filtered": they are no candidates,
            but for the target itself.
        split: how the examples came about, for the protocol.
        token_budget: events read at once.
        training_counts: [V + 1] training events of each item number, for the groups by popularity.
        progress: called with (targets ranked, all targets).

    Returns:
        The ranks in the order of the examples, and the figures.

    Raises:
        DataError: there is nothing to rank, or the model's scores are not numbers.
    """
    single = examples.prefixes()
    if not len(single):
        raise DataError("nothing to evaluate: this part of the split has no targets; check the split and the k-core")
    ranks = []
    with torch.inference_mode(), _evaluating(model):
        vectors = model.item_vectors
        done = 0
        for batch in pack(histories, single, token_budget):
            on_device = batch.to(vectors.device)
            states = model.encode(on_device.items, on_device.boundaries)
            targets = on_device.targets[on_device.boundaries[1:] - 1]
            lengths = on_device.boundaries.diff()
            rows = torch.repeat_interleave(lengths) if seen == "filtered" else None
            ranks.append(ranks_of_states(states, vectors, targets, on_device.items if rows is not None else None, rows).cpu())
            done += len(targets)
            if progress:
                progress(done, len(single))
    found = torch.cat(ranks).numpy()
    candidates = f"whole catalogue, {vectors.shape[0]} items"
    protocol = Protocol(split, candidates, seen, "worst rank", histories.filtering.k, len(found))
    first = cutoffs[0]
    lengths_read = single.stop - 1 - single.start
    popularity = None if training_counts is None else training_counts[histories.items[single.stop - 1]]
    return Ranking(
        found,
        tuple(cutoffs),
        protocol,
        tuple(_by_length(found, lengths_read, first)),
        () if popularity is None or training_counts is None else tuple(_by_popularity(found, popularity, training_counts, first)),
    )


def _by_length(ranks: Ranks, lengths: Numbers, cutoff: int) -> Iterator[Group]:
    edges = [1, 5, 10, 20, 50, 100, 200]
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        name = f"{low}+ events" if high is None else f"{low}-{high - 1} events"
        yield from _group(name, ranks[(lengths >= low) & (lengths < (high or np.inf))], cutoff)


def _by_popularity(ranks: Ranks, popularity: Numbers, counts: Numbers, cutoff: int) -> Iterator[Group]:
    """Head: the items that together make up a third of the training events; middle: the next third; tail: the rest."""
    yield from _group("never seen in training", ranks[popularity == 0], cutoff)
    rising = np.sort(counts[1:])
    share = np.cumsum(rising) / max(rising.sum(), 1)
    edges = np.searchsorted(share, [1 / 3, 2 / 3]).clip(max=len(rising) - 1)
    low, high = rising[edges].tolist()
    yield from _group(f"tail, 1-{low} training events", ranks[(popularity > 0) & (popularity <= low)], cutoff)
    yield from _group(f"middle, {low + 1}-{high} training events", ranks[(popularity > low) & (popularity <= high)], cutoff)
    yield from _group(f"head, more than {high} training events", ranks[popularity > high], cutoff)


def _group(name: str, ranks: Ranks, cutoff: int) -> Iterator[Group]:
    if len(ranks):
        yield Group(name, len(ranks), hit_rate(ranks, cutoff), ndcg(ranks, cutoff))


class _evaluating:  # noqa: N801 - reads as a word of the with statement
    """Dropout off inside, and afterwards as it was."""

    def __init__(self, model: Ranker) -> None:
        self._module = model if isinstance(model, torch.nn.Module) else None

    def __enter__(self) -> None:
        if self._module is not None:
            self._was_training = self._module.training
            self._module.eval()

    def __exit__(self, *_: object) -> None:
        if self._module is not None:
            self._module.train(self._was_training)
