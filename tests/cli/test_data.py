"""How the commands read data: what they show, remember, and do with separate files and titles."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.artifact import load_artifact
from ssd4rec.errors import DataError
from ssd4rec.serving.recommender import Recommender

SMALL = ["--set", "data.min_interactions=1", "--set", "backbone.width=16", "--set", "backbone.state_dim=8"]
ONE_EPOCH = [*SMALL, "--set", "training.max_epochs=1"]
NAMES = {"user_id": "who", "item_id": "what", "timestamp": "when"}


def run(*arguments):
    """Run a command; its errors are raised."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def log():
    return worlds.frame(worlds.cycle(users=20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, log):
    """A model that was trained on a file with unusual column names and a condition, and the file."""
    folder = tmp_path_factory.mktemp("data")
    events = pl.concat(
        [log.with_columns(event=pl.lit("buy")), log.with_columns(event=pl.lit("view"), timestamp=pl.lit(0, pl.Int64))]
    )
    events.rename(NAMES).write_csv(folder / "log.csv")
    options = ["--user", "who", "--item", "what", "--time", "when", "--where", "event = 'buy'"]
    result = run("train", folder / "log.csv", "--out", folder / "model", *options, *ONE_EPOCH, "--json")
    assert result.exit_code == 0, result.output
    (folder / "report.json").write_text(result.stdout)
    return folder


def test_describe_shows_what_was_understood(folder, log):
    """Columns, the span of the times, the first rows, ties, duplicates, repeats, the filter; counts are those of the frame."""
    options = ["--user", "who", "--item", "what", "--time", "when", *SMALL]
    report = json.loads(run("data", "describe", folder / "log.csv", *options, "--json").stdout)
    assert report["read"]["columns"] == {"user": "who", "item": "what", "time": "when"}
    assert report["read"]["span"] == ["0", str(log["timestamp"].max())]
    assert report["read"]["rows"] == 2 * log.height
    both = pl.concat([log, log.with_columns(timestamp=pl.lit(0, pl.Int64))])
    assert report["duplicates"] == both.height - both.n_unique()
    assert report["repeated"] == both.height - both.n_unique(["user_id", "item_id"])
    assert report["tie_order"]["interactions"] == both.height - both.n_unique(["user_id", "timestamp"])
    assert report["first_rows"][0] == {"user": "0", "item": str(log["item_id"][0]), "time": "0"}
    assert report["pass"]["targets"] == report["split"]["targets"]["train"]
    text = " ".join(run("data", "describe", folder / "log.csv", *options).stdout.split())
    for part in ("user = who, item = what, time = when", "First rows", "duplicates", "repeat an earlier item", "a pass has"):
        assert part in text


def test_describe_shows_what_was_understood_before_a_split_fails(tmp_path):
    """The reading is shown, then the error; with --json it is part of the report."""
    (tmp_path / "short.csv").write_text("user,item,time\na,x,1500000000\na,y,1500000001\nb,x,1500000002\n")
    with pytest.raises(DataError, match="no user has three events"):
        run("data", "describe", tmp_path / "short.csv", *SMALL)
    with pytest.raises(DataError):
        run("data", "describe", tmp_path / "short.csv", *SMALL, "--json")


def test_recommend_remembers_columns_and_conditions(folder, log, tmp_path):
    """--users needs no names again, and reads the rows that the training read."""
    options = ["--out", tmp_path / "r.csv", "-k", "2", "--keep-seen", "--json"]
    counts = json.loads(run("recommend", folder / "model", "--users", folder / "log.csv", *options).stdout)
    assert counts["users"] == log["user_id"].n_unique()
    model = load_artifact(folder / "model")
    assert model.config.data.where == "event = 'buy'"
    histories = [group["item_id"].cast(pl.String).to_list() for _, group in log.group_by("user_id", maintain_order=True)]
    expected = [each.items[0].item for each in Recommender(model).recommend(histories, 2, exclude_seen=False)]
    written = pl.read_csv(tmp_path / "r.csv", infer_schema=False)
    assert written.filter(pl.col("rank") == "1")["item_id"].to_list() == expected


def test_a_folder_of_parts_remembers_the_columns_and_warns_of_conditions(folder, tmp_path, caplog):
    """Parts are read in a stream, without conditions."""
    result = run("recommend", folder / "model", "--users", folder / "log.csv", "--out", tmp_path / "parts", "--shard", "1/1")
    assert result.exit_code == 0, result.output
    assert "data.where = \"event = 'buy'\", which a folder of parts does not apply" in result.output + caplog.text


def test_a_table_of_items_without_titles_is_no_obstacle(log, tmp_path):
    """Nobody asked for it: a warning, and a model; its columns could be features, as the command says."""
    log.rename({"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}).write_csv(
        tmp_path / "log.inter", separator="\t"
    )
    (tmp_path / "log.item").write_text("item_id:token\tclass:token_seq\n1\ta b\n")
    result = run("train", tmp_path / "log.inter", "--out", tmp_path / "model", *ONE_EPOCH)
    assert result.exit_code == 0, result.output
    assert "warning: no titles: " in result.stderr
    assert f"{tmp_path / 'log.item'} has item features that are not used (class); --items" in " ".join(result.stderr.split())
    assert load_artifact(tmp_path / "model").catalog.titles is None


@pytest.mark.parametrize("title", [pl.concat_list("item_id"), pl.duration(days="item_id")], ids=["lists", "durations"])
def test_titles_must_be_text(log, tmp_path, title):
    """Lists and durations are refused by their type."""
    frame = pl.DataFrame({"item_id": [1, 2]}).with_columns(title.alias("title"))
    frame.write_parquet(tmp_path / "titles.parquet")
    log.write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match=r"titles.parquet: column 'title' holds (List|Duration).*; titles must be text"):
        run("train", tmp_path / "log.csv", "--titles", tmp_path / "titles.parquet", "--out", tmp_path / "model", *ONE_EPOCH)
    assert not (tmp_path / "model").exists()


@pytest.mark.thorough
def test_three_files_are_the_split(log, tmp_path):
    """Targets are the rows of the validation and test files; training equals one on the joined table."""
    last = pl.col("timestamp").rank("ordinal", descending=True).over("user_id")
    parts = {
        "train": log.filter(last > 2),
        "validation": log.filter(last == 2),
        "test": log.filter(last == 1),
    }
    for name, part in parts.items():
        part.write_csv(tmp_path / f"{name}.csv")
    files = [part for name in parts for part in (f"--{name}", tmp_path / f"{name}.csv")]
    report = json.loads(run("train", *files, "--out", tmp_path / "model", *ONE_EPOCH, "--json").stdout)
    assert report["protocol"]["split"] == "files"
    assert report["data"]["split"]["targets"]["test"] == parts["test"].height
    log.write_csv(tmp_path / "log.csv")
    joined = json.loads(run("train", tmp_path / "log.csv", "--out", tmp_path / "joined", *ONE_EPOCH, "--json").stdout)
    assert report["test"] == pytest.approx(joined["test"])
    assert report["validation"]["ndcg@10"] == pytest.approx(joined["validation"]["ndcg@10"])
