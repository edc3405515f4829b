"""Computations of the benchmarks themselves."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest

from ssd4rec.evaluation.metrics import ndcg

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """A module of benchmarks/ by its name."""
    for folder in (BENCHMARKS, BENCHMARKS / "peers"):
        monkeypatch.syspath_prepend(folder)
    return importlib.import_module


def test_the_peers_are_measured_by_our_definition(load):
    """NDCG@10 in the peers' environments is that of ssd4rec.evaluation.metrics: 1, .5, 1 / log2 11 and nothing past the tenth."""
    ranks = np.array([1, 3, 10, 11])
    assert load("shared").ndcg_at_10(ranks) == pytest.approx((1 + 0.5 + 1 / np.log2(11)) / 4)
    assert load("shared").ndcg_at_10(ranks) == ndcg(ranks, 10)


def test_other_targets_end_a_run(load):
    """A user whose target is not ours stops the runner; equal targets are counted."""
    shared = load("shared")
    histories = shared.Sequences(np.array([5, 7, 2, 9, 1, 3, 4, 8]), np.array([0, 4, 8]))
    assert shared.check_targets(histories, "test", 1, {0: 9, 1: 8}) == 2
    assert shared.check_targets(histories, "validation", 2, {0: 2, 1: 4}) == 2
    with pytest.raises(SystemExit, match=r"test: 1 of 2 users have another target, the first is user 1"):
        shared.check_targets(histories, "test", 1, {0: 9, 1: 4})


def test_a_run_ends_before_an_epoch_that_does_not_fit(load):
    """Epochs of 20 s in a minute: three; with two epochs asked for: two."""
    clock, short = load("shared").Clock(9, 1), load("shared").Clock(2, 1)
    assert [clock.epoch(20.0) for _ in range(3)] == [True, True, False]
    assert [short.epoch(20.0) for _ in range(2)] == [True, False]


def test_seconds_to_a_figure_lie_between_two_moments(load):
    """.02 lies half way between .01 at 4 s and .03 at 8 s; what was never reached takes for ever."""
    history = [{"seconds": 4.0, "ndcg": 0.01}, {"seconds": 8.0, "ndcg": 0.03}]
    seconds_to = load("bench_objective").seconds_to
    assert seconds_to(history, 0.02) == pytest.approx(6.0)
    assert seconds_to(history, 0.005) == pytest.approx(2.0)
    assert seconds_to(history, 0.04) == float("inf")


def test_equal_ndcg_is_what_the_weaker_reaches(load):
    """A peer reaches .03 in its second epoch of 10 s, ours .05 in its first of 2 s: 20 s against 2 s, 10 times."""
    epochs = {"ours": [(2, 0.05), (2, 0.06)], "peer": [(10, 0.01), (10, 0.03)]}
    results = {
        name: {
            "start": {"parameters": 1, "examples": 1, "events": 1, "positions": 1},
            "epochs": [{"seconds": seconds, "evaluation_seconds": 1.0, "ndcg": figure} for seconds, figure in history],
            "end": {"test_ndcg": 0.0, "peak_bytes": 1},
        }
        for name, history in epochs.items()
    }
    bench = load("bench_peers")
    ours, peer = bench.rows({name: bench.Piece(result, "today") for name, result in results.items()})
    assert "s to it" not in ours
    assert (peer["equal NDCG@10"], peer["s to it"], peer["ours to it"], peer["times ours to it"]) == (
        "0.0300",
        "20.0",
        "2.0",
        "10.0",
    )


def test_presets_are_summarized_over_seeds(load):
    """Two seeds of one model make a row with mean and standard deviation; a model with one seed makes none."""
    bench = load("bench_presets")

    def row(data, seed, network, both):
        return {
            "data": data,
            "preset": "regularized",
            "changes": [],
            "seed": seed,
            "test": {"network": {"ndcg@10": network}, "both": {"ndcg@10": both}},
        }

    text = bench.seeds_table([row("a", 1, 0.1, 0.3), row("a", 2, 0.2, 0.3), row("b", 1, 0.5, 0.6)])
    assert text.splitlines()[2:] == ["| a | regularized | 2 | 0.1500 | 0.0707 | 0.3000 | 0.0000 |"]


def test_a_finished_piece_is_cached_and_a_failed_one_is_not(load, tmp_path):
    """The second call does not work; other settings, --again and a failure do."""
    pieces = load("pieces")
    options, calls = argparse.Namespace(state=tmp_path, again=False), []

    def work():
        calls.append(1)
        return {"seconds": len(calls)}

    cached = [pieces.piece("p", {"a": 1}, options, work).result["seconds"] for _ in range(2)]
    other = pieces.piece("p", {"a": 2}, options, work).result["seconds"]
    options.again = True
    again = pieces.piece("p", {"a": 1}, options, work).result["seconds"]
    assert (cached, other, again) == ([1, 1], 2, 3)
    options.again = False
    failed = [pieces.piece("q", {}, options, lambda: {"failed": f"{work()}"}).result["failed"] for _ in range(2)]
    assert failed == ["{'seconds': 4}", "{'seconds': 5}"]


def test_each_benchmark_runs_after_tests_that_exist(load):
    guards = load("run").GUARDS
    for bench, tests in guards.items():
        assert (BENCHMARKS / bench).is_file()
        assert all((BENCHMARKS.parent / test).exists() for test in tests), bench


def test_a_part_of_the_service_bench_replaces_its_own_section(load, monkeypatch, tmp_path, capsys):
    bench = load("bench_service")
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "service")
    options = argparse.Namespace(save=True, threads=1, postgresql=False, workers=1)
    for part, value in (("load", 1), ("ingest", 2), ("load", 3)):
        bench._publish(part, [{"p99 ms": value}], ["a note"], options)
    options.postgresql, options.workers = True, 2
    bench._publish("kills", [{"lost": 0}], [], options)
    report = (tmp_path / "service" / "report.md").read_text(encoding="utf-8")
    assert [line for line in report.splitlines() if line.startswith("## ")] == [
        "## load",
        "## ingest",
        "## kills on PostgreSQL with 2 workers",
    ]
    assert "| 3 |" in report
    assert "| 1 |" not in report
    assert set(bench.PARTS) <= {"load", "ingest", "kills", "workers", "fuzz", "soak"}
    assert "a note" in capsys.readouterr().out


def test_the_open_loop_counts_from_the_scheduled_time(load):
    outcome = load("service_load").Outcome({"a": [0.001] * 98 + [0.5, 1.0]}, {200: 100})
    assert outcome.percentile(0.5) == pytest.approx(1.0)
    assert outcome.percentile(0.99) == pytest.approx(1000.0)
    assert outcome.answered == 100
