"""The distinct items of every prefix of a packed batch, enumerated a block of prefixes at a time.

Each distinct item of a prefix has one latest occurrence in it. Position s is the latest occurrence of its item in the prefix that
ends at position t >= s exactly when the next occurrence of the item is after t. So one array, the position of the next
occurrence, enumerates the distinct items of all prefixes without building a set for each.
"""

from dataclasses import dataclass, replace
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
    transitions: Tensor | None = None  # int64 [n], how often the item came directly after the last one; None: not counted

    def to(self, device: torch.device) -> "RepeatCells":
        """Return the same cells on a device."""
        row, column, gap, occurrences = (to_device(part, device) for part in (self.row, self.column, self.gap, self.occurrences))
        transitions = None if self.transitions is None else to_device(self.transitions, device)
        return RepeatCells(row, column, gap, occurrences, transitions)


@dataclass(frozen=True)
class PrefixItems:
    """The distinct items of some prefixes of packed sequences; all arrays are on the CPU.

    Memory is O(T + M): `cells` computes the cells of a block of prefixes when they are needed.
    """

    items: Tensor  # int64 [T] item indices, 0: no item
    following: Tensor  # int64 [T] position of the next occurrence of the same item in the same sequence, T: none; -1: no item
    count: Tensor  # int64 [T] occurrences of the item up to this position
    order: Tensor  # int64 [T] all positions; those of an item of a sequence stand next to each other, ascending
    place: Tensor  # int64 [T] of each position in `order`
    start: Tensor  # int64 [M] first position of each prefix
    end: Tensor  # int64 [M] last position of each prefix

    def __len__(self) -> int:
        """Return the number of prefixes, M."""
        return len(self.end)

    def take(self, rows: Tensor) -> "PrefixItems":
        """Return some of the prefixes."""
        return replace(self, start=self.start[rows], end=self.end[rows])

    def cells(self, rows: slice, *, transitions: bool = False) -> RepeatCells:
        """Enumerate the distinct items of a block of prefixes.

        Args:
            rows: which prefixes; row 0 of the result is the first of them.
            transitions: whether to count how often each item came directly after the last one.
        """
        start, end = self.start[rows], self.end[rows]
        lengths = end - start + 1
        row = torch.repeat_interleave(lengths)
        offsets = lengths.cumsum(0) - lengths
        position = torch.arange(len(row)) + (start - offsets)[row]
        latest = self.following[position] > end[row]
        after = self._transitions(start, end, offsets, len(row)) if transitions else None
        if not latest.all():
            row, position = row[latest], position[latest]
            after = after if after is None else after[latest]
        return RepeatCells(row, self.items[position] - 1, end[row] - position, self.count[position], after)

    def _transitions(self, start: Tensor, end: Tensor, offsets: Tensor, size: int) -> Tensor:
        """Count the transitions from the last item of each prefix, at the latest occurrence of the item that came after it.

        Position s of a prefix has the place offset + s - start among `size` places.
        """
        earlier = torch.where(self.items[end] > 0, self.count[end] - 1, 0)  # occurrences of the last item before the end
        row = torch.repeat_interleave(earlier)
        nth = torch.arange(len(row)) - (earlier.cumsum(0) - earlier)[row]
        after = self.order[self.place[end[row]] - 1 - nth] + 1
        row, after = row[self.items[after] > 0], after[self.items[after] > 0]
        total = len(self.items)
        group = self.place - self.count + 1  # place of the item's first occurrence
        latest = torch.searchsorted(group[self.order] * total + self.order, group[after] * total + end[row], right=True) - 1
        counts = torch.zeros(size, dtype=torch.int64)
        return counts.index_add_(0, offsets[row] + self.order[latest] - start[row], torch.ones_like(row))


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
    ordered = torch.empty_like(place)
    ordered[order] = place
    return PrefixItems(items, following, count, order, ordered, cu_seqlens[:-1][sequence[ends]], ends)


def sequence_items(items: Items, cu_seqlens: CuSeqlens) -> PrefixItems:
    """Prepare the enumeration of the distinct items of whole sequences, a row each; see `prefix_items`."""
    return prefix_items(items, cu_seqlens, cu_seqlens.cpu()[1:] - 1)
