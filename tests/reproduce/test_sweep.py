"""A sweep as a person runs it: killed, resumed, reported."""

import hashlib
import json
import os
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
from ssd4rec.artefact import load_artefact
from ssd4rec.config import BACKBONES, DataConfig
from ssd4rec.data.histories import build_histories
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.metrics import hit_rate, mrr, ndcg
from ssd4rec.experiment import make_model
from ssd4rec.reproduce.compare import paired_bootstrap
from ssd4rec.reproduce.measure import Measure, count
from ssd4rec.reproduce.padded import Padded
from ssd4rec.reproduce.published import published_row
from ssd4rec.reproduce.recipes import RECIPES
from ssd4rec.reproduce.results import recipe_of, reduced
from ssd4rec.reproduce.runs import NUMERICS, Dataset, Run, counted_in, ranks_of
from ssd4rec.reproduce.studies import find, make_budget, points
from ssd4rec.reproduce.sweep import plan
from ssd4rec.reproduce.tables import notes

CODE = "import sys; from ssd4rec.cli import main; sys.exit(main())"
OPTIONS = (
    "--models", "ssd4rec,gru4rec,popularity,transitions", "--epochs", "2", "--width", "16",
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
    assert set(found) == {"ssd4rec", "gru4rec", "popularity", "transitions"}
    for label, metrics in found.items():
        assert shown[label][:-1] == [f"{each['mean']:.4f}" for each in metrics.values()]
    assert page.loaded == []
    ranked = sorted(set(found) - {"ssd4rec"}, key=lambda label: -found[label]["ndcg@10"]["mean"])
    against = [row[1] for row in page.rows if row[:1] == ["ssd4rec"] and len(row) == 5]
    assert against == list(dict.fromkeys([ranked[0], "gru4rec"]))
    assert "Paired bootstrap over 60 users: too few" in (swept / "out" / "report.html").read_text()


@pytest.mark.slow
def test_each_model_stands_with_a_prior_and_so_do_the_counts(swept):
    """The cycle is all counts: with them everything is found, by the models and without one."""
    results = json.loads((swept / "out" / "results.json").read_text())
    (part,) = results["studies"]["accuracy"].values()
    found = {row["label"]: row["with_prior"] for row in part["rows"]}
    assert found.pop("popularity") is None
    assert {label: each["metrics"]["ndcg@10"]["mean"] for label, each in found.items()} == dict.fromkeys(found, 1.0)
    assert found["transitions"]["transitions"] == [1.0]
    assert "prior added to their scores" in (swept / "out" / "report.md").read_text()


@pytest.mark.slow
def test_each_model_is_measured_with_seen_items_removed_too(swept):
    """Scores of the kept model, a history at a time, without what is in the history but for the target: those of the report."""
    results = json.loads((swept / "out" / "results.json").read_text())
    (part,) = results["studies"]["accuracy"].values()
    rows = {row["label"]: row for row in part["rows"]}
    artefact = load_artefact(swept / "out" / "runs" / rows["gru4rec"]["seeds"][0]["key"] / "model")
    histories, _ = build_histories(read_interactions(swept / "cycle.csv"), 1)
    ranks = []
    with torch.inference_mode():
        for user in range(len(histories.users)):
            *read, target = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
            scores = artefact.model.item_vectors @ artefact.model.encode(torch.tensor(read), torch.tensor([0, len(read)]))[0]
            others = [item for item in range(1, len(scores) + 1) if item != target and item not in read]
            ranks.append(1 + sum(bool(scores[item - 1] >= scores[target - 1]) for item in others))
    found = rows["gru4rec"]["seen_removed"]
    assert found["ndcg@10"]["mean"] == pytest.approx(ndcg(np.array(ranks), 10))
    assert found["hr@10"]["mean"] > rows["gru4rec"]["metrics"]["hr@10"]["mean"]
    assert set(rows["transitions"]["with_prior"]["seen_removed"]) == set(rows["popularity"]["seen_removed"]) == set(found)
    assert "seen items removed from the candidates" in (swept / "out" / "report.md").read_text()


def test_a_report_says_what_a_prior_knows_and_the_published_models_did_not():
    """Where seen items are candidates and a prior puts them down; not where they are none, or where they recur."""
    row = {"label": "SASRec", "recipe": None, "seeds": [], "with_prior": {"repeats": [0.0, -8.0]}}
    part = {
        "source": "x", "kept": {"users": 1, "items": 1, "interactions": 1}, "known": None, "reduced": None, "jobs": 1,
        "rows": [row], "budget": {"name": "small", "width": 1, "epochs": 1, "seeds": 1}, "protocol": {"seen": "kept"},
        "device": "CPU", "versions": {},
    }  # fmt: skip
    warned = [note.warning for note in notes("accuracy", part) if "had to learn that" in note.text]
    assert warned == [True]
    for other in (part | {"protocol": {"seen": "filtered"}}, part | {"rows": [row | {"with_prior": {"repeats": [0.0, 2.0]}}]}):
        assert not [note for note in notes("accuracy", other) if "had to learn that" in note.text]


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
    """Of a result of another version the cost of its training is kept; figures and log of epochs are what they were."""
    out = swept / "older"
    shutil.copytree(swept / "out", out)
    first = next(out.glob("runs/*/result.json"))
    before, log = json.loads(first.read_text()), (first.parent / "log.txt").read_text()
    first.write_text(json.dumps({**before, "measured": 0, "test": {}}))
    again = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=True)
    assert "2 runs, 1 of them cached" in again.stderr
    assert json.loads(first.read_text()) == before
    epochs = [
        [line for line in text.splitlines() if line.startswith("epoch")] for text in (log, (first.parent / "log.txt").read_text())
    ]
    assert epochs[0] == epochs[1] != []


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
    (out / "sitecustomize.py").write_text("import os, sys\nif 'ssd4rec.reproduce.worker' in sys.orig_argv: os._exit(3)\n")
    dying = os.environ | {"PYTHONPATH": str(out)}
    failed = subprocess.run(command(swept / "cycle.csv", out), capture_output=True, text=True, check=False, env=dying)
    assert (failed.returncode, failed.stderr.count("FAILED, see")) == (1, 2)
    assert "Failed: ssd4rec (seed 2024), gru4rec (seed 2024)" in (out / "report.md").read_text()
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
    assert "1 runs failed, the report says why: cycle.csv, ssd4rec, seed 2024" in done.stderr
    assert json.loads((out / "runs" / sound / "result.json").read_text())["efficiency"]["jobs"] == 2
    assert not (out / "runs" / broken / "result.json").exists()
    report = (out / "report.html").read_text()
    assert "Failed: ssd4rec (seed 2024)" in report
    assert "exit code 1, FileExistsError: [Errno 17] File exists" in report
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
    assert "Missing: ssd4rec (seed 2024), gru4rec (seed 2024)" in (out / "report.html").read_text()


