"""A search finds good settings, stops poor trials, and can be continued."""

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import optuna
import polars as pl
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.artifact import MANIFEST
from ssd4rec.cli.tune import _protocol as protocol_of_a_search
from ssd4rec.config import DataConfig, load_config
from ssd4rec.errors import ArtifactError, BackendError
from ssd4rec.pipeline import add_features
from ssd4rec.training.callbacks import Callback
from ssd4rec.tuning.search import BEST, DATABASE, TRIALS, search

RATES = {"training.learning_rate": FloatDistribution(1e-5, 3e-2, log=True)}
OPTIONS = [
    "--set", "data.min_interactions=1", "--set", "backbone.width=16", "--set", "backbone.state_dim=8",
    "--set", "training.token_budget=256", "--set", "training.max_epochs=4", "--set", "training.patience=4",
    "--search", "training.learning_rate=1e-4:3e-2:log",
]  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return worlds.world(worlds.cycle(users=30))


def outcome(report):
    return sorted((trial.values["training.learning_rate"], trial.ndcg, trial.epochs, trial.pruned) for trial in report.trials)


@pytest.mark.thorough
def test_the_first_trial_has_the_values_of_the_settings(world, tmp_path):
    """Or the nearest ones, or what "auto" chooses; once, however often the search is continued."""
    config = worlds.config(max_epochs=1, learning_rate=3e-3).replaced("backbone", input_dropout="auto")
    smoothing, dropout = FloatDistribution(0.2, 0.4), FloatDistribution(0.0, 0.6)  # the settings have a label smoothing of 0
    space = {**RATES, "training.label_smoothing": smoothing, "backbone.input_dropout": dropout}
    for trials in (1, 2):
        report = search(world, config, space, tmp_path, trials=trials)
    first, second = (trial.values for trial in sorted(report.trials, key=lambda trial: trial.number))
    assert first == {"training.learning_rate": 3e-3, "training.label_smoothing": 0.2, "backbone.input_dropout": 0.5}
    assert second["training.learning_rate"] != 3e-3


@pytest.mark.thorough
def test_the_best_trial_is_written_as_settings(world, tmp_path):
    """best.toml holds the values of the first line of the table; everything else is as in the settings."""
    config = worlds.config(max_epochs=2)
    report = search(world, config, RATES, tmp_path, trials=5)
    assert len(report.trials) == 5
    best = load_config(report.best_file)
    assert best.training.learning_rate == report.trials[0].values["training.learning_rate"]
    assert best.training.model_copy(update={"learning_rate": config.training.learning_rate}) == config.training
    assert report.trials[0].ndcg == max(trial.ndcg for trial in report.trials)
    assert report.trials[0].ndcg > report.trials[-1].ndcg
    assert report.importance == {"training.learning_rate": 1.0}
    assert not list((tmp_path / TRIALS).iterdir())


@pytest.mark.thorough
def test_the_test_part_is_not_read(world, tmp_path):
    """A search over data without a test set finds the same."""
    config = worlds.config(max_epochs=1)
    blind = type(world)(world.histories, world.catalog, _without_test(world.split), world.description)
    assert outcome(search(blind, config, RATES, tmp_path / "a", trials=2)) == outcome(
        search(world, config, RATES, tmp_path / "b", trials=2)
    )


def _without_test(split):
    return replace(split, test=None)


@pytest.mark.thorough
def test_trials_have_the_item_features(world, tmp_path):
    """And a search is continued with the same features only."""
    config = worlds.config(max_epochs=1)
    items = pl.DataFrame({"item_id": range(12), "kind": ["even", "odd"] * 6})
    described = add_features(world, items, config)
    assert outcome(search(described, config, RATES, tmp_path, trials=1)) != outcome(
        search(world, config, RATES, tmp_path / "without", trials=1)
    )
    with pytest.raises(ArtifactError, match="other features"):
        search(world, config, RATES, tmp_path, trials=2)


