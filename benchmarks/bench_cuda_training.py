"""How long are a training step and an epoch on this GPU, with the kernels and with torch's own form?

Run: python benchmarks/bench_cuda_training.py [--out FILE] [--data FOLDER] [--quick]      exit code 2 without a CUDA device
     TRITON_INTERPRET=1 python benchmarks/bench_cuda_training.py --smoke      tiny sizes on a CPU: does it run?

An epoch is learned through the same batches, preparation and loss as `ssd4rec train` learns it (bf16-mixed), validation left out.
One that would take too long is broken off and extrapolated from the tokens it had learned; the row says so. --data names a folder
with ml-1m.inter.gz and kuairand-pure.inter.gz; what is not there is drawn at random with the same counts, and the row says so.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from common import measure
from cuda_common import MIXES, Bench, arguments, boundaries_of, milliseconds
from ssd4rec.config import Config, SSD4RecConfig, TrainingConfig, load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.packing import PackedBatch, materialize_batch
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import leave_last_out
from ssd4rec.models.next_item import NextItemModel, make_model
from ssd4rec.models.ssd4rec import SSD4Rec
from ssd4rec.ops import dispatch
from ssd4rec.pipeline import Prepared
from ssd4rec.training.objective import TrainingBatch, next_item_loss, plan_pass, prepare

COUNTS = {"ml-1m": (6_040, 3_416, 165), "kuairand-pure": (23_951, 7_111, 47)}  # users, items, mean events
PAPER_SECONDS = {"kuairand-pure": 66.0}  # an epoch of the authors' code on an H200, by their log


def epoch_batches(data: Prepared, training: TrainingConfig, epoch: int) -> Iterator[TrainingBatch]:
    """Yield the batches of a pass as the training loop does."""
    plan = plan_pass(data.split.train, training, epoch)
    for placed in plan.batches:
        yield prepare(materialize_batch(data.histories, plan.examples, placed), training)


def main() -> int:
    """Print a table; write it after each row."""
    options = arguments(__doc__)
    bench = Bench.begin("bench_cuda_training", options)
    if bench is None:
        return 2
    for mix in list(MIXES)[: 1 if bench.smoke else None]:
        for width in (32,) if bench.smoke else (64,) if options.quick else (64, 256):
            for objective in ("all-positions", "per-prefix"):
                bench.add(step_row(bench, mix, width, objective))
    for name, settings in epochs(bench, quick=options.quick):
        bench.add(epoch_row(bench, name, settings, options.data))
    bench.end("bf16-mixed on a GPU; decays, states and sums float32; Adam fused; nothing compiled, no CUDA graphs")
    return 0


def epochs(bench: Bench, *, quick: bool) -> Iterator[tuple[str, Config]]:
    """The trainings whose epoch is timed: ML-1M in one pass at three widths, then the paper's own settings."""
    small = ["backbone.width=64", "backbone.layers=1", "training.token_budget=8192"]
    if bench.smoke:
        tiny = ["backbone.width=16", "backbone.state_dim=16", "training.token_budget=64"]
        yield "tiny", load_config("quick", tiny)
        return
    yield "ml-1m", load_config("quick", small)
    yield "ml-1m", load_config("quick", [*small[:2], "training.token_budget=65536"])
    if quick:
        return
    yield "ml-1m", load_config("quick", ["backbone.width=256", "training.token_budget=65536"])
    yield "kuairand-pure", load_config("kuairand-pure")
    yield "ml-1m", load_config("ml-1m")


def step_row(bench: Bench, mix: str, width: int, objective: str) -> dict[str, Any]:
    """One training step of a prepared batch: loss, gradients, Adam."""
    length = 64 if bench.smoke else 1 << 16
    items = MIXES[mix][1] if not bench.smoke else 40
    config = TrainingConfig.model_validate({"objective": objective})
    random_items = torch.randint(1, items + 1, (2, length))
    batch = PackedBatch(random_items[0], boundaries_of(mix, length, torch.device("cpu")), random_items[1])
    prepared = prepare(batch, config).to(bench.device)
    row: dict[str, Any] = {"what": f"training step, {objective}, {mix}, T={length:,}, D={width}"}
    for form in ("torch", "triton"):
        torch.manual_seed(0)
        states = 16 if bench.smoke else 64
        model = NextItemModel(SSD4Rec(SSD4RecConfig(width=width, state_dim=states)), items).to(bench.device)
        step = step_of(bench, model, config, form)
        try:
            repeats, warm_up = (1, 0) if bench.smoke else (9, 4)
            seconds = measure(lambda step=step: step(prepared), repeats=repeats, warm_up=warm_up).median
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            row[form] = "-"
            continue
        row[form] = milliseconds(seconds)
        row[f"events/s {form}"] = f"{length / seconds:,.0f}"
    return row


