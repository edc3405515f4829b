"""The training objectives, and what each costs.

all-positions   each sequence is read once; the state of each of its prefixes predicts the item that follows it
per-prefix      each prefix is an example of its own, read up to its end: the authors' way, for any variant of the network
masked-item     each sequence is read once with random items and its last one masked; their positions predict them: for BERT4Rec
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, ranges
from ssd4rec.array_types import CuSeqlens, Items, RequestTimes
from ssd4rec.config import TrainingConfig
from ssd4rec.data.packing import BatchPlan, PackedBatch, plan_batches
from ssd4rec.data.split import Examples
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops import keyed_random
from ssd4rec.ops.repeats import PrefixItems, prefix_items
from ssd4rec.ops.sampled_softmax import NegativeSampler
from ssd4rec.ops.segments import append_to_each, to_device
from ssd4rec.training.teacher import Teacher


def masked(items: Items, ratio: float) -> Items:
    """Replace each item by item 0 with probability `ratio`, independently, the last of a sequence too."""
    return torch.where(keyed_random.uniform(items.shape, items.device) < ratio, 0, items) if ratio else items


class TrainingBatch(NamedTuple):
    """The input of a training step. Everything that depends on values is computed on the CPU, so no step waits for a GPU."""

    items: Items  # [T]
    cu_seqlens: CuSeqlens  # [B + 1], always on the CPU
    target_positions: Tensor  # [M] positions that predict; per-prefix: sequences; masked-item: positions that can be masked
    targets: Tensor  # [M] item indices
    times: RequestTimes | None = None  # [M, 2] gap and moment of each target; None: the model does not read them
    prefixes: PrefixItems | None = None  # what each target is predicted from, on the CPU; None: no repeat logits
    target_events: Tensor | None = None  # int64 [M] where the targets are in the sequences, on the CPU; None: not asked for
    keys: Tensor | None = None  # int64 [T] of `keyed_random`; None: one generator for the batch

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """Return the batch on a device, except `cu_seqlens`; the copy to a GPU is asynchronous."""
        return self._replace(
            items=to_device(self.items, device),
            target_positions=to_device(self.target_positions, device),
            targets=to_device(self.targets, device),
            times=None if self.times is None else to_device(self.times, device),
            keys=None if self.keys is None else to_device(self.keys, device),
        )


def prepare(batch: PackedBatch, config: TrainingConfig, *, repeats: bool = False) -> TrainingBatch:
    """Find the target positions of a batch, on the CPU.

    Args:
        batch: packed sequences.
        config: the objective.
        repeats: whether the model has repeat logits, which need the items of each prefix.
    """
    targets, times, events = batch.targets.cpu(), batch.request_times, batch.target_events
    cu_seqlens = batch.cu_seqlens.cpu()
    if config.objective == "masked-item":
        # the target of the last event belongs to the sequence: it is the item that is always masked
        items, cu_seqlens = append_to_each(batch.items.cpu(), cu_seqlens, targets[cu_seqlens[1:] - 1])
        positions = items.nonzero().squeeze(1)  # all but the padding
        return TrainingBatch(items, cu_seqlens, positions, items[positions]).to(batch.items.device)
    if config.objective == "per-prefix":
        targets = targets[cu_seqlens[1:] - 1]
        times = None if times is None else times[cu_seqlens[1:] - 1]
        events = None if events is None else events[cu_seqlens[1:] - 1]
    positions = targets.nonzero().squeeze(1)
    items, prefixes = batch.items.cpu(), None
    if repeats:
        ends = cu_seqlens[1:][positions] - 1 if config.objective == "per-prefix" else positions
        prefixes = prefix_items(items, cu_seqlens, ends)
    times = None if times is None else times[positions]
    events = None if events is None else events[positions]
    return TrainingBatch(items, cu_seqlens, positions, targets[positions], times, prefixes, events).to(batch.items.device)


class BatchLoss(NamedTuple):
    """The loss of one batch."""

    mean: Tensor  # over its targets
    targets: int  # how many


def next_item_loss(
    model: NextItemModel,
    batch: PackedBatch | TrainingBatch,
    config: TrainingConfig,
    sampler: NegativeSampler | None = None,
    teacher: Teacher | None = None,
) -> Tensor:
    """Return the mean cross-entropy over the target positions; items are masked, targets never are.

    Args:
        model: in training or evaluation mode.
        batch: from `prepare`; or a packed batch, which is prepared here (this waits for a GPU).
        config: the objective, the mask ratio and label smoothing.
        sampler: draws negatives; None: softmax over the whole catalog.
        teacher: with a model in evaluation mode; its probabilities have a share of `teacher_weight` in the targets. It reads
            the same items, without masks except for those of the objective "masked-item". None: no teacher.
    """
    return batch_loss(model, batch, config, sampler, teacher).mean


def batch_loss(
    model: NextItemModel,
    batch: PackedBatch | TrainingBatch,
    config: TrainingConfig,
    sampler: NegativeSampler | None = None,
    teacher: Teacher | None = None,
) -> BatchLoss:
    """Return `next_item_loss` together with the number of targets."""
    if isinstance(batch, PackedBatch):
        batch = prepare(batch, config, repeats=model.repeat_logits is not None)
    with keyed_random.keyed(batch.keys):
        if config.objective == "masked-item":
            return _masked_item_loss(model, batch, config, sampler, teacher)
        states = _states_of_targets(model, masked(batch.items, config.mask_ratio), batch, config)
    soft = None
    if teacher is not None:
        with torch.no_grad():
            taught = _states_of_targets(teacher.model, batch.items, batch, config)
            soft = teacher.soft_targets(taught, batch.prefixes, batch.target_events, config.teacher_weight)
    loss = model.loss(states, batch.targets, sampler, config.label_smoothing, batch.prefixes, soft)
    return BatchLoss(loss, len(batch.targets))


def _states_of_targets(model: NextItemModel, items: Items, batch: TrainingBatch, config: TrainingConfig) -> Tensor:
    """Return the states that predict the targets, [M, D], at the times of their requests."""
    encode = model.encode if config.objective == "per-prefix" else model.encode_prefixes
    states = encode(items, batch.cu_seqlens).index_select(0, batch.target_positions)
    if batch.times is None:
        return states
    with keyed_random.at(_rows_of_targets(batch, config)):
        return model.at(states, batch.times)


def _rows_of_targets(batch: TrainingBatch, config: TrainingConfig) -> Tensor:
    """Return the position of the event before each target. int64 [M]."""
    if config.objective != "per-prefix":
        return batch.target_positions
    return to_device(batch.cu_seqlens[1:] - 1, batch.items.device)[batch.target_positions]


def empty_loss(model: NextItemModel, config: TrainingConfig, sampler: NegativeSampler | None) -> BatchLoss:
    """Return the loss of no targets; it takes part in the exchanges of a sharded item table, forward and backward."""
    nothing = torch.zeros(0, dtype=torch.int64, device=model.table.weight.device)
    prefixes = None if model.repeat_logits is None else PrefixItems(*[nothing.cpu()] * 7)
    return BatchLoss(model.loss(model.vectors_of(nothing), nothing, sampler, config.label_smoothing, prefixes), 0)


def _masked_item_loss(
    model: NextItemModel,
    batch: TrainingBatch,
    config: TrainingConfig,
    sampler: NegativeSampler | None,
    teacher: Teacher | None,
) -> BatchLoss:
    # the number of masked positions is known on the device only: this waits for a GPU
    last = torch.zeros_like(batch.items, dtype=torch.bool)
    last[to_device(batch.cu_seqlens[1:] - 1, last.device)] = True
    with keyed_random.at(batch.target_positions):
        uniform = keyed_random.uniform(batch.target_positions.shape, last.device)
    is_masked = last[batch.target_positions] | (uniform < config.mask_ratio)
    masked_positions = batch.target_positions[is_masked]
    visible = batch.items.index_fill(0, masked_positions, 0)
    prefixes = None
    if model.repeat_logits is not None:
        # the items of a sequence as the encoder sees them; the last place is always masked, as it is when a sequence is scored
        sequence = torch.searchsorted(batch.cu_seqlens, masked_positions.cpu(), right=True) - 1
        prefixes = prefix_items(visible, batch.cu_seqlens, batch.cu_seqlens[sequence + 1] - 2)
    states = model.encode_masked(visible, batch.cu_seqlens)
    soft = None
    if teacher is not None:
        with torch.no_grad():
            taught = teacher.model.encode_masked(visible, batch.cu_seqlens)[masked_positions]
            soft = teacher.soft_targets(taught, prefixes, None, config.teacher_weight)
    loss = model.loss(states[masked_positions], batch.targets[is_masked], sampler, config.label_smoothing, prefixes, soft)
    return BatchLoss(loss, len(masked_positions))


@dataclass(frozen=True)
class Plan:
    """One pass over the training set: its examples and their places in batches."""

    examples: Examples
    batches: list[BatchPlan]


def plan_pass(train: Examples, config: TrainingConfig, epoch: int) -> Plan:
    """Plan one pass over the training set; depends on the seed and the epoch only, so a resumed run sees the same batches."""
    rng = np.random.default_rng((config.seed, epoch))
    if config.objective != "per-prefix":
        windows = train.windows()
        return Plan(windows, plan_batches(windows.lengths, config.token_budget, rng))
    examples = train.prefixes()
    if config.prefixes_per_sequence is not None:
        rows = _sampled(examples.user, config.prefixes_per_sequence, rng)
        examples = examples.take(rows)
    return Plan(examples, plan_batches(examples.lengths, config.token_budget, rng, batch_size=config.batch_size))


def cut_batches(train: Examples, config: TrainingConfig) -> str | None:
    """Return a warning if batches hold fewer examples than `batch_size` because `token_budget` is too small."""
    longest = min(int(train.lengths.max()), train.max_length or int(train.lengths.max()))
    # whole chunks are at least half full: below this there is always room, and nothing is planned
    if config.objective != "per-prefix" or config.batch_size is None or 2 * config.batch_size * longest <= config.token_budget:
        return None
    plan = plan_pass(train, config, epoch=0)
    expected = -(-len(plan.examples) // config.batch_size)
    if len(plan.batches) <= expected:
        return None
    return (
        f"training.token_budget = {config.token_budget:,} has no room for training.batch_size = {config.batch_size:,} examples: "
        f"{len(plan.batches):,} batches per pass instead of {expected:,}; raise training.token_budget if memory allows, "
        f"or choose a smaller training.batch_size"
    )


def _sampled(users: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    # a random order of the rows, grouped by user: the first `count` of each group
    order = np.lexsort((rng.random(len(users)), users))
    first = np.concatenate([[0], np.flatnonzero(np.diff(users[order])) + 1])
    place = ranges(0, np.diff(np.append(first, len(users))))
    return np.sort(order[place < count])


@dataclass(frozen=True)
class PassCost:
    """The cost of one pass over the training set."""

    tokens: int
    targets: int
    tokens_of_other: int  # with the other objective

    def advice(self, config: TrainingConfig) -> str | None:
        """Return advice if another objective would be far cheaper."""
        if config.objective != "per-prefix" or self.tokens <= 20 * self.tokens_of_other:
            return None
        ratio = self.tokens / self.tokens_of_other
        return (
            f'training.objective = "per-prefix" reads {self.tokens:,} tokens per pass, {ratio:.0f} times '
            f'the {self.tokens_of_other:,} of "all-positions"; try --set training.objective=all-positions '
            f"(with backbone.bidirectional=top), or --set training.prefixes_per_sequence=1"
        )


def pass_cost(train: Examples, config: TrainingConfig) -> PassCost:
    """Count the tokens that one pass reads, and the tokens that the other objective would read."""
    once, every = train.tokens_one_pass, train.tokens_prefix
    if config.objective == "all-positions":
        return PassCost(once, train.targets, every)
    if config.objective == "masked-item":
        rows = len(train.windows())
        return PassCost(once + rows, rows + int(config.mask_ratio * once), every)
    if config.prefixes_per_sequence is None:
        return PassCost(every, train.targets, once)
    targets = train.stop - train.first_target
    share = np.minimum(config.prefixes_per_sequence / targets, 1.0)
    return PassCost(int((share * train.tokens_of_prefixes).sum()), int((share * targets).sum()), once)
