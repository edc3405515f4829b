"""A sweep on the command line: resumed, extended, interrupted, reported."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec._io import exclusive_lock
from ssd4rec.artifact import load_artifact
from ssd4rec.config import Config, load_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.evaluation.metrics import hit_rate, mrr, ndcg
from ssd4rec.models.next_item import make_model
from ssd4rec.paper.recipe_search import CHOICES, SEARCHES, search_recipes
from ssd4rec.paper.recipes import make_budget
from ssd4rec.paper.results import VARIANTS, load_ranks, load_results
from ssd4rec.paper.sweep import plan_sweep, run_sweep
from ssd4rec.paper.worker import PaddedModel

CODE = "import sys; from ssd4rec.cli import main; sys.exit(main())"
SET = ("--set", "data.min_interactions=1", "--set", "training.token_budget=256")
OPTIONS = ("--models", "ssd4rec,gru4rec,popularity,sequential-rules", "--epochs", "2", "--width", "16", *SET)


def command(data, out, *options):
    return [sys.executable, "-c", CODE, "reproduce", "accuracy", str(data), "--out", str(out), *(options or OPTIONS)]


def run(data, out, *options, returncode=0, **how):
    process = subprocess.run(command(data, out, *options), capture_output=True, text=True, check=False, **how)
    assert process.returncode == returncode, process.stderr
    return process


def rows_of(out):
    (section,) = load_results(out).sections
    return {row.label: row for row in section.rows}


def metrics(out):
    return {label: [row.summary(variant) for variant in VARIANTS] for label, row in rows_of(out).items()}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a finished sweep over the cycle world, and of its file."""
    folder = tmp_path_factory.mktemp("sweep")
    worlds.frame(worlds.cycle()).write_csv(folder / "cycle.csv")
    assert "4 runs, 0 of them finished" in run(folder / "cycle.csv", folder / "out").stderr
    return folder


@pytest.mark.slow
def test_the_metrics_are_those_of_the_ranks(swept):
    """HR, NDCG and MRR computed again from ranks.parquet, for every variant."""
    ranks = load_ranks(swept / "out")
    for label, row in rows_of(swept / "out").items():
        (finished,) = row.finished
        for variant in VARIANTS:
            test = finished.metrics.get(variant, {})
            assert bool(test) == ((finished.key, variant) in ranks), label
            for name, value in test.items():
                metric, cutoff = name.split("@")
                of_ranks = {"ndcg": ndcg, "hr": hit_rate, "mrr": mrr}[metric]
                assert value == of_ranks(ranks[finished.key, variant], int(cutoff))


@pytest.mark.slow
def test_a_run_keeps_its_training_history(swept):
    """Validation NDCG@10 of each epoch, also in log.txt."""
    row = rows_of(swept / "out")["gru4rec"]
    (finished,) = row.finished
    log = (swept / "out" / "runs" / finished.key / "log.txt").read_text()
    shown = [float(line.split()[6]) for line in log.splitlines() if line.startswith("epoch")]
    assert len(shown) == finished.epochs == 2
    assert finished.validation == pytest.approx(shown, abs=6e-5)
    assert finished.costs.seconds_per_epoch > 0
    assert finished.costs.peak_memory > 1 << 26


@pytest.mark.slow
def test_co_occurrence_solves_the_cycle(swept):
    """The next item of the cycle is known from counts: with fusion every model finds it."""
    rows = rows_of(swept / "out")
    assert not rows.pop("popularity").summary("fusion")
    assert {label: row.summary("fusion")["ndcg@10"].mean for label, row in rows.items()} == dict.fromkeys(rows, 1.0)
    assert rows["sequential-rules"].finished[0].fusion.cooccurrence == 1.0


@pytest.mark.slow
def test_metrics_with_seen_items_excluded_by_hand(swept):
    """Scores of the saved model, one sequence at a time, without the items of the sequence except for the target."""
    row = rows_of(swept / "out")["gru4rec"]
    artifact = load_artifact(swept / "out" / "runs" / row.finished[0].key / "model")
    histories, _ = build_sequences(read_interactions(swept / "cycle.csv"), 1)
    ranks = []
    with torch.inference_mode():
        for user in range(len(histories.users)):
            *read, target = histories.items[histories.offsets[user] : histories.offsets[user + 1]].tolist()
            scores = artifact.model.item_vectors @ artifact.model.encode(torch.tensor(read), torch.tensor([0, len(read)]))[0]
            others = [item for item in range(1, len(scores) + 1) if item != target and item not in read]
            ranks.append(1 + sum(bool(scores[item - 1] >= scores[target - 1]) for item in others))
    assert row.summary("model_exclude_seen")["ndcg@10"].mean == pytest.approx(ndcg(np.array(ranks), 10))
    assert row.summary("model_exclude_seen")["hr@10"].mean > row.test["hr@10"].mean


