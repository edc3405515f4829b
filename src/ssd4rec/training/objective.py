"""The ways to ask for the next item, and what each costs.

one-pass   each history is read once, and the state of each of its prefixes is asked for the item that follows it
prefix     each prefix is an example of its own, read up to its end: the authors' way, for any wiring
cloze      each history is read once, with random items and its last one hidden, and is asked for those: for BERT4Rec
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd4rec._csr import IntArray, ranges
from ssd4rec.array_types import CuSeqlens, Items
from ssd4rec.config import TrainingConfig
from ssd4rec.data.packing import BatchPlan, PackedBatch, plan_batches
from ssd4rec.data.split import Examples
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.repeats import PrefixItems, prefix_items
from ssd4rec.ops.sampled_softmax import NegativeSampler
from ssd4rec.ops.segments import append, to_device


def masked(items: Items, ratio: float) -> Items:
    """Each item becomes item 0 with probability `ratio`, independently, the last of a history too; torch's own generator."""
    return torch.where(torch.rand(items.shape, device=items.device) < ratio, 0, items) if ratio else items


class TrainingBatch(NamedTuple):
    """What a training step reads. All that depends on its numbers was worked out on the CPU, so that no step waits for a GPU."""

    items: Items  # [T]
    cu_seqlens: CuSeqlens  # [B + 1], on the CPU wherever the rest is
    asked: Tensor  # [M] positions that are asked for the next item; prefix: histories; cloze: positions that can be hidden
    targets: Tensor  # [M] item numbers
    prefixes: PrefixItems | None = None  # what each target is predicted from, on the CPU; None: the model has no repeat logits

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """The same batch on a device, but for its cu_seqlens; a GPU fetches it while the CPU goes on."""
        return self._replace(
            items=to_device(self.items, device), asked=to_device(self.asked, device), targets=to_device(self.targets, device)
        )


def prepare(batch: PackedBatch, config: TrainingConfig, *, repeats: bool = False) -> TrainingBatch:
    """Find out what a batch asks for, once and on the CPU.

    Args:
        batch: packed sequences.
        config: the objective.
        repeats: whether the model has repeat logits, which need the items of each prefix.
    """
    targets = batch.targets.cpu()
    cu_seqlens = batch.cu_seqlens.cpu()
    if config.objective == "masked-item":
        # the target of the last event belongs to the history: it is the item that is always hidden
        items, cu_seqlens = append(batch.items.cpu(), cu_seqlens, targets[cu_seqlens[1:] - 1])
        asked = items.nonzero().squeeze(1)  # all but the padding
        return TrainingBatch(items, cu_seqlens, asked, items[asked]).to(batch.items.device)
    if config.objective == "per-prefix":
        targets = targets[cu_seqlens[1:] - 1]
    asked = targets.nonzero().squeeze(1)
    items, prefixes = batch.items.cpu(), None
    if repeats:
        ends = cu_seqlens[1:][asked] - 1 if config.objective == "per-prefix" else asked
        prefixes = prefix_items(items, cu_seqlens, ends)
    return TrainingBatch(items, cu_seqlens, asked, targets[asked], prefixes).to(batch.items.device)


def next_item_loss(
    model: NextItemModel, batch: PackedBatch | TrainingBatch, config: TrainingConfig, proposal: NegativeSampler | None = None
) -> Tensor:
    """Mean cross-entropy over everything that the batch asks for; items are masked, targets never are.

    Args:
        model: in training or evaluation mode.
        batch: from `prepare`; or a packed batch, which is prepared here (a GPU is then waited for).
        config: the objective, the mask ratio and the smoothing of labels.
        proposal: how negatives are drawn; None: every item of the catalog is one.
    """
    if isinstance(batch, PackedBatch):
        batch = prepare(batch, config, repeats=model.repeat_logits is not None)
    if config.objective == "masked-item":
        return _cloze_loss(model, batch, config, proposal)
    items = masked(batch.items, config.mask_ratio)
    read = model.encode if config.objective == "per-prefix" else model.encode_prefixes
    states = read(items, batch.cu_seqlens).index_select(0, batch.asked)
    return model.loss(states, batch.targets, proposal, config.label_smoothing, batch.prefixes)