@pytest.mark.thorough
def test_a_trial_below_the_median_is_stopped_early(world, tmp_path):
    """After four whole trials the hopeless ones end before their last epoch, and are never the best."""
    report = search(world, worlds.config(max_epochs=6), RATES, tmp_path, trials=9)
    pruned = [trial for trial in report.trials if trial.pruned]
    assert pruned
    assert all(2 <= trial.epochs < 6 for trial in pruned)
    assert not report.trials[0].pruned


@pytest.fixture(autouse=True)
def _log_messages_reach_caplog(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ssd4rec"), "propagate", True)
    caplog.set_level(logging.INFO, logger="ssd4rec")


@pytest.mark.thorough
def test_a_search_in_pieces_is_the_search_in_one(world, tmp_path, caplog):
    """Trials of an earlier run count and are not repeated; values follow from the seed and the trials before."""
    config = worlds.config(max_epochs=1)
    whole = search(world, config, RATES, tmp_path / "whole", trials=4)
    search(world, config, RATES, tmp_path / "pieces", trials=2)
    caplog.clear()
    pieces = search(world, config, RATES, tmp_path / "pieces", trials=4)
    assert outcome(pieces) == outcome(whole)
    assert len([line for line in caplog.messages if line.startswith("trial ")]) == 2


@pytest.mark.thorough
def test_neighboring_seeds_give_different_searches(world, tmp_path):
    """No trial of one is a trial of the other, moved by one, but for the first, which has the values of the settings."""
    config = worlds.config(max_epochs=1)
    rates = [
        {
            trial.values["training.learning_rate"]
            for trial in search(world, config, RATES, tmp_path / str(seed), trials=3, seed=seed).trials
        }
        for seed in (0, 1)
    ]
    assert rates[0] & rates[1] == {config.training.learning_rate}
    assert len(rates[0] | rates[1]) == 5


class Counter(Callback):
    """Epochs that were learned."""

    epochs = 0

    def on_epoch_end(self, _):
        self.epochs += 1


def test_tried_values_are_not_trained_again(world, tmp_path):
    """A space of two choices is at its end after two trainings, whatever the number of trials."""
    counter = Counter()
    space = {"training.learning_rate": CategoricalDistribution((1e-3, 1e-2))}
    report = search(world, worlds.config(max_epochs=1), space, tmp_path, trials=8, callbacks=[counter])
    assert len(report.trials) == 8
    assert counter.epochs == 2
    assert len(set(outcome(report))) == 2


@pytest.mark.thorough
def test_impossible_combinations_are_skipped(world, tmp_path, caplog):
    """Two channels in every 20 do not make whole heads of 16: it is said, never learned, and the search goes on."""
    counter = Counter()
    space = {"backbone.width": CategoricalDistribution((16, 20)), **RATES}
    report = search(world, worlds.config(max_epochs=1), space, tmp_path, trials=6, callbacks=[counter])
    refused = [trial for trial in report.trials if trial.values["backbone.width"] == 20]
    assert 0 < len(refused) < len(report.trials) == 6
    assert counter.epochs == 6 - len(refused)
    assert all((trial.ndcg, trial.epochs, trial.pruned) == (None, 0, True) for trial in refused)
    why = "not possible: expand * width = 40 is not a multiple of head_width = 16"
    assert {trial.refused for trial in refused} == {why}
    assert sum(line.endswith(f" of 6: {why}") for line in caplog.messages) == len(refused)
    assert report.trials[0].refused is None


class Broken(Callback):
    """A training that cannot be."""

    def on_fit_start(self, _):
        raise MemoryError("too large")


@pytest.mark.thorough
def test_a_training_that_diverges_is_a_refused_trial(world, tmp_path, caplog):
    """At a learning rate of 10,000 no score is a number: it is said, and the search goes on, the next run's too."""
    counter = Counter()
    space = {"training.learning_rate": CategoricalDistribution((1e4, 1e-2))}
    report = search(world, worlds.config(max_epochs=1), space, tmp_path, trials=6, callbacks=[counter])
    refused = [trial for trial in report.trials if trial.values["training.learning_rate"] == 1e4]
    assert 0 < len(refused) < len(report.trials) == 6
    assert counter.epochs == 1
    why = "not possible: diverged in epoch 1"
    assert all((trial.ndcg, trial.epochs, trial.pruned, trial.refused) == (None, 0, True, why) for trial in refused)
    assert sum(line.endswith(f" of 6: {why}") for line in caplog.messages) == len(refused)
    assert report.trials[0].refused is None
    assert not list((tmp_path / TRIALS).iterdir())
    assert len(search(world, worlds.config(max_epochs=1), space, tmp_path, trials=7).trials) == 7


class Full(Callback):
    """A device without room for what is learned in the second epoch."""

    def on_epoch_start(self, loop):
        if loop.epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_training_without_room_on_the_device_is_a_refused_trial(world, tmp_path):
    """Smaller values may have room; its earlier results do not count in the search."""
    report = search(world, worlds.config(max_epochs=2), RATES, tmp_path, trials=1, callbacks=[Full()])
    (trial,) = report.trials
    assert (trial.ndcg, trial.epochs, trial.pruned, trial.refused) == (None, 1, True, "not possible: out of memory in epoch 2")
    assert (report.best_file, report.importance) == (None, {})


@pytest.mark.thorough
def test_values_that_failed_are_not_chosen_again(world, tmp_path):
    """The error is raised; the next run tries others, and the failed trial is none of those that are counted."""
    config = worlds.config(max_epochs=1)
    for _ in range(2):
        with pytest.raises(MemoryError):
            search(world, config, RATES, tmp_path, trials=1, callbacks=[Broken()])
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / DATABASE}")
    assert len({trial.params["training.learning_rate"] for trial in study.trials}) == 2
    report = search(world, config, RATES, tmp_path, trials=2)
    assert {trial.number for trial in report.trials} == {1, 2}
    assert f", trial {report.trials[0].number}\n" in report.best_file.read_text()