@pytest.mark.slow
def test_the_printed_command_finds_all_runs_finished(swept):
    """With the same --out it changes nothing; the report shows the command without a path."""
    before = (swept / "out" / "results.json").read_text()
    (section,) = load_results(swept / "out").sections
    (printed,) = section.commands
    for page in ("report.md", "report.html"):
        assert printed in (swept / "out" / page).read_text()
        assert str(swept) not in (swept / "out" / page).read_text()
    assert str(swept) not in before
    words = [*shlex.split(printed)[1:], "--out", "out"]
    again = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=True, cwd=swept)
    assert "4 runs, 4 of them finished" in again.stderr
    assert (swept / "out" / "results.json").read_text() == before


@pytest.mark.slow
def test_each_network_has_the_best_of_its_own_trials(swept):
    """As many for each; what is set by hand is not searched; the same command searches and trains nothing again."""
    options = (*OPTIONS, "--trials", "3", "--set", "gru4rec:backbone.dropout=0.1")
    first = run(swept / "cycle.csv", swept / "searched", *options)
    assert first.stderr.count("trial 3 of 3: ") == 2
    files = list((swept / "searched" / SEARCHES).glob("*/best.toml"))
    rows = rows_of(swept / "searched")
    for label, fixed in (("ssd4rec", set()), ("gru4rec", {"backbone.dropout"})):
        searched = CHOICES.keys() - fixed
        assert f"best of 3 trials ({', '.join(name for name in CHOICES if name in searched)})" in rows[label].origin
        config = Config.model_validate(rows[label].settings_of(2024))
        (best,) = [file for file in files if load_config(file).backbone.name == label]
        assert load_config(best) == config.model_copy(update={"fusion": load_config(best).fusion})
        (finished,) = rows[label].finished
        assert best.read_text().startswith(f"# validation NDCG@10 {max(finished.validation):.4f}, trial ")
    assert rows["gru4rec"].settings["backbone"]["dropout"] == 0.1
    (section,) = load_results(swept / "searched").sections
    assert "--trials 3" in section.commands[0]
    again = run(swept / "cycle.csv", swept / "searched", *options)
    assert "4 runs, 4 of them finished" in again.stderr
    assert "trial " not in again.stderr.replace(" trials", "")


@pytest.mark.slow
def test_equal_networks_are_one_row_after_a_search_too(tmp_path):
    """With one layer both are one network, which is searched once; its best settings do not bring the other one back."""
    worlds.frame(worlds.cycle(users=20)).write_csv(tmp_path / "cycle.csv")
    options = {"models": ["ssd4rec", "ssd4rec-all"], "settings": list(SET[1::2])}
    arguments = ["accuracy", [str(tmp_path / "cycle.csv")], make_budget("small", epochs=1, trials=2), tmp_path, tmp_path]
    found = search_recipes(plan_sweep(*arguments, **options), options["settings"])
    (settings,) = found.values()
    better = [re.sub("backbone.dropout=.*", "backbone.dropout=0.05", text) for text in settings]  # whichever trial was best
    (section,) = plan_sweep(*arguments, **options, found=dict.fromkeys(found, better)).sections
    assert [row.model for row in section.rows] == ["ssd4rec"]


