"""The command line, as a person or a script uses it."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import worlds
from ssd4rec import cli, diagnostics, pipeline
from ssd4rec.artifact import load_artifact, save_artifact
from ssd4rec.cli.console import print_json
from ssd4rec.cli.train import _name_page
from ssd4rec.config import dump_config, parse_config
from ssd4rec.data.interactions import read_interactions
from ssd4rec.datasets.registry import about, find_dataset, folder_of
from ssd4rec.datasets.store import save_dataset
from ssd4rec.errors import BackendError, ConfigError

RUN = CliRunner()
SMALL = [
    "--set", "data.min_interactions=1", "--set", "backbone.width=16", "--set", "backbone.state_dim=8",
    "--set", "training.token_budget=256",
]  # fmt: skip


def run(*arguments):
    """The command with its exit code, as the entry point gives it."""
    result = RUN.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def command(*arguments, **options):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ssd4rec", *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CSV of the cycle world with titles, and a model trained on it."""
    folder = tmp_path_factory.mktemp("cli")
    table = worlds.frame(worlds.cycle()).with_columns(pl.col("item_id").map_elements(lambda item: f"m{item:02}", pl.String))
    table.write_csv(folder / "cycle.csv")
    pl.DataFrame({"item_id": [f"m{item:02}" for item in range(12)], "title": [f"Film {item}" for item in range(12)]}).write_csv(
        folder / "titles.csv"
    )
    result = run(
        "train", folder / "cycle.csv", "--titles", folder / "titles.csv", "--out", folder / "model", "--json",
        *SMALL, "--set", "training.learning_rate=1e-2", "--set", "training.max_epochs=10", "--set", "training.mask_ratio=0.0",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (folder / "report.json").write_text(result.stdout)
    return folder


def test_train_prints_one_json_object(folder):
    """Standard output is the report, with the keys that scripts rely on."""
    report = json.loads((folder / "report.json").read_text())
    assert {"data", "model", "protocol", "validation", "test", "popularity", "seconds", "artifact"} <= report.keys()
    assert report["data"]["kept"]["users"] == 60
    assert {"users", "items", "interactions", "mean_length", "longest"} <= report["data"]["kept"].keys()
    assert set(report["test"]) == {"hr@10", "ndcg@10", "mrr@10", "hr@20", "ndcg@20", "mrr@20"}
    assert report["test"]["ndcg@10"] > report["popularity"]["test"]["ndcg@10"]
    assert report["protocol"]["ties"] == "worst rank"
    assert report["model"]["parameters"] > 0
    assert report["artifact"] == str(folder / "model")
    assert not Path(f"{report['artifact']}.training").exists()


def test_evaluate_shows_the_metrics_of_the_training(folder):
    """Without data the stored metrics are shown; with the same data they are computed again and equal."""
    report = json.loads((folder / "report.json").read_text())
    stored = json.loads(run("evaluate", folder / "model", "--json").stdout)
    repeated = json.loads(run("evaluate", folder / "model", folder / "cycle.csv", "--json").stdout)
    assert stored["test"] == report["test"]
    assert repeated["test"] == pytest.approx(report["test"])
    assert repeated["notes"] == []
    table = run("evaluate", folder / "model").stdout
    assert "popularity" in table
    assert "exclude_seen False" in " ".join(table.split())


def test_excluding_seen_items_changes_the_ranks(folder, tmp_path):
    """With constant scores every candidate ties, so the rank is the number of candidates: 12, or 12 without the seen items."""
    artifact = load_artifact(folder / "model")
    with torch.no_grad():
        for parameter in artifact.model.parameters():
            parameter.zero_()
    config = parse_config(dump_config(artifact.config), ["fusion.cooccurrence=0.0", "fusion.repeat_bias=0.0"])
    save_artifact(tmp_path / "model", artifact.model, artifact.catalog, config, {}, artifact.training_counts)
    histories = pl.read_csv(folder / "cycle.csv").sort("timestamp").group_by("user_id").agg("item_id")["item_id"].to_list()
    candidates = np.array([12 - len(set(items[:-1]) - {items[-1]}) for items in histories])
    assert 0 < (candidates <= 5).mean() < 1
    command = ["evaluate", tmp_path / "model", folder / "cycle.csv", "--json", "--set", "evaluation.cutoffs=[5, 11]"]
    stored = json.loads(run(*command).stdout)
    excluded = json.loads(run(*command, "--set", "evaluation.exclude_seen=true").stdout)
    assert (stored["protocol"]["exclude_seen"], excluded["protocol"]["exclude_seen"]) == (False, True)
    assert (stored["test"]["hr@5"], stored["test"]["hr@11"]) == (0.0, 0.0)
    assert excluded["test"]["hr@5"] == pytest.approx((candidates <= 5).mean())
    assert excluded["test"]["mrr@11"] == pytest.approx(np.where(candidates <= 11, 1 / candidates, 0).mean())


def test_train_and_evaluate_write_reports(folder, tmp_path):
    """The page of the training is in the folder of the model; evaluate writes to any file."""
    page = (folder / "model" / "report.html").read_text()
    assert "Training history" in page
    assert "Film 3" in page
    run("evaluate", folder / "model", folder / "cycle.csv", "--report", tmp_path / "page.html")
    run("evaluate", folder / "model", "--report", tmp_path / "short.html")
    assert "Example users" in (tmp_path / "page.html").read_text()
    assert "Example users" not in (tmp_path / "short.html").read_text()
    with pytest.raises(ConfigError, match="cannot write"):
        run("evaluate", folder / "model", "--report", tmp_path / "missing" / "page.html")


def test_evaluate_on_other_data_counts_unknown_items(folder, tmp_path):
    """Items that the model does not know are left out of the histories, and counted."""
    table = pl.read_csv(folder / "cycle.csv").with_columns(pl.col("item_id").replace({"m00": "new"}))
    table.write_csv(tmp_path / "other.csv")
    result = json.loads(run("evaluate", folder / "model", tmp_path / "other.csv", "--json").stdout)
    unknown = int((table["item_id"] == "new").sum())
    assert result["notes"][0].startswith(f"{unknown} interactions with items outside of the model's catalog")
    assert result["protocol"]["targets"] > 0


def test_recommend_returns_the_next_item(folder):
    """After m03, m04, m05 comes m06, with its title; an unknown item is reported."""
    answer = json.loads(run("recommend", folder / "model", "--history", "m03,m04,nothing,m05", "-k", "2", "--json").stdout)
    assert answer["recommendations"][0]["item"] == "m06"
    assert answer["recommendations"][0]["title"] == "Film 6"
    assert len(answer["recommendations"]) == 2
    assert answer["unknown_items"] == ["nothing"]
    assert "Film 6" in run("recommend", folder / "model", "--history", "m03,m04,m05").stdout


def test_recommend_parses_ids_like_csv(folder):
    """A blank after a comma does not count, an id that holds a comma stands in quotes, and the note names what is unknown."""

    def unknown(history):
        return json.loads(run("recommend", folder / "model", "--history", history, "--json").stdout)["unknown_items"]

    assert unknown("m03, m04,m05") == []
    assert unknown('m03, "a, b",,"5""disk",5"disk') == ["a, b", '5"disk', '5"disk']
    assert unknown("") == []
    shown = run("recommend", folder / "model", "--history", 'm03,"a,b"', "--allow", "m07, m08", "--deny", '"c,d", m07')
    assert "Film 8" in shown.stdout
    assert "Film 7" not in shown.stdout
    assert "1 item of the history is not in the catalog and ignored: 'a,b'" in shown.stderr


def test_recommend_writes_a_file_for_every_user(folder, tmp_path):
    """Parquet with user_id, item_id, score and rank."""
    result = run(
        "recommend",
        folder / "model",
        "--users",
        folder / "cycle.csv",
        "--out",
        tmp_path / "recs.parquet",
        "-k",
        "3",
        "--keep-seen",
    )
    assert "to 60 users" in result.stdout
    result = pl.read_parquet(tmp_path / "recs.parquet")
    assert result.columns == ["user_id", "item_id", "score", "rank"]
    assert result["user_id"].n_unique() == 60
    assert result["user_id"].dtype == pl.String


def test_recommend_can_fall_back_to_popular_items(folder, tmp_path):
    """--unknown goes for --users too: the history of u1 has an unknown item."""
    (tmp_path / "other.csv").write_text("user_id,item_id\nu1,m01\nu1,nothing\nu2,m02\n")
    options = ["recommend", folder / "model", "--users", tmp_path / "other.csv", "--out", tmp_path / "recs.csv"]
    assert json.loads(run(*options, "--json").stdout)["popular_users"] == 0
    assert json.loads(run(*options, "--json", "--unknown", "popular").stdout)["popular_users"] == 1
    assert "1 user had an unknown item or none at all and got popular items" in run(*options, "--unknown", "popular").stderr
    assert pl.read_csv(tmp_path / "recs.csv")["user_id"].unique(maintain_order=True).to_list() == ["u1", "u2"]


def test_recommend_accepts_a_named_data_set(folder, tmp_path, monkeypatch):
    """--users ml-100k is the data set of that name that lies in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = folder_of(find_dataset("ml-100k"), tmp_path / "ssd4rec")
    save_dataset(place, read_interactions(folder / "cycle.csv"), None, about(find_dataset("ml-100k"), "", ""))
    counts = json.loads(run("recommend", folder / "model", "--users", "ml-100k", "--out", tmp_path / "r.csv", "--json").stdout)
    assert (counts["users"], counts["unknown_interactions"]) == (60, 0)


def test_data_describe_shows_counts_and_cost(folder):
    """Counts before and after the filter, and the cost of a pass."""
    result = json.loads(run("data", "describe", folder / "cycle.csv", "--json", *SMALL).stdout)
    assert result["read"]["rows"] == result["kept"]["interactions"] + result["dropped"]["interactions"]
    assert result["pass"]["per_prefix_tokens"] > result["pass"]["all_positions_tokens"] == result["pass"]["targets"]
    assert 0 < result["pass"]["fill"] <= 1
    assert "a pass has" in run("data", "describe", folder / "cycle.csv", *SMALL).stdout


def test_version():
    assert run("--version").stdout.strip() == metadata.version("ssd4rec")


@pytest.mark.thorough
def test_replacing_a_model_is_announced(folder, tmp_path):
    """Before the training: the person may have meant another --out."""
    shutil.copytree(folder / "model", tmp_path / "model")
    once = ["train", folder / "cycle.csv", *SMALL, "--set", "training.max_epochs=1", "--out"]
    warning = "model contains a model, which will be replaced at the end"
    assert warning in run(*once, tmp_path / "model").stderr
    assert warning not in run(*once, tmp_path / "new").stderr


@pytest.mark.thorough
@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_a_terminal_shows_progress(folder, tmp_path):
    """A bar of reading, the bars of training and lines between them share one terminal."""
    parent, terminal = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "ssd4rec", "train", folder / "cycle.csv", *SMALL, "--set", "training.max_epochs=2"],
        cwd=tmp_path,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # EIO: the other end is closed
        while part := os.read(parent, 4096):
            shown += part
    os.close(parent)
    assert child.wait() == 0, shown.decode()
    assert b"\x1b[" in shown
    assert b"epoch   2" in shown


def test_the_demo_names_the_command_that_shows_its_users(capsys):
    """One line for a shell, of two commands with the same store; every option exists."""
    _name_page(Path("a folder/demo"))
    line = capsys.readouterr().out.splitlines()[-1]
    first, second = (shlex.split(part) for part in line.split(" && "))
    store = ["--store", "sqlite:///a folder/demo-events.db"]
    assert first[-5:] == ["events", "import", "ml-latest-small", *store]
    assert second[-4:] == ["serve", "a folder/demo", *store]
    for arguments in (["events", "import"], ["serve"]):
        assert "--store" in run(*arguments, "--help").stdout


def test_data_list_includes_the_demo_data():
    """With its counts after the 5-core."""
    assert json.loads(run("data", "list", "--json").stdout)["ml-latest-small"]["kept"]["interactions"] == 90072
    assert "ml-latest-small" in run("data", "list").stdout


@pytest.mark.thorough
def test_doctor_shows_versions_and_kernels():
    """Versions and the device."""
    findings = json.loads(run("doctor", "--json").stdout)
    assert findings["torch"]
    assert "device" in findings
    assert "PyTorch" in findings["kernels"] or "CUDA tensors" in findings["kernels"]
    assert "times as fast as in float32" in findings["bfloat16"]
    assert "kernels" in run("doctor").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.csv"], "nowhere.csv"),
        (["train", "movielens"], "neither a file nor a named data set"),
        (["data", "describe", "a" * 300], "cannot be read: File name too long"),
        (["train", "FILE", "--config", "a" * 300], "cannot be read: File name too long"),
        (["train", "FILE", "--set", "training.epochs=3"], "unknown setting 'training.epochs'"),
        (["train", "FILE", "--config", "slow"], "no settings named 'slow'"),
        (["train", "FILE", "--user", "nobody"], "nobody"),
        (
            ["train", "ml-100k", "--user", "nobody"],
            'data.user="nobody" is for files, but ml-100k is a named data set, whose format is known',
        ),
        (["train", "ml-100k", "--set", "data.item = x"], "remove --item (or --set data.item)"),
        (["train", "ml-100k", "--recbole", "YAML", "--item", "x"], "remove --item"),
        (["data", "describe", "ml-latest-small", "--time", "x"], "remove --time"),
        (["reproduce", "rho", "ml-100k", "ml-1m", "--set", "data.user=x"], "remove --user (or --set data.user)"),
        (["tune", "ml-100k", "--user", "x"], "remove --user"),
        (["evaluate", "MODEL", "ml-100k", "--user", "x"], "remove --user"),
        (["train", "FILE", "--set", "data.min_interactions=1000"], "nothing is left"),
        (["train", "FILE", "--resume", "--out", "MISSING", *SMALL], "nothing to resume"),
        (["demo", "--resume", "--out", "MISSING"], "nothing to resume"),
        (["evaluate", "MISSING"], "the folder does not exist"),
        (["evaluate", "MODEL", "--set", "evaluation.exclude_seen=true"], "needs data to evaluate on"),
        (["evaluate", "MODEL", "--user", "x"], "--user, --item or --time needs data to evaluate on"),
        (
            ["evaluate", "MODEL", "FILE", "--set", "fusion.repeat_bias=0"],
            "--set fusion.repeat_bias=0 has no effect on a trained model",
        ),
        (["evaluate", "MODEL", "FILE", "--set", "backbone.width=128"], "those of backbone are for ssd4rec train"),
        (["evaluate", "MODEL", "FILE", "--set", " training.seed = 5"], "takes settings of data and evaluation, and those"),
        (["evaluate", "MODEL", "FILE", "--set", "evaluate.exclude_seen=true"], "unknown setting 'evaluate'"),
        (["recommend", "MODEL"], "either --history"),
        (["recommend", "MODEL", "--users", "FILE"], "add --out"),
        (["recommend", "MODEL", "--history", "m01", "-k", "0"], "k must be a positive integer"),
        (["recommend", "MODEL", "--history", 'm01,"m02'], "is not a list of ids (unexpected end of data); write ID,ID,"),
        (["recommend", "MODEL", "--history", "m01", "--deny", '"m02"x'], "--deny '\"m02\"x' is not a list of ids"),
        (["recommend", "MODEL", "--history", "m01", "--out", "MISSING"], "works with --users only; --history prints"),
        (["recommend", "MODEL", "--history", "m01", "--user", "x"], "remove them with --history"),
        (["recommend", "MODEL", "--users", "FILE", "--out", "RECS", "-k", "0"], "k must be a positive integer, found 0"),
        (["recommend", "MODEL", "--users", "FILE", "--out", "RECS", "--unknown", "nonsense"], "found 'nonsense'"),
        (["recommend", "MODEL", "--users", "OTHER", "--out", "RECS", "--unknown", "raise"], "the first 'nothing'"),
        (["recommend", "MODEL", "--users", "ml-100k", "--out", "RECS"], "ml-100k is not in the cache"),
        (["recommend", "MODEL", "--users", "ml-100k", "--out", "RECS", "--item", "x"], "remove --item"),
        (["recommend", "MODEL", "--users", "movielens", "--out", "RECS"], "neither a file nor a named data set"),
        (["recommend", "MODEL", "--users", "x" * 300, "--out", "RECS"], "cannot be read: File name too long"),
        (["recommend", "MODEL", "--users", "FILE", "--out", "FILE"], "the interactions that are read"),
        (["recommend", "MODEL", "--history", "x", "--unknown", "raise"], "not in the catalog"),
    ],
)
def test_invalid_input_raises_a_clear_error(folder, tmp_path, monkeypatch, arguments, message):
    """Each raises one of our errors, whose message names what was wrong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    places = {
        "FILE": folder / "cycle.csv",
        "MODEL": folder / "model",
        "MISSING": tmp_path / "missing",
        "YAML": tmp_path / "x.yaml",
        "OTHER": tmp_path / "other.csv",
        "RECS": tmp_path / "missing" / "recs.parquet",
    }
    places["OTHER"].write_text("user_id,item_id\nu1,m01\nu1,nothing\n")
    places["YAML"].write_text("USER_ID_FIELD: user_id\nmodel: SASRec\n")
    with pytest.raises(cli.SSD4RecError) as caught:
        run(*(places.get(argument, argument) for argument in arguments))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "missing").exists()