@pytest.mark.thorough
def test_minutes_end_a_run_and_the_next_goes_on(world, tmp_path):
    """No time gives no trial; the trial that was chosen is the first of the next run."""
    config = worlds.config(max_epochs=2)
    assert search(world, config, RATES, tmp_path / "none", minutes=0.0).stopped == "minutes"
    report = search(world, config, RATES, tmp_path / "none", trials=1)
    assert (report.stopped, len(report.trials)) == ("trials", 1)


@pytest.mark.thorough
def test_a_time_limit_in_mid_trial_keeps_the_best_weights(world, tmp_path, monkeypatch):
    """The next run learns the rest of the trial only, and finds what an unbroken search finds."""
    config, counter, rest = worlds.config(max_epochs=4), Counter(), Counter()
    clock = SimpleNamespace(monotonic=lambda: 61.0 if counter.epochs >= 2 else 0.0)
    monkeypatch.setattr("ssd4rec.tuning.search.time", clock)
    cut = search(world, config, RATES, tmp_path / "cut", trials=1, minutes=1.0, callbacks=[counter])
    assert (cut.stopped, cut.trials, cut.best_file) == ("minutes", (), None)
    report = search(world, config, RATES, tmp_path / "cut", trials=1, callbacks=[rest])
    assert (counter.epochs, rest.epochs) == (2, 2)
    assert outcome(report) == outcome(search(world, config, RATES, tmp_path / "whole", trials=1))


def test_another_search_in_the_same_folder_is_refused(world, tmp_path):
    """Other settings or another space would mix what cannot be compared."""
    config = worlds.config(max_epochs=1)
    search(world, config, RATES, tmp_path, trials=1)
    with pytest.raises(ArtifactError, match="other settings"):
        search(world, worlds.config(max_epochs=2), RATES, tmp_path, trials=2)
    with pytest.raises(ArtifactError, match="other space"):
        search(world, config, {"training.learning_rate": FloatDistribution(1e-4, 1e-2, log=True)}, tmp_path, trials=2)


