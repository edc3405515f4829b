"""Compare SSD4Rec with RecBole's SASRec and GRU4Rec and RecTools' SASRec and eSASRec, on one file with the same targets.

Run: python benchmarks/bench_peers.py [--only ours --only recbole-gru4rec ...] [--threads 2] [--save]

Leave-last-out, the whole catalog ranked, D = 64, our definition of NDCG@10 for all; seen items kept, but for the column
"excluded". Each runs in a process and an environment of its own; --recbole and --rectools name the Pythons of existing ones,
without them they are made in the cache folder (network, 2 GB, minutes). Seconds are those of learning, validation apart.
The runners: benchmarks/peers/run_*.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import ssd4rec
from common import arguments, publish
from pieces import DATA, Piece, add_options, piece, say, select
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.datasets.registry import cache_folder

HERE = Path(__file__).parent
RECIPES = {  # pip install, in this order
    "recbole": (["torch==2.13.0"], ["recbole==1.2.1", "numpy<2", "pandas<3", "setuptools<81"]),
    "rectools": (["torch==2.13.0"], ["rectools[torch]==0.19.0"]),
}
SECONDS_TO_START_AND_MEASURE = 300  # of a runner, on top of its minutes of learning


class Runner(NamedTuple):
    """One library's model."""

    script: str
    model: str  # a class of the library; ours: a preset
    environment: str | None  # None: our own
    epochs: int
    minutes: float  # of learning


RUNNERS = {
    "ours": Runner("run_ours.py", "regularized", None, 40, 20),
    "ours-quick": Runner("run_ours.py", "quick", None, 20, 5),
    "recbole-sasrec": Runner("run_recbole.py", "SASRec", "recbole", 8, 8),
    "rectools-sasrec": Runner("run_rectools.py", "SASRec", "rectools", 60, 3),
    "rectools-esasrec": Runner("run_rectools.py", "eSASRec", "rectools", 60, 3),
    "recbole-gru4rec": Runner("run_recbole.py", "GRU4Rec", "recbole", 12, 3),
}


def main() -> None:
    """Run what is asked for, print the table."""
    options = arguments(__doc__, _add_options)
    names = select(list(RUNNERS), options.only)
    if not options.data.is_file():
        print(f"left out: there is no {options.data}; name a file with --data")
        return
    pythons = {name: find_python(name, options) for name in RECIPES if any(RUNNERS[each].environment == name for each in names)}
    if options.no_install and pythons and not any(path.is_file() for path in pythons.values()):
        missing = " and ".join(map(str, pythons.values()))
        print(f"left out: {missing} are not there; without --no-install this bench makes them (docs/how-to/benchmarks.md)")
        return
    pieces = {}
    with tempfile.TemporaryDirectory() as folder:
        histories, catalog = build_sequences(read_interactions(options.data), min_interactions=5)
        histories.save(Path(folder) / "histories")
        for name in names:
            runner = scaled(RUNNERS[name], options)
            settings = {"runner": list(runner), "threads": options.threads, "data": histories.fingerprint()}
            pieces[name] = piece(name, settings, options, lambda: run(runner, pythons, folder, options))  # noqa: B023 - called at once
    counts = histories.kept
    notes = [
        f"{options.data.name} after 5-core: {counts.users} users, {len(catalog)} items, {counts.interactions} events",
        *explain(pieces),
    ]
    publish(f"bench_peers_{options.data.name.split('.')[0]}", rows(pieces), options, notes)


