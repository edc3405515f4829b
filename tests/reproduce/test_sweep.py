"""A sweep as a person runs it: killed, resumed, reported."""

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import worlds
from ssd4rec.config import DataConfig
from ssd4rec.errors import ConfigError
from ssd4rec.evaluation.metrics import hit_rate, mrr, ndcg
from ssd4rec.experiment import make_model
from ssd4rec.reproduce.compare import paired_bootstrap
from ssd4rec.reproduce.padded import Padded
from ssd4rec.reproduce.published import published_row
from ssd4rec.reproduce.studies import find, make_budget, points

CODE = "import sys; from ssd4rec.cli import main; sys.exit(main())"
OPTIONS = (
    "--models", "ssd4rec,gru4rec,popularity", "--epochs", "2", "--width", "16", "--set", "data.min_interactions=1", "--set",
    "training.token_budget=256",
)  # fmt: skip


def command(data, out):
    return [sys.executable, "-c", CODE, "reproduce", "accuracy", str(data), "--out", str(out), *OPTIONS]


def figures(results):
    (part,) = results["studies"]["accuracy"].values()
    return {row["label"]: row["metrics"] for row in part["rows"]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep over the cycle world, its folder and its file."""
    folder = tmp_path_factory.mktemp("sweep")
    worlds.frame(worlds.cycle()).write_csv(folder / "cycle.csv")
    result = subprocess.run(command(folder / "cycle.csv", folder / "out"), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 runs, 0 of them cached" in result.stderr
    return folder


@pytest.mark.slow
def test_the_metrics_are_those_of_the_kept_ranks(swept):
    """HR, NDCG and MRR worked out again from ranks.npy are the figures of results.json."""
    results = json.loads((swept / "out" / "results.json").read_text())
    (part,) = results["studies"]["accuracy"].values()
    rows = [row for row in part["rows"] if row["seeds"]]
    assert len(rows) == 2
    for row in rows:
        ranks = np.load(swept / "out" / "runs" / row["seeds"][0]["key"] / "ranks.npy")
        assert len(ranks) == 60
        for cutoff in (10, 20):
            assert row["metrics"][f"ndcg@{cutoff}"]["mean"] == ndcg(ranks, cutoff)
            assert row["metrics"][f"hr@{cutoff}"]["mean"] == hit_rate(ranks, cutoff)
            assert row["metrics"][f"mrr@{cutoff}"]["mean"] == mrr(ranks, cutoff)


class Cells(HTMLParser):
    """The cells of all tables, in order, and addresses that a page would load."""

    def __init__(self):
        super().__init__()
        self.rows, self.loaded, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name == "src" or (name == "href" and tag == "link")]
        if tag == "tr":
            self.rows.append([])
        self.inside = tag == "td"

    def handle_data(self, data):
        if self.inside:
            self.rows[-1].append(data)


@pytest.mark.slow
def test_the_report_shows_the_figures_of_results_json(swept):
    """Each row of report.html has the means of results.json, and the page loads nothing."""
    page = Cells()
    page.feed((swept / "out" / "report.html").read_text())
    shown = {row[0]: row[1:] for row in page.rows if len(row) == 8}
    found = figures(json.loads((swept / "out" / "results.json").read_text()))
    assert set(found) == {"ssd4rec", "gru4rec", "popularity"}
    for label, metrics in found.items():
        assert shown[label][:-1] == [f"{each['mean']:.4f}" for each in metrics.values()]
    assert page.loaded == []


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_figures(swept):
    """Killed after its first run, the same command makes the other one only, and ends with the uninterrupted figures."""
    out = swept / "killed"
    process = subprocess.Popen(command(swept / "cycle.csv", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("runs/*/result.json"))) == 1
    again = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=True)
    assert "2 runs, 1 of them cached" in again.stderr
    whole = json.loads((swept / "out" / "results.json").read_text())
    assert figures(json.loads((out / "results.json").read_text())) == figures(whole)


def test_unknown_names_are_told_the_nearest():
    """A misspelt study names the one that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        find("acuracy", ("accuracy", "beta"), "study")
    with pytest.raises(ConfigError, match="no budget named 'tiny'"):
        make_budget("tiny")
    with pytest.raises(ConfigError, match="--seeds must be 1 or more"):
        make_budget("small", seeds=0)


def test_studies_are_the_papers():
    """Beta runs from 0 to 1, rho to 0.6, and lengths to whole histories; each seed is a run."""
    budget = make_budget("small", seeds=2)
    betas, rhos, lengths = (points(name, None, budget, (), ()) for name in ("beta", "rho", "length"))
    assert [point.x for point in betas][:: len(betas) - 1] == [0.0, 1.0]
    assert [point.configs[0].training.mask_ratio for point in rhos] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [point.configs[1].data for point in lengths][-1] == DataConfig()
    assert [config.training.seed for config in betas[0].configs] == [2024, 2025]
    without = points("ablation", None, budget, (), ())[4]
    assert without.label == "no feed-forward network"
    assert without.configs[0].backbone.feed_forward is False


def test_padding_changes_no_state():
    """A padded batch reads out what a packed one does."""
    model = make_model(worlds.config(), 12).eval()
    items, boundaries = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 4, 6])
    with torch.inference_mode():
        torch.testing.assert_close(Padded(model).encode(items, boundaries), model.encode(items, boundaries))


def test_a_paired_test_tells_a_better_model_from_an_equal_one():
    """First everywhere against third everywhere differs by 1 - 1/2; against itself by 0."""
    first, third = np.full(50, 1), np.full(50, 3)
    better = paired_bootstrap([first], [third])
    assert (better["difference"], better["low"]) == (0.5, 0.5)
    assert better["p"] < 0.01
    assert paired_bootstrap([first], [first])["p"] == 1.0


def test_published_figures_are_those_of_the_paper():
    """KuaiRand's row of SSD4Rec, and none for data that nobody published."""
    assert published_row("kuairand-pure", "ssd4rec-all").figures["ndcg@10"] == 0.0593
    assert published_row(None, "ssd4rec") is None