def test_two_processes_in_one_folder_are_refused(world, tmp_path):
    """The second says who is at work."""
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match="another search is running"):
            search(world, worlds.config(max_epochs=1), RATES, tmp_path, trials=1)


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/search", "a" * 300])
def test_a_folder_that_cannot_be_is_one_line(world, tmp_path, name):
    """A file, a place below one, and a place where nothing can be made."""
    (tmp_path / "file").write_text("user_id:token")
    with pytest.raises(ArtifactError, match=f"{name} cannot be the folder of a search: .*; choose another --out"):
        search(world, worlds.config(max_epochs=1), RATES, tmp_path / name, trials=1)


def test_the_folder_of_a_model_is_no_folder_of_a_search(world, tmp_path):
    """A finished model is left as it is."""
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match=r"contains a finished model, not a search; choose another --out"):
        search(world, worlds.config(max_epochs=1), RATES, tmp_path, trials=1)
    assert [each.name for each in tmp_path.iterdir()] == [MANIFEST]


def test_best_settings_that_cannot_be_written_are_one_line(world, tmp_path):
    """The trial is kept: the next run writes what it found."""
    (tmp_path / BEST / "in the way").mkdir(parents=True)
    with pytest.raises(
        ArtifactError, match=r"cannot write .*best\.toml: Is a directory; free some space and run the same command again"
    ):
        search(world, worlds.config(max_epochs=1), RATES, tmp_path, trials=1)
    shutil.rmtree(tmp_path / BEST)
    report = search(world, worlds.config(max_epochs=1), RATES, tmp_path, trials=1)
    assert load_config(report.best_file).training.learning_rate == report.trials[0].values["training.learning_rate"]


def test_a_damaged_database_is_one_line(world, tmp_path):
    """The message names the problem and the solution."""
    (tmp_path / DATABASE).write_text("not a database at all" * 100)
    with pytest.raises(ArtifactError, match=r"cannot use .*search\.db: file is not a database; .* choose another --out$"):
        search(world, worlds.config(max_epochs=1), RATES, tmp_path, trials=1)


def test_a_folder_of_any_name_holds_its_search(world, tmp_path):
    """What means something in a URL means nothing in a name."""
    place = tmp_path / "q?a=1 {b}%41#"
    search(world, worlds.config(max_epochs=1), RATES, place, trials=1)
    assert (place / DATABASE).is_file()
    assert [each.name for each in tmp_path.iterdir()] == [place.name]


@pytest.fixture
def plays(tmp_path):
    worlds.frame(worlds.cycle(users=30)).write_csv(tmp_path / "plays.csv")
    return tmp_path / "plays.csv"


