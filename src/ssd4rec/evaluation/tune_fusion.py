"""How much what was counted, and what was had before, should change a trained model's scores: validation decides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, States
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.data.packing import PackedBatch, pack_with_full_history
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.evaluation.evaluate import Progress, Ranker, evaluating
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, ndcg
from ssd4rec.evaluation.ranks import raised_by_repeats, rank_targets, removed_at, rounding_of, score_blocks
from ssd4rec.fusion import ScoreFusion, look_up

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of rules, those that are tried
REPEAT_BIASES = (0.0, -1.0, 1.0, -2.0, 2.0, -4.0, 4.0, -8.0, 8.0, -16.0, -32.0)
TARGETS = 10_000  # that decide at most, spread evenly over the users: each of some thirty fusions ranks all of them


@dataclass(frozen=True)
class TunedFusion:
    """The fusion that did best, and how the others did."""

    fusion: ScoreFusion  # of weight 0 and repeat_bias 0: the model alone is best
    alone: float  # NDCG@10 of the model alone
    ndcg: float  # with the fusion
    by_weight: Mapping[float, float]  # NDCG@10 at each weight that was tried, with the chosen repeat_bias
    by_repeat_bias: Mapping[float, float]  # at each number for repeat_bias, with the weight that was best without
    exclude_seen: bool  # whether items of the history were left out of the candidates

    def as_dict(self) -> dict[str, object]:
        """JSON-able figures."""
        return {
            "exclude_seen": self.exclude_seen,
            "model_alone": self.alone,
            "cooccurrence": {f"{each:g}": figure for each, figure in self.by_weight.items()},
            "repeat_bias": {f"{each:g}": figure for each, figure in self.by_repeat_bias.items()},
        }


def tune_fusion(  # noqa: PLR0913 - what `evaluate` takes, and what to choose from
    model: Ranker,
    rules: SequentialRules,
    histories: Sequences,
    examples: Examples,
    *,
    weights: Sequence[float] = WEIGHTS,
    repeat_bias: Sequence[float] = REPEAT_BIASES,
    exclude_seen: bool = False,
    token_budget: int = 32768,
    progress: Progress | None = None,
) -> TunedFusion:
    """Rank the targets at each weight, then with each number for repeat_bias, then at each weight again.

    The second and third step take the best of the step before, the first of equally good ones. The histories are read once.

    Args:
        model: reads histories and scores items.
        rules: what was counted, in what the model learned from.
        histories: where the items lie.
        examples: the validation part.
        weights: of rules, those to choose from.
        repeat_bias: the numbers to choose from; the first one holds in the first step.
        exclude_seen: leave items of the history out of the candidates, except the target. The repeat bias changes no rank
            then, as in `evaluate`, and the first value is taken.
        token_budget: events read at once.
        progress: called with (targets done, all targets): while they are read, and while they are ranked in each step.

    Raises:
        DivergedError: the model's scores are not numbers.
    """
    repeat_bias = repeat_bias[:1] if exclude_seen else repeat_bias
    asked = _Asked(
        model, rules, histories, _thinned(examples.prefixes()), token_budget, exclude_seen=exclude_seen, progress=progress
    )

    def at_weights(repeat: float) -> dict[float, float]:
        return dict(zip(weights, asked.ndcg([(weight, repeat) for weight in weights]), strict=True))

    by_weight = at_weights(repeat_bias[0])
    best = max(by_weight, key=by_weight.__getitem__)
    alone, *found = asked.ndcg([(0.0, 0.0), *((best, repeat) for repeat in repeat_bias)])
    by_repeat_bias = dict(zip(repeat_bias, found, strict=True))
    repeat = max(by_repeat_bias, key=by_repeat_bias.__getitem__)
    if repeat != repeat_bias[0]:
        by_weight = at_weights(repeat)
        best = max(by_weight, key=by_weight.__getitem__)
    return TunedFusion(ScoreFusion(rules, best, repeat), alone, by_weight[best], by_weight, by_repeat_bias, exclude_seen)


class ZeroScorer:
    """A model that knows nothing, so that a fusion can be asked alone: every score is 0.

    Args:
        catalog_size: V.
    """

    def __init__(self, catalog_size: int) -> None:
        self.item_vectors = torch.zeros(catalog_size, 1)

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:  # noqa: ARG002 - a Ranker reads items
        """[T] packed histories -> [B, 1] zeros."""
        return self.item_vectors.new_zeros(len(cu_seqlens) - 1, 1)


class _Asked:
    """Sequences that were read once, to be ranked with many fusions of the same rules."""

    def __init__(
        self,
        model: Ranker,
        rules: SequentialRules,
        histories: Sequences,
        single: Examples,
        token_budget: int,
        *,
        exclude_seen: bool,
        progress: Progress | None,
    ) -> None:
        self.model, self.vectors, self.rules = model, model.item_vectors, rules
        self.histories, self.single, self.token_budget = histories, single, token_budget
        self.exclude_seen, self.progress = exclude_seen, progress
        with torch.inference_mode(), evaluating(model):
            read = (model.encode(batch.items, batch.cu_seqlens) for batch, _ in self._batches())
            self.states = [states.to(self.vectors.dtype) for states in read]

    def ndcg(self, tried: Sequence[tuple[float, float]]) -> list[float]:
        """NDCG@10 with each (weight, repeat_bias)."""
        ranks: list[list[Tensor]] = [[] for _ in tried]
        with torch.inference_mode():
            for (batch, past), states in zip(self._batches(), self.states, strict=True):
                targets = batch.last_targets
                rounding = rounding_of(states, self.vectors, targets)
                raised_scores = raised_by_repeats(self.model, states, past.items, past.cu_seqlens) or iter
                for rows, scores in raised_scores(score_blocks(states, self.vectors)):
                    places = look_up(self.rules, batch.items, batch.cu_seqlens, rows, (past.items, past.cu_seqlens))
                    raised = torch.empty_like(scores)
                    removed = removed_at(places.seen, scores) if self.exclude_seen else None
                    for found, (weight, repeat) in zip(ranks, tried, strict=True):
                        ScoreFusion(self.rules, weight, 0.0 if self.exclude_seen else repeat).add(raised.copy_(scores), places)
                        found.append(rank_targets(raised, targets[rows], removed, rounding[rows]).cpu())
        return [ndcg(torch.cat(found).numpy(), MONITORED_CUTOFF) for found in ranks]

    def _batches(self) -> Iterator[tuple[PackedBatch, PackedBatch]]:
        done = 0
        for batch, past in pack_with_full_history(self.histories, self.single, self.token_budget, self.vectors.device):
            yield batch, past
            done += len(batch.cu_seqlens) - 1
            if self.progress:
                self.progress(done, len(self.single))


def _thinned(single: Examples) -> Examples:
    if len(single) <= TARGETS:
        return single
    return single.take(np.linspace(0, len(single) - 1, TARGETS).astype(np.int64))
