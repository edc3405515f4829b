"""Item id <-> item number, both ways, for any type of id."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.data.catalog import Catalog, encode
from ssd4rec.errors import DataError

WORDS = Catalog(pl.Series("id", ["b", "007", "7"]))
WHOLE = Catalog(pl.Series("id", [30, 10, 20]))


def test_numbers_begin_at_one():
    assert len(WORDS) == 3
    assert WORDS.indices(["7", "b", "007"]).tolist() == [3, 1, 2]
    assert WORDS.indices(["7", "b"]).dtype == np.int64


def test_unknown_ids_are_number_zero():
    """The text "10" is not the number 10, and nothing is nothing."""
    assert WHOLE.indices([10, "10", 11, None]).tolist() == [2, 0, 0, 0]
    assert WORDS.indices([7, "07"]).tolist() == [0, 0]
    assert WORDS.indices([]).tolist() == []


def test_series_give_the_same_numbers_as_lists():
    assert WORDS.indices(pl.Series(["7", "x", None, "b", "7"])).tolist() == [3, 0, 0, 1, 3]
    assert WORDS.indices(pl.Series(["7", "b"], dtype=pl.Categorical)).tolist() == [3, 1]
    assert WHOLE.indices(pl.Series([20, 99, 20], dtype=pl.UInt16)).tolist() == [3, 0, 3]
    assert WORDS.indices(pl.Series([], dtype=pl.String)).tolist() == []


def test_texts_are_parsed_as_the_catalogues_own_type():
    assert WHOLE.parse(["10", "x", "10.5"]).to_list() == [10, None, None]
    assert WHOLE.indices(WHOLE.parse(["10", "x"])).tolist() == [2, 0]
    assert WORDS.parse(["007", "7"]).to_list() == ["007", "7"]
    assert Catalog(pl.Series([7.0])).parse(["7"]).to_list() == [7.0]


@pytest.mark.thorough
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5), unique=True, min_size=1), st.data())
def test_ids_of_undoes_numbers(values, data):
    """Whole numbers or texts, whichever the catalog holds."""
    ids = [value for value in values if type(value) is type(values[0])]
    catalog = Catalog(pl.Series("id", ids))
    requested = data.draw(st.lists(st.sampled_from(ids)))
    assert catalog.ids_of(catalog.indices(requested)).to_list() == requested


@given(st.lists(st.sampled_from(["b", "a", "", "ab", None])))
def test_codes_count_by_first_appearance(values):
    codes, distinct = encode(pl.Series(values, dtype=pl.String))
    assert [distinct[code] for code in codes.tolist()] == values
    assert distinct.to_list() == list(dict.fromkeys(values))


@pytest.mark.parametrize("number", [0, 4, -1])
def test_numbers_outside_are_refused(number):
    """Number 0 is the mask and has no id."""
    with pytest.raises(DataError, match=rf"no item has the index {number}; item indices are 1 … 3 \(0 is the mask\)"):
        WORDS.ids_of([1, number])


def test_titles_are_joined_by_id():
    """The first of two titles counts; what is missing is null; ids are read as the catalog's own type."""
    frame = pl.DataFrame({"id": ["10", "30", "10", "5"], "title": ["ten", "thirty", "TEN", "five"]})
    titled = WHOLE.with_titles(frame)
    assert titled.titles.to_list() == ["thirty", "ten", None]
    assert titled.titles_of([2, 3, 2]).to_list() == ["ten", None, "ten"]
    assert titled.ids.to_list() == WHOLE.ids.to_list()
    with pytest.raises(DataError, match="no item has the index 4"):
        titled.titles_of([4])


def test_float_ids_of_titles_are_no_other_integers():
    """10.5 is not 10; the integers among the floats are result."""
    frame = pl.DataFrame({"id": [10.5, 20.0], "title": ["half", "twenty"]})
    assert WHOLE.with_titles(frame).titles.to_list() == [None, None, "twenty"]
    assert Catalog(pl.Series(["10"])).with_titles(pl.DataFrame({"id": [10], "title": ["ten"]})).titles.to_list() == ["ten"]


def test_titles_need_their_columns():
    with pytest.raises(DataError, match="titles need the columns id and title, found item, title; see read_titles"):
        WHOLE.with_titles(pl.DataFrame({"item": [1], "title": ["x"]}))


def test_without_titles_there_are_none():
    assert WORDS.titles_of([1]) is None


@pytest.mark.parametrize("catalog", [WORDS, WHOLE, Catalog(pl.Series("id", ["x", "y"]), pl.Series("title", [None, "Y"]))])
def test_a_catalogue_is_read_back_as_written(tmp_path, catalog):
    catalog.write(tmp_path / "catalog.parquet")
    result = Catalog.read(tmp_path / "catalog.parquet")
    assert result.ids.equals(catalog.ids, check_dtypes=True)
    assert (result.titles is None) == (catalog.titles is None)
    assert result.titles is None or result.titles.to_list() == catalog.titles.to_list()
    assert pl.read_parquet(tmp_path / "catalog.parquet").columns == ["id", "title"]


def test_files_that_are_not_a_catalog_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"text.parquet cannot be read as a catalog"):
        Catalog.read(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"nothing.parquet cannot be read as a catalog"):
        Catalog.read(tmp_path / "nothing.parquet")
    with pytest.raises(DataError, match=r"other.parquet is not a catalog: expected the columns id, title, found a"):
        Catalog.read(tmp_path / "other.parquet")
