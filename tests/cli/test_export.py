"""The commands that export a model and that recommend in parts."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.artifact import save_artifact
from ssd4rec.data.split import training_counts
from ssd4rec.errors import ConfigError
from ssd4rec.models.next_item import make_model


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    world, config = worlds.world(worlds.cycle()), worlds.config()
    counts = training_counts(world.histories, world.split.train, len(world.catalog))
    save_artifact(folder / "model", make_model(config, len(world.catalog)), world.catalog, config, {}, counts)
    worlds.frame(worlds.cycle()).write_csv(folder / "cycle.csv")
    return folder


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_export(folder):
    pytest.importorskip("onnxruntime")
    files = {name: folder / f"{name}.onnx" for name in ("onnx", "onnx_step")}
    vectors = folder / "vectors.parquet"
    arguments = ["--onnx", files["onnx"], "--onnx-step", files["onnx_step"], "-k", 3, "--item-vectors", vectors]
    report = json.loads(run("export", folder / "model", *arguments, "--json").stdout)
    assert all(report[name]["largest_difference"] <= 1e-5 and path.is_file() for name, path in files.items())
    assert len(pl.read_parquet(vectors)) == report["item_vectors"]["items"] == 12


def test_nothing_to_export_is_a_mistake(folder):
    with pytest.raises(ConfigError, match="nothing to export"):
        run("export", folder / "model")
    with pytest.raises(ConfigError, match="-k needs --onnx"):
        run("export", folder / "model", "-k", 3, "--item-vectors", folder / "v.parquet")


def test_recommend_in_shards(folder):
    arguments = ["recommend", folder / "model", "--users", folder / "cycle.csv", "-k", 3]
    out = folder / "parts"
    first = json.loads(run(*arguments, "--out", out, "--shard", "1/2", "--json").stdout)
    assert first["missing"] == []  # 60 users are one part
    second = run(*arguments, "--out", out, "--shard", "2/2").stdout
    assert "1 of 1 parts complete" in second
    assert "to 60 users" in second
    run(*arguments, "--out", folder / "file.parquet")
    assert pl.read_parquet(out / "part-00000.parquet").equals(pl.read_parquet(folder / "file.parquet"))


def test_options_of_parts_that_do_not_fit(folder):
    users = ["recommend", folder / "model", "--users", folder / "cycle.csv", "--out", folder / "other"]
    for more, message in (
        (["--shard", "3/2"], "--shard is i/n"),
        (["--engine", "dask"], "--engine is ray"),
        (["--engine", "ray", "--shard", "1/2"], "leave out --shard"),
        (["--workers", "2"], "--workers needs --engine"),
        (["--approximate", "--out", folder / "other.csv"], "--approximate needs --users DATA and --out FOLDER"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(*users, *more)
    with pytest.raises(ConfigError, match="need --users"):
        run("recommend", folder / "model", "--history", "1,2", "--shard", "1/2")
