"""Tune fusion weights on the validation set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, States
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.evaluation.evaluate import Progress
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, ndcg
from ssd4rec.evaluation.ranks import rank_targets, removed_at, rounding_of
from ssd4rec.evaluation.scoring import Ranker, encode_examples, evaluating, score_batch
from ssd4rec.fusion import ScoreFusion, look_up

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # candidates for the weight of the co-occurrence score
REPEAT_BIASES = (0.0, -1.0, 1.0, -2.0, 2.0, -4.0, 4.0, -8.0, 8.0, -16.0, -32.0)
TARGETS = 10_000  # at most, spread evenly over the users: each of some thirty fusions ranks all of them


@dataclass(frozen=True)
class TunedFusion:
    """The best fusion, and the metrics of the others."""

    fusion: ScoreFusion  # weight and repeat bias 0: the model alone is best
    alone: float  # NDCG@10 of the model alone
    ndcg: float  # with the fusion
    by_weight: Mapping[float, float]  # NDCG@10 of each weight, with the chosen repeat bias
    by_repeat_bias: Mapping[float, float]  # of each repeat bias, with the weight that was best without
    exclude_seen: bool  # whether items of the sequence were left out of the candidates

    def as_dict(self) -> dict[str, object]:
        """Return the metrics for JSON."""
        return {
            "exclude_seen": self.exclude_seen,
            "model_alone": self.alone,
            "cooccurrence": {f"{weight:g}": metric for weight, metric in self.by_weight.items()},
            "repeat_bias": {f"{bias:g}": metric for bias, metric in self.by_repeat_bias.items()},
        }


def tune_fusion(  # noqa: PLR0913 - the arguments of `evaluate`, and the candidates
    model: Ranker,
    rules: SequentialRules,
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

    The second and third step use the best value of the step before, the first of equally good ones. Sequences are encoded once.

    Args:
        model: encodes sequences and scores items.
        rules: co-occurrence counts of the model's training part.
        sequences: the events.
        examples: the validation part.
        weights: candidates for the weight of the co-occurrence score.
        repeat_bias: candidates for the repeat bias; the first one is used in the first step.
        exclude_seen: leave items of the sequence out of the candidates, except the target. The repeat bias changes no rank
            then, as in `evaluate`, and the first value is taken.
        token_budget: events encoded at once.
        progress: called with (targets done, all targets): while they are encoded, and while they are ranked in each step.
        world: the processes that share the work; None: this one alone.

    Raises:
        DivergedError: a score is not finite.
    """
    repeat_bias = repeat_bias[:1] if exclude_seen else repeat_bias
    single = _thinned(examples.prefixes())
    validation = _Validation(model, rules, sequences, single, token_budget, exclude_seen, progress, world or World())

    def at_weights(repeat: float) -> dict[float, float]:
        return dict(zip(weights, validation.ndcg([(weight, repeat) for weight in weights]), strict=True))

    by_weight = at_weights(repeat_bias[0])
    best = max(by_weight, key=by_weight.__getitem__)
    alone, *metrics = validation.ndcg([(0.0, 0.0), *((best, repeat) for repeat in repeat_bias)])
    by_repeat_bias = dict(zip(repeat_bias, metrics, strict=True))
    repeat = max(by_repeat_bias, key=by_repeat_bias.__getitem__)
    if repeat != repeat_bias[0]:
        by_weight = at_weights(repeat)
        best = max(by_weight, key=by_weight.__getitem__)
    return TunedFusion(ScoreFusion(rules, best, repeat), alone, by_weight[best], by_weight, by_repeat_bias, exclude_seen)


class ZeroScorer:
    """A model that scores every item 0, to evaluate a fusion alone.

    Args:
        catalog_size: V.
    """

    def __init__(self, catalog_size: int) -> None:
        self.item_vectors = torch.zeros(catalog_size, 1)

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:  # noqa: ARG002 - a Ranker reads items
        """Return zeros. [T] -> [B, 1]."""
        return self.item_vectors.new_zeros(len(cu_seqlens) - 1, 1)


class _Validation:
    """Examples that were encoded once, to be ranked with many fusions of the same rules."""

    def __init__(
        self,
        model: Ranker,
        rules: SequentialRules,
        sequences: Sequences,
        single: Examples,
        token_budget: int,
        exclude_seen: bool,  # noqa: FBT001 - private
        progress: Progress | None,
        world: World,
    ) -> None:
        self.model, self.rules, self.total, self.world = model, rules, len(single), world
        self.exclude_seen, self.progress = exclude_seen, progress
        with torch.inference_mode(), evaluating(model):
            self.batches = []
            for batch in encode_examples(model, sequences, single, token_budget, world):
                self.batches.append(batch)
                self._report(sum(len(each.rows) for each in self.batches))

    def ndcg(self, candidates: Sequence[tuple[float, float]]) -> list[float]:
        """Return NDCG@10 with each (weight, repeat bias)."""
        ranks: list[list[Tensor]] = [[torch.zeros(0, dtype=torch.int64)] for _ in candidates]
        done = 0
        with torch.inference_mode():
            for batch in self.batches:
                assert batch.states is not None  # noqa: S101 - the model is a Ranker
                targets = batch.packed.last_targets
                rounding = rounding_of(batch.states, self.model.item_vectors, targets)
                packed, full = (batch.packed.items, batch.packed.cu_seqlens), (batch.full.items, batch.full.cu_seqlens)
                for rows, scores, seen in score_batch(self.model, batch, exclude_seen=self.exclude_seen):
                    places = look_up(self.rules, *packed, rows, full)
                    fused = torch.empty_like(scores)
                    removed = None if seen is None else removed_at(seen, scores)
                    for of_candidate, (weight, repeat) in zip(ranks, candidates, strict=True):
                        ScoreFusion(self.rules, weight, 0.0 if self.exclude_seen else repeat).add(fused.copy_(scores), places)
                        of_candidate.append(rank_targets(fused, targets[rows], removed, rounding[rows]).cpu())
                done += len(targets)
                self._report(done)
        order = np.concatenate([np.zeros(0, np.int64), *(batch.rows for batch in self.batches)])
        return [ndcg(self.world.gather(torch.cat(each).numpy(), order, self.total), MONITORED_CUTOFF) for each in ranks]

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress(done, self.total)


def _thinned(single: Examples) -> Examples:
    if len(single) <= TARGETS:
        return single
    return single.take(np.linspace(0, len(single) - 1, TARGETS).astype(np.int64))
