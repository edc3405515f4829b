"""The distinct items of every prefix of a packed batch, enumerated a block of prefixes at a time.

Each distinct item of a prefix has one latest occurrence in it. Position s is the latest occurrence of its item in the prefix that
ends at position t >= s exactly when the next occurrence of the item is after t. So one array, the position of the next
occurrence, enumerates the distinct items of all prefixes without building a set for each.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items
from ssd4rec.ops.segments import to_device


class RepeatCells(NamedTuple):
    """Cells of a score table [rows, V] whose item is in the prefix of the row; no cell occurs twice."""

    row: Tensor  # int64 [n], ascending
    column: Tensor  # int64 [n], 0-based item
    gap: Tensor  # int64 [n], positions between the item's latest occurrence and the end of the prefix; 0: the last position
    occurrences: Tensor  # int64 [n], of the item in the prefix, 1 or more

    def to(self, device: torch.device) -> "RepeatCells":
        """Return the same cells on a device."""
        return RepeatCells(*(to_device(part, device) for part in self))


@dataclass(frozen=True)
class PrefixItems:
    """The distinct items of some prefixes of packed sequences; all arrays are on the CPU.

    Memory is O(T + M): `cells` computes the cells of a block of prefixes when they are needed.
    """

    items: Tensor  # int64 [T] item indices, 0: no item
    following: Tensor  # int64 [T] position of the next occurrence of the same item in the same sequence, T: none; -1: no item
    count: Tensor  # int64 [T] occurrences of the item up to this position
    start: Tensor  # int64 [M] first position of each prefix
    end: Tensor  # int64 [M] last position of each prefix

    def __len__(self) -> int:
        """Return the number of prefixes, M."""
        return len(self.end)

    def take(self, rows: Tensor) -> "PrefixItems":
        """Return some of the prefixes."""
        return PrefixItems(self.items, self.following, self.count, self.start[rows], self.end[rows])

    def cells(self, rows: slice) -> RepeatCells:
        """Enumerate the distinct items of a block of prefixes.

        Args:
            rows: which prefixes; row 0 of the result is the first of them.
        """
        start, end = self.start[rows], self.end[rows]
        lengths = end - start + 1
        row = torch.repeat_interleave(lengths)
        offsets = lengths.cumsum(0) - lengths
        position = torch.arange(len(row)) + (start - offsets)[row]
        latest = self.following[position] > end[row]
        if not latest.all():
            row, position = row[latest], position[latest]
        return RepeatCells(row, self.items[position] - 1, end[row] - position, self.count[position])


def prefix_items(items: Items, cu_seqlens: CuSeqlens, ends: Tensor) -> PrefixItems:
    """Prepare the enumeration of the distinct items of prefixes.

    Args:
        items: int64 [T] packed sequences; 0 stands for no item.
        cu_seqlens: int64 [B + 1].
        ends: int64 [M] the last position of each prefix.
    """
    items, cu_seqlens, ends = items.cpu(), cu_seqlens.cpu(), ends.cpu()
    total = len(items)
    sequence = torch.repeat_interleave(cu_seqlens.diff(), output_size=total)
    key = sequence * (int(items.max()) + 1) + items
    order = key.argsort(stable=True)
    same = key[order][1:] == key[order][:-1]
    following = torch.full((total,), total)
    following[order[:-1][same]] = order[1:][same]
    following[items == 0] = -1
    place = torch.arange(total)
    begins = torch.cat([same.new_zeros(min(total, 1)), same]).logical_not()
    group = torch.where(begins, place, 0).cummax(0).values
    count = torch.empty_like(place)
    count[order] = place - group + 1
    return PrefixItems(items, following, count, cu_seqlens[:-1][sequence[ends]], ends)


def sequence_items(items: Items, cu_seqlens: CuSeqlens) -> PrefixItems:
    """Prepare the enumeration of the distinct items of whole sequences, a row each; see `prefix_items`."""
    return prefix_items(items, cu_seqlens, cu_seqlens.cpu()[1:] - 1)
