"""Attention inside each history of a packed row.

Attention wants tables, a history a row; histories are of any length. So those of like length share a table: a table's rows are
between half as long as its widest and as long, padding is at most half of it, and there are few tables.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd4rec.array_types import CuSeqlens, Positions, Values
from ssd4rec.ops.segments import to_device

NARROWEST = 8  # histories up to this length share one table


@dataclass(frozen=True)
class Tables:
    """Where each position of the row lies in which table; T stands for padding. Worked out once a batch, for every layer.

    cu_seqlens [0, 2, 3] -> cells ([[0, 1], [2, 3]],), cell [0, 1, 2], place [0, 1, 0]: two histories of 2 and 1 events, one
    cell of padding.
    """

    cells: tuple[Tensor, ...]  # each [histories, length]: a position of the row, or T
    cell: Positions  # which cell each position lies in, all cells counted through
    place: Positions  # 0-based place in its history: the column of its cell


def lay_in_tables(cu_seqlens: CuSeqlens, device: torch.device | None = None) -> Tables:
    """Put histories of like length into tables.

    Args:
        cu_seqlens: [B + 1]; on the CPU, nothing waits for the device.
        device: where the tables are wanted; None: where cu_seqlens are.
    """
    device = device or cu_seqlens.device
    cu_seqlens = cu_seqlens.cpu()
    start, length = cu_seqlens[:-1], cu_seqlens.diff()
    total = int(cu_seqlens[-1])
    kind = torch.ceil(torch.log2(length.clamp(min=NARROWEST).to(torch.float64))).to(torch.int64)
    cells, cell, place, before = [], cu_seqlens.new_empty(total), cu_seqlens.new_empty(total), 0
    for each in kind.unique().tolist():
        chosen = (kind == each).nonzero().squeeze(1)
        column = torch.arange(int(length[chosen].max()))
        inside = column < length[chosen, None]
        table = torch.where(inside, start[chosen, None] + column, total)
        positions = table[inside]
        cell[positions] = before + inside.flatten().nonzero().squeeze(1)
        place[positions] = column.expand_as(table)[inside]
        cells.append(to_device(table, device))
        before += table.numel()
    return Tables(tuple(cells), to_device(cell, device), to_device(place, device))


def attend(queries: Values, keys: Values, values: Values, tables: Tables, *, causal: bool) -> Values:
    """softmax(Q K^T / sqrt(P)) V inside each history, for each head.

    Args:
        queries: [T, H, P].
        keys: [T, H, P].
        values: [T, H, P].
        tables: of the row.
        causal: whether a position attends to itself and what came before it only.

    Returns:
        [T, H, P]. Memory O(T) where torch has a fused kernel (CPU and CUDA).
    """
    padded = torch.stack([queries, keys, values])  # [3, T, H, P]
    padded = torch.cat([padded, padded.new_zeros(3, 1, *padded.shape[2:])], dim=1)
    found = []
    for cells in tables.cells:
        query, key, value = padded[:, cells].transpose(2, 3)  # each [histories, H, length, P]
        # padding comes last, so what reads backwards only never attends to it
        attended = None if causal else (cells < queries.shape[0])[:, None, None, :]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attended, is_causal=causal)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[tables.cell]