def epoch_row(bench: Bench, name: str, config: Config, folder: Path | None) -> dict[str, Any]:
    """One epoch with the kernels, after a few steps that compile them."""
    data, source = data_of(name, config, folder)
    training = config.training
    allowed = 60.0
    torch.manual_seed(0)
    model = make_model(config, len(data.catalog)).to(bench.device)
    step = step_of(bench, model, training, "triton")
    for batch, _ in zip(epoch_batches(data, training, 0), range(3), strict=False):
        step(batch.to(bench.device))
    wait(bench)
    began = time.perf_counter()
    batches = epoch_batches(data, training, 1)
    planned = time.perf_counter() - began
    learned = learnt_tokens = 0
    for batch in batches:
        step(batch.to(bench.device))
        learned += 1
        learnt_tokens += len(batch.items)
        if learned % 50 == 0:
            wait(bench)  # or the queue would run ahead of the clock
            if time.perf_counter() - began > allowed or bench.late:
                break
    wait(bench)
    seconds = time.perf_counter() - began
    whole = planned + (seconds - planned) * len(batches) / learned
    widths = f"D={config.backbone.width}, {config.backbone.layers} layers"
    row = {
        "what": f"epoch of {name} ({source}), {training.objective}, {widths}, {len(batches):,} batches",
        "triton": f"{whole:.2f} s" + ("" if learned == len(batches) else f", extrapolated from {learned:,} batches"),
        "events/s triton": f"{learnt_tokens / (seconds - planned):,.0f}",
        "planning": f"{planned:.2f} s",
    }
    if (theirs := PAPER_SECONDS.get(name)) is not None and training.objective == "per-prefix":
        row["faster than the authors' 66 s"] = f"{theirs / whole:.1f}x"
    return row


def step_of(
    bench: Bench, model: NextItemModel, config: TrainingConfig, form: dispatch.Backend
) -> Callable[[TrainingBatch], None]:
    """One step of training, as Lightning takes it with precision bf16-mixed."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)

    def step(batch: TrainingBatch) -> None:
        optimizer.zero_grad()
        with dispatch.use_backend(form), autocast(bench):
            loss = next_item_loss(model, batch, config)
        loss.backward()
        optimizer.step()

    return step


@contextmanager
def autocast(bench: Bench) -> Iterator[None]:
    """bfloat16 on a GPU; the interpreter has none."""
    with torch.autocast(bench.device.type, torch.bfloat16, enabled=not bench.smoke):
        yield


def wait(bench: Bench) -> None:
    """Until the device has done what it was asked."""
    if bench.device.type == "cuda":
        torch.cuda.synchronize()


def data_of(name: str, config: Config, folder: Path | None) -> tuple[Prepared, str]:
    """The data set from the folder, or drawn with its counts; and a word for which."""
    users, items, mean = COUNTS.get(name, (6, 20, 8))
    file = None if folder is None else folder / f"{name}.inter.gz"
    if file is not None and file.is_file():
        interactions, source = read_interactions(file), "the data set"
    else:
        random = np.random.default_rng(0)
        lengths = np.maximum(random.exponential(mean - 5, users).astype(np.int64) + 5, 5)
        user = np.repeat(np.arange(users), lengths)
        item = (items * random.random(len(user)) ** 2).astype(np.int64)  # a few items are popular
        table = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(len(user))})
        interactions, source = read_interactions(table), "drawn"
    histories, catalog = build_sequences(interactions, min_interactions=config.data.min_interactions if source != "drawn" else 1)
    return Prepared(histories, catalog, leave_last_out(histories), {}), source


if __name__ == "__main__":
    sys.exit(main())
