"""Learned logits for the items that a sequence already holds."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssd4rec._csr import IntArray
from ssd4rec.array_types import CuSeqlens, Items, Scores, States
from ssd4rec.ops.cross_entropy import AddedLogits
from ssd4rec.ops.repeats import PrefixItems, sequence_items

RepeatFeatures = Literal["bias", "recency", "transitions", "popularity"]
FEATURES: dict[RepeatFeatures, int] = {"bias": 1, "recency": 3, "transitions": 4, "popularity": 5}
SCALE = 10.0  # the logit moves this many times as fast as a parameter: -10 is reached within a few hundred steps of Adam


class RepeatLogits(nn.Module):
    """Add a learned logit to the score of each item that the sequence already holds.

        logit(i, j) = (SCALE w + W state_i) . features(i, j)
        features(i, j) = (1)                              "bias"
                         (log(1 + gap_ij), log count_ij)  and these: "recency"
                         (log(1 + transitions_ij))        and this: "transitions"
                         (log popularity_j)               and this: "popularity"

    gap is the number of interactions since the item's latest occurrence, count the number of its occurrences, transitions how
    often it came directly after an earlier occurrence of the sequence's last item. The popularity is 1 + the training events of
    the item, divided by 1 + those of an item on average: a user takes a popular item again for other reasons than a rare one. w
    and W start at zero, where nothing is added. A negative logit excludes items that are not repeated (films, beauty products),
    a positive one copies items that are (groceries); the network learns which, and in which state.

    Args:
        width: D, of the states.
        features: which features the logit reads.
        catalog_size: V.

    Source: the copy mode of RepeatNet (Ren et al. 2019) and the context items of softmax-CPR (Chang et al. 2023), reduced to a
    logit that is linear in the state. Transitions do what an induction head does (Olsson et al. 2022, "In-context learning and
    induction heads"): one layer cannot compare the last item with the one before each earlier item.
    """

    log_popularity: Tensor | None  # [V + 1], by item index; that of no item is that of one without training events

    def __init__(self, width: int, features: RepeatFeatures, catalog_size: int) -> None:
        super().__init__()
        count = FEATURES[features]
        self.weight = nn.Parameter(torch.zeros(count))  # w
        self.state_weight = nn.Parameter(torch.zeros(count, width))  # W
        self.register_buffer("log_popularity", torch.zeros(catalog_size + 1) if features == "popularity" else None)

    def set_popularity(self, counts: IntArray) -> None:
        """Take the training events of each item index, int64 [V + 1]; that of index 0 is ignored."""
        if self.log_popularity is not None:
            popularity = (1 + torch.from_numpy(counts)) / (1 + counts[1:].mean())
            popularity[0] = 1 / (1 + counts[1:].mean())
            self.log_popularity.copy_(popularity.log())

    def append_items(self, count: int) -> None:
        """Append items without training events to the catalog."""
        if self.log_popularity is not None:
            self.log_popularity = torch.cat([self.log_popularity, self.log_popularity[:1].repeat(count)])

    def added(self, states: States, prefixes: PrefixItems) -> AddedLogits:
        """Return the logits of the items in the prefixes that the states [M, D] were read from."""
        coefficients = SCALE * self.weight + states.to(self.weight.dtype) @ self.state_weight.T
        return AddedLogits(coefficients, prefixes, self.log_popularity)

    def added_of_each(self, states: Sequence[States], prefixes: PrefixItems) -> list[AddedLogits]:
        """Return the logits of each member of a model from its states [n, D] and the n prefixes; the layer has the width M D.

        `added` of the states side by side, divided by their number, is the mean.
        """
        columns = self.state_weight.chunk(len(states), dim=1)
        return [
            AddedLogits(SCALE * self.weight + own.to(self.weight.dtype) @ columns[place].T, prefixes, self.log_popularity)
            for place, own in enumerate(states)
        ]

    def raised(
        self, blocks: Iterable[tuple[slice, Scores]], states: States, items: Items, cu_seqlens: CuSeqlens
    ) -> Iterator[tuple[slice, Scores]]:
        """Add the logits to scores that are made a few sequences at a time, in place.

        Args:
            blocks: which sequences, and their scores [rows, V].
            states: [B, D] of all sequences.
            items: packed; 0 stands for no item.
            cu_seqlens: of all sequences.
        """
        added = self.added(states, sequence_items(items, cu_seqlens))
        for rows, scores in blocks:
            added.add_to(scores, rows)
            yield rows, scores