def test_each_model_has_its_recipe():
    """SASRec learns at its own rate, on Beauty with the dropout of its preset; the paper's settings rule SSD4Rec alone."""
    small, paper = make_budget("small"), make_budget("paper")
    assert set(RECIPES) == set(BACKBONES)
    for name, recipe in RECIPES.items():
        ours, beauty, published = (
            points("accuracy", known, budget, [name], ())[0].configs[0]
            for known, budget in ((None, small), ("amazon-beauty", small), ("amazon-beauty", paper))
        )
        assert (ours.training.learning_rate, ours.backbone.dropout) == (recipe.learning_rate, recipe.dropout)
        assert (beauty.training.learning_rate, beauty.backbone.dropout) == (recipe.learning_rate, 0.4)
        assert (ours.training.schedule, ours.training.patience) == ("cosine", small.epochs)
        assert (published.training.schedule, published.training.patience) == ("constant", 10)
        assert published.training.learning_rate == (1e-3 if name == "ssd4rec" else recipe.learning_rate)


def test_the_papers_settings_can_be_had_with_each_history_read_once():
    """Width, rates, dropout and mask of the preset; not for SIGMA, nor where layers below the top read backwards."""
    budget, paper = make_budget("paper-one-pass", epochs=40), make_budget("paper", epochs=40)
    names = ["ssd4rec", "ssd4rec-all", "sasrec", "bert4rec", "sigma"]
    for known in ("amazon-beauty", "ml-1m"):
        once, every = (points("accuracy", known, each, names, ()) for each in (budget, paper))
        read = {point.label: point.configs[0].training.objective for point in once}
        expected = {"ssd4rec": "one-pass", "sasrec": "one-pass", "bert4rec": "cloze", "sigma": "prefix"}
        assert read == expected | ({"ssd4rec-all": "prefix"} if known == "ml-1m" else {})
        for ours, theirs in zip(once, every, strict=True):
            same = {"objective": "prefix", "token_budget": theirs.configs[0].training.token_budget}
            training = ours.configs[0].training.model_copy(update=same)
            assert (ours.configs[0].backbone, training) == (theirs.configs[0].backbone, theirs.configs[0].training)
    (whole, *_) = points("ablation", "ml-1m", budget, (), ())
    assert whole.model == "ssd4rec"
    said = [str(recipe_of(point, "ml-1m", budget)) for point in once]
    assert ["each history read once" in each for each in said] == [True, False, True, True, False]
    deeper = points("accuracy", "amazon-beauty", budget, ["ssd4rec-all", "ssd4rec"], ["ssd4rec:backbone.layers=2"])
    assert [point.configs[0].training.objective for point in deeper] == ["one-pass", "one-pass"]
    (every,) = points("accuracy", "amazon-beauty", budget, ["ssd4rec-all"], ["ssd4rec-all:backbone.layers=2"])
    assert every.configs[0].training.objective == "prefix"