@pytest.mark.thorough
def test_invalid_input_exits_with_2_and_one_line(tmp_path):
    """In a process of its own: one line on standard error, nothing on standard output, nothing written."""
    (tmp_path / "empty.csv").write_text("")
    result = command("train", "empty.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert "empty.csv" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["empty.csv"]


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk that is always there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_unwritable_output_is_reported(unbuffered):
    """Immediately or at exit; a closed pipe is not an error."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "ssd4rec", "data", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (2, "error: [Errno 28] No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "ssd4rec", "data", "list"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_an_interrupted_command_exits_with_130(folder, monkeypatch):
    """One that keeps nothing too; those that go on say how."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "evaluate_artifact", interrupted)
    monkeypatch.setattr(sys, "argv", ["ssd4rec", "evaluate", str(folder / "model"), str(folder / "cycle.csv")])
    messages = []
    monkeypatch.setattr(cli.console.err, "print", messages.append)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, messages) == (130, ["interrupted"])


@pytest.mark.thorough
def test_characters_missing_in_the_terminal_are_replaced(tmp_path):
    """Where standard output is cp1252, what it has no letters for is replaced; JSON is ASCII and loses nothing."""
    worlds.frame(worlds.cycle()).write_csv(tmp_path / "アキラ.csv")
    options = ["data", "describe", "アキラ.csv", "--set", "data.min_interactions=1"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "1"}
    shown = command(*options, cwd=tmp_path, env=environment)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Data: ???.csv" in shown.stdout
    result = command(*options, "--json", cwd=tmp_path, env=environment)
    assert json.loads(result.stdout)["read"]["source"] == "アキラ.csv"
    missing = command("train", "アキラアキラ.csv", cwd=tmp_path, env=environment)
    assert (missing.returncode, missing.stderr) == (2, "error: no such file: ??????.csv\n")


