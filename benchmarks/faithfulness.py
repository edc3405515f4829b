"""How faithful an order of events is to a model: what happens when the first events of the order are removed, or alone kept.

    deletion        mean of p(item) / p(item | all events) while 10 %, 20 %, … 90 % of the events are removed; lower is better
    insertion       the same while only the first 10 %, … 90 % of the order are kept; higher is better
    pos@k           share of these removals after which the item still is among the first k; lower is better
    comp@n          comprehensiveness: p(all events) - p(without the first n events); higher is better
    suff@n          sufficiency: p(all events) - p(the first n events alone); lower is better

p is the item's probability among the candidates of the full history: softmax of the scores, fusion included.

Source: deletion and insertion, Petsiuk et al. 2018, "RISE", for recommendations Barkan et al. 2024, "LXR", which also has pos@k;
comprehensiveness and sufficiency, DeYoung et al. 2020, "ERASER".
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from ssd4rec.artifact import Artifact
from ssd4rec.fusion import look_up

FRACTIONS = tuple(step / 10 for step in range(1, 10))
EVENTS, CUTOFFS = (1, 3, 5), (1, 5, 10)
METRICS = (
    "deletion",
    "insertion",
    *(f"pos@{k}" for k in CUTOFFS),
    *(f"comp@{n}" for n in EVENTS),
    *(f"suff@{n}" for n in EVENTS),
)

Order = npt.NDArray[np.int64]  # places of the history, the most important event first


def measure_orders(
    artifact: Artifact, history: npt.NDArray[np.int64], item: int, orders: Mapping[str, Order]
) -> dict[str, dict[str, float]]:
    """Compute the metrics of each order of one history.

    Args:
        artifact: the model.
        history: item indices, more than 5.
        item: index of a recommended item.
        orders: by method, each a permutation of the places.
    """
    counts = [max(1, round(fraction * len(history))) for fraction in FRACTIONS]
    everything = frozenset(range(len(history)))
    without = {name: [everything - set(order[:n].tolist()) for n in (*counts, *EVENTS)] for name, order in orders.items()}
    alone = {name: [frozenset(order[:n].tolist()) for n in (*counts, *EVENTS)] for name, order in orders.items()}
    subsets = list({everything, *(each for kept in (without, alone) for many in kept.values() for each in many)})
    chance, rank = probabilities_and_ranks(artifact, [history[sorted(subset)] for subset in subsets], history, item)
    p, ranks = dict(zip(subsets, chance, strict=True)), dict(zip(subsets, rank, strict=True))
    full, steps = p[everything], len(counts)
    results = {}
    for name in orders:
        removed = without[name][:steps]
        row = {
            "deletion": float(np.mean([p[each] for each in removed])) / full,
            "insertion": float(np.mean([p[each] for each in alone[name][:steps]])) / full,
        }
        row |= {f"pos@{k}": float(np.mean([ranks[each] <= k for each in removed])) for k in CUTOFFS}
        row |= {f"comp@{n}": full - p[each] for n, each in zip(EVENTS, without[name][steps:], strict=True)}
        row |= {f"suff@{n}": full - p[each] for n, each in zip(EVENTS, alone[name][steps:], strict=True)}
        results[name] = row
    return results


def probabilities_and_ranks(
    artifact: Artifact, histories: Sequence[npt.NDArray[np.int64]], seen: npt.NDArray[np.int64], item: int
) -> tuple[list[float], list[int]]:
    """Read histories; the candidates are the items that are not in `seen`."""
    model, fusion = artifact.model, artifact.fusion
    items = torch.from_numpy(np.concatenate(histories))
    cu_seqlens = torch.tensor([0, *accumulate(map(len, histories))])
    with torch.inference_mode():
        scores = model.encode(items, cu_seqlens) @ model.item_vectors.T
        if fusion:
            places = look_up(fusion.pairs, items, cu_seqlens, slice(0, len(histories)))
            scores.view(-1)[places.counted] += fusion.weight * places.by
        scores[:, np.unique(seen) - 1] = -torch.inf
        scores[:, torch.from_numpy(artifact.training_counts[1:] == 0)] = -torch.inf
        own = scores[:, item - 1]
        chance = torch.exp(own - torch.logsumexp(scores, dim=1))
        return chance.tolist(), ((scores > own[:, None]).sum(1) + 1).tolist()
