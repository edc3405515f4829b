"""The training loop: epochs, validation, early stopping, averaged weights, resuming, any number of processes.

Plain PyTorch on one page: why it replaced Lightning, and what Lightning Fabric would cost, is in
docs/explanation/training-loop.md.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssd4rec.config import TrainingConfig
from ssd4rec.data.packing import materialize_batch
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split
from ssd4rec.diagnostics import resolve_device, resolve_precision
from ssd4rec.distributed import World, current_world
from ssd4rec.errors import ConfigError, DivergedError
from ssd4rec.evaluation.metrics import MONITORED_CUTOFF, ndcg
from ssd4rec.evaluation.ranks import rank_examples
from ssd4rec.evaluation.sharded_ranks import rank_examples_sharded
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.checkpoint import Checkpoints, Epoch, Progress, best_epoch, training_identity
from ssd4rec.training.item_shards import ItemShards, check_shardable
from ssd4rec.training.memory import freed_memory_kept
from ssd4rec.training.objective import BatchLoss, Plan, TrainingBatch, batch_loss, empty_loss, plan_pass, prepare
from ssd4rec.training.setup import (
    check_independent_of_processes,
    choose_input_dropout,
    chosen_algorithms,
    folder_of,
    make_optimizer,
    make_sampler,
    set_popularity,
)
from ssd4rec.training.sharing import share_of, stream_keys
from ssd4rec.training.teacher import Teacher, frozen_copy

VALIDATION_TOKENS = 32768  # positions encoded at once, at most: a preset of the paper has a batch of 1,000,000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingReport:
    """The training history and its outcome."""

    history: tuple[Epoch, ...]
    best_epoch: int
    best_ndcg: float  # validation NDCG@10 of the best epoch's weights
    stopped: str  # "patience" or "max_epochs"; "steps" after a final fit
    seconds: float  # all epochs, including those before a resume
    input_dropout: float  # the probability, also with backbone.input_dropout = "auto"
    seconds_before_resume: float = 0.0  # of `seconds`, those that earlier processes took

    @property
    def best_steps(self) -> int:
        """Number of steps up to the end of the best epoch."""
        return self.history[self.best_epoch - 1].step


@dataclass(frozen=True)
class FixedSteps:
    """A training of so many steps, without validation."""

    steps: int
    scheduled: float  # steps after which a cosine schedule would have reached a learning rate of 0


def fit(  # noqa: PLR0913 - each argument is a documented option
    model: NextItemModel,
    sequences: Sequences,
    split: Split,
    config: TrainingConfig,
    *,
    directory: str | Path | None = None,
    is_locked: bool = False,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    fixed: FixedSteps | None = None,
    start: str | None = None,
    teacher: NextItemModel | Teacher | None = None,
) -> TrainingReport:
    """Train a model in place; it ends with the weights of the epoch that validated best, on the CPU and in training mode.

    In a process group (`ssd4rec.distributed`), all processes call this together: they share every batch, and end with the same
    weights. Only the first one writes checkpoints; `directory` must be readable for all of them to resume.

    Args:
        model: trained in place.
        sequences: the events.
        split: the training and validation sets.
        config: objective, optimizer, early stopping.
        directory: where checkpoints are written after each epoch, and each minute within an epoch; None: nowhere.
        is_locked: the caller has locked the directory already.
        resume: continue from the checkpoint in `directory`; on the same machine with as many threads, the weights are those of
            an uninterrupted run, bit for bit.
        callbacks: called along the way, e.g. a progress bar.
        fixed: train for so many steps instead, and end with the last weights; NDCG@10 is not a number then.
        start: hash of the initial weights, if they are not those of the seed: a training resumes with the same ones only.
        teacher: its probabilities have a share of `training.teacher_weight` in the targets; it is only read. This function trains
            none: with `training.teachers = "auto"` the model is taught if a teacher is passed.

    Raises:
        StateError: the checkpoint is missing, damaged, or belongs to another training.
        ArtifactError: another process trains in `directory`, or it cannot be written.
        BackendError: the accelerator is not available.
        ConfigError: `training.teachers` without a teacher.
        DivergedError: the loss or a score is not finite.
        ProcessGroupError: another process of the group was lost.
    """
    world = current_world()
    if world.size > 1:
        check_independent_of_processes(model, config)
    if config.shard_item_table:
        check_shardable(model)
    if config.needs_teachers and teacher is None:
        raise ConfigError(
            f"training.teachers = {config.teachers}, but no teacher was passed; use ssd4rec.train or pipeline.fit, which train "
            f"one first, or set training.teachers=0"
        )
    teacher = Teacher(teacher) if isinstance(teacher, NextItemModel) else teacher
    device = resolve_device(config.accelerator)  # before anything is written
    config = config.model_copy(update={"precision": resolve_precision(config.precision, device)})
    devices = range(torch.cuda.device_count())
    with (
        folder_of(directory, world, is_locked=is_locked) as folder,
        chosen_algorithms(config),
        torch.random.fork_rng(devices=devices),  # PyTorch's generators stay as they were
        freed_memory_kept(),
    ):
        steps = None if fixed is None else asdict(fixed)
        taught_by = None if teacher is None else teacher.fingerprint
        checkpoints = Checkpoints(folder, training_identity(model, sequences, split, config, steps, start, taught_by))
        choose_input_dropout(model, sequences, split, is_taught=teacher is not None)
        if start is None:  # else its items keep the popularity that the model knows
            set_popularity(model, sequences, split)
        model.to(device, torch.float64 if config.precision == "64-true" else None)
        loop = TrainingLoop(model, sequences, split, config, checkpoints, callbacks, world, fixed, teacher)
        if resume:
            loop.resume()
        loop.run()
        weights = checkpoints.best_weights() if world.is_first else None
        model.to("cpu")
        if loop.shards is not None:
            loop.shards.finish(model, weights)
        else:
            if weights is not None:
                model.load_state_dict(weights)
            world.broadcast_(list(model.state_dict().values()))
        if config.precision == "64-true":
            model.float()
    history = tuple(loop.history)
    best = history[-1] if fixed else best_epoch(history)
    stopped = "steps" if fixed else "patience" if len(history) < config.max_epochs else "max_epochs"
    seconds = sum(epoch.seconds for epoch in history)
    return TrainingReport(history, best.epoch, best.ndcg, stopped, seconds, model.input_dropout.p, loop.seconds_before_resume)


class TrainingLoop:
    """The state of a training and its loop; see `fit` for the arguments, and `Callback` for the attributes.

    All random numbers of a step depend on (seed, number of the step) or, with `random_numbers = "sequence"`, on (seed, epoch,
    user, place), so a resumed run draws what an uninterrupted one would have drawn.

    With `ema_decay`, the exponential moving average of the weights is validated and saved. It starts from the initial weights:
    after step n, average = d average + (1 - d) weights, d = min(ema_decay, (1 + n) / (10 + n)). The rising decay, as in
    TensorFlow's ExponentialMovingAverage, averages about a tenth of the steps so far, and at most the number that `ema_decay`
    implies (Polyak and Juditsky 1992).
    """

    def __init__(  # noqa: PLR0913 - the arguments of fit
        self,
        model: NextItemModel,
        sequences: Sequences,
        split: Split,
        config: TrainingConfig,
        checkpoints: Checkpoints,
        callbacks: Sequence[Callback],
        world: World,
        fixed: FixedSteps | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.fixed = fixed
        self.teacher = None if teacher is None else teacher.frozen_copy(model.table.weight)
        self.model, self.sequences, self.split, self.config, self.world = model.train(), sequences, split, config, world
        self.checkpoints, self.callbacks, self.device = checkpoints, callbacks, model.table.weight.device
        self.shards = ItemShards(model, world, checkpoints.folder) if config.shard_item_table else None
        self.average = frozen_copy(model) if config.ema_decay else None
        model.table.sparse = config.updated_rows == "touched"
        self.optimizer = make_optimizer(model, config)
        self.sampler = make_sampler(model, sequences, split, config)
        self.validation = split.validation.prefixes()
        self.max_epochs = config.max_epochs
        self.epoch = self.batch = self.batches = self.step = 0
        self.history: list[Epoch] = []
        self.should_stop = False  # a callback may set it: the training ends with the current epoch
        self.loss_sum: Tensor = torch.zeros((), device=self.device, dtype=model.table.weight.dtype)
        self._seconds_before = 0.0  # of the current epoch, before a resume
        self.seconds_before_resume = 0.0  # of all epochs
        self._began = time.monotonic()

    @property
    def measured(self) -> NextItemModel:
        """The model that is validated and saved."""
        return self.average or self.model

    @property
    def is_finished(self) -> bool:
        """Whether the training ends with the last epoch of its history."""
        if self.fixed is not None:
            return self.step >= self.fixed.steps
        if not self.history:
            return False
        since_best = len(self.history) - best_epoch(self.history).epoch
        return self.should_stop or len(self.history) >= self.config.max_epochs or since_best >= self.config.patience

    def run(self) -> None:
        """Train until early stopping or the last epoch."""
        self._call("on_fit_start")
        try:
            while not self.is_finished:
                self._run_epoch()
        finally:
            self._call("on_fit_end")

    def _run_epoch(self) -> None:
        self._began = time.monotonic()
        plan = plan_pass(self.split.train, self.config, self.epoch)
        if self.fixed is not None:
            plan = replace(plan, batches=plan.batches[: self.batch + self.fixed.steps - self.step])
        self.batches = len(plan.batches)
        self._call("on_epoch_start")
        for batch in self._training_batches(plan):
            self._call("on_batch_start")
            self._train_step(batch)
            self._call("on_batch_end")
            # not after the last batch: a resume there would skip the validation
            if self.batch < self.batches and self._checkpoint_is_due():
                self._save_checkpoint()
        self._call("on_validation_start")
        loss, score = float(self.loss_sum / self.batches), math.nan if self.fixed else self._validate()
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of epoch {self.epoch + 1} is {loss}; lower training.learning_rate and train again")
        is_best = self.fixed is not None or score > max((epoch.ndcg for epoch in self.history), default=-1.0)
        self.history.append(Epoch(len(self.history) + 1, loss, score, self._seconds(), self.step))
        self._call("on_epoch_end")
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self._seconds_before, self._began = 0.0, time.monotonic()
        if is_best:
            with nullcontext() if self.shards is None else self.shards.assembled(self.measured):
                if self.world.is_first:
                    self.checkpoints.save_best(self.measured)
        self._save_checkpoint()

    def _training_batches(self, plan: Plan) -> Iterator[TrainingBatch | None]:
        """Yield this process's share of the remaining batches of the epoch; None for an empty share."""
        for placed in plan.batches[self.batch :]:
            share, keys = placed, None
            if self.world.size > 1:
                share = share_of(placed, plan.examples.lengths, self.config.token_budget, self.world)
            if not len(share.rows):
                yield None
                continue
            packed = materialize_batch(
                self.sequences,
                plan.examples,
                share,
                request_times=self.model.request_time is not None,
                target_events=self.teacher is not None and self.teacher.pairs is not None,
            )
            batch = prepare(packed, self.config, repeats=self.model.repeat_logits is not None)
            if self.config.random_numbers == "sequence":
                keys = stream_keys(plan.examples, share, batch.cu_seqlens, (self.config.seed, self.epoch))
            yield batch._replace(keys=keys).to(self.device)

    def _train_step(self, batch: TrainingBatch | None) -> None:
        torch.manual_seed((self.config.seed << 32) + self.step)
        if self.config.schedule == "cosine":
            self._set_learning_rate()
        if self.model.features is not None:
            self.model.features.draw_without_id()
        self.optimizer.zero_grad()
        loss = self._forward(batch)
        if loss is not None:
            (loss.mean * self._weight(loss)).backward()
        self.loss_sum += self._reduce(loss)
        self.optimizer.step()
        self.step, self.batch = self.step + 1, self.batch + 1
        if self.average is not None:
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            get_ema_multi_avg_fn(decay)(list(self.average.parameters()), list(self.model.parameters()), self.step)

    def _forward(self, batch: TrainingBatch | None) -> BatchLoss | None:
        if batch is None and self.shards is None:
            return None
        with self._autocast():
            if batch is None:
                return empty_loss(self.model, self.config, self.sampler)
            loss = batch_loss(self.model, batch, self.config, self.sampler, self.teacher)
        return loss if loss.targets or self.shards is not None else None

    def _weight(self, loss: BatchLoss) -> int:
        """Return the factor with which the gradients of the processes sum to those of the sum over all targets."""
        if self.world.size == 1:
            return 1
        # the full softmax over shards is a mean over the targets of all processes already
        is_global = self.shards is not None and self.sampler is None
        return self.world.total(loss.targets) if is_global else loss.targets

    def _reduce(self, loss: BatchLoss | None) -> Tensor:
        """Return the mean loss over the targets of all processes, and make every gradient the gradient of that mean."""
        table_gradient = self.model.table.weight.grad
        if self.shards is not None and table_gradient is not None and not self.model.table.sparse:
            self.model.table.weight.grad = table_gradient.to_dense()
        if self.world.size == 1:
            return loss.mean.detach() if loss else self.loss_sum.new_zeros(())
        total = self.loss_sum.new_zeros(()) if loss is None else (loss.mean * loss.targets).detach().to(self.loss_sum)
        targets = self.loss_sum.new_tensor(0 if loss is None else loss.targets)
        table, dense = self.model.table.weight, []
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter is not table or not (self.model.table.sparse or self.shards):
                dense.append(parameter.grad)
        self.world.sum_([*dense, total, targets])
        if self.shards is not None:  # their gradients came with the backward pass
            table.grad = None if table.grad is None else table.grad / targets
        elif self.model.table.sparse and table.grad is not None:
            table.grad = self.world.sum_sparse(table.grad if table.grad.is_sparse else table.grad.to_sparse(1)) / targets
        torch._foreach_div_(dense, targets.item())
        return total / targets

    def _set_learning_rate(self) -> None:
        # depends on the progress only, so a resumed run continues with the same rates
        done = (self.epoch + self.batch / self.batches) / self.config.max_epochs
        if self.fixed is not None:
            done = self.step / self.fixed.scheduled
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def _validate(self) -> float:
        """Return NDCG@10 of the validation set."""
        tokens = min(4 * self.config.token_budget, VALIDATION_TOKENS)
        arguments = self.measured, self.sequences, self.validation, tokens
        with self._autocast():
            sharded = self.shards is not None
            ranks = rank_examples_sharded(*arguments, self.world) if sharded else rank_examples(*arguments, world=self.world)
        return ndcg(ranks, MONITORED_CUTOFF)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16-mixed")

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _checkpoint_is_due(self) -> bool:
        if self.shards is None:
            return self.checkpoints.is_due
        is_due = torch.tensor(self.world.is_first and self.checkpoints.is_due, dtype=torch.int64)
        self.world.max_(is_due)  # all processes gather the table when the first one writes it
        return bool(is_due)

    def _save_checkpoint(self) -> None:
        if not self.world.is_first and self.shards is None:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["loss_sum"] = self.loss_sum
        if self.shards is not None:
            tensors = self.shards.gathered(tensors, self.model, self.optimizer)
        if not self.world.is_first:
            return
        progress = Progress(self.epoch, self.batch, self.step, self._seconds(), tuple(self.history))
        self.checkpoints.save(progress, tensors)

    def resume(self) -> None:
        """Continue from the checkpoint.

        Raises:
            StateError: there is none, it is damaged, or it belongs to another training.
        """
        progress, tensors = self.checkpoints.load()
        if self.shards is not None:
            tensors = self.shards.scattered(tensors, self.model, self.optimizer)
        self.epoch, self.batch, self.step = progress.epoch, progress.batch, progress.step
        self.history, self._seconds_before = list(progress.history), progress.seconds
        self.seconds_before_resume = sum(epoch.seconds for epoch in progress.history) + progress.seconds
        self.model.load_state_dict(_with_prefix(tensors, "model."))
        if self.average is not None:
            self.average.load_state_dict(_with_prefix(tensors, "average."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _with_prefix(tensors, "optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.loss_sum.copy_(tensors["loss_sum"])


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
