"""A process for one run: `python -m ssd4rec.paper.worker FOLDER`, with the run in FOLDER/run.json.

A process of its own, so that its peak memory means something and its death costs one run.
"""

import json
import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console

from ssd4rec import pipeline
from ssd4rec._io import write_atomically
from ssd4rec.artifact import Artifact, load_artifact, load_artifact_or_none
from ssd4rec.config import Config
from ssd4rec.data.split import training_counts
from ssd4rec.diagnostics import processor, resolve_device
from ssd4rec.errors import DataError
from ssd4rec.paper.measure import Measure, count
from ssd4rec.paper.padded import Padded
from ssd4rec.paper.runs import (
    RANKS,
    RESULT,
    SPEC,
    commit,
    keep_ranks,
    last_result_of,
    measured,
    open_interactions,
    result_of,
)
from ssd4rec.training.progress import TrainingProgress
from ssd4rec.training.state import LAST


def work(folder: Path) -> None:
    """Train, go on with what an earlier process left, measure, write result.json last."""
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    config = Config.model_validate(spec["settings"])
    data = pipeline.prepare(open_interactions(spec["data"], config, Path(spec["cache"])), None, config)
    if data.histories.fingerprint() != spec["fingerprint"]:  # under that of the others these figures would be found again
        raise DataError(f"{spec['data']} has changed since the sweep began; give the command again")
    if result_of(folder) is not None:  # then what needs no learning is all that is missing
        counts = training_counts(data.histories, data.split.train, len(data.catalog))
        count(Measure(data, config, counts), Path(spec["counted"]))
        return
    resume = (folder / f"model.training/{LAST}").is_file()
    device = resolve_device(config.training.accelerator)
    share = None
    artifact = load_artifact_or_none(folder / "model", device)  # trained and not measured, or measured in another way than now
    before, trained_by = _cost_before(folder), (last_result_of(folder) or {}).get("commit")
    if artifact is None:
        trained_by = commit()  # before it learns: the code on the disk may be another when it is done
        began, used = time.monotonic(), time.process_time()
        pipeline.train_or_resume(data, config, folder / "model", say=_say, callbacks=_watching())
        # of the time of its threads; less than 1: they waited, for other programs or for one another
        share = (time.process_time() - used) / (time.monotonic() - began) / torch.get_num_threads()
        artifact, before = load_artifact(folder / "model", device=device), {}
    began = _now()
    ranking = pipeline.measure(artifact.model, data, config, artifact.training_counts)
    inference = _now() - began
    keep_ranks(folder, RANKS, ranking.ranks)
    memory = _peak_memory()  # before the other measurements, which need their own
    measure = Measure(data, config, artifact.training_counts)
    count(measure, Path(spec["counted"]))
    result = {
        **artifact.report,
        "test": ranking.as_dict(),
        **measure.seen_removed(artifact.model),
        "with_fusion": measure.with_fusion(folder, "with_fusion", artifact.model),
        "measured": measured(config.data.max_length),
        "settings": spec["settings"],
        "commit": trained_by,
        "efficiency": {
            **_seconds(artifact.report["training"]),
            "inference_seconds": inference,
            "padded_inference_seconds": _padded_seconds(artifact, data, config),
            "cpu_share": share,
            **memory,
            "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
            "resumed": resume,
            "jobs": spec["jobs"],
            **before,
        },
    }
    write_atomically(folder / RESULT, json.dumps(result, default=str))


def _seconds(training: dict[str, Any]) -> dict[str, float]:
    epochs = [epoch["seconds"] for epoch in training["history"]]
    return {
        "epochs": len(epochs),
        "seconds_an_epoch": float(np.median(epochs)),
        "seconds_to_best": float(sum(epochs[: training["best_epoch"]])),
    }


def _cost_before(folder: Path) -> dict[str, Any]:
    """What training and inference cost when a model was trained that is only measured now; unknown if nobody wrote it down."""
    found = last_result_of(folder)
    cost: dict[str, Any] = found["efficiency"] if found else {"peak_memory": None, "peak_gpu_memory": None}
    return cost


def _padded_seconds(artifact: Artifact, data: pipeline.Prepared, config: Config) -> float | None:
    if config.backbone.name != "ssd4rec":
        return None  # the others may pad inside themselves
    began = _now()
    pipeline.measure(Padded(artifact.model), data, config, artifact.training_counts)
    return _now() - began


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def _peak_memory() -> dict[str, int | None]:
    """Bytes: of the whole process, and what torch held on the GPU."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"peak_memory": _peak_resident(), "peak_gpu_memory": gpu}


def _peak_resident() -> int:
    try:  # what getrusage says begins on Linux with what the process that started this one held
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _processor() -> str:
    return f"CPU ({processor()}), {torch.get_num_threads()} threads of {os.cpu_count()}"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")  # log.txt


def _watching() -> list[pl.Callback]:
    return [_Tell(), TrainingProgress(Console(stderr=True))]  # standard error is log.txt in the run's folder


class _Tell(pl.Callback):
    """One line an epoch on standard output, for the sweep's bar."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        sys.stdout.write(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}\n")
        sys.stdout.flush()


def _end_with_parent() -> None:
    # The sweep holds the other end of standard input: it closes however the sweep ends, SIGKILL included.
    # Read without a buffer: its lock would be held for ever, and the interpreter could not shut down.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # past the thread that still waits on standard input
