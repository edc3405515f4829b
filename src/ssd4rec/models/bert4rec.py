"""BERT4Rec: bidirectional self-attention, trained by masked-item prediction."""

from typing import ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Hidden
from ssd4rec.config.backbones import BackboneSettings, Objective, TransformerSizes
from ssd4rec.errors import ConfigError
from ssd4rec.layers.initialization import initialize_weights
from ssd4rec.models.sasrec import Transformer


class BERT4RecConfig(TransformerSizes):
    """Settings of BERT4Rec."""

    objectives: ClassVar[tuple[Objective, ...]] = ("masked-item", "per-prefix")

    name: Literal["bert4rec"] = "bert4rec"
    """Name of the model."""


class BERT4Rec(Transformer):
    """Item embeddings plus learned positions, bidirectional self-attention, and LayerNorm(GELU(W h + b)) at the end.

    A position also attends to later positions, so its output may only predict an item that is masked in the input.
    `NextItemModel` appends item 0, the mask, to each sequence; the output at the mask predicts the next item.

    Differences from the original: pre-norm layers, and no LayerNorm on the sum of item and position; every selected item is
    replaced by the mask (the original replaces some by another item, or keeps them); no bias for each item in the softmax; no
    dropout of attention weights; the last item of every sequence is always masked in training, in addition to the random ones
    (the original adds copies of the data in which only the last item is masked); sequences longer than `max_length` are trained
    in windows that overlap by half.

    Source: Sun et al. 2019, arXiv 1904.06690.
    """

    settings_class: ClassVar[type[BackboneSettings]] = BERT4RecConfig

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__(config, causal=False)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.apply(initialize_weights)

    def encode_positions(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Encode every position from its whole sequence, or from a window of `max_length` positions. [T, D] -> [T, D]."""
        return super().encode_prefixes(embedded, cu_seqlens)

    def encode_prefixes(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        """Raise an error: one pass cannot encode every prefix.

        Raises:
            ConfigError: always, because every position attends to later positions.
        """
        raise ConfigError(
            f"BERT4Rec is bidirectional in every layer, so one pass cannot encode all prefixes of {len(cu_seqlens) - 1} "
            f'sequences ({len(embedded)} positions); train with the objective "masked-item" or "per-prefix"'
        )

    def _encode(self, embedded: Hidden, cu_seqlens: CuSeqlens) -> Hidden:
        return self.norm(F.gelu(self.out(self._attend(embedded, cu_seqlens))))
