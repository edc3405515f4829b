"""RecTools' SASRec and eSASRec: every position of a history's last events in one pass; for `bench_peers.py`.

SASRec has a full softmax, eSASRec gated layers and a sampled softmax over 256 negatives (arXiv 2508.06450).
"""

import logging
import warnings

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers
from shared import (
    LONGEST,
    PROTOCOLS,
    SEED,
    WIDTH,
    Clock,
    Sequences,
    Stopwatch,
    ndcg_at_10,
    options,
    peak_bytes,
    read,
    report,
    versions,
)

SETTINGS = {
    "SASRec": {"loss": "softmax"},
    "eSASRec": {"loss": "sampled_softmax", "n_negatives": 256, "transformer_layers_type": LiGRLayers},
}
EPOCHS: list[float] = []  # seconds; the model deep-copies its trainer, so that a callback cannot hold them


class Timer(Callback):
    """Seconds of each epoch of learning."""

    def on_train_epoch_start(self, *_: object) -> None:
        """Begin."""
        self.began = Stopwatch()

    def on_train_epoch_end(self, *_: object) -> None:
        """End."""
        EPOCHS.append(self.began.seconds)


def main() -> None:
    """Train, measure after each epoch, report."""
    arguments = options()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    histories = read(arguments.histories)
    seed_everything(SEED, verbose=False)
    prepared = Stopwatch()
    train, validation, test = (_dataset(histories, left_out) for left_out in (2, 2, 1))
    model = SASRecModel(
        n_factors=WIDTH,
        n_blocks=2,
        session_max_len=LONGEST,
        **SETTINGS[arguments.model],
        verbose=0,
        get_trainer_func=_trainer,
        recommend_torch_device="cpu",
    )
    training_items = set(histories.items[histories.place_of < histories.training_lengths[histories.user_of]].tolist())
    parts = {"validation": (validation, 2), "test": (test, 1)}
    read_events = np.minimum(histories.training_lengths - 1, LONGEST)
    start = {
        "library": versions("rectools"),
        "prepare_seconds": prepared.seconds,
        "targets": {name: _check(histories, name, part, back) for name, (part, back) in parts.items()},
        "examples": int(read_events.sum()),
        "events": int(read_events.sum()),
        "positions": histories.users * LONGEST,
    }
    clock, best, tested, going = Clock(arguments.epochs, arguments.minutes), -1.0, {}, True
    while going:
        model.fit_partial(train, min_epochs=1, max_epochs=1)
        if not clock.done:
            catalog = model.data_preparator.get_known_item_ids()
            unknown = [int((~np.isin(histories.targets(back), catalog)).sum()) for _, back in parts.values()]
            parameters = sum(parameter.numel() for parameter in model.torch_model.parameters())
            report("start", **start, catalog=len(catalog), unreachable=unknown, parameters=parameters)
            assert set(catalog) <= training_items
        evaluation = Stopwatch()
        ndcg = ndcg_at_10(_ranks(model, histories, validation, 2))
        evaluation_seconds = evaluation.seconds
        if ndcg > best:
            best = ndcg
            ranks = {name: _ranks(model, histories, test, 1, exclude_seen=exclude) for name, exclude in PROTOCOLS.items()}
            tested = {name: ndcg_at_10(each) for name, each in ranks.items()}
        seconds = EPOCHS[-1]
        going = clock.epoch(seconds)
        report("epoch", epoch=clock.done, seconds=seconds, evaluation_seconds=evaluation_seconds, ndcg=ndcg)
    report("end", **tested, peak_bytes=peak_bytes())


def _trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Timer()],
    )


def _dataset(histories: Sequences, left_out: int) -> Dataset:
    """All histories without their last events; the time of an event is its place, so the order is ours."""
    mask = histories.place_of < (np.diff(histories.offsets) - left_out)[histories.user_of]
    frame = pd.DataFrame(
        {
            Columns.User: histories.user_of[mask],
            Columns.Item: histories.items[mask],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(histories.place_of[mask], unit="s"),
        }
    )
    return Dataset.construct(frame)


def _check(histories: Sequences, name: str, dataset: Dataset, back: int) -> int:
    """How many targets there are; the histories that are read for them are ours, so what follows them is."""
    frame = dataset.get_raw_interactions().sort_values([Columns.User, Columns.Datetime])
    mask = histories.place_of < (np.diff(histories.offsets) - back)[histories.user_of]
    same = np.array_equal(frame[Columns.User], histories.user_of[mask]) and np.array_equal(
        frame[Columns.Item], histories.items[mask]
    )
    assert same, f"{name}: RecTools holds other histories"
    return histories.users


def _ranks(model: SASRecModel, histories: Sequences, dataset: Dataset, back: int, *, exclude_seen: bool = False) -> np.ndarray:
    """Ranks among what it recommends; below the tenth: past the end of the catalog."""
    users = np.arange(histories.users)
    recommended = model.recommend(users=users, dataset=dataset, k=10, filter_viewed=exclude_seen)
    ranks = np.full(histories.users, len(histories.items), dtype=np.int64)
    hits = recommended[recommended[Columns.Item].to_numpy() == histories.targets(back)[recommended[Columns.User].to_numpy()]]
    ranks[hits[Columns.User].to_numpy()] = hits[Columns.Rank].to_numpy()
    return ranks


if __name__ == "__main__":
    main()
