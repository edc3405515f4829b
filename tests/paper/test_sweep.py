"""A sweep as a person runs it: killed, resumed, reported."""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib import metadata

import numpy as np
import pytest
import torch

import worlds
from ssd4rec._io import exclusive_lock
from ssd4rec.artifact import load_artifact
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.metrics import hit_rate, mrr, ndcg
from ssd4rec.models.next_item import make_model
from ssd4rec.paper.budgets import make_budget
from ssd4rec.paper.measure import Measure, count
from ssd4rec.paper.padded import Padded
from ssd4rec.paper.report import write_report
from ssd4rec.paper.results import summarize
from ssd4rec.paper.runs import NUMERICS, Dataset, Run, commit, counted_in, ranks_of
from ssd4rec.paper.studies import points
from ssd4rec.paper.sweep import carry_out, plan

CODE = "import sys; from ssd4rec.cli import main; sys.exit(main())"
OPTIONS = (
    "--models", "ssd4rec,gru4rec,popularity,rules", "--epochs", "2", "--width", "16",
    "--set", "data.min_interactions=1", "--set", "training.token_budget=256",
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


@pytest.mark.slow
def test_each_run_keeps_the_course_of_its_epochs(swept):
    """Two epochs, two lines with loss and validation figure."""
    logs = list((swept / "out").glob("runs/*/log.txt"))
    assert len(logs) == 2
    for log in logs:
        lines = [line for line in log.read_text().splitlines() if line.startswith("epoch")]
        assert [line.split()[:5:2] for line in lines] == [["epoch", "loss", "validation"]] * 2


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
    shown = {row[0]: row[1:] for row in page.rows if len(row) == 8 and row[-1] in ("1/1", "-")}
    found = figures(json.loads((swept / "out" / "results.json").read_text()))
    assert set(found) == {"ssd4rec", "gru4rec", "popularity", "cooccurrence"}
    for label, metrics in found.items():
        assert shown[label][:-1] == [f"{each['mean']:.4f}" for each in metrics.values()]
    assert page.loaded == []
    ranked = sorted(set(found) - {"ssd4rec"}, key=lambda label: -found[label]["ndcg@10"]["mean"])
    against = [row[1] for row in page.rows if row[:1] == ["ssd4rec"] and len(row) == 5]
    assert against == list(dict.fromkeys([ranked[0], "gru4rec"]))
    assert "60 targets: too few for figures" in (swept / "out" / "report.html").read_text()


@pytest.mark.slow
def test_each_model_stands_with_a_prior_and_so_do_the_counts(swept):
    """The cycle is all counts: with them everything is found, by the models and without one."""
    results = json.loads((swept / "out" / "results.json").read_text())
    (part,) = results["studies"]["accuracy"].values()
    found = {row["label"]: row["with_fusion"] for row in part["rows"]}
    assert found.pop("popularity") is None
    assert {label: each["metrics"]["ndcg@10"]["mean"] for label, each in found.items()} == dict.fromkeys(found, 1.0)
    assert found["cooccurrence"]["cooccurrence"] == [1.0]
    assert "fusion added to their scores" in (swept / "out" / "report.md").read_text()


@pytest.mark.slow
def test_each_model_is_measured_with_seen_items_removed_too(swept):
    """Scores of the kept model, a history at a time, without what is in the history but for the target: those of the report."""
    results = json.loads((swept / "out" / "results.json").read_text())
    (part,) = results["studies"]["accuracy"].values()
    rows = {row["label"]: row for row in part["rows"]}
    artifact = load_artifact(swept / "out" / "runs" / rows["gru4rec"]["seeds"][0]["key"] / "model")
    histories, _ = build_sequences(read_interactions(swept / "cycle.csv"), 1)
    ranks = []
    with torch.inference_mode():
        for user in range(len(histories.users)):
            *read, target = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
            scores = artifact.model.item_vectors @ artifact.model.encode(torch.tensor(read), torch.tensor([0, len(read)]))[0]
            others = [item for item in range(1, len(scores) + 1) if item != target and item not in read]
            ranks.append(1 + sum(bool(scores[item - 1] >= scores[target - 1]) for item in others))
    found = rows["gru4rec"]["seen_removed"]
    assert found["ndcg@10"]["mean"] == pytest.approx(ndcg(np.array(ranks), 10))
    assert found["hr@10"]["mean"] > rows["gru4rec"]["metrics"]["hr@10"]["mean"]
    assert set(rows["cooccurrence"]["with_fusion"]["seen_removed"]) == set(rows["popularity"]["seen_removed"]) == set(found)
    assert "seen items removed from the candidates" in (swept / "out" / "report.md").read_text()


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


@pytest.mark.slow
def test_a_model_that_was_measured_otherwise_is_measured_again_not_trained(swept):
    """Of a result of another version the cost and the code of its training are kept; figures and epochs are what they were."""
    out = swept / "older"
    shutil.copytree(swept / "out", out)
    first = next(out.glob("runs/*/result.json"))
    before, log = json.loads(first.read_text()), (first.parent / "log.txt").read_text()
    assert before["commit"] == commit()
    before["commit"] = "an older one"
    first.write_text(json.dumps({**before, "measured": 0, "test": {}}))
    again = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=True)
    assert "2 runs, 1 of them cached" in again.stderr
    assert json.loads(first.read_text()) == before
    epochs = [
        [line for line in text.splitlines() if line.startswith("epoch")] for text in (log, (first.parent / "log.txt").read_text())
    ]
    assert epochs[0] == epochs[1] != []