def find_python(name: str, options: argparse.Namespace) -> Path:
    """The Python of an environment, made first where that is allowed and needed."""
    given: Path | None = getattr(options, name)
    folder = cache_folder(os.environ) / "peers" / name
    python = (given or folder / "bin" / "python").absolute()  # not resolved: the link is the environment
    if given is not None or python.is_file() or options.no_install:
        return python
    say(f"{name}: making the environment {folder}: {RECIPES[name]}")
    partial = folder.with_name(f"{name}.partial")
    subprocess.run([sys.executable, "-m", "venv", "--clear", partial], check=True)
    for packages in RECIPES[name]:
        done = subprocess.run([partial / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=False)
        if done.returncode:
            say(f"{name}: pip could not install {' '.join(packages)}")
            return python
    partial.rename(folder)
    return python


def scaled(runner: Runner, options: argparse.Namespace) -> Runner:
    """With the limits of the command line."""
    epochs = runner.epochs if options.epochs is None else options.epochs
    return runner._replace(epochs=epochs, minutes=runner.minutes if options.minutes is None else options.minutes)


def run(runner: Runner, pythons: dict[str, Path], folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """The lines of one runner, by kind; "failed" says why there are none."""
    python = Path(sys.executable) if runner.environment is None else pythons[runner.environment]
    if not python.is_file():
        return {"failed": f"not installed: {python} does not exist; docs/how-to/benchmarks.md says how it is made"}
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    limits = ["--threads", str(options.threads), "--epochs", str(runner.epochs), "--minutes", str(runner.minutes)]
    command = [python, HERE / "peers" / runner.script, "--histories", f"{folder}/histories", "--model", runner.model, *limits]
    allowed = 2 * 60 * runner.minutes + SECONDS_TO_START_AND_MEASURE
    path = str(Path(ssd4rec.__file__).parent.parent) if runner.environment is None else ""
    environment = {**os.environ, **threads, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=errors, timeout=allowed, check=False
            )
            printed, reason = done.stdout, f"exit code {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired as late:
            printed, reason = late.stdout or b"", f"stopped after {allowed:.0f} s"
        errors.seek(0)
        output = [line.strip() for line in errors if line.strip()]
    lines = [json.loads(line) for line in printed.decode().splitlines() if line.startswith("{")]
    if reason is not None:
        return {"failed": f"{reason}: {output[-1] if output else 'no output'}"}
    by_kind = {line["kind"]: line for line in lines}
    return {**by_kind, "epochs": [line for line in lines if line["kind"] == "epoch"]}


def seconds_to(result: dict[str, Any], ndcg: float) -> float:
    """Seconds of learning until the first epoch that validates at `ndcg` or better."""
    spent = 0.0
    for epoch in result["epochs"]:
        spent += epoch["seconds"]
        if epoch["ndcg"] >= ndcg:
            break
    return spent


def best(result: dict[str, Any]) -> float:
    """The best validation NDCG@10."""
    return float(max(epoch["ndcg"] for epoch in result["epochs"]))


def rows(pieces: dict[str, Piece]) -> list[dict[str, Any]]:
    """A row a model; those of the peers with their ratio to ours."""
    ours = pieces["ours"].result if "ours" in pieces else None
    return [_row(name, piece.result, ours if name != "ours" else None) for name, piece in pieces.items()]


def _row(name: str, result: dict[str, Any], ours: dict[str, Any] | None) -> dict[str, Any]:
    if "failed" in result:
        return {"model": name, "epochs": f"failed: {result['failed']}"}
    epoch, measuring = _median(result, "seconds"), _median(result, "evaluation_seconds")
    row = {
        "model": name,
        "parameters": result["start"]["parameters"],
        "targets an epoch": result["start"]["examples"],
        "events an epoch": result["start"]["events"],
        "positions an epoch": result["start"]["positions"],
        "epochs": len(result["epochs"]),
        "s an epoch": f"{epoch:.1f}",
        "s a validation": f"{measuring:.2f}",
        "peak MB": f"{result['end']['peak_bytes'] / 1e6:.0f}",
        "best validation NDCG@10": f"{best(result):.4f}",
        "test NDCG@10 there": f"{result['end']['test_ndcg']:.4f}",
    }
    if (excluded := result["end"].get("test_ndcg_excluded")) is not None:
        row["excluded"] = f"{excluded:.4f}"
    if ours is None or "failed" in ours:
        return row
    level = min(best(result), best(ours))
    theirs, mine = seconds_to(result, level), seconds_to(ours, level)
    return {
        **row,
        "equal NDCG@10": f"{level:.4f}",
        "s to it": f"{theirs:.1f}",
        "ours to it": f"{mine:.1f}",
        "times ours to it": f"{theirs / mine:.1f}",
        "epoch, times ours": f"{epoch / _median(ours, 'seconds'):.1f}",
        "validation, times ours": f"{measuring / _median(ours, 'evaluation_seconds'):.2f}",
        "peak, times ours": f"{result['end']['peak_bytes'] / ours['end']['peak_bytes']:.2f}",
    }


def _median(result: dict[str, Any], key: str) -> float:
    return statistics.median(epoch[key] for epoch in result["epochs"])


def explain(pieces: dict[str, Piece]) -> list[str]:
    """Return notes on versions, targets and anomalies."""
    notes = []
    for name, (result, measured) in pieces.items():
        if "failed" in result:
            continue
        start = result["start"]
        targets = " and ".join(f"{count} {part}" for part, count in start["targets"].items())
        notes.append(f"{name}: {start['library']}; {targets} targets, checked to be ours; measured {measured}")
        if any(start.get("unreachable", ())):
            unreachable = " and ".join(map(str, start["unreachable"]))
            notes.append(
                f"{name}: knows {start['catalog']} items only, {unreachable} targets are not among them and count as misses"
            )
        if "anomaly" in result:
            slower = result["anomaly"]["batch_seconds_anomaly"] / result["anomaly"]["batch_seconds"]
            epoch = _median(result, "seconds")
            notes.append(
                f"{name}: measured with autograd's anomaly mode off; importing it switches it on, {slower:.2f} times slower "
                f"(median of {result['anomaly']['batches']} batches each way): {epoch * slower:.0f} s an epoch, not {epoch:.0f} s"
            )
    return notes


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--data", type=Path, default=DATA / "ml-100k.inter.gz", help="a file; or ml-100k in $SSD4REC_DATA")
    parser.add_argument("--recbole", type=Path, help="Python of an environment with RecBole")
    parser.add_argument("--rectools", type=Path, help="Python of an environment with RecTools")
    parser.add_argument("--no-install", action="store_true", help="make no environment; leave out what is not installed")
    parser.add_argument("--epochs", type=int, help="at most, for every model")
    parser.add_argument("--minutes", type=float, help="of learning at most, for every model")


if __name__ == "__main__":
    main()
