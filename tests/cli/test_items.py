"""`train --items`: features and new items on the command line."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

import worlds
from ssd4rec import cli
from ssd4rec.errors import DataError

RUN = CliRunner()
SMALL = ["--set", "data.min_interactions=1", "--set", "backbone.width=16", "--set", "training.max_epochs=1"]


def train(folder, items: pl.DataFrame, *options: str):
    worlds.frame(worlds.cycle()).write_csv(folder / "plays.csv")
    items.write_csv(folder / "items.csv")
    paths = [str(folder / "plays.csv"), "--items", str(folder / "items.csv"), "--out", str(folder / "model")]
    result = RUN.invoke(cli.app, ["train", *paths, *SMALL, "--json", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.thorough
def test_a_new_item_gets_into_the_catalog(tmp_path):
    items = pl.DataFrame({"item_id": [*range(11), 70], "title": "T", "kind": ["even", "odd"] * 6})
    result = train(tmp_path, items)
    assert result.exit_code == 0, result.output
    features = json.loads(result.stdout)["data"]["features"]
    assert features == {
        "columns": {"kind": "categories"},
        "categories": 2,
        "vector_width": 0,
        "items_without_features": 1,
        "new_items": 1,
    }
    assert "item features: kind (categories); 2 categories, 1 new items" in result.stderr
    assert "has no row for 1 of 12 items" in result.stderr
    command = ["recommend", str(tmp_path / "model"), "--history", "70,3", "-k", "13", "--keep-seen", "--json"]
    recommended = RUN.invoke(cli.app, command)
    assert recommended.exit_code == 0, recommended.output
    answer = json.loads(recommended.stdout)
    assert "70" in [each["item"] for each in answer["recommendations"]]
    assert answer["unknown_items"] == []


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (pl.DataFrame({"no": [1], "kind": ["x"]}), [], "no column of item ids"),
        (pl.DataFrame({"item_id": ["q"], "kind": ["x"]}), [], "none of its 1 items is among the 12 items"),
        (pl.DataFrame({"item_id": [1, 2], "v": ["[1, 2]", "[1]"]}), [], "vectors of 1 and of 2 numbers"),
        (pl.DataFrame({"item_id": [1, 2], "v": ["[1, 2]", "[1, NaN]"]}), [], "line 3: column 'v' holds a number that is missing"),
        (pl.DataFrame({"item_id": [1, 1], "kind": ["x", "y"]}), [], "more than one row"),
        (pl.DataFrame({"item_id": [1, 2], "kind": ["x", "y"]}), ["--set", 'features.columns=["kin"]'], "did you mean 'kind'"),
    ],
)
def test_what_is_refused(tmp_path, items, options, message):
    with pytest.raises(DataError, match=message):
        train(tmp_path, items, *options)
