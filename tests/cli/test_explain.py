"""`ssd4rec explain`: what it prints, in 80 columns, and what it refuses."""

import json

import polars as pl
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

import explained
from ssd4rec import cli
from ssd4rec.artifact import save_artifact
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.recommender import Recommender

RUN = CliRunner()
HISTORY = [3, 4, 5, 9, 1, 0, 11, 2, 2, 7]
TITLES = {5: "\x1b[31mred\x1b[0m\n\u202eand \x07more", 7: "Ein sehr langer Titel " * 10, 9: "क्‍ष [bold]not bold[/bold] :heart:"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a saved model, titles and fusion with it."""
    made = explained.recommender().artifact
    catalog = made.catalog.with_titles(pl.DataFrame({"id": list(TITLES), "title": list(TITLES.values())}))
    folder = tmp_path_factory.mktemp("models") / "model"
    save_artifact(folder, made.model.float(), catalog, made.config, {}, made.training_counts, made.fusion)
    return folder


def run(model, *options, history="3,4,5,9,1,0,11,2,2,7"):
    """Standard output of the command."""
    result = RUN.invoke(cli.app, ["explain", str(model), "--history", history, *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.mark.parametrize("level", ["effects", "parts", "weights", pytest.param("counterfactual", marks=pytest.mark.thorough)])
def test_json_is_what_the_library_answers(model, level):
    """One object, all events."""
    printed = json.loads(run(model, "--item", "6,8", "--level", level, "--json"))
    expected = Recommender.load(model).explain(HISTORY, [6, 8], level)
    assert printed == {"explanations": [each.as_dict() for each in expected]}


@pytest.mark.parametrize("level", ["effects", "parts", "weights", "counterfactual"])
def test_a_table_fits_80_columns(model, level):
    """Long titles are shortened; nothing of the data reaches the terminal but letters."""
    out = run(model, "--item", 6, "--level", level, "-k", 3, "--keep-seen")
    assert max(map(cell_len, out.splitlines())) <= 80
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_no_column_of_titles_where_there_are_none(tmp_path):
    made = explained.recommender().artifact
    save_artifact(tmp_path / "model", made.model.float(), made.catalog, made.config, {}, made.training_counts, made.fusion)
    for level in ("effects", "counterfactual"):
        assert "title" not in run(tmp_path / "model", "--level", level)


def test_titles_are_letters(model):
    """Markup and joiners stay as they are; control characters are escaped, and line ends become spaces."""
    out = run(model, "--item", 6, "--level", "weights")
    assert r"\x1b[31mred\x1b[0m" in out
    assert "क्‍ष [bold]" in out


def test_the_first_recommendation_is_the_default(model):
    """As `recommend` gives it, in the same numbers."""
    (first,) = Recommender.load(model).recommend(HISTORY, 1).items
    (explanation,) = json.loads(run(model, "--json"))["explanations"]
    assert (explanation["item"], explanation["rank"]) == (first.item, 1)
    assert f"{first.item}: score {first.score:.4f}, rank 1" in run(model)


def test_the_strongest_events_come_first(model):
    """As many as were asked for."""
    effects = Recommender.load(model).explain(HISTORY, 6)
    strongest = max(effects.events, key=lambda event: abs(event.score_change))
    out = run(model, "--item", 6, "--rows", 1)
    assert f"{strongest.score_change:+.4f}" in out
    assert "1 of 10 events, strongest first; exact, all events from one reading" in out


@pytest.mark.parametrize(
    ("options", "history", "error", "message"),
    [
        (["--item", "77"], "3,4", DataError, "items to explain are not in the catalog, the first is 77"),
        (["--item", ""], "3,4", DataError, "--item is empty"),
        (["--item", "6"], "99", DataError, "an explanation needs a history with at least one item of the catalog"),
        ([], "99", DataError, "an explanation needs a history with at least one item of the catalog"),
        (["--level", "reasons"], "3", ConfigError, "level must be one of parts, weights, effects, counterfactual"),
        (["-k", "0"], "3", ConfigError, "k must be a number of items or events, 1 or more; found 0"),
        ([], "0,1,2,3,4,5,6,7,8,9,10,11", DataError, "no item is left to recommend after this history"),
    ],
)
def test_mistakes_are_answered(model, options, history, error, message):
    """With one line, by the entry point."""
    with pytest.raises(error, match=message):
        run(model, *options, history=history)


def test_unknown_items_are_noted(model):
    """On standard error; they change nothing."""
    result = RUN.invoke(cli.app, ["explain", str(model), "--history", "3,99,4,98", "--item", "6"])
    assert "note: not in the catalog, and not read: 99, 98" in result.stderr
    assert "+0.0000" in result.stdout