@pytest.mark.slow
def test_results_and_ranks_alone_can_be_extended(swept):
    """Without run folders, on a renamed copy of the data: one more model and one more seed, tested against the old ranks."""
    out = swept / "extended"
    out.mkdir()
    for name in ("results.json", "ranks.parquet"):
        shutil.copy(swept / "out" / name, out)
    shutil.copy(swept / "cycle.csv", swept / "renamed.csv")
    before = metrics(out)
    again = run(swept / "renamed.csv", out, "--models", "gru4rec,mamba4rec", "--seeds", "2", *OPTIONS[2:])
    assert "4 runs, 1 of them finished" in again.stderr
    rows = rows_of(out)
    assert list(rows) == ["ssd4rec", "gru4rec", "popularity", "sequential-rules", "mamba4rec"]
    assert {label: len(row.finished) for label, row in rows.items() if row.model.endswith("4rec")} == {
        "ssd4rec": 1, "gru4rec": 2, "mamba4rec": 2,
    }  # fmt: skip
    assert metrics(out)["ssd4rec"] == before["ssd4rec"]
    assert {test.baseline for test in rows["ssd4rec"].tests} >= {"mamba4rec", "sequential-rules"}
    rendered = subprocess.run(
        [sys.executable, "-c", CODE, "reproduce", "report", "--out", str(out)], check=True, capture_output=True
    )
    assert b"report.html" in rendered.stdout


