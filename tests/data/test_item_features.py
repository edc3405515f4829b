"""Files of items: which columns are features, what they hold, and what is refused."""

import numpy as np
import polars as pl
import pytest

from ssd4rec.config import FeaturesConfig
from ssd4rec.data.catalog import Catalog
from ssd4rec.data.item_features import encode_item_features
from ssd4rec.data.item_table import read_item_table
from ssd4rec.errors import DataError

CATALOG = Catalog(pl.Series("id", ["a", "b", "c"]))
EVERY = FeaturesConfig(min_items=1)


def encoded(frame, config=EVERY, catalog=CATALOG):
    return encode_item_features(read_item_table(frame, config), catalog, config)


def categories_of(features, row: int) -> list[str]:
    """Return the values of an item by the slow way: all columns one after the other."""
    names = [f"{column.name}={value}" for column in features.columns for value in column.values]
    return [names[code] for code in features.encoded.codes[features.encoded.offsets[row] : features.encoded.offsets[row + 1]]]


def test_categories_lists_and_vectors():
    frame = pl.DataFrame(
        {
            "item_id": ["b", "new", "a"],
            "title": ["Bee", "New", "Ay"],
            "genre": [["x", "y"], ["y", "unseen"], ["y"]],
            "year": [1999, 2000, None],
            "image": [[1.0, 0.0], [0.0, 1.0], None],
        }
    )
    features = encoded(frame)
    assert {each.name: each.kind for each in features.columns} == {"genre": "categories", "year": "categories", "image": "vector"}
    assert [categories_of(features, row) for row in range(5)] == [
        [],
        ["genre=y"],
        ["genre=x", "genre=y", "year=1999"],
        [],
        ["genre=y"],
    ]
    assert features.encoded.weights.tolist() == [1.0, 0.5, 0.5, 1.0, 1.0]
    # the only vector among the items of the interactions is the mean; the scale is then 1
    np.testing.assert_array_equal(features.encoded.vectors, [[0, 0], [0, 0], [0, 0], [0, 0], [-1, 1]])
    assert (features.trained, features.new_ids.to_list(), features.new_titles.to_list()) == (3, ["new"], ["New"])
    assert features.without_row == 1  # c
    assert features.describe()["new_items"] == 1


def test_vectors_are_centered_and_scaled():
    numbers = [[1.0, 10.0], [3.0, 10.0], [2.0, 40.0]]
    features = encoded(pl.DataFrame({"item_id": ["a", "b", "c"], "v": numbers}))
    expected = np.array(numbers) - np.mean(numbers, axis=0)
    expected /= np.sqrt((expected**2).mean())
    np.testing.assert_allclose(features.encoded.vectors[1:], expected, rtol=1e-6)


@pytest.mark.parametrize("text", ["[0.5, 2]", "0.5 2", "0.5,2", "0.5; 2"])
def test_vectors_in_text(tmp_path, text):
    (tmp_path / "items.csv").write_text(f'item_id,v\na,"{text}"\nb,"[1, 2]"\nc,\n')
    table = read_item_table(tmp_path / "items.csv", FeaturesConfig(vectors=("v",)))
    assert table.columns["v"].to_list() == [[0.5, 2.0], [1.0, 2.0], None]


def test_forms_of_text(tmp_path):
    """RecBole's header says what a column holds; --set features.separator splits the others."""
    (tmp_path / "items.item").write_text("item_id:token\tclass:token_seq\tprice:float\ttags:token\na\tx y\t2.5\tp|q\nb\tx\t\t\n")
    table = read_item_table(tmp_path / "items.item", FeaturesConfig(separator="|"))
    assert table.columns["price"].to_list() == [[2.5], None]
    assert table.columns["tags"].to_list() == [["p", "q"], []]
    assert read_item_table(tmp_path / "items.item", EVERY).columns["class"].to_list() == [["x", "y"], ["x"]]


def test_rare_categories_are_ignored():
    frame = pl.DataFrame({"item_id": ["a", "b", "c", "new"], "genre": ["x", "x", "y", "y"]})
    features = encoded(frame, FeaturesConfig(min_items=2))
    assert [categories_of(features, row) for row in (1, 2, 3, 4)] == [["genre=x"], ["genre=x"], [], []]
    assert not len(encoded(frame, FeaturesConfig(min_items=2, new_items=False)).new_ids)


def test_ids_of_another_type_are_converted():
    features = encoded(pl.DataFrame({"item_id": ["2", "x"], "genre": ["g", "g"]}), catalog=Catalog(pl.Series("id", [1, 2])))
    assert (categories_of(features, 2), features.new_ids.to_list()) == (["genre=g"], [])  # "x" cannot be an id here


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"name": ["a"], "genre": ["x"]}, {}, "no column of item ids found among 'name', 'genre'"),
        ({"item_id": ["a"], "genre": ["x"]}, {"columns": ("gender",)}, "'gender' .feature. not found.*did you mean 'genre'"),
        ({"item_id": ["a"], "genre": ["x"]}, {"columns": ("item_id",)}, "'item_id' has the item ids"),
        ({"item_id": ["a"], "title": ["x"]}, {}, "no column of features"),
        ({"item_id": ["a", None], "genre": ["x", "y"]}, {}, "1 of 2 item ids .* are missing"),
        ({"item_id": ["a", "a"], "genre": ["x", "y"]}, {}, "'a' has more than one row"),
        ({"item_id": ["q", "z"], "genre": ["x", "y"]}, {}, "none of its 2 items is among the 3 items"),
        ({"item_id": ["a"], "genre": ["x"]}, {"min_items": 2}, "no value of genre occurs on 2 items"),
        ({"item_id": ["a", "b"], "v": [[1.0], [1.0, 2.0]]}, {}, "vectors of 1 and of 2 numbers"),
        ({"item_id": ["a", "new"], "v": [[1.0], [1.0, 2.0]]}, {}, "vectors of 2 numbers, but 1 were expected"),
        ({"item_id": ["a", "b"], "v": [[1.0], [float("nan")]]}, {}, "row 2: column 'v' holds a number that is missing, NaN"),
        ({"item_id": ["a", "b"], "v": [[1.0], [None]]}, {}, "row 2: column 'v' holds a number that is missing, NaN"),
        ({"item_id": ["a", "b"], "v": [1.0, float("inf")]}, {}, "row 2: column 'v' holds a number that is missing, NaN"),
        ({"item_id": ["a"], "v": ["[1, x]"]}, {}, "column 'v' holds text that is not a list of numbers"),
        ({"item_id": ["a"], "v": [{"x": 1}]}, {}, "column 'v' holds Struct"),
    ],
)
def test_what_is_refused(columns, config, message):
    settings = FeaturesConfig.model_validate({"min_items": 1, **config})
    with pytest.raises(DataError, match=message):
        encoded(pl.DataFrame(columns), settings)
