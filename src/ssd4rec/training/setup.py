"""The parts of a training around its loop: optimizer, sampler of negatives, folder of checkpoints, and state of PyTorch."""

import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssd4rec.config import Config, TrainingConfig
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Split, training_counts
from ssd4rec.distributed import World
from ssd4rec.errors import ConfigError
from ssd4rec.models.next_item import NextItemModel
from ssd4rec.ops.sampled_softmax import NegativeSampler, make_negative_sampler
from ssd4rec.training.checkpoint import lock_folder
from ssd4rec.training.row_adam import RowAdam

AUTOMATIC_TEACHERS = 2  # with training.teachers = "auto", on sparse data; on Beauty four were no better
SPARSE = 55.0  # training interactions of an item, on average
MAX_SCORES = 10**10  # targets of an epoch times items of the catalog: beyond it, training takes an hour and more on a core

logger = logging.getLogger(__name__)


def check_independent_of_processes(model: NextItemModel, config: TrainingConfig) -> None:
    """Check that the weights will not depend on the number of processes.

    Raises:
        ConfigError: they would with these settings.
    """
    if config.random_numbers != "sequence":
        raise ConfigError(
            f'training with several processes needs training.random_numbers = "sequence", found "{config.random_numbers}": masks '
            f"and dropout of a batch must not depend on how it is shared; ssd4rec train --devices sets it"
        )
    if any(isinstance(part, nn.GRU) and part.dropout > 0 for part in model.modules()):
        raise ConfigError(
            "the dropout between several GRU layers depends on how a batch is shared between processes; "
            "set backbone.layers=1 or backbone.dropout=0.0, or train with one process"
        )


def make_optimizer(model: NextItemModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return Adam, the optimizer of the authors; with sparse updates of the item table, `RowAdam`."""
    if config.updated_rows == "touched":
        table = model.table.weight
        return RowAdam([each for each in model.parameters() if each is not table], table, config.learning_rate)
    return torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def make_sampler(model: NextItemModel, sequences: Sequences, split: Split, config: TrainingConfig) -> NegativeSampler | None:
    """Return a sampler that draws negatives by their training counts; None with a full softmax."""
    if not config.samples(model.catalog_size):
        return None
    counts = torch.from_numpy(training_counts(sequences, split.train, model.catalog_size))[1:]
    return make_negative_sampler(counts, config.negative_power, config.negatives)


def interactions_per_item(sequences: Sequences, split: Split, catalog_size: int) -> float:
    """Return the number of training interactions of an item, on average over those that occur in the training set."""
    counts = training_counts(sequences, split.train, catalog_size)
    return float(counts.sum() / max(np.count_nonzero(counts), 1))


def choose_teachers(config: Config, sequences: Sequences, split: Split, catalog_size: int, *, continues: bool = False) -> int:
    """Return the number of teachers, by the data where `training.teachers` is "auto", and log why.

    That is 2 if items have fewer than SPARSE training interactions on average and an epoch computes at most MAX_SCORES scores;
    see docs/research-log/2026-11-accuracy.md. A sampled softmax and a sharded item table go without. A training that continues
    a finished model has that one as its teacher where the number is not 0.
    """
    training = config.training
    if training.teachers != "auto":
        return training.teachers
    scores = split.train.targets * catalog_size
    count, advice = 0, ""
    if training.samples(catalog_size) or training.shard_item_table:
        reason = "they need the scores of all items in one process"
    elif (per_item := interactions_per_item(sequences, split, catalog_size)) >= SPARSE:
        reason = f"an item has {per_item:.0f} training interactions on average, {SPARSE:g} or more"
    elif scores > MAX_SCORES:
        reason = f"an epoch has {scores:.2g} scores (targets times items), more than {MAX_SCORES:.2g}"
        advice = f"; training.teachers={AUTOMATIC_TEACHERS} is more accurate on sparse data, and takes more than twice the time"
    else:
        count = AUTOMATIC_TEACHERS
        reason = f"an item has {per_item:.0f} training interactions on average, fewer than {SPARSE:g}"
        advice = "; training.teachers=0 takes less than half of the time, and is less accurate"
    if count and continues:
        logger.info("teacher: the finished model itself, as %s (training.teachers=auto)", reason)
    else:
        logger.info("teachers: %d, as %s (training.teachers=auto)%s", count, reason, advice)
    return count


def automatic_input_dropout(per_item: float, *, is_taught: bool = False) -> float:
    """Return the input dropout for data with so many training interactions an item, on average over those that occur.

    It is 0.5 up to n = 75 interactions, and 0.1 less for each doubling of n, but at least 0.1. With 0.5 in place of 0.3,
    MovieLens-100K (n = 72) is more accurate and MovieLens-1M (n = 289) less; see docs/research-log/2026-11-accuracy.md. A model
    that is taught by others has 0.2 less, but at least 0.1: soft targets regularize it too, and it needs half as many epochs.
    """
    most = 0.3 if is_taught else 0.5
    return round(max(most - 0.1 * math.log2(max(per_item / 75, 1)), 0.1), 2)


def choose_input_dropout(model: NextItemModel, sequences: Sequences, split: Split, *, is_taught: bool = False) -> None:
    """Set the input dropout of a model by the data if its setting is "auto"; see `automatic_input_dropout`."""
    if model.chooses_input_dropout:
        per_item = interactions_per_item(sequences, split, model.catalog_size)
        model.input_dropout.p = automatic_input_dropout(per_item, is_taught=is_taught)
        logger.info(
            "input dropout: %g, as an item has %.0f training interactions on average (backbone.input_dropout=auto)",
            model.input_dropout.p,
            per_item,
        )


def set_popularity(model: NextItemModel, sequences: Sequences, split: Split) -> None:
    """Set the popularity that repeat logits may read to that in the training set."""
    layer = model.repeat_logits
    if layer is not None and layer.log_popularity is not None:
        layer.set_popularity(training_counts(sequences, split.train, model.catalog_size))


@contextmanager
def folder_of(directory: str | Path | None, world: World, *, is_locked: bool) -> Iterator[Path]:
    """Yield the folder of the checkpoints, locked by the first process unless the caller has locked it."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="ssd4rec-") as temporary:
            yield Path(temporary)
    else:
        with lock_folder(Path(directory)) if world.is_first and not is_locked else nullcontext():
            yield Path(directory)


@contextmanager
def chosen_algorithms(config: TrainingConfig) -> Iterator[None]:
    """Use deterministic algorithms inside the block if the settings say so."""
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to be deterministic
        torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
