"""Item features: a learned linear projection that is added to the item vectors."""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd4rec._csr import IntArray

Floats = npt.NDArray[np.float32]


class EncodedRows(NamedTuple):
    """Features of R items as numbers."""

    codes: IntArray  # [E] categories, all columns in one vocabulary
    weights: Floats  # [E] 1 / the number of the item's categories in the same column
    offsets: IntArray  # [R + 1]; the codes of row j are codes[offsets[j]:offsets[j + 1]]
    vectors: Floats  # [R, F]


@runtime_checkable
class FeatureRows(Protocol):
    """Features of items as numbers; row j belongs to item index j. See `ssd4rec.data.item_features.ItemFeatures`."""

    @property
    def encoded(self) -> EncodedRows:
        """N + 1 rows, row 0 for the mask."""
        ...

    @property
    def categories(self) -> int:
        """C: size of the vocabulary."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of the features."""
        ...


class FeatureProjection(nn.Module):
    """p_j = sum over columns of the mean of the category vectors of item j, plus x_j W for its numbers x_j.

    Row j of the item table plus p_j is the vector of an item; p_j alone that of an item which was not in the training data. With
    `id_dropout` a random share of the items has p_j alone in each training step, so that p_j learns to stand for an item by
    itself.

    Args:
        features: of the items, row 0 for the mask.
        width: D.
        id_dropout: share of the items whose row of the table is dropped in a training step.

    Source: LightFM (Kula 2015) for the sum of feature vectors, DropoutNet (Volkovs, Yu and Poutanen 2017) for `id_dropout`.
    """

    codes: Tensor  # [E]
    weights: Tensor  # [E]
    offsets: Tensor  # [N + 2]
    vectors: Tensor  # [N + 1, F]

    def __init__(self, features: FeatureRows, width: int, id_dropout: float = 0.0) -> None:
        super().__init__()
        self.id_dropout = id_dropout
        self.rows = len(features.encoded.vectors)
        self.fingerprint = features.fingerprint()  # the features are not among the weights
        numbers = features.encoded.vectors.shape[1]
        self.categories = nn.Parameter(torch.empty(features.categories, width).normal_(std=0.02))
        self.numbers = nn.Parameter(torch.empty(numbers, width).normal_(std=0.02 / math.sqrt(max(numbers, 1))))
        for name, values in features.encoded._asdict().items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self._without_id: Tensor | None = None  # [N + 1]: items whose row of the table is dropped in this step

    def forward(self, items: Tensor) -> Tensor:
        """Return p of items. int64 [n] item indices -> [n, D]."""
        flat = items.flatten()
        starts = self.offsets[flat]
        lengths = self.offsets[flat + 1] - starts
        bags = lengths.cumsum(0) - lengths
        entries = torch.arange(int(lengths.sum()), device=flat.device) + (starts - bags).repeat_interleave(lengths)
        summed = F.embedding_bag(
            self.codes[entries], self.categories, bags, mode="sum", per_sample_weights=self.weights[entries].to(self.categories)
        )
        if self.vectors.shape[1]:
            summed = summed + self.vectors[flat].to(self.numbers) @ self.numbers
        return summed.unflatten(0, items.shape)

    def add_to(self, rows: Tensor, items: Tensor) -> Tensor:
        """Return the vectors of items from their rows of the table. [..., D], int64 [...] -> [..., D]."""
        if self.training and self._without_id is not None:
            rows = rows.masked_fill(self._without_id[items][..., None], 0.0)
        projected: Tensor = self(items)
        return rows + projected

    def draw_without_id(self) -> None:
        """Draw the items whose row of the table is dropped until the next call; the mask is never one of them."""
        if self.id_dropout:
            dropped_rows = torch.rand(self.rows) < self.id_dropout  # on the CPU: a seed draws the same items on every device
            dropped_rows[0] = False
            self._without_id = dropped_rows.to(self.categories.device)