@pytest.mark.slow
def test_a_killed_sweep_continues_to_the_same_metrics(swept):
    """Killed after its first run, the same command makes the others only."""
    out = swept / "killed"
    process = subprocess.Popen(command(swept / "cycle.csv", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(out.glob("runs/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "4 runs, 1 of them finished" in run(swept / "cycle.csv", out).stderr
    assert metrics(out) == metrics(swept / "out")


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_process_and_no_failure(swept):
    """Ctrl-C ends both processes; no run counts as failed, and the report names the missing ones."""
    out = swept / "interrupted"
    process = subprocess.Popen(
        [*command(swept / "cycle.csv", out), "--jobs", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while len(list(out.glob("runs/*/log.txt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in text
    assert len(list(out.glob("runs/*/run.json"))) == 2
    assert not list(out.glob("runs/*/result.json"))
    assert not list(out.glob("runs/*/failure.txt"))
    assert "Missing: ssd4rec, seed 2024." in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_others_finish(swept):
    """Two at once; one has no place for its model. The exit code is 1, and the next call makes it."""
    out = swept / "broken"
    broken = rows_of(swept / "out")["ssd4rec"].finished[0].key
    (out / "runs" / broken).mkdir(parents=True)
    (out / "runs" / broken / "model.training").write_text("a file where the worker needs a folder")
    done = run(swept / "cycle.csv", out, *OPTIONS, "--jobs", "2", returncode=1)
    assert "1 run failed, see the report: cycle.csv, ssd4rec, seed 2024" in done.stderr
    assert "Failed: ssd4rec, seed 2024: exit code 1, " in (out / "report.html").read_text()
    assert str(out) not in (out / "results.json").read_text()
    assert metrics(out)["gru4rec"] == metrics(swept / "out")["gru4rec"]
    assert rows_of(out)["gru4rec"].finished[0].costs.parallel_runs == 2
    (out / "runs" / broken / "model.training").unlink()
    run(swept / "cycle.csv", out)
    assert metrics(out) == metrics(swept / "out")


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Run a sweep of one model whose worker is the given code; return the folder of the run."""
    package = tmp_path / "packages" / "ssd4rec" / "paper"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    options = {"models": ["sasrec"], "settings": ["data.min_interactions=1"]}
    sweep = plan_sweep("accuracy", [str(tmp_path / "cycle.csv")], make_budget("small"), tmp_path / "out", tmp_path, **options)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))

    def run_code(code):
        (package / "worker.py").write_text(code)
        run_sweep(sweep)
        (key,) = sweep.jobs
        return sweep.folder(key)

    return run_code


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('Error: no such accelerator')", "exit code 1\nError: no such accelerator"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9\npossibly out of memory"),
        ("import os; os.kill(os.getpid(), 11)", f"killed by signal 11\n{signal.strsignal(11)}"),
        ("import os; os._exit(3)", "exit code 3\nno output"),
    ],
)
def test_the_reason_of_a_failure_is_that_of_the_last_attempt(attempt, code, reason):
    """log.txt keeps the output of both attempts. A random.py in the current folder is not imported."""
    folder = attempt("import random, sys; sys.exit(f'Error: an earlier one {random.random() < 1}')")
    assert (folder / "failure.txt").read_text(encoding="utf-8") == "exit code 1\nError: an earlier one True"
    assert attempt(code) == folder
    assert (folder / "failure.txt").read_text(encoding="utf-8") == reason
    assert (folder / "log.txt").read_text(encoding="utf-8").startswith("Error: an earlier one")


def test_a_search_of_settings_is_for_the_comparison_of_models(tmp_path):
    """The other studies vary settings themselves."""
    result = CliRunner().invoke(cli.app, ["reproduce", "length", "ml-100k", "--trials", "3", "--out", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "--trials applies to accuracy" in str(result.exception)


def test_mistakes_are_explained_before_anything_is_trained(tmp_path):
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    arguments = ([str(tmp_path / "cycle.csv")], make_budget("small"), tmp_path / "out", tmp_path)
    settings = ["data.min_interactions=1"]
    with pytest.raises(ConfigError, match=r"--set caser: no row has this model; the rows are gru4rec"):
        plan_sweep("accuracy", *arguments, models=["gru4rec"], settings=[*settings, "caser:training.learning_rate=1e-3"])
    with pytest.raises(ConfigError, match=r"evaluation.cutoffs must include 10, found \(5,\)"):
        plan_sweep("accuracy", *arguments, models=["gru4rec"], settings=["evaluation.cutoffs=[5]"])
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        plan_sweep("acuracy", *arguments, models=(), settings=())
    with pytest.raises(ConfigError, match="ablation is about ssd4rec alone; leave out --models"):
        plan_sweep("ablation", *arguments, models=("caser",), settings=())
    with pytest.raises(ConfigError, match=r"beta trains networks .*, and caser is not one"):
        plan_sweep("beta", ["no file"], *arguments[1:], models=("caser",), settings=())
    for study in ("accuracy", "all"):
        with pytest.raises(ConfigError, match=f"--values applies to beta, rho, length; leave it out for {study}"):
            plan_sweep(study, ["no file"], *arguments[1:], models=(), settings=(), values=["50"])


@pytest.mark.parametrize("option", ["--epochs", "--seeds", "--width", "--jobs"])
def test_numbers_below_one_are_refused(option):
    result = CliRunner().invoke(cli.app, ["reproduce", "accuracy", "ml-100k", option, "0"])
    assert result.exit_code == 2
    assert f"for '{option}'" in result.output


def test_runs_differ_by_data_settings_and_seed_and_are_shared_by_studies(tmp_path):
    """Two files of one name are named with their folders; baselines have one run for all seeds."""
    for place, users in (("a", 50), ("b", 60)):
        (tmp_path / place).mkdir()
        worlds.frame(worlds.cycle(users)).write_csv(tmp_path / place / "log.csv")
    sources = [str(tmp_path / place / "log.csv") for place in "ab"]
    sweep = plan_sweep(
        "accuracy", [*sources, sources[0]], make_budget("small", seeds=2), tmp_path, tmp_path, models=["sasrec", "popularity"],
        settings=["data.min_interactions=1"],
    )  # fmt: skip
    runs = ("sasrec, seed 2024", "sasrec, seed 2025", "popularity")
    assert [job.title for job in sweep.jobs.values()] == [f"{place}/log.csv, {each}" for place in "ab" for each in runs]
    both = plan_sweep("all", sources[:1], make_budget("small"), tmp_path, tmp_path, models=["ssd4rec"], settings=())
    shared = {key for section in both.sections for row in section.rows for key in [row.runs[0].key]}
    assert len(both.jobs) == len(shared) < sum(len(section.rows) for section in both.sections)


@pytest.mark.slow
def test_the_lengths_of_several_models_are_extended_by_a_model_and_a_value(tmp_path):
    """Each model and length has one row, whatever the order of the commands; the report compares the models."""
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")

    def sweep(models, values):
        return plan_sweep(
            "length", [str(tmp_path / "cycle.csv")], make_budget("small", epochs=1, width=16), tmp_path / "out", tmp_path,
            models=models, settings=["data.min_interactions=1"], values=values,
        )  # fmt: skip

    first = sweep(["gru4rec"], ["whole", "7", "100"])
    assert [job.title for job in first.jobs.values()] == [f"cycle.csv, {label}, seed 2024" for label in ("last 7", "whole")]
    assert first.sections[0].omitted == ("last 100",)
    assert "--models gru4rec --values whole,7,100" in first.sections[0].commands[0]
    run_sweep(first)
    second = sweep(["gru4rec", "sasrec"], ["5", "7"])
    assert "cycle.csv, sasrec, last 5, seed 2024" in [job.title for job in second.jobs.values()]
    assert len(run_sweep(second).finished_runs()) == 2 + 4 - 1
    (section,) = load_results(tmp_path / "out").sections
    labels = [f"gru4rec, {each}" for each in ("last 5", "last 7", "whole")] + ["sasrec, last 5", "sasrec, last 7"]
    assert [row.label for row in section.arranged.rows] == labels
    assert section.data.longer[5] > section.data.longer[7] > 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| last interactions read | NDCG@10, gru4rec |" in text
    assert "| sasrec, last 7 | gru4rec | alone |" in text
    assert "| gru4rec, last 7 | whole | alone |" in text


def test_reading_options_reach_the_file_and_are_not_in_the_title(tmp_path):
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "log.csv", include_header=False)
    settings = ["data.min_interactions=1", 'data.columns=["user", "item", "time"]']
    sweep = plan_sweep(
        "accuracy",
        [str(tmp_path / "log.csv")],
        make_budget("small"),
        tmp_path,
        tmp_path,
        models=["popularity"],
        settings=settings,
    )
    (section,) = sweep.sections
    assert (section.title, section.data.users) == ("log.csv data.min_interactions=1", 60)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="a file name of any bytes")
def test_a_file_of_any_name_is_reported(tmp_path):
    """Bytes that are not text are escaped in the report."""
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "log.csv")
    (tmp_path / "log.csv").rename(source)
    options = {"models": ["popularity"], "settings": ["data.min_interactions=1"]}
    run_sweep(plan_sweep("accuracy", [source], make_budget("small"), tmp_path / "out", tmp_path, **options))
    assert r"\udcff.csv" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_explained(tmp_path):
    """It is a file, it is inside a file, another sweep uses it, or its results are of another kind."""
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "cycle.csv")
    (tmp_path / "file").write_text("")

    def sweep(out):
        options = {"models": ["popularity"], "settings": ["data.min_interactions=1"]}
        return plan_sweep("accuracy", [str(tmp_path / "cycle.csv")], make_budget("small"), tmp_path / out, tmp_path, **options)

    for out in ("file", "file/out"):
        with pytest.raises(DataError, match=f"{out} cannot be written: .*choose another --out"):
            run_sweep(sweep(out))
    with (
        exclusive_lock(tmp_path / "out" / "lock", ValueError(), ValueError),
        pytest.raises(DataError, match=r"another sweep is writing to .*wait for it"),
    ):
        run_sweep(sweep("out"))
    (tmp_path / "out" / "results.json").write_text("[]")
    with pytest.raises(DataError, match="is not a results file of this version"):
        run_sweep(sweep("out"))


@pytest.mark.slow
def test_data_that_change_during_a_sweep_are_refused(swept):
    data = swept / "changing.csv"
    worlds.frame(worlds.cycle()).write_csv(data)
    options = {"models": ["popularity"], "settings": ["data.min_interactions=1"]}
    sweep = plan_sweep("accuracy", [str(data)], make_budget("small"), swept / "changed", swept, **options)
    worlds.frame(worlds.cycle(users=50)).write_csv(data)
    (section,) = run_sweep(sweep).sections
    assert "changing.csv has changed since the sweep began; run the command again" in section.rows[0].runs[0].reason
    assert json.loads((swept / "changed" / "results.json").read_text())["sections"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage does not include the parent")
def test_peak_memory_is_that_of_the_run_not_of_the_sweep():
    """A process with a gibibyte starts one that holds no more than its own imports."""
    child = "from ssd4rec.data.out_of_core.memory import peak_bytes; print(peak_bytes())"
    start = f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    parent = f"import subprocess, sys; block = bytearray(b'x') * (1 << 30); {start}"
    output = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    assert 1 << 20 < int(output) < 1 << 30


def test_padding_changes_no_state():
    """A padded batch gives the states of a packed one, also where a batch is split."""
    model = make_model(worlds.config(), 12).eval()
    items, cu_seqlens = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 4, 6])
    with torch.inference_mode():
        packed = model.encode(items, cu_seqlens)
        torch.testing.assert_close(PaddedModel(model).encode(items, cu_seqlens), packed)
        torch.testing.assert_close(PaddedModel(model, positions=6).encode(items, cu_seqlens), packed)