@pytest.mark.thorough
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_search_that_was_stopped_goes_on(plays, tmp_path, how, code):
    """A real process is killed, or interrupted, in mid-trial; the same command ends with what an unbroken search finds."""
    options = ["tune", str(plays), *OPTIONS, "--trials", "3", "--json"]
    whole = CliRunner().invoke(cli.app, [*options, "--out", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from ssd4rec.cli import main; sys.exit(main())",
            *options,
            "--out",
            tmp_path / "broken",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    trial = 1
    for line in child.stderr:
        trial += line.startswith("trial 1 of 3")
        if trial == 2 and line.startswith("epoch   2"):
            child.send_signal(how)
            break
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait() == code
    assert how == signal.SIGKILL or "run the same command again to continue" in rest
    result = CliRunner().invoke(cli.app, [*options, "--out", str(tmp_path / "broken")])
    assert result.exit_code == 0, result.output
    result, expected = json.loads(result.stdout)["trials"], json.loads(whole.stdout)["trials"]
    assert [(each["values"], each["ndcg"], each["epochs"]) for each in result] == [
        (each["values"], each["ndcg"], each["epochs"]) for each in expected
    ]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'broken' / DATABASE}")
    assert [trial.state.name for trial in study.trials].count("FAIL") == 1


@pytest.mark.thorough
def test_the_best_settings_train(plays, tmp_path):
    """best.toml is taken by --config; --train measures it once on the test set."""
    arguments = ["tune", str(plays), *OPTIONS, "--trials", "2", "--out", str(tmp_path / "search")]
    result = CliRunner().invoke(cli.app, [*arguments, "--train", "--json"])
    assert result.exit_code == 0, result.output
    result = json.loads(result.stdout)
    assert "ndcg@10" in result["model"]["test"]
    trained = CliRunner().invoke(
        cli.app, ["train", str(plays), "--config", result["best"], "--out", str(tmp_path / "model"), "--json"]
    )
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["validation"]["ndcg@10"] == result["trials"][0]["ndcg"]
    weights = (tmp_path / "search" / "model" / "weights.safetensors").stat()
    again = CliRunner().invoke(cli.app, [*arguments, "--train", "--json"])
    assert json.loads(again.stdout)["model"] == result["model"]
    assert "was already trained with these settings" in again.stderr
    assert (tmp_path / "search" / "model" / "weights.safetensors").stat() == weights
    shown = CliRunner().invoke(cli.app, arguments)
    assert "best first" in shown.stdout
    assert result["protocol"] == {
        "compared": "validation ndcg@10 of the best epoch",
        "data": str(plays),
        **result["model"]["protocol"],
    }
    assert "compared validation ndcg@10 of the best epoch" in shown.stdout
    assert f"{result['trials'][0]['ndcg']:.4f}" in shown.stdout


@pytest.mark.thorough
def test_an_emptied_database_does_not_cost_the_best_settings(plays, tmp_path):
    """It would be a new search, whose first trial is its best."""
    arguments = ["tune", str(plays), *OPTIONS, "--trials", "1", "--out", str(tmp_path / "search")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    best = (tmp_path / "search" / "best.toml").read_text()
    (tmp_path / "search" / DATABASE).write_bytes(b"")
    with pytest.raises(
        ArtifactError, match=r"has best\.toml of an earlier search, but search\.db has no trial of it; choose another --out"
    ):
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert (tmp_path / "search" / "best.toml").read_text() == best


@pytest.mark.thorough
def test_the_protocol_of_a_search_names_its_limits():
    """No history is as long as the setting allows: nothing was, as `evaluate` says it too."""
    cut = worlds.config().model_copy(update={"data": DataConfig(min_interactions=1, max_length=500)})
    assert protocol_of_a_search(worlds.world(worlds.cycle(), cut))["max_length"] is None


def test_a_search_without_a_possible_trial_says_so(plays, tmp_path):
    """And why; there is nothing to train."""
    options = [*OPTIONS[:-1], "training.learning_rate=1e4|1e5", "--train", "--json", "--trials", "2"]
    result = CliRunner().invoke(cli.app, ["tune", str(plays), *options, "--out", str(tmp_path / "search")])
    assert result.exit_code == 0, result.output
    messages = " ".join(result.stderr.split())
    assert "all 2 trials failed, so no best settings exist (not possible: diverged in epoch 1); search" in messages
    assert "--train starts after a trial is finished" in messages
    result = json.loads(result.stdout)
    assert (result["best"], result["model"], len(result["trials"])) == (None, None, 2)


def test_without_optuna_it_says_what_to_install(plays, monkeypatch):
    """The package is an extra."""
    monkeypatch.setattr(sys.modules["ssd4rec.cli.inputs"], "find_spec", lambda _: None)
    result = CliRunner().invoke(cli.app, ["tune", str(plays)])
    assert isinstance(result.exception, BackendError)
    assert "pip install 'optuna>=5.0'" in str(result.exception)
