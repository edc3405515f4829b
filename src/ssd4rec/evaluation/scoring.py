"""Scores of the whole catalog for packed sequences, a few rows at a time.

The one path to scores: metrics, fusion tuning, top-k recommendations and explanations all use it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ssd4rec._csr import IntArray
from ssd4rec.array_types import CuSeqlens, Items, Packed, Scores, States
from ssd4rec.data.packing import PackedBatch, consecutive, pack_with_full_history
from ssd4rec.data.request_times import RequestTime, request_times
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.distributed import World
from ssd4rec.fusion import ScoreFusion, look_up
from ssd4rec.layers.repeat_logits import RepeatLogits
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.segments import flat_score_index

BLOCK_ELEMENTS = 1 << 20  # scores in memory at once: 4 MiB in float32, still in the cache when they are counted
LEAST_ROWS = 32  # rows scored at once even if the catalog is large: fewer make inefficient products
BLOCK_ITEMS = 2048  # items per matrix product: their scores stay in the cache


class Ranker(Protocol):
    """A model whose scores are products of a state and item vectors."""

    @property
    def item_vectors(self) -> Tensor:
        """[V, D]: row j is the vector of item index j + 1."""
        ...

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """Encode packed sequences. [T] -> [B, D]."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A model whose scores are not products."""

    catalog_size: int

    def score_blocks(self, items: Items, cu_seqlens: CuSeqlens) -> Iterator[tuple[slice, Scores]]:
        """Yield scores [rows, V] of packed sequences [T], a few rows at a time."""
        ...


class ScoredBlock(NamedTuple):
    """Scores of a few rows; they are overwritten by the next block."""

    rows: slice
    scores: Scores  # [rows, V]; column j scores item index j + 1
    seen: Tensor | None  # int64 cells of `scores`, flattened, of the items of each row's sequence; None: not excluded


def score_blocks(states: States, item_vectors: Tensor) -> Iterator[tuple[slice, Scores]]:
    """Yield states @ item_vectors^T, a few rows at a time; they are overwritten by the next. [B, D], [V, D] -> [rows, V]."""
    states, item_vectors = states.detach(), item_vectors.detach()
    rows, items = states.shape[0], item_vectors.shape[0]
    size = max(BLOCK_ELEMENTS // items, LEAST_ROWS)
    memory = states.new_empty(min(size, rows), items)
    for start in range(0, rows, size):
        block = slice(start, min(start + size, rows))
        scores = memory[: block.stop - start]
        for first in range(0, items, BLOCK_ITEMS):
            columns = slice(first, first + BLOCK_ITEMS)
            torch.mm(states[block], item_vectors[columns].T, out=scores[:, columns])
        yield block, scores


def score_states(model: Ranker, states: States, full: Packed) -> Iterable[tuple[slice, Scores]]:
    """Yield a model's scores, its learned repeat logits included, a few rows at a time.

    Args:
        model: its item vectors, and `repeat_logits` if it has such.
        states: [B, D], from `encode`.
        full: items [T] and cu_seqlens [B + 1] of the sequences, including events that were not encoded.
    """
    blocks = score_blocks(states, model.item_vectors)
    repeat_logits: RepeatLogits | None = getattr(model, "repeat_logits", None)
    return blocks if repeat_logits is None else repeat_logits.raised(blocks, states, *full)


def scored_blocks(
    blocks: Iterable[tuple[slice, Scores]],
    packed: Packed,
    *,
    full: Packed | None = None,
    fusion: ScoreFusion | None = None,
    exclude_seen: bool = False,
) -> Iterator[ScoredBlock]:
    """Apply score fusion and find the cells of seen items.

    Args:
        blocks: rows and their scores, from `score_states` or a `Scorer`; fusion changes the scores in place.
        packed: items [T] and cu_seqlens [B + 1] of the encoded sequences.
        full: the same sequences including events that were not encoded; None: `packed`.
        fusion: added to the scores; None: nothing.
        exclude_seen: whether to find the cells of seen items.
    """
    full = full or packed
    for rows, scores in blocks:
        if fusion:
            fusion.add(scores, look_up(fusion.pairs, *packed, rows, full))
        yield ScoredBlock(rows, scores, flat_score_index(*full, rows, scores.shape[1]) if exclude_seen else None)


class EncodedBatch(NamedTuple):
    """Some examples, encoded."""

    rows: IntArray  # which examples
    packed: PackedBatch
    full: PackedBatch  # including events beyond `max_length`
    states: States | None  # [B, D]; None: the model is a `Scorer`


def encode_examples(
    model: Ranker | Scorer,
    sequences: Sequences,
    examples: Examples,
    token_budget: int,
    world: World | None = None,
    request_time: RequestTime = "known",
) -> Iterator[EncodedBatch]:
    """Encode examples with one target each in packed batches of at most `token_budget` events, by a model in evaluation mode.

    With a world, only this process's share of the batches is encoded; the batches themselves do not depend on it. For
    `request_time` see `evaluate`.
    """
    world = world or World()
    device = torch.device("cpu") if isinstance(model, Scorer) else model.item_vectors.device
    times = None
    if reads_request_times(model):
        times = torch.from_numpy(request_times(sequences, examples, request_time)).to(device)
    runs = consecutive(examples.lengths, token_budget)
    for rows in runs[world.rank :: world.size]:
        for packed, full in pack_with_full_history(sequences, examples.take(rows), token_budget, device):
            states = None
            if not isinstance(model, Scorer):
                states = model.encode(packed.items, packed.cu_seqlens)
                if isinstance(model, NextItemModel) and times is not None:
                    states = model.at(states, times[rows])
                states = states.to(model.item_vectors.dtype)  # not bfloat16
            yield EncodedBatch(rows, packed, full, states)


def score_batch(
    model: Ranker | Scorer, batch: EncodedBatch, *, fusion: ScoreFusion | None = None, exclude_seen: bool = False
) -> Iterator[ScoredBlock]:
    """Score an encoded batch; see `scored_blocks`."""
    packed, full = (batch.packed.items, batch.packed.cu_seqlens), (batch.full.items, batch.full.cu_seqlens)
    blocks: Iterable[tuple[slice, Scores]]
    if isinstance(model, Scorer):
        blocks = model.score_blocks(*packed)
    else:
        assert batch.states is not None  # noqa: S101 - `encode_examples` encoded it
        blocks = score_states(model, batch.states, full)
    return scored_blocks(blocks, packed, full=full, fusion=fusion, exclude_seen=exclude_seen)


def reads_request_times(model: Ranker | Scorer) -> bool:
    """Return whether a model adapts its states to the times of requests."""
    return isinstance(model, NextItemModel) and model.request_time is not None


def catalog_size_of(model: Ranker | Scorer) -> int:
    """V: how many items a model scores."""
    return model.catalog_size if isinstance(model, Scorer) else int(model.item_vectors.shape[0])


@contextmanager
def evaluating(model: Ranker | Scorer) -> Iterator[None]:
    """Switch dropout off inside the block; restore the mode of every module afterwards."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if isinstance(model, torch.nn.Module):
            model.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
