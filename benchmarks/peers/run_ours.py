"""ssd4rec as `ssd4rec train --config MODEL` trains it, without teachers and score fusion; for `bench_peers.py`."""

import numpy as np
import torch
from shared import PROTOCOLS, Clock, Stopwatch, check_targets, options, peak_bytes, read, report, versions

from ssd4rec.config import load_config
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples, make_split
from ssd4rec.evaluation.evaluate import evaluate
from ssd4rec.models.next_item import count_parameters, make_model
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.loop import TrainingLoop, fit


class Reporter(Callback):
    """Times learning and validation apart, reports each epoch and ends the training in time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.learning = self.validation = 0.0

    def on_epoch_start(self, _: TrainingLoop) -> None:
        """Learning begins."""
        self.began = Stopwatch()

    def on_validation_start(self, _: TrainingLoop) -> None:
        """Learning is over, validation begins."""
        self.learning, self.began = self.began.seconds, Stopwatch()

    def on_epoch_end(self, loop: TrainingLoop) -> None:
        """Report, and stop in time."""
        self.validation = self.began.seconds
        loop.should_stop = loop.should_stop or not self.clock.epoch(self.learning)
        ndcg = loop.history[-1].ndcg
        report("epoch", epoch=self.clock.done, seconds=self.learning, evaluation_seconds=self.validation, ndcg=ndcg)


def main() -> None:
    """Train, report each epoch, measure the best weights."""
    arguments = options()
    torch.set_num_threads(arguments.threads)
    shared = read(arguments.histories)
    prepared = Stopwatch()
    settings = (f"training.max_epochs={arguments.epochs}", "training.accelerator=cpu", "training.teachers=0")
    config = load_config(arguments.model, settings)
    histories = Sequences.open(arguments.histories)
    split = make_split(histories, config.data)
    model = make_model(config, int(histories.items.max()))
    parts = {"validation": (split.validation, 2), "test": (split.test, 1)}
    report(
        "start",
        library=versions("ssd4rec"),
        prepare_seconds=prepared.seconds,
        catalog=model.catalog_size,
        targets={name: check_targets(shared, name, back, _targets(histories, part)) for name, (part, back) in parts.items()},
        examples=split.train.targets,
        events=split.train.tokens_one_pass,
        positions=split.train.tokens_one_pass,
        parameters=count_parameters(model),
    )
    fit(model, histories, split, config.training, callbacks=[Reporter(Clock(arguments.epochs, arguments.minutes))])
    tested = {name: evaluate(model, histories, split.test, exclude_seen=exclude).ndcg[10] for name, exclude in PROTOCOLS.items()}
    report("end", **tested, peak_bytes=peak_bytes())


def _targets(histories: Sequences, part: Examples) -> dict[int, int]:
    assert len(np.unique(part.user)) == len(part), "a user is asked twice"
    return dict(zip(part.user.tolist(), histories.items[part.first_target].tolist(), strict=True))


if __name__ == "__main__":
    main()
