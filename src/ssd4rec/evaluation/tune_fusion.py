"""Tune fusion weights on the validation set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd4rec._csr import evenly_spaced
from ssd4rec.array_types import CuSeqlens, Items, States
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.evaluation.evaluate import Progress
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, Ranks, mean_with_interval, ndcg
from ssd4rec.evaluation.ranks import check_targets, rank_targets, removed_at, rounding_of
from ssd4rec.evaluation.scoring import Ranker, encode_examples, evaluating, score_batch
from ssd4rec.fusion import ScoreFusion, look_up

# Candidates for the weight of the co-occurrence score. With the last one, the model only orders items of equal co-occurrence.
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 64.0)
REPEAT_BIASES = (0.0, -1.0, 1.0, -2.0, 2.0, -4.0, 4.0, -8.0, 8.0, -16.0, -32.0)
TARGETS = 10_000  # at most, spread evenly over the users: each of some thirty fusions ranks all of them

Candidate = tuple[float, float]  # weight, repeat bias
Gains = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TunedFusion:
    """The chosen fusion, and the metrics of the others."""

    fusion: ScoreFusion  # weight and repeat bias 0: the model alone is best
    alone: float  # NDCG@10 of the model alone
    ndcg: float  # with the fusion
    by_weight: Mapping[float, float]  # NDCG@10 of each weight, with the chosen repeat bias
    by_repeat_bias: Mapping[float, float]  # of each repeat bias, with the weight that was best without
    exclude_seen: bool  # whether items of the sequence were left out of the candidates
    gain: tuple[float, float, float]  # what the fusion adds to the mean gain of the model alone, and its 95 % interval
    by_pairs: Mapping[str, float] = field(default_factory=dict)  # the gain with each model of pairs, if several were tried

    def as_dict(self) -> dict[str, object]:
        """Return the metrics for JSON."""
        return {
            "exclude_seen": self.exclude_seen,
            "model_alone": self.alone,
            "cooccurrence": {f"{weight:g}": metric for weight, metric in self.by_weight.items()},
            "repeat_bias": {f"{bias:g}": metric for bias, metric in self.by_repeat_bias.items()},
            "gain": dict(zip(("mean", "low", "high"), self.gain, strict=True)),
            **({"cooccurrence_model": dict(self.by_pairs)} if self.by_pairs else {}),
        }


def gains_of(ranks: Ranks) -> Gains:
    """Return 1 / log2(rank + 1) of each target, without a cutoff.

    NDCG@10 is zero for most targets, so a few of them would decide between two fusions. Here every target counts.
    """
    gains: Gains = 1.0 / np.log2(ranks + 1.0)
    return gains


def best_candidate(gains: Mapping[Candidate, Gains]) -> Candidate:
    """Return the candidate with the largest mean gain, of equal ones the simplest.

    Of two candidates the one with fewer parts is simpler, then the one with the smaller weight, then the one with the smaller
    bias. To prefer a simpler one where the difference is small was measured, and costs accuracy; see the research log.

    Args:
        gains: of each (weight, repeat bias), of the same targets in the same order.
    """
    simplest_first = sorted(gains, key=lambda each: ((each[0] != 0) + (each[1] != 0), each[0], abs(each[1])))
    return max(simplest_first, key=lambda each: float(gains[each].mean()))


def tune_fusion(  # noqa: PLR0913 - the arguments of `evaluate`, and the candidates
    model: Ranker,
    pairs: ItemPairs,
    sequences: Sequences,
    examples: Examples,
    *,
    weights: Sequence[float] = WEIGHTS,
    repeat_bias: Sequence[float] = REPEAT_BIASES,
    exclude_seen: bool = False,
    token_budget: int = 32768,
    progress: Progress | None = None,
    world: World | None = None,
) -> TunedFusion:
    """Rank the targets with each weight, then with each repeat bias, then with each weight again.

    The second and third step use the best value of the step before. A gain of all ranks decides which one is best, see
    `gains_of`, and of equally good candidates the simplest is chosen. Sequences are encoded once.

    `weights` and `repeat_bias` are the candidates for the weight of the co-occurrence score and for the repeat bias, of which the
    first one is used in the first step; with `exclude_seen` a repeat bias changes no rank, and the first value is taken. `pairs`
    is the co-occurrence model of the same training set. The other arguments are those of `evaluate`; `progress` is called while
    the targets are encoded, and while they are ranked in each step.

    Raises:
        DivergedError: a score is not finite.
    """
    repeat_bias = repeat_bias[:1] if exclude_seen else repeat_bias
    single = examples.prefixes()
    single = single.take(evenly_spaced(len(single), TARGETS))
    validation = _Validation(model, pairs, sequences, single, token_budget, exclude_seen, progress, world or World())

    def best_of(candidates: Sequence[Candidate]) -> Candidate:
        return candidates[int(np.argmax([gains_of(ranks).mean() for ranks in validation.ranks_of(candidates)]))]

    weight, _ = best_of([(each, repeat_bias[0]) for each in weights])
    by_bias = [(weight, each) for each in repeat_bias]
    _, repeat = best_of(by_bias)
    best_of([(each, repeat) for each in weights])
    best = best_candidate({each: gains_of(ranks) for each, ranks in validation.ranks.items()})
    alone, own, *_ = validation.ranks_of([(0.0, 0.0), best, *((each, best[1]) for each in weights)])
    return TunedFusion(
        ScoreFusion(pairs, *best),
        alone=ndcg(alone, MONITORED_CUTOFF),
        ndcg=ndcg(own, MONITORED_CUTOFF),
        by_weight={each: ndcg(validation.ranks[each, best[1]], MONITORED_CUTOFF) for each in weights},
        by_repeat_bias={each: ndcg(validation.ranks[weight, each], MONITORED_CUTOFF) for each in repeat_bias},
        exclude_seen=exclude_seen,
        gain=mean_with_interval(gains_of(own) - gains_of(alone)),
    )


class ZeroScorer:
    """A model that scores every item 0, to evaluate a fusion alone."""

    def __init__(self, catalog_size: int) -> None:
        self.item_vectors = torch.zeros(catalog_size, 1)

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:  # noqa: ARG002 - a Ranker reads items
        """Return zeros. [T] -> [B, 1]."""
        return self.item_vectors.new_zeros(len(cu_seqlens) - 1, 1)


class _Validation:
    """Examples that were encoded once, to be ranked with many fusions with the same pairs."""

    def __init__(
        self,
        model: Ranker,
        pairs: ItemPairs,
        sequences: Sequences,
        single: Examples,
        token_budget: int,
        exclude_seen: bool,  # noqa: FBT001 - private
        progress: Progress | None,
        world: World,
    ) -> None:
        self.model, self.pairs, self.total, self.world = model, pairs, len(single), world
        self.exclude_seen, self.progress = exclude_seen, progress
        self.ranks: dict[Candidate, Ranks] = {}
        with torch.inference_mode(), evaluating(model):
            self.batches = []
            for batch in encode_examples(model, sequences, single, token_budget, world):
                self.batches.append(batch)
                self._report(sum(len(each.rows) for each in self.batches))

    def ranks_of(self, candidates: Sequence[Candidate]) -> list[Ranks]:
        """Return the ranks of the targets with each (weight, repeat bias); those that are known are not computed again."""
        missing = [each for each in dict.fromkeys(candidates) if each not in self.ranks]
        if missing:
            self.ranks |= dict(zip(missing, self._rank(missing), strict=True))
        return [self.ranks[each] for each in candidates]

    def _rank(self, candidates: Sequence[Candidate]) -> list[Ranks]:
        ranks: list[list[Tensor]] = [[torch.zeros(0, dtype=torch.int64)] for _ in candidates]
        done = 0
        with torch.inference_mode():
            for batch in self.batches:
                assert batch.states is not None  # noqa: S101 - the model is a Ranker
                targets = batch.packed.last_targets
                check_targets(targets, len(self.model.item_vectors))
                rounding = rounding_of(batch.states, self.model.item_vectors, targets)
                packed, full = (batch.packed.items, batch.packed.cu_seqlens), (batch.full.items, batch.full.cu_seqlens)
                for rows, scores, seen in score_batch(self.model, batch, exclude_seen=self.exclude_seen):
                    places = look_up(self.pairs, *packed, rows, full)
                    fused = torch.empty_like(scores)
                    removed = None if seen is None else removed_at(seen, scores)
                    for of_candidate, (weight, repeat) in zip(ranks, candidates, strict=True):
                        ScoreFusion(self.pairs, weight, 0.0 if self.exclude_seen else repeat).add(fused.copy_(scores), places)
                        of_candidate.append(rank_targets(fused, targets[rows], removed, rounding[rows]).cpu())
                done += len(targets)
                self._report(done)
        order = np.concatenate([np.zeros(0, np.int64), *(batch.rows for batch in self.batches)])
        return [self.world.gather(torch.cat(each).numpy(), order, self.total) for each in ranks]

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress(done, self.total)
