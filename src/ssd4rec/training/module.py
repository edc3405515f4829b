"""The training step as a LightningModule: batches, masking, optimizer, validation."""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric

from ssd4rec.config import TrainingConfig
from ssd4rec.data.packing import PackedBatch, materialize_batch, pack
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split, training_counts
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, MONITORED_METRIC
from ssd4rec.evaluation.ranks import raised_by_repeats, ranks_from_states
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.sampled_softmax import NegativeSampler, make_negative_sampler
from ssd4rec.training.objective import TrainingBatch, next_item_loss, plan_pass, prepare
from ssd4rec.training.row_adam import RowAdam

READ_AT_ONCE = 32768  # positions of the validation part, at most: a preset of the paper has a batch of 1,000,000


class EpochBatches:
    """One pass in batches; after a resume in mid-pass, what is left of it. Its length is that of the whole pass."""

    def __init__(
        self, histories: Sequences, split: Split, config: TrainingConfig, epoch: int, done: int, *, repeats: bool = False
    ) -> None:
        self._histories, self._repeats = histories, repeats
        self._config = config
        self._plan = plan_pass(split.train, config, epoch)
        self._done = done

    def __len__(self) -> int:
        return len(self._plan.batches)

    def __iter__(self) -> Iterator[TrainingBatch]:
        for placed in self._plan.batches[self._done :]:
            batch = materialize_batch(self._histories, self._plan.examples, placed)
            yield prepare(batch, self._config, repeats=self._repeats)


class NextItemTraining(pl.LightningModule):
    """Trains a model on the examples of a split.

    Every random choice of a step comes from (seed, number of the step), so a run that was killed and resumed draws what an
    uninterrupted one would have drawn.

    With `ema_decay` a second model holds the exponential moving average of the weights, from the initial ones on: after step n,
    1 the first, average = d average + (1 - d) weights, d = min(ema_decay, (1 + n) / (10 + n)). So it is an average over about a
    tenth of the steps so far, until that is as much as the decay says. It learns nothing, and is what is validated and kept
    (Polyak and Juditsky 1992; the rising decay as in TensorFlow's ExponentialMovingAverage).

    Args:
        model: what is trained.
        histories: where the items lie.
        split: its train part is learned, its validation part watched.
        config: the settings.
    """

    def __init__(self, model: NextItemModel, histories: Sequences, split: Split, config: TrainingConfig) -> None:
        super().__init__()
        self.model, self.histories, self.split, self.config = model, histories, split, config
        self.averaged = deepcopy(model).requires_grad_(requires_grad=False) if config.ema_decay else None
        self.watched = MeanMetric()
        self.course_loss = MeanMetric(nan_strategy="disable")  # looking for NaN would wait for the device at each step
        self.read_in_epoch = (0, 0)  # (epoch, batches of it that were learned)
        self.proposal: NegativeSampler | None = None
        if config.samples(model.catalog_size):
            counts = torch.from_numpy(training_counts(histories, split.train, model.catalog_size))[1:]
            self.proposal = make_negative_sampler(counts, config.negative_power, config.negatives)
        model.table.sparse = config.updated_rows == "touched"

    @property
    def measured(self) -> NextItemModel:
        """What is validated and kept: the model, or the one that holds the average of its weights."""
        return self.averaged or self.model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as the authors have it; where only touched rows are updated, `RowAdam`."""
        if self.config.updated_rows == "touched":
            table = self.model.table.weight
            others = [each for each in self.model.parameters() if each is not table]
            return RowAdam(others, table, self.config.learning_rate)
        return torch.optim.Adam(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )

    def train_dataloader(self) -> EpochBatches:
        """The batches of the current epoch that have not been learned yet."""
        epoch, done = self.read_in_epoch
        current = self.trainer.current_epoch
        done = done if epoch == current else 0
        repeats = self.model.repeat_logits is not None
        return EpochBatches(self.histories, self.split, self.config, current, done, repeats=repeats)

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        """The validation part, a target a history."""
        at_once = min(4 * self.config.token_budget, READ_AT_ONCE)
        batches = list(pack(self.histories, self.split.validation.prefixes(), at_once))
        return DataLoader(cast("Dataset[PackedBatch]", batches), batch_size=None)

    def transfer_batch_to_device(
        self, batch: TrainingBatch | PackedBatch, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch | PackedBatch:
        """Lightning's hook."""
        del dataloader_idx
        return batch.to(device)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        torch.manual_seed((self.config.seed << 32) + self.global_step)
        if self.config.schedule != "constant":
            self._set_learning_rate(batch_idx)
        self.read_in_epoch = (self.trainer.current_epoch, batch_idx + 1)
        loss = next_item_loss(self.model, batch, self.config, self.proposal)
        self.course_loss.update(loss.detach())
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook: the step, and the average after it; before any callback saves either."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            steps = self.global_step + 1  # Lightning counts this one when the hook is over
            decay = min(self.config.ema_decay, (1 + steps) / (10 + steps))
            get_ema_multi_avg_fn(decay)(list(self.averaged.parameters()), list(self.model.parameters()), steps)

    def _set_learning_rate(self, batch_idx: int) -> None:
        # a function of the place in the training alone, so a resumed run goes on as it would have
        done = (self.trainer.current_epoch + batch_idx / self.trainer.num_training_batches) / self.config.max_epochs
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Rank the targets of one batch."""
        del batch_idx
        states = self.measured.encode(batch.items, batch.cu_seqlens)
        raised = raised_by_repeats(self.measured, states, batch.items, batch.cu_seqlens)
        ranks = ranks_from_states(states, self.measured.item_vectors, batch.last_targets, raised=raised)
        gained = torch.where(
            ranks <= MONITORED_CUTOFF, 1 / torch.log2(ranks + 1.0), 0.0
        )  # evaluation.metrics.ndcg_gains, on the device
        self.watched.update(gained)

    def on_validation_epoch_end(self) -> None:
        """Publish the epoch's figures for early stopping, the best weights and the course."""
        self.log(MONITORED_METRIC, self.watched.compute())
        self.log("loss", self.course_loss.compute())
        self.watched.reset()
        self.course_loss.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember how far into the pass the weights are, and the losses so far."""
        checkpoint["read_in_epoch"] = self.read_in_epoch
        checkpoint["course_loss"] = (self.course_loss.mean_value, self.course_loss.weight)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counterpart of `on_save_checkpoint`."""
        epoch, done = checkpoint["read_in_epoch"]
        self.read_in_epoch = (int(epoch), int(done))
        self.course_loss.mean_value, self.course_loss.weight = checkpoint["course_loss"]
