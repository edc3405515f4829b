"""Score fusion: a co-occurrence score and a repeat bias added to the scores of a trained model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, Packed, Scores
from ssd4rec.baselines.ease import EASEPairs
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.baselines.sequential_ridge import SequentialRidge
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.ops.segments import flat_score_index, to_device

PAIR_MODELS: dict[str, type[SequentialRules | SequentialRidge | EASEPairs]] = {
    model.name: model for model in (SequentialRules, SequentialRidge, EASEPairs)
}  # by config.PairModel


class Places(NamedTuple):
    """The scores [rows, V] that fusion changes, as flattened indices."""

    counted: Tensor  # int64 [n] items that co-occur with items of the sequence, each once
    by: Tensor  # float32 [n] what a weight of 1 adds to these
    seen: Tensor  # int64 [m] items of the sequence, as often as they occur in it


def look_up(pairs: ItemPairs, items: Items, cu_seqlens: CuSeqlens, rows: slice, seen: Packed | None = None) -> Places:
    """Return the input of `ScoreFusion.add` for a few sequences; all fusions with the same pairs can share it.

    Args:
        pairs: the co-occurrence model.
        items: int64 [T] packed sequences; 0 is padding or an unknown item.
        cu_seqlens: int64 [B + 1].
        rows: which sequences.
        seen: the same sequences including events that the model does not read; None: it reads all of them.
    """
    counted, by = pairs.raises(items, cu_seqlens, rows)
    cells = flat_score_index(*(seen or (items, cu_seqlens)), rows, pairs.catalog_size)
    return Places(to_device(counted, items.device), to_device(by, items.device), cells)


@dataclass(frozen=True)
class ScoreFusion:
    """Adds the score of a co-occurrence model and a repeat bias to a model's scores.

        score(j) = state . v_j + weight * log(1 + pairs(j) / floor) + repeat_bias * [item j is in the sequence]

    Of a negative pairs(j) the logarithm of the absolute value counts, with a minus sign.
    In probabilities: the model's times a power of the counted ones, times e^repeat_bias for items that the user interacted
    with before, normalized (a product of experts, Hinton 2002). D numbers per item cannot represent an opinion on every pair
    that co-occurred; counts can, and know nothing else. And a model hardly learns that nobody rates a movie twice, which is a
    single number (Ren et al. 2019, "RepeatNet", learn when to repeat and when to explore).
    """

    pairs: ItemPairs  # one of PAIR_MODELS
    weight: float  # 0 or more
    repeat_bias: float = 0.0  # negative: penalize items already in the sequence

    def __bool__(self) -> bool:
        """Return whether it changes any score."""
        return self.weight != 0.0 or self.repeat_bias != 0.0

    def add(self, scores: Scores, places: Places) -> None:
        """Change the scores of a few sequences in place.

        Args:
            scores: [rows, V], contiguous.
            places: of the same sequences, on the same device.
        """
        flat = scores.view(-1)
        flat[places.counted] += self.weight * places.by.to(flat)
        flat[places.seen] += self.repeat_bias  # once, even if an item occurs twice

    def with_more_items(self, count: int) -> "ScoreFusion":
        """Return the same fusion for a catalog with more items at its end, which co-occur with nothing."""
        pairs = self.pairs
        edges = np.concatenate([pairs.edges, np.full(count, pairs.edges[-1])])
        return replace(self, pairs=type(pairs)(edges, pairs.columns, pairs.weights))

    def write(self, path: Path) -> None:
        """Write a safetensors file, with the counts only if their weight is not 0."""
        pairs = self.pairs if self.weight else self.pairs.nothing(self.pairs.catalog_size)
        parts: dict[str, np.ndarray[Any, Any]] = {"edges": pairs.edges, "columns": pairs.columns, "weights": pairs.weights}
        about = {"weight": repr(self.weight), "repeat_bias": repr(self.repeat_bias), "cooccurrence_model": pairs.name}
        save_file(parts, path, metadata=about)

    @classmethod
    def read(cls, path: Path) -> "ScoreFusion":
        """Read what `write` wrote, exactly."""
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata()
        model = PAIR_MODELS[about.get("cooccurrence_model", SequentialRules.name)]  # older files have no name
        return cls(model(**load_file(path)), float(about["weight"]), float(about["repeat_bias"]))
