"""Self-attention within each sequence of a packed batch.

Sequences are padded into a few buckets of similar length, so that padding is at most half of a bucket.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Positions, Values
from ssd4rec.ops.segments import to_device

SHORTEST_BUCKET = 8  # sequences up to this length share one bucket


@dataclass(frozen=True)
class LengthBuckets:
    """Padded tables of similar-length sequences, computed once per batch and shared by every layer.

    cu_seqlens [0, 2, 3] -> tables ([[0, 1], [2, 3]],), slot [0, 1, 2], position [0, 1, 0]:
    two sequences of 2 and 1 positions and one slot of padding (index T = 3).
    """

    tables: tuple[Tensor, ...]  # each [sequences, length]: a position of the packed batch, or T for padding
    slot: Positions  # index of each position in the flattened, concatenated tables
    position: Positions  # 0-based position within the sequence: the column of its slot


def bucket_by_length(cu_seqlens: CuSeqlens, device: torch.device | None = None) -> LengthBuckets:
    """Group sequences of similar length into padded tables on a device; None: that of cu_seqlens.

    cu_seqlens are on the CPU, so that nothing synchronizes with the device.
    """
    device = device or cu_seqlens.device
    cu_seqlens = cu_seqlens.cpu()
    start, length = cu_seqlens[:-1], cu_seqlens.diff()
    total = int(cu_seqlens[-1])
    bucket = torch.ceil(torch.log2(length.clamp(min=SHORTEST_BUCKET).to(torch.float64))).to(torch.int64)
    tables, slot, position, offset = [], cu_seqlens.new_empty(total), cu_seqlens.new_empty(total), 0
    for each in bucket.unique().tolist():
        members = (bucket == each).nonzero().squeeze(1)
        column = torch.arange(int(length[members].max()))
        valid = column < length[members, None]
        table = torch.where(valid, start[members, None] + column, total)
        positions = table[valid]
        slot[positions] = offset + valid.flatten().nonzero().squeeze(1)
        position[positions] = column.expand_as(table)[valid]
        tables.append(to_device(table, device))
        offset += table.numel()
    return LengthBuckets(tuple(tables), to_device(slot, device), to_device(position, device))


def attend(queries: Values, keys: Values, values: Values, buckets: LengthBuckets, *, causal: bool) -> Values:
    """Compute softmax(Q K^T / sqrt(P)) V within each sequence, for each head; all [T, H, P].

    With `causal` a position attends only to itself and earlier positions. Memory O(T) where torch has a fused kernel (CPU, CUDA).
    """
    padded = torch.stack([queries, keys, values])  # [3, T, H, P]
    padded = torch.cat([padded, padded.new_zeros(3, 1, *padded.shape[2:])], dim=1)
    outputs = []
    for table in buckets.tables:
        query, key, value = padded[:, table].transpose(2, 3)  # each [sequences, H, length, P]
        # Padding comes last, so causal attention never reaches it.
        mask = None if causal else (table < queries.shape[0])[:, None, None, :]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[buckets.slot]