LONGER = [*SMALL, "--set", "training.max_epochs=8", "--set", "training.patience=8", "--set", "training.token_budget=64"]


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """The weights of a training that nothing stops."""
    assert run("train", folder / "cycle.csv", *LONGER, "--out", folder / "uninterrupted").exit_code == 0
    return load_file(folder / "uninterrupted" / "weights.safetensors")


@pytest.mark.thorough
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_resumes_to_the_same_weights(folder, tmp_path, uninterrupted, signal_, code):
    """A real process is killed, interrupted or terminated; --resume ends with the weights of an uninterrupted run."""
    options = ["train", folder / "cycle.csv", *LONGER, "--out", tmp_path / "model"]
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; from ssd4rec.cli import main; sys.exit(main())", *map(str, options)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as in conftest.py: the number of threads changes how sums are rounded
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("epoch   2"):
            child.send_signal(signal_)
            break
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait() == code
    assert not (tmp_path / "model").exists()
    assert signal_ != signal.SIGINT or "--resume" in rest
    assert run(*options, "--resume").exit_code == 0
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    assert all(tensor.equal(weights[name]) for name, tensor in uninterrupted.items())


ASKED = (("evaluate", "cycle.csv"), ("recommend", "--history", "m03,m04"))


def test_the_accelerator_option_selects_the_device(folder, monkeypatch):
    """The model is loaded on the selected device, here one that does not exist."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(diagnostics, "resolve_device", {"gpu": "warp", "auto": "cpu"}.__getitem__)
    for command, *what in ASKED:
        assert run(command, "model", *what).exit_code == 0
        with pytest.raises(BackendError, match='the device "warp" is not available'):
            run(command, "model", *what, "--accelerator", "gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_accelerator_is_an_error(folder, monkeypatch):
    """The CPU can be asked for anywhere; figures that are only shown need neither."""
    monkeypatch.chdir(folder)
    for command, *what in ASKED:
        assert run(command, "model", *what, "--accelerator", "cpu").exit_code == 0
        with pytest.raises(BackendError, match=r'accelerator = "gpu" is not available .*; use "auto" or "cpu"'):
            run(command, "model", *what, "--accelerator", "gpu")
    with pytest.raises(ConfigError, match="--accelerator needs data to evaluate on"):
        run("evaluate", "model", "--accelerator", "cpu")


def test_json_output_is_valid(capsys):
    """Also for NaN and NumPy numbers."""
    print_json({"a": float("nan"), "b": np.int64(5), "é": [np.float32(0.5)]})
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {"a": None, "b": 5, "é": [0.5]}
    assert printed.isascii()