def _cloze_loss(model: NextItemModel, batch: TrainingBatch, config: TrainingConfig, proposal: NegativeSampler | None) -> Tensor:
    # how many are hidden is known on the device alone: a GPU is waited for here
    last = torch.zeros_like(batch.items, dtype=torch.bool)
    last[to_device(batch.cu_seqlens[1:] - 1, last.device)] = True
    hidden = last[batch.asked] | (torch.rand(batch.asked.shape, device=last.device) < config.mask_ratio)
    blanks = batch.asked[hidden]
    visible = batch.items.index_fill(0, blanks, 0)
    prefixes = None
    if model.repeat_logits is not None:
        # the items of a sequence as the encoder sees them; the last place is always hidden, as it is when a sequence is scored
        sequence = torch.searchsorted(batch.cu_seqlens, blanks.cpu(), right=True) - 1
        prefixes = prefix_items(visible, batch.cu_seqlens, batch.cu_seqlens[sequence + 1] - 2)
    states = model.encode_masked(visible, batch.cu_seqlens)
    return model.loss(states[blanks], batch.targets[hidden], proposal, config.label_smoothing, prefixes)


@dataclass(frozen=True)
class Plan:
    """One pass over the training part: its examples, and where each lies in which batch."""

    examples: Examples
    batches: list[BatchPlan]


def plan_pass(train: Examples, config: TrainingConfig, epoch: int) -> Plan:
    """Lay out one pass; a function of the seed and the epoch alone, so that a resumed run sees the same batches."""
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
    """A sentence, when batches hold fewer examples than `batch_size`, for `token_budget` has no room for so many."""
    longest = min(int(train.lengths.max()), train.max_length or int(train.lengths.max()))
    # whole chunks are at least half full: below this there is always room, and nothing is planned
    if config.objective != "per-prefix" or config.batch_size is None or 2 * config.batch_size * longest <= config.token_budget:
        return None
    plan = plan_pass(train, config, epoch=0)
    asked = -(-len(plan.examples) // config.batch_size)
    if len(plan.batches) <= asked:
        return None
    return (
        f"training.token_budget = {config.token_budget:,} has no room for training.batch_size = {config.batch_size:,} examples: "
        f"{len(plan.batches):,} batches a pass in place of {asked:,}; raise training.token_budget where memory allows, "
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
    """What one pass costs."""

    tokens: int
    targets: int
    tokens_of_other: int  # had the other objective been chosen

    def advice(self, config: TrainingConfig) -> str | None:
        """A sentence, when another objective would be far cheaper."""
        if config.objective != "per-prefix" or self.tokens <= 20 * self.tokens_of_other:
            return None
        ratio = self.tokens / self.tokens_of_other
        return (
            f'training.objective = "per-prefix" reads {self.tokens:,} tokens a pass, {ratio:.0f} times '
            f'the {self.tokens_of_other:,} of "all-positions"; try --set training.objective=all-positions '
            f"(with backbone.bidirectional=top), or --set training.prefixes_per_sequence=1"
        )


def pass_cost(train: Examples, config: TrainingConfig) -> PassCost:
    """Count the tokens that one pass reads, and what the other objective would read."""
    once, every = train.tokens_one_pass, train.tokens_prefix
    if config.objective == "all-positions":
        return PassCost(once, train.targets, every)
    if config.objective == "masked-item":
        rows = len(train.windows())
        return PassCost(once + rows, rows + int(config.mask_ratio * once), every)
    if config.prefixes_per_sequence is None:
        return PassCost(every, train.targets, once)
    asked = train.stop - train.first_target
    share = np.minimum(config.prefixes_per_sequence / asked, 1.0)
    return PassCost(int((share * train.tokens_of_prefixes).sum()), int((share * asked).sum()), once)
