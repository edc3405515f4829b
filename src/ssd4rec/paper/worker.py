"""One run in a process of its own: `python -m ssd4rec.paper.worker FOLDER` reads FOLDER/run.json and writes result.json.

A separate process makes the peak memory meaningful, and limits a crash to one run.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssd4rec import pipeline
from ssd4rec._csr import IntArray
from ssd4rec._io import atomic_write, write_atomically
from ssd4rec.array_types import CuSeqlens, Items, States
from ssd4rec.artifact import Artifact, load_artifact, load_artifact_or_none
from ssd4rec.baselines.item_pairs import ItemPairs
from ssd4rec.baselines.popularity import Popularity
from ssd4rec.config import Baseline, Config
from ssd4rec.data.columns import columns_of, options_of
from ssd4rec.data.interactions import Interactions, read_interactions
from ssd4rec.data.out_of_core.memory import peak_bytes
from ssd4rec.data.split import training_counts
from ssd4rec.datasets.registry import is_named_dataset, open_dataset
from ssd4rec.diagnostics import processor, resolve_device, versions
from ssd4rec.errors import DataError
from ssd4rec.evaluation.baselines import fit_baseline
from ssd4rec.evaluation.evaluate import Ranking
from ssd4rec.evaluation.metrics import Ranks
from ssd4rec.evaluation.scoring import Ranker, Scorer
from ssd4rec.evaluation.tune_fusion import REPEAT_BIASES, ZeroScorer, tune_fusion
from ssd4rec.fusion import ScoreFusion
from ssd4rec.paper.results import BASELINES, Costs, Finished, FusionResult, Variant
from ssd4rec.training.callbacks import Callback, TrainingProgress
from ssd4rec.training.loop import TrainingLoop

SPEC, RESULT, RANKS = "run.json", "result.json", "ranks.npz"
PADDED_POSITIONS = 65_536


@dataclass(frozen=True)
class RunSpec:
    """One run, as the sweep writes it to run.json."""

    title: str  # for the progress bar
    key: str
    model: str
    source: str  # name or path of the data
    fingerprint: str
    cache: str  # folder of named data sets
    seed: int | None
    settings: dict[str, Any]
    parallel_runs: int = 1


def open_interactions(source: str, config: Config, cache: Path) -> Interactions:
    """Read a named data set, or a file.

    Raises:
        DataError: It is neither, or cannot be read.
    """
    if is_named_dataset(source):
        return open_dataset(source, cache).interactions
    return read_interactions(source, columns_of(config.data), options_of(config.data))


def run(folder: Path) -> None:
    """Train and measure one model, or measure a baseline; resume where an earlier process was stopped.

    The folder has run.json, and receives the model, ranks.npz, and result.json last.

    Raises:
        DataError: The data have changed since the sweep began.
    """
    spec = RunSpec(**json.loads((folder / SPEC).read_text(encoding="utf-8")))
    config = Config.model_validate(spec.settings)
    data = pipeline.prepare(open_interactions(spec.source, config, Path(spec.cache)), None, config)
    if data.histories.fingerprint() != spec.fingerprint:
        raise DataError(f"{spec.source} has changed since the sweep began; run the command again")
    measure = _Measurement(data, config)
    result = _run_baseline(spec, measure) if spec.model in BASELINES else _run_network(spec, measure, folder)
    with atomic_write(folder / RANKS) as partial, partial.open("wb") as file:
        np.savez(file, **{str(name): ranks.astype(np.int32) for name, ranks in measure.ranks.items()})  # type: ignore[arg-type]
    write_atomically(folder / RESULT, result.model_dump_json())


class _Measurement:
    """Rank the test set in every variant, and keep the ranks."""

    def __init__(self, data: pipeline.Prepared, config: Config) -> None:
        self.data, self.config = data, config
        self.counts: IntArray = training_counts(data.histories, data.split.train, len(data.catalog))
        self.ranks: dict[Variant, Ranks] = {}

    def __call__(self, model: Ranker | Scorer, variant: Variant, fusion: ScoreFusion | None = None) -> Ranking:
        """Rank under the protocol of the settings."""
        ranking = pipeline.evaluate(model, self.data, self.config, self.counts, fusion=fusion)
        self.ranks[variant] = ranking.ranks
        return ranking

    def excluding_seen(self, model: Ranker | Scorer, fusion: ScoreFusion | None = None) -> dict[str, float]:
        """Return the metrics with seen items excluded; none if the protocol excludes them already."""
        if self.config.evaluation.exclude_seen:
            return {}
        config = self.config.replaced("evaluation", exclude_seen=True)
        ranking = pipeline.evaluate(model, self.data, config, self.counts, fusion=fusion)
        if fusion is None:
            self.ranks["model_exclude_seen"] = ranking.ranks
        return ranking.as_dict()

    def with_fusion(self, model: Ranker, fusion: ScoreFusion) -> FusionResult:
        """Measure a model with score fusion."""
        return FusionResult(
            cooccurrence_model=fusion.pairs.name,
            cooccurrence=fusion.weight,
            repeat_bias=fusion.repeat_bias,
            test=self(model, "fusion", fusion).as_dict(),
            test_exclude_seen=self.excluding_seen(model, fusion),
        )


def _run_baseline(spec: RunSpec, measure: _Measurement) -> Finished:
    commit = source_commit()
    model: Ranker | Scorer = Popularity(measure.counts)
    fusion = None
    if spec.model != "popularity":
        data = measure.data
        model = fit_baseline(cast("Baseline", spec.model), data.histories, data.split.train, len(data.catalog))
    if isinstance(model, ItemPairs):
        zero = ZeroScorer(len(measure.data.catalog))  # next to scores of 0 the weight changes no rank
        fusion = measure.with_fusion(zero, _tune_repeat_bias(zero, model, measure))
    ranking = measure(model, "model")
    return Finished(
        status="finished",
        key=spec.key,
        seed=None,
        test=ranking.as_dict(),
        test_exclude_seen=measure.excluding_seen(model),
        fusion=fusion,
        protocol=ranking.protocol,
        commit=commit,
    )


def _tune_repeat_bias(zero: ZeroScorer, pairs: ItemPairs, measure: _Measurement) -> ScoreFusion:
    evaluation = measure.config.evaluation
    return tune_fusion(
        zero,
        pairs,
        measure.data.histories,
        measure.data.split.validation,
        weights=(1.0,),
        repeat_bias=REPEAT_BIASES,
        exclude_seen=evaluation.exclude_seen,
        token_budget=evaluation.token_budget,
    ).fusion


def _run_network(spec: RunSpec, measure: _Measurement, folder: Path) -> Finished:
    data, config = measure.data, measure.config
    device = resolve_device(config.training.accelerator)
    artifact, share, commit = load_artifact_or_none(folder / "model", device), None, None
    if artifact is None:
        commit = source_commit()  # before training: the files may change meanwhile
        began, used = time.monotonic(), time.process_time()
        pipeline.train(
            data, config, folder / "model", resume="auto", callbacks=[_EpochLine(), TrainingProgress(Console(stderr=True))]
        )
        share = (time.process_time() - used) / (time.monotonic() - began) / torch.get_num_threads()
        artifact = load_artifact(folder / "model", device=device)
    began = _now()
    ranking = measure(artifact.model, "model")
    inference = _now() - began
    memory, gpu_memory = None, None
    if share is not None:  # before the other measurements, which need their own
        memory = peak_bytes()
        gpu_memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    tuned = pipeline.tune(artifact.model, data, config.replaced("fusion", cooccurrence="tuned", repeat_bias="tuned"))
    training = artifact.report["training"]
    seconds = [epoch["seconds"] for epoch in training["history"]]
    cpu = f"CPU ({processor()}), {torch.get_num_threads()} threads of {os.cpu_count()}"
    return Finished(
        status="finished",
        key=spec.key,
        seed=spec.seed,
        test=ranking.as_dict(),
        test_exclude_seen=measure.excluding_seen(artifact.model),
        fusion=None if tuned is None else measure.with_fusion(artifact.model, tuned.fusion),
        protocol=ranking.protocol,
        parameters=artifact.report["model"]["parameters"],
        best_epoch=training["best_epoch"],
        epochs=len(seconds),
        validation=tuple(round(epoch["ndcg"], 6) for epoch in training["history"]),
        costs=Costs(
            seconds_per_epoch=float(np.median(seconds)),
            seconds_to_best=float(sum(seconds[: training["best_epoch"]])),
            inference_seconds=inference,
            padded_inference_seconds=_padded_seconds(artifact, measure),
            cpu_share=share,
            peak_memory=memory,
            peak_gpu_memory=gpu_memory,
            device=torch.cuda.get_device_name() if device == "cuda" else cpu,
            parallel_runs=spec.parallel_runs,
        ),
        commit=commit,
        versions=versions(),
    )


class PaddedModel:
    """A model that computes padded batches, to measure what packing saves.

    Each sequence is followed by padding up to the longest of its batch, as a sequence of its own that is not read out. So the
    metrics are those of the packed model, and the time is that of a padded batch.

    Args:
        model: Encodes packed sequences.
        positions: Of a batch, padding included: bounds the memory.
    """

    def __init__(self, model: Ranker, positions: int = PADDED_POSITIONS) -> None:
        self.model, self.positions = model, positions
        self.item_vectors, self.repeat_logits = model.item_vectors, getattr(model, "repeat_logits", None)

    def encode(self, items: Items, cu_seqlens: CuSeqlens) -> States:
        """Encode packed sequences, [T] -> [B, D]."""
        lengths = cu_seqlens.diff().cpu()
        batch = max(1, self.positions // int(lengths.max()))
        sequences = list(torch.split(items, lengths.tolist()))
        starts = range(0, len(sequences), batch)
        return torch.cat([self._encode_padded(sequences[i : i + batch], lengths[i : i + batch]) for i in starts])

    def _encode_padded(self, sequences: list[Items], lengths: Tensor) -> States:
        # sequences a, bcd: items [a 0 0 b c d] with lengths [1 2 3 0]; the second is padding, the last is dropped
        items = pad_sequence(sequences, batch_first=True).flatten()
        both = torch.stack([lengths, lengths.max() - lengths], dim=1).flatten()
        real = torch.tensor([True, False]).repeat(len(lengths))[both > 0].to(items.device)
        cu_seqlens = torch.cat([both.new_zeros(1), both[both > 0].cumsum(0)]).to(items.device)
        return self.model.encode(items, cu_seqlens)[real]


def _padded_seconds(artifact: Artifact, measure: _Measurement) -> float | None:
    if measure.config.backbone.name != "ssd4rec":
        return None  # other models may pad internally
    began = _now()
    pipeline.evaluate(PaddedModel(artifact.model), measure.data, measure.config, measure.counts)
    return _now() - began


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def source_commit() -> str | None:
    """Return the commit of the working copy, `-dirty` if the package differs from it; None for an installed package."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed arguments

    try:
        return git("describe", "--always", "--abbrev=12") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class _EpochLine(Callback):
    """Print one line per epoch on standard output, for the progress bar of the sweep."""

    def on_epoch_start(self, loop: TrainingLoop) -> None:
        """Print the line."""
        print(f"epoch {loop.epoch + 1} of {loop.max_epochs}", flush=True)  # noqa: T201 - the sweep reads it


def _exit_with_parent() -> None:
    # Standard input is a pipe that closes when the sweep ends, even by SIGKILL. os.read has no buffer, whose lock would keep
    # the interpreter from shutting down.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to log.txt in the folder of the run
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    run(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # the thread still waits for standard input