def test_the_papers_budget_is_reduced_where_the_paper_has_no_settings():
    """Nobody published settings for ML-100K: the paper's budget takes our recipe there, and says so."""
    budget = make_budget("paper")
    (point,) = points("accuracy", "ml-100k", budget, ["sasrec"], ())
    assert point.configs[0].training.objective == "one-pass"
    assert "the paper has no settings for these data" in (reduced("ml-100k", budget, 18) or "")


def test_a_budget_is_reduced_where_it_decides_what_a_model_reaches():
    """The paper's width, and an end by validation: whole, whatever --epochs allowed; cut short or narrower: reduced."""
    assert reduced("amazon-beauty", make_budget("paper"), 300) is None
    assert reduced("amazon-beauty", make_budget("paper", epochs=40, seeds=1), 18) is None
    assert reduced("amazon-beauty", make_budget("paper", epochs=40), 40) == "a run was cut short after 40 epochs"
    for budget in (make_budget("paper", width=128), make_budget("medium", width=256), make_budget("small")):
        assert reduced("amazon-beauty", budget, 3) == "reduced budget"


def test_a_report_does_not_call_searched_what_was_given():
    """Settings that --set has changed are named; all others come from the recipe, and a small budget changes none of them."""
    small = make_budget("small")
    for known, rest in ((None, ""), ("amazon-beauty", ", with the dropout of the preset")):
        (as_it_is,) = points("accuracy", known, small, ["sasrec"], ())
        assert recipe_of(as_it_is, known, small) == RECIPES["sasrec"].source + rest
        given = ("training.mask_ratio=0.0", "training.token_budget=1024", "training.weight_decay=0.1", "sasrec:backbone.width=16")
        (changed,) = points("accuracy", known, small, ["sasrec"], given)
        names = "backbone.width, training.token_budget, training.mask_ratio, training.weight_decay"
        assert recipe_of(changed, known, small) == f"changed here ({names}), the rest {RECIPES['sasrec'].source}{rest}"


def test_a_report_does_not_call_the_papers_what_was_changed():
    """The paper's budget with --set names what was set, for our model and for the others."""
    paper = make_budget("paper", epochs=40)
    for model, source in (("ssd4rec-all", "preset of the paper"), ("ssd4rec", "preset of the paper"), ("sasrec", "searched")):
        (as_it_is,) = points("accuracy", "amazon-beauty", paper, [model], ())
        assert str(recipe_of(as_it_is, "amazon-beauty", paper)).startswith(source)
        given = ("training.objective=one-pass", "training.token_budget=1152")
        (changed,) = points("accuracy", "amazon-beauty", paper, [model], given)
        said = str(recipe_of(changed, "amazon-beauty", paper))
        assert said.startswith("changed here (")
        assert "training.token_budget" in said.partition(")")[0]
        assert f"the rest {source}" in said


