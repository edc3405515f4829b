"""What padding costs: the same model, each history filled up to the longest of its batch."""

import torch
from torch import Tensor

from ssd4rec.array_types import CuSeqlens, Items, States
from ssd4rec.evaluation.evaluate import Ranker

PLACES = 65_536  # at once, filled places included: what bounds memory


class Padded:
    """Reads what a padded batch reads and gives what a packed one gives.

    After each history stands padding, item 0, up to the longest of the batch, as a history of its own from which nothing
    is read. So the figures cannot change, and the time is that of a padded batch of the same histories in the same order.

    Args:
        model: reads packed histories.
    """

    def __init__(self, model: Ranker) -> None:
        self.model = model

    @property
    def item_vectors(self) -> Tensor:
        """[V, D]."""
        return self.model.item_vectors

    @property
    def repeat_logits(self) -> object:
        """The model's learned repeat logits, or None."""
        return getattr(self.model, "repeat_logits", None)

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """[T] -> [B, D]."""
        lengths = cu_seqlens.diff().tolist()
        states, first = [], 0
        while first < len(lengths):
            last, longest = first, 0
            while last < len(lengths) and max(longest, lengths[last]) * (last + 1 - first) <= max(PLACES, lengths[first]):
                longest = max(longest, lengths[last])
                last += 1
            states.append(self._filled(items, cu_seqlens[first : last + 1], longest))
            first = last
        return torch.cat(states)

    def _filled(self, items: Items, cu_seqlens: CuSeqlens, longest: int) -> States:
        # lengths [1, 3], longest 3: items [a 0 0 b c d], histories of 1, 2 and 3 events; the second is not read
        lengths = cu_seqlens.diff()
        starts = torch.arange(len(lengths)) * longest
        rows = torch.repeat_interleave(starts - cu_seqlens[:-1].cpu(), lengths.cpu())
        places = rows + torch.arange(int(cu_seqlens[0]), int(cu_seqlens[-1]))
        filled = torch.zeros(len(lengths) * longest, dtype=items.dtype, device=items.device)
        filled[places.to(items.device)] = items[int(cu_seqlens[0]) : int(cu_seqlens[-1])]
        ends = torch.stack([starts + lengths.cpu(), starts + longest], dim=1).flatten()
        edges = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
        real = torch.zeros(len(ends), dtype=torch.bool)
        real[::2] = True
        kept = edges.diff() > 0  # no padding after the longest
        edges = torch.cat([edges[:1], edges[1:][kept]])
        return self.model.encode(filled, edges.to(cu_seqlens.device))[real[kept].to(items.device)]
