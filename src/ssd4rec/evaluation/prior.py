"""How much the counted transitions should add to a trained model's scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ssd4rec.backbones.transitions import TransitionPrior, Transitions
from ssd4rec.data.histories import Histories
from ssd4rec.data.packing import pack
from ssd4rec.data.split import Examples
from ssd4rec.evaluation.evaluate import Progress, Ranker, evaluating
from ssd4rec.evaluation.metrics import ndcg
from ssd4rec.evaluation.ranks import rank_targets, rounding_of, score_blocks

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # those that are tried
CUTOFF = 10


@dataclass(frozen=True)
class ChosenPrior:
    """The prior that did best, and how the others did."""

    prior: TransitionPrior | None  # None: the model alone is best
    ndcg: Mapping[float, float]  # NDCG@10 at each weight


def choose_prior(
    model: Ranker,
    transitions: Transitions,
    histories: Histories,
    examples: Examples,
    *,
    token_budget: int = 32768,
    progress: Progress | None = None,
) -> ChosenPrior:
    """Rank the targets at each of WEIGHTS, reading the histories once; of equally good weights the smallest.

    Args:
        model: reads histories and scores items.
        transitions: what was counted, in what the model learnt from.
        histories: where the items lie.
        examples: the validation part. Items of the history stay candidates.
        token_budget: events read at once.
        progress: called with (targets ranked, all targets).

    Raises:
        DataError: the model's scores are not numbers.
    """
    single, done = examples.prefixes(), 0
    ranks: dict[float, list[torch.Tensor]] = {weight: [] for weight in WEIGHTS}
    with torch.inference_mode(), evaluating(model):
        for packed in pack(histories, single, token_budget):
            batch = packed.to(model.item_vectors.device)
            targets = batch.targets[batch.boundaries[1:] - 1]
            states = model.encode(batch.items, batch.boundaries).to(model.item_vectors.dtype)
            rounding = rounding_of(states, model.item_vectors, targets)
            for rows, scores in score_blocks(states, model.item_vectors):
                places, by = transitions.raises(batch.items, batch.boundaries, rows)
                places, by = places.to(scores.device), by.to(scores)
                flat = scores.view(-1)
                for before, weight in pairwise((0.0, *WEIGHTS)):
                    flat[places] += (weight - before) * by
                    ranks[weight].append(rank_targets(scores, targets[rows], rounding=rounding[rows]).cpu())
            done += len(targets)
            if progress:
                progress(done, len(single))
    found = {weight: ndcg(torch.cat(each).numpy(), CUTOFF) for weight, each in ranks.items()}
    best = WEIGHTS[int(np.argmax(list(found.values())))]
    return ChosenPrior(TransitionPrior(transitions, best) if best else None, found)
