"""Columns are found by their usual names, or named; what is unclear is asked back."""

import pytest

from ssd4rec.data.columns import Columns, bare_name, choose_columns, choose_title_columns
from ssd4rec.errors import DataError


def chosen(header, **named):
    return choose_columns(header.split(), Columns(**named), "log.csv")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("user_id item_id timestamp", "user_id item_id timestamp"),
        ("userId movieId rating timestamp", "userId movieId timestamp"),
        ("user_id:token item_id:token rating:float timestamp:float", "user_id:token item_id:token timestamp:float"),
        ("reviewerID asin overall unixReviewTime", "reviewerID asin unixReviewTime"),
        ("user_id parent_asin rating timestamp", "user_id parent_asin timestamp"),
        ("user_id video_id date hourmin time_ms is_click", "user_id video_id time_ms"),
        ("timestamp visitorid event itemid transactionid", "visitorid itemid timestamp"),
        ("household_id store_id basket_id product_id transaction_timestamp", "household_id product_id transaction_timestamp"),
        ("session_id item_id ts", "session_id item_id ts"),
        ("user_id session_id item_id product_id date", "user_id item_id date"),
        ("UID IID TIME", "UID IID TIME"),
        ("customer-id Product.ID eventTime", "customer-id Product.ID eventTime"),
    ],
)
def test_usual_names(header, found):
    """Case and separators do not matter; the more telling name wins."""
    places = chosen(header)
    assert [header.split()[places[role]] for role in ("user", "item", "time")] == found.split()


def test_a_table_may_have_no_time():
    assert chosen("user_id item_id rating") == {"user": 0, "item": 1}


def test_named_columns_come_first():
    """A name is taken with or without RecBole's type."""
    assert chosen("user_id buyer:token item_id when", user="buyer", time="when") == {"user": 1, "item": 2, "time": 3}
    assert chosen("user_id buyer:token item_id", user="buyer:token") == {"user": 1, "item": 2}


@pytest.mark.parametrize(
    ("name", "bare"), [("a:token", "a"), ("a:float_seq", "a"), ("a:b", "a:b"), ("a", "a"), ("12:30", "12:30")]
)
def test_only_recbole_types_are_cut_off(name, bare):
    assert bare_name(name) == bare


@pytest.mark.parametrize(
    ("header", "named", "message"),
    [
        (
            "user_id rating",
            {},
            r"log.csv: no item column found. Available columns: 'user_id', 'rating'; choose with --item NAME "
            r"\(reproduce: --set data\.item=NAME\), in Python Columns\(item=NAME\)",
        ),
        (
            "a b",
            {},
            r"no user or item column found. Available columns: 'a', 'b'; choose with --user NAME --item NAME \(.*: --set "
            r"data\.user=NAME --set data\.item=NAME\), in Python Columns\(user=NAME, item=NAME\)",
        ),
        ("user_id userId item_id", {}, r"the user column could be 'user_id' and 'userId'; choose one with --user NAME"),
        ("user_id item_id time ts", {}, r"the time column could be 'time' and 'ts'; choose one with --time NAME"),
        ("user_id item_id", {"time": "when"}, r"column 'when' \(time\) not found. Available columns: 'user_id', 'item_id'$"),
        ("user_id item_id", {"item": "itemid"}, r"column 'itemid' .* did you mean 'item_id'\?"),
        ("a a item_id", {"user": "a"}, r"2 columns are called 'a' \(requested as user\)"),
        ("user item item time", {}, r"log.csv: 2 columns are called 'item' \(chosen as item\); rename one of them"),
        ("user item item item_id", {}, r"the item column could be 'item' and 'item_id'; choose one with --item NAME"),
        ("user_id item_id", {"user": "item_id"}, r"column 'item_id' cannot be both user and item"),
        ("1::1193::5::978300760", {}, r"looks like data, .*'1::1193::5::978300760'; name the columns by position"),
        ("196 242 3 881250949", {}, r"the first line looks like data, not like column names: .*put a line of names above it"),
        ("A39HTATAQ9V7YF 0205616461 5.0 1369699200", {}, r"the first line looks like data"),
    ],
)
def test_ambiguous_columns_are_an_error(header, named, message):
    with pytest.raises(DataError, match=message):
        chosen(header, **named)


def test_long_headers_are_shortened_in_messages():
    with pytest.raises(DataError, match=r"'column_9'.* …; choose with") as raised:
        chosen(" ".join(f"column_{number}" for number in range(1000)))
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("item_id:token movie_title:token_seq class:token_seq", "item_id:token movie_title:token_seq"),
        ("movieId title genres", "movieId title"),
        ("asin brand title", "asin title"),
        ("id name", "id name"),
        ("title id item_id name", "item_id title"),
    ],
)
def test_title_columns(header, found):
    places = choose_title_columns(header.split(), "items.csv")
    assert [header.split()[places[role]] for role in ("id", "title")] == found.split()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("item_id genres", r"items.csv: no column of item titles found among 'item_id', 'genres'; call the columns"),
        ("a b", r"no column of item ids and item titles found"),
        ("item_id title title", r"2 columns are called 'title' \(chosen as title\); rename one of them"),
        ("item_id itemId title", r"the id column could be 'item_id' and 'itemId'; rename or remove one of them"),
    ],
)
def test_missing_title_columns_are_named(header, message):
    with pytest.raises(DataError, match=message):
        choose_title_columns(header.split(), "items.csv")