@pytest.mark.slow
def test_the_command_that_the_report_prints_makes_it_again(swept):
    """Given again with the same --out, it finds all runs made and changes nothing."""
    before = (swept / "out" / "results.json").read_text()
    (part,) = json.loads(before)["studies"]["accuracy"].values()
    for page in ("report.md", "report.html"):
        assert part["command"] in (swept / "out" / page).read_text()
    words = [*shlex.split(part["command"]), "--out", str(swept / "out")]
    assert words[0] == "ssd4rec"
    again = subprocess.run([sys.executable, "-c", CODE, *words[1:]], capture_output=True, text=True, check=True)
    assert "2 runs, 2 of them cached" in again.stderr
    assert (swept / "out" / "results.json").read_text() == before


@pytest.mark.slow
def test_figures_and_ranks_are_enough_to_go_on_elsewhere(swept):
    """Without the models nothing is trained again, and another model is tested against the ranks that are there."""
    kept = swept / "kept"
    for path in [*(swept / "out").glob("runs/*/*"), *(swept / "out").glob("counted/*/*")]:
        if path.name in ("run.json", "result.json") or (path.suffix == ".npy" and path.name != "with_fusion.npy"):
            (kept / path.relative_to(swept / "out")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept / path.relative_to(swept / "out"))
    elsewhere = swept / "elsewhere.csv"
    shutil.copy(swept / "cycle.csv", elsewhere)
    again = subprocess.run(command(elsewhere, kept), capture_output=True, text=True, check=True)
    assert "2 runs, 2 of them cached" in again.stderr
    whole = figures(json.loads((swept / "out" / "results.json").read_text()))
    assert figures(json.loads((kept / "results.json").read_text())) == whole
    more = [*command(elsewhere, kept), "--models", "ssd4rec,ssd4rec-none"]
    further = subprocess.run(more, capture_output=True, text=True, check=True)
    assert "2 runs, 1 of them cached" in further.stderr
    (part,) = json.loads((kept / "results.json").read_text())["studies"]["accuracy"].values()
    ours = part["rows"][0]
    assert (ours["label"], ours["metrics"]) == ("ssd4rec", whole["ssd4rec"])
    assert [test["baseline"] for test in ours["against_baselines"]] == ["ssd4rec-none"]


@pytest.mark.slow
def test_what_needs_no_learning_is_measured_once_and_again_where_it_is_gone(swept):
    """One folder for both runs; without it only that is measured, and the rows of the report are what they were."""
    out = swept / "uncounted"
    shutil.copytree(swept / "out", out)
    (counted,) = (out / "counted").iterdir()
    shutil.rmtree(counted)
    again = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=True)
    assert "2 runs, 0 of them cached" in again.stderr
    assert all(path.stat().st_mtime < counted.stat().st_mtime for path in out.glob("runs/*/result.json"))  # and nothing else
    found, whole = (json.loads((folder / "results.json").read_text())["studies"]["accuracy"] for folder in (out, swept / "out"))
    assert [part["rows"] for part in found.values()] == [part["rows"] for part in whole.values()]


@pytest.mark.slow
def test_a_process_that_dies_is_a_failure_whatever_an_earlier_one_left(swept):
    """Results are there, what needs no learning is not, and every worker dies: told as failed; the next call mends it."""
    out = swept / "dying"
    shutil.copytree(swept / "out", out)
    shutil.rmtree(out / "counted")
    (out / "sitecustomize.py").write_text("import os, sys\nif 'ssd4rec.paper.worker' in sys.orig_argv: os._exit(3)\n")
    dying = os.environ | {"PYTHONPATH": str(out)}
    failed = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=False, env=dying)
    assert (failed.returncode, failed.stderr.count("FAILED, see")) == (1, 2)
    assert "Failed: ssd4rec (seed 2024); gru4rec (seed 2024)" in (out / "report.md").read_text()
    subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=True)
    assert "Failed" not in (out / "report.md").read_text()


