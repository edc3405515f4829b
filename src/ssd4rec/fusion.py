"""What is known without learning, added to a trained model's scores: what came soon after what, and whether items recur."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, Packed, Scores
from ssd4rec.baselines.sequential_rules import SequentialRules
from ssd4rec.ops.segments import cells_of_items, to_device


class Places(NamedTuple):
    """Which of the scores [rows, V] of a few histories are raised, places counted through."""

    counted: Tensor  # int64 [n] items that came soon after or before others of the history, none of them twice
    by: Tensor  # float32 [n] log(1 + rules / FLOOR) of these
    seen: Tensor  # int64 [m] items of the history, as often as they are in it


def look_up(rules: SequentialRules, items: Items, cu_seqlens: CuSeqlens, rows: slice, seen: Packed | None = None) -> Places:
    """What `ScoreFusion.add` needs to know of a few histories; all fusions of the same rules can share it.

    Args:
        rules: what was counted.
        items: int64 [T] the histories, packed; 0 stands for no item.
        cu_seqlens: int64 [B + 1].
        rows: which histories.
        seen: the same histories whole, where only their ends are read; None: these are they.
    """
    counted, by = rules.raises(items, cu_seqlens, rows)
    cells = cells_of_items(*(seen or (items, cu_seqlens)), rows, rules.catalog_size)
    return Places(to_device(counted, items.device), to_device(by, items.device), cells)


@dataclass(frozen=True)
class ScoreFusion:
    """Raises a trained model's scores, counts where they know something, the model everywhere else.

        score(j) = state . v_j + weight * log(1 + rules(j) / FLOOR) + repeat_bias * [item j is in the history]

    In probabilities: the model's times a power of the counted ones, times e^repeat_bias for what was had before, normalized (a
    product of experts, Hinton 2002). A model of D numbers an item cannot hold an opinion on every pair that was ever seen;
    counts can, and know nothing else. And it hardly learns that nobody rates a film twice, which is one number (Ren et al.
    2019, "RepeatNet", learn when to repeat and when to explore).
    """

    rules: SequentialRules
    weight: float  # 0 or more
    repeat_bias: float = 0.0  # below 0: what was had is not wanted again

    def __bool__(self) -> bool:
        """Whether it changes any score."""
        return self.weight != 0.0 or self.repeat_bias != 0.0

    def raised(
        self, blocks: Iterable[tuple[slice, Scores]], items: Items, cu_seqlens: CuSeqlens, seen: Packed | None = None
    ) -> Iterator[tuple[slice, Scores]]:
        """A model's scores, a few histories at a time, raised in place.

        Args:
            blocks: which histories, and their scores [rows, V], contiguous.
            items: int64 [T] the histories, packed.
            cu_seqlens: int64 [B + 1].
            seen: the same histories whole, where only their ends are read.
        """
        for rows, scores in blocks:
            self.add(scores, look_up(self.rules, items, cu_seqlens, rows, seen))
            yield rows, scores

    def add(self, scores: Scores, places: Places) -> None:
        """Raise the scores of a few histories.

        Args:
            scores: [rows, V], contiguous; changed in place.
            places: of the same histories, on the same device.
        """
        flat = scores.view(-1)
        flat[places.counted] += self.weight * places.by.to(flat)
        flat[places.seen] += self.repeat_bias  # once, also where a place is named twice

    def write(self, path: Path) -> None:
        """Keep it as a safetensors file, the counts only where they are used."""
        counted = self.rules if self.weight else SequentialRules.nothing(self.rules.catalog_size)
        parts: dict[str, np.ndarray[Any, Any]] = {"edges": counted.edges, "columns": counted.columns, "weights": counted.weights}
        save_file(parts, path, metadata={"weight": repr(self.weight), "repeat_bias": repr(self.repeat_bias)})

    @classmethod
    def read(cls, path: Path) -> "ScoreFusion":
        """What `write` kept, to the last bit."""
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata()
        return cls(SequentialRules(**load_file(path)), float(about["weight"]), float(about["repeat_bias"]))