def test_unknown_names_are_told_the_nearest():
    """A misspelt study names the one that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        find("acuracy", ("accuracy", "beta"), "study")
    with pytest.raises(ConfigError, match=r"no budget named 'tiny'\. There are small, medium, paper"):
        make_budget("tiny")
    with pytest.raises(ConfigError, match="--seeds must be 1 or more"):
        make_budget("small", seeds=0)


def test_a_setting_is_for_all_models_or_for_one():
    """`sasrec:` sets it for SASRec alone, after what is set for all; a mask for all is none for BERT4Rec, which needs it."""
    budget, names = make_budget("small"), ["ssd4rec", "sasrec", "bert4rec"]
    given = (
        "sasrec:training.learning_rate=5e-4",
        "training.learning_rate=2e-3",
        "training.mask_ratio=0.0",
        "data.user=a:b",
    )
    found = {point.label: point.configs[0] for point in points("accuracy", None, budget, names, given)}
    assert [found[name].training.learning_rate for name in names] == [2e-3, 5e-4, 2e-3]
    assert [found[name].training.mask_ratio for name in names] == [0.0, 0.0, RECIPES["bert4rec"].mask_ratio]
    assert [found[name].data.user for name in names] == ["a:b"] * 3
    (alone,) = points("accuracy", None, budget, ["bert4rec"], ["bert4rec:training.mask_ratio=0.5"])
    assert alone.configs[0].training.mask_ratio == 0.5
    with pytest.raises(ConfigError, match="did you mean 'sasrec'"):
        points("accuracy", None, budget, names, ["sasrek:training.learning_rate=1"])
    with pytest.raises(ConfigError, match="with a prior anyway"):
        points("accuracy", None, budget, names, ["sasrec:prior.repeats=1"])
    with pytest.raises(ConfigError, match="the same data and the same protocol"):
        points("accuracy", None, budget, names, ["sasrec: data.min_interactions=2"])
    for setting, option in (("backbone.width=8", "--width"), ("ssd4rec:backbone.bidirectional=none", "--models")):
        with pytest.raises(ConfigError, match=f"is what {option} says"):
            points("accuracy", None, budget, names, [setting])
    (prefix,) = points("accuracy", "ml-1m", make_budget("paper"), ["bert4rec"], ["training.mask_ratio=0.0"])
    assert (prefix.configs[0].training.objective, prefix.configs[0].training.mask_ratio) == ("prefix", 0.0)


def test_what_cannot_be_asked_for_is_said_before_anything_is_trained(tmp_path):
    """A setting for a model that no row is of, no model beside what is counted, no cut-off for the tables."""
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    asked = {"sources": [str(tmp_path / "cycle.csv")], "budget": make_budget("small"), "out": tmp_path / "out", "cache": tmp_path}
    with pytest.raises(ConfigError, match=r"--set caser: is for no row of this; the rows are of .*gru4rec"):
        plan("accuracy", **asked, models=["gru4rec"], settings=["data.min_interactions=1", "caser:training.learning_rate=1e-3"])
    with pytest.raises(ConfigError, match="popularity and transitions are measured beside a model"):
        plan("accuracy", **asked, models=["popularity"], settings=["data.min_interactions=1"])
    with pytest.raises(ConfigError, match=r"evaluation.cutoffs must have 10, found \(5,\)"):
        plan("accuracy", **asked, models=["gru4rec"], settings=["evaluation.cutoffs=[5]"])


def test_runs_of_versions_without_an_order_of_equal_times_are_found():
    """What is younger than a run, and says what was the rule then, is not in its key; any other order is."""
    data = Dataset("x", "x", None, "fingerprint", {})
    (point,) = points("accuracy", None, make_budget("small"), ["ssd4rec"], ())
    older = point.configs[0].model_dump(mode="json", exclude={"prior": True, "data": {"same_time"}})
    decides = {"settings": older, "data": "fingerprint", "numerics": [NUMERICS, metadata.version("ssd4rec")]}
    assert Run(data, point.configs[0]).key == hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    (other,) = points("accuracy", None, make_budget("small"), ["ssd4rec"], ["data.same_time=item"])
    assert Run(data, other.configs[0]).key != Run(data, point.configs[0]).key
    assert Run(data, other.configs[0]).counted != Run(data, point.configs[0]).counted


def test_what_needs_no_learning_appears_whole_and_once(tmp_path):
    """Measured once; where another run was first, its figures stay; nothing half-made is left, and a broken file is named."""
    world = worlds.world(worlds.cycle())
    counts = training_counts(world.histories, world.split.train, len(world.catalogue))
    measure, folder = Measure(world, worlds.config(), counts), tmp_path / "counted" / "key"
    count(measure, folder)
    found = counted_in(folder)
    assert found["transitions"]["with_prior"]["seen_removed"] == found["transitions"]["seen_removed"]
    assert ndcg(ranks_of(folder, "popularity.npy"), 10) == pytest.approx(found["popularity"]["test"]["ndcg@10"])
    count(None, folder)  # measures nothing

    class Overtaken(Measure):
        def with_prior(self, *_, **__):
            shutil.copytree(folder, tmp_path / "counted" / "other", dirs_exist_ok=True)
            return {"mine": 1}

    count(Overtaken(world, worlds.config(), counts), tmp_path / "counted" / "other")
    assert counted_in(tmp_path / "counted" / "other") == found
    assert sorted(path.name for path in (tmp_path / "counted").iterdir()) == ["key", "other"]
    (folder / "result.json").write_text("")
    with pytest.raises(DataError, match=r"result\.json cannot be read"):
        counted_in(folder)
    (folder / "popularity.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"popularity\.npy cannot be read"):
        ranks_of(folder, "popularity.npy")


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
    assert published_row("kuairand-pure", "ssd4rec-all", "kept").figures["ndcg@10"] == 0.0593
    assert published_row(None, "ssd4rec", "kept") is None


def test_published_figures_stand_beside_the_same_protocol_only():
    """A table made with seen items kept says nothing beside one that removes them."""
    assert published_row("ml-1m", "sasrec", "kept").figures["ndcg@10"] == 0.1687
    assert published_row("ml-1m", "sasrec", "filtered") is None
    assert published_row("ml-1m", "hstu-large", "filtered").seen == "filtered"
