"""The command that builds sequences within a memory limit, and training from what it wrote."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.errors import ConfigError, DataError

SMALL = [
    "--set", "backbone.width=16", "--set", "backbone.state_dim=8", "--set", "training.token_budget=256",
    "--set", "training.max_epochs=2",
]  # fmt: skip
KEEP_ALL = ["--set", "data.min_interactions=1"]


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    worlds.frame(worlds.cycle()).write_csv(folder / "cycle.csv")
    run("data", "build", folder / "cycle.csv", "--out", folder / "sequences", "--memory", "1MB", *KEEP_ALL)
    return folder


@pytest.mark.thorough
def test_training_from_the_folder_equals_training_from_the_file(folder):
    reports = {
        data: json.loads(run("train", folder / data, "--out", folder / f"{data}-model", "--json", *SMALL, *KEEP_ALL).stdout)
        for data in ("cycle.csv", "sequences")
    }
    one, other = reports.values()
    assert one["data"] == other["data"]
    assert one["test"] == other["test"]


def test_other_settings_than_those_of_the_build_are_refused(folder):
    with pytest.raises(ConfigError, match=r"built with data\.min_interactions = 1"):
        run("train", folder / "sequences", "--out", folder / "other", *SMALL)


def test_the_report_names_what_was_done(folder):
    out = folder / "again"
    report = json.loads(run("data", "build", folder / "cycle.csv", "--out", out, "--json", *KEEP_ALL).stdout)
    assert report["out"] == str(out)
    assert report["kept"] == {
        name: report["read"][key] for name, key in (("users", "users"), ("items", "items"), ("interactions", "rows"))
    }
    shown = run("data", "describe", out, *KEEP_ALL).stdout
    assert str(report["read"]["rows"]) in shown.replace(",", "")


def test_mistakes_are_one_line(folder):
    with pytest.raises(DataError, match="exists"):
        run("data", "build", folder / "cycle.csv", "--out", folder / "sequences")
    with pytest.raises(ConfigError, match="memory must be"):
        run("data", "build", folder / "cycle.csv", "--out", folder / "new", "--memory", "lots")
    with pytest.raises(DataError, match="no such file"):
        run("data", "build", folder / "none.csv", "--out", folder / "new")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses are Linux's")
def test_a_limit_of_the_operating_system(folder):
    """`ulimit -v` of 1 GB is enough, because PyTorch stays out of the process."""
    command = [sys.executable, "-m", "ssd4rec", "data", "build", str(folder / "cycle.csv"), "--out", str(folder / "limited")]
    shell = f"ulimit -v 1000000; exec {shlex.join([*command, '--memory', '1GB', *KEEP_ALL])}"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "limited").is_dir()