@pytest.mark.slow
def test_a_file_in_the_way_of_what_is_kept_is_named(swept):
    """Before anything is done: one line, exit code 2."""
    out = swept / "in-the-way"
    shutil.copytree(swept / "out", out)
    (counted,) = (out / "counted").iterdir()
    shutil.rmtree(counted)
    counted.write_text("in the way")
    refused = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert f"remove {counted} and give the command again" in refused.stderr.replace("\n", " ")


@pytest.mark.slow
def test_a_run_that_fails_takes_no_other_with_it(swept):
    """Two at once; the one that cannot write fails, the report says why, the other is finished, the exit code is 1."""
    out = swept / "broken"
    whole = json.loads((swept / "out" / "results.json").read_text())
    (part,) = whole["studies"]["accuracy"].values()
    broken, sound = (row["seeds"][0]["key"] for row in part["rows"] if row["seeds"])
    (out / "runs" / broken).mkdir(parents=True)
    (out / "runs" / broken / "model.training").write_text("a file where the worker needs a folder")
    done = subprocess.run([*command(swept / "cycle.csv", out), "--jobs", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 run failed, the report says why: cycle.csv, ssd4rec, seed 2024" in done.stderr
    assert json.loads((out / "runs" / sound / "result.json").read_text())["efficiency"]["jobs"] == 2
    assert not (out / "runs" / broken / "result.json").exists()
    report = (out / "report.html").read_text()
    assert "Failed: ssd4rec (seed 2024)" in report
    assert "ArtifactError: the state of the training cannot be kept in " in report
    assert figures(json.loads((out / "results.json").read_text()))["gru4rec"] == figures(whole)["gru4rec"]


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_process_and_no_failure(swept):
    """Ctrl-C ends both runs under way; none of them counts as failed, and the report is there."""
    out = swept / "interrupted"
    process = subprocess.Popen(
        [*command(swept / "cycle.csv", out), "--jobs", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("runs/*/log.txt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on where this one stopped" in said
    assert len(list(out.glob("runs/*/run.json"))) == 2
    assert not list(out.glob("runs/*/result.json"))
    assert not list(out.glob("runs/*/failure.txt"))
    assert "Missing: ssd4rec (seed 2024); gru4rec (seed 2024)" in (out / "report.html").read_text()


def test_what_cannot_be_asked_for_is_said_before_anything_is_trained(tmp_path):
    """A setting for a model that no row is of, no model beside what is counted, no cut-off for the tables."""
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    asked = {"sources": [str(tmp_path / "cycle.csv")], "budget": make_budget("small"), "out": tmp_path / "out", "cache": tmp_path}
    with pytest.raises(ConfigError, match=r"--set caser: is for no row of this; the rows are of .*gru4rec"):
        plan("accuracy", **asked, models=["gru4rec"], settings=["data.min_interactions=1", "caser:training.learning_rate=1e-3"])
    with pytest.raises(ConfigError, match="popularity and rules are measured beside a model"):
        plan("accuracy", **asked, models=["popularity"], settings=["data.min_interactions=1"])
    with pytest.raises(ConfigError, match=r"evaluation.cutoffs must have 10, found \(5,\)"):
        plan("accuracy", **asked, models=["gru4rec"], settings=["evaluation.cutoffs=[5]"])


def test_runs_of_older_versions_are_found():
    """What is younger than a run, and says what was the rule then, is not in its key; anything else is."""
    data = Dataset("x", "x", None, "fingerprint", {})
    (point,) = points("accuracy", None, make_budget("small"), ["ssd4rec"], ())
    younger = {"fusion": True, "data": {"tie_order"}, "training": {"ema_decay", "label_smoothing"}}
    younger["backbone"] = {"input_dropout", "input_fade", "repeat_logits", "norm_first"}
    older = point.configs[0].model_dump(mode="json", exclude=younger)
    decides = {"settings": older, "data": "fingerprint", "numerics": [NUMERICS, metadata.version("ssd4rec")]}
    assert Run(data, point.configs[0]).key == hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    (averaged,) = points("accuracy", None, make_budget("small"), ["ssd4rec"], ["training.ema_decay=0.99"])
    (other,) = points("accuracy", None, make_budget("small"), ["ssd4rec"], ["data.tie_order=item"])
    assert len({Run(data, each.configs[0]).key for each in (point, averaged, other)}) == 3
    assert Run(data, other.configs[0]).counted != Run(data, point.configs[0]).counted


def test_two_files_of_one_name_in_one_command_are_called_by_their_paths(tmp_path):
    """In tables and in the lines that tell how far the sweep is."""
    for place, users in (("a", 50), ("b", 60)):
        (tmp_path / place).mkdir()
        worlds.frame(worlds.cycle(users)).write_csv(tmp_path / place / "log.csv")
    sources = [str(tmp_path / place / "log.csv") for place in "ab"]
    asked = {"budget": make_budget("small"), "out": tmp_path / "out", "cache": tmp_path, "models": ["sasrec"], "settings": ()}
    sweep = plan("accuracy", [*sources, sources[0]], **asked)
    assert [part.data.name for part in sweep.parts] == sources
    assert [title for title, _ in sweep.runs.values()] == [f"{source}, sasrec, seed 2024" for source in sources]


@pytest.mark.skipif(sys.platform != "linux", reason="a file name of any bytes")
def test_a_file_of_any_name_is_reported(tmp_path):
    """Its bytes that are no letters are shown as such; a report is text."""
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "log.csv")
    (tmp_path / "log.csv").rename(source)
    asked = {"models": ["sasrec"], "settings": ["data.min_interactions=1"]}
    sweep = plan("accuracy", [source], make_budget("small", epochs=1), tmp_path / "out", tmp_path, **asked)
    write_report(summarize(sweep.parts, sweep.budget, tmp_path), tmp_path)
    assert r"\udcff.csv" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """It is a file, it is under a file, its disk refuses the report, another sweep is at work in it."""
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "report.md" / "in the way").mkdir(parents=True)
    asked = {"budget": make_budget("small"), "cache": tmp_path, "models": ["sasrec"], "settings": ["data.min_interactions=1"]}
    for out in ("file", "file/out", "out"):
        sweep = plan("accuracy", [str(tmp_path / "cycle.csv")], out=tmp_path / out, **asked)
        with pytest.raises(DataError, match=f"{out} cannot be written: .*choose another --out"):
            carry_out(sweep, lambda _: None)
    with (
        exclusive_lock(tmp_path / "out" / "lock", ValueError(), ValueError),
        pytest.raises(DataError, match=r"another sweep is at work in .*wait for it"),
    ):
        carry_out(sweep, lambda _: None)


@pytest.mark.slow
def test_data_that_change_under_a_sweep_are_refused(swept):
    """Else the figures of other data would be found under this one's key for ever."""
    data = swept / "changing.csv"
    worlds.frame(worlds.cycle()).write_csv(data)
    asked = {"budget": make_budget("small", epochs=1, width=16), "out": swept / "changed", "cache": swept}
    sweep = plan("accuracy", [str(data)], **asked, models=["sasrec"], settings=["data.min_interactions=1"])
    worlds.frame(worlds.cycle(users=50)).write_csv(data)
    (part,) = carry_out(sweep, lambda _: None).studies["accuracy"].values()
    assert "has changed since the sweep began; give the command again" in part.rows[0].seeds[0].why
    assert not list((swept / "changed" / "counted").glob("*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system says it right")
def test_peak_memory_is_that_of_the_run_not_of_the_sweep():
    """A process that holds a gibibyte starts one that holds no more than torch."""
    child = "from ssd4rec.paper.worker import _peak_resident; print(_peak_resident())"
    start = f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    parent = f"import subprocess, sys; held = bytearray(b'x') * (1 << 30); {start}"
    found = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 1 << 26 < int(found.stdout) < 1 << 30


def test_what_needs_no_learning_appears_whole_and_once(tmp_path):
    """Measured once; where another run was first, its figures stay; nothing half-made is left, and a broken file is named."""
    world = worlds.world(worlds.cycle())
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    measure, folder = Measure(world, worlds.config(), counts), tmp_path / "counted" / "key"
    count(measure, folder)
    found = counted_in(folder)
    assert found["cooccurrence"]["with_fusion"]["seen_removed"] == found["cooccurrence"]["seen_removed"]
    assert ndcg(ranks_of(folder, "popularity.npy"), 10) == pytest.approx(found["popularity"]["test"]["ndcg@10"])
    count(None, folder)  # measures nothing

    class Overtaken(Measure):
        def with_fusion(self, *_, **__):
            shutil.copytree(folder, tmp_path / "counted" / "other", dirs_exist_ok=True)
            return {"mine": 1}

    count(Overtaken(world, worlds.config(), counts), tmp_path / "counted" / "other")
    assert counted_in(tmp_path / "counted" / "other") == found
    assert sorted(path.name for path in (tmp_path / "counted").iterdir()) == ["key", "other"]
    (folder / "result.json").unlink()
    count(measure, folder)  # what says that it is whole was taken away
    assert counted_in(folder) == found
    (folder / "result.json").write_text("")
    with pytest.raises(DataError, match=r"result\.json cannot be read"):
        counted_in(folder)
    (folder / "popularity.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"popularity\.npy cannot be read"):
        ranks_of(folder, "popularity.npy")


def test_padding_changes_no_state():
    """A padded batch reads out what a packed one does."""
    model = make_model(worlds.config(), 12).eval()
    items, cu_seqlens = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 4, 6])
    with torch.inference_mode():
        torch.testing.assert_close(Padded(model).encode(items, cu_seqlens), model.encode(items, cu_seqlens))
