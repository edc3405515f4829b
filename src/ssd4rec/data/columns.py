"""Which column of a table is the user, which the item and which the time; a table of these columns alone; reading options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import polars as pl

from ssd4rec._suggestions import nearest
from ssd4rec.config import DataConfig
from ssd4rec.errors import DataError

ITEM_NAMES = (
    "itemid item iid itemidx",
    "parentasin",
    "movieid movie asin productid product videoid articleid bookid songid trackid gameid newsid businessid sku isbn aid "
    "stockcode poi poiid venueid courseid recipeid appid jobid docid spotifytrackuri",
    "artistid track trackname mastermetadatatrackname",
    "itemidlist itemlist itemids itemsequence itemseq",
)
# Usual names, without case and without "_", "-", "." and spaces. The first group that occurs in the header decides; two names
# of one group are ambiguous.
USUAL: Mapping[str, tuple[str, ...]] = {
    "user": (
        "userid user uid useridx",
        "customerid customer reviewerid visitorid memberid accountid clientid householdid authorid custid buyerid playerid "
        "studentid readerid listenerid subscriberid",
        "sessionid session",
        "username profilename",
    ),
    "item": ITEM_NAMES,
    "time": (
        "timestamp timestamps time ts uts unixreviewtime unixtime unixtimestamp timems timestampms eventtime datetime createdat "
        "reviewtimestamp transactiontimestamp purchasetime endtime eventtimestamp eventts",
        "tdat invoicedate orderdate transactiondate transactiondt purchasedate eventdate utctime playedat starttime",
        "date day reviewdate",
    ),
    "rating": ("rating overall stars score ratingvalue reviewrating bookrating",),
    "id": (*ITEM_NAMES, "id"),
    "title": (
        "title movietitle itemtitle producttitle videotitle booktitle",
        "name itemname productname moviename",
    ),
}
DATE_NAMES = ("date", "day", "reviewdate", "eventdate", "orderdate", "purchasedate", "transactiondate")
CLOCK_NAMES = ("time", "timeofday", "clock")  # a column of one of these names may hold HH:MM next to a date
PARTS = {  # of a time that is split over columns
    "year": ("year", "yr"),
    "month": ("month", "mon"),
    "day": ("day", "dayofmonth"),
    "hour": ("hour", "hr"),
    "minute": ("minute", "min"),
    "second": ("second", "sec"),
}
MAX_EXPANSION = 250  # decompressed bytes per compressed byte; text files of interactions stay far below
RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
RENAME = "rename one of them, or remove it"
TIME_ROLES = ("time", "date", "clock", *PARTS)

# The header as written -> the position of the column for each role.
Choose = Callable[[Sequence[str]], Mapping[str, int]]


class AmbiguousColumnsError(DataError):
    """The choice of a column is not clear; `reason` is the message without the advice."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


@dataclass(frozen=True)
class Table:
    """The chosen columns of a file or frame, renamed to their roles."""

    frame: pl.DataFrame
    source: str  # a path, or the kind of frame
    header: Sequence[str]  # the names of all columns as written
    names: Mapping[str, str]  # for each role the name of its column as written
    where: Callable[[int], str]  # 0-based row -> "line 7" of a text file, or "row 6" of anything else
    notes: Sequence[str] = field(default=())  # decisions of the reader that the user should check


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None: chosen by their usual names."""

    user: str | None = None
    item: str | None = None
    time: str | None = None  # "date+time" for a date and a time of day in two columns


@dataclass(frozen=True)
class ReadOptions:
    """Options of `read_interactions`; the defaults detect what they can."""

    names: tuple[str, ...] = ()  # the columns of a file without a header, by position; "" or "_" skips one
    separator: str | None = None  # of text files: a character, "::" or "space"; None: detected
    layout: Literal["auto", "interactions", "sequences"] = "auto"  # sequences: one user a line, followed by the items
    where: str | None = None  # an SQL condition on the columns of the file, such as "event = 'purchase'"
    min_rating: float | None = None  # drop rows with a lower rating
    time_format: str | None = None  # strptime format of text times, such as "%d/%m/%Y %H:%M"
    constant_user: str | None = None  # the user id of a file without a user column
    drop_missing: bool = False  # drop rows whose user or item is missing or a placeholder such as NA
    duplicates: Literal["keep", "drop"] = "keep"  # rows that equal an earlier one in user, item and time
    max_expansion: float = MAX_EXPANSION


def columns_of(config: DataConfig) -> Columns:
    """Return the column names of the settings."""
    return Columns(config.user, config.item, config.time)


def options_of(config: DataConfig) -> ReadOptions:
    """Return the reading options of the settings."""
    same = {field.name: getattr(config, field.name) for field in fields(ReadOptions) if field.name != "names"}
    return ReadOptions(**(same | {"names": config.columns, "where": config.where or None}))  # --where "" undoes a remembered one


def choose_columns(header: Sequence[str], columns: Columns, source: str) -> dict[str, int]:
    """Return the positions of user, item and, if there is one, time; `source` is the table, for messages.

    `user_id:token` in a header is RecBole's way to write `user_id`.

    Raises:
        DataError: a named column is missing, occurs twice or has two roles; a usual name is missing or ambiguous; the header
            looks like data; the time is split over several columns.
    """
    places_by_role = choose_all_columns(header, columns, source)
    if parts := [header[place] for role, place in places_by_role.items() if role in TIME_ROLES[1:]]:
        advice = "combine them into a single column, or name a whole time with --time"
        raise AmbiguousColumnsError(f"{source}: the time is split over {_listed(parts)}", advice)
    return places_by_role


def choose_all_columns(header: Sequence[str], columns: Columns, source: str, *, constant_user: bool = False) -> dict[str, int]:
    """Choose columns like `choose_columns`, with a time that may be split over several columns.

    Returns:
        Positions for user (none with `constant_user`), item and time; or, instead of a time, for date and clock or hour, or for
        year, month, day and so on. Both time and date if the values must decide whether the time is a time of day.
    """
    values = sum(_is_value(each) for each in header)
    if (columns.user or columns.item or columns.time) and values > len(header) / 2:
        raise missing_header(header, source)  # naming U100 as the user column would turn the first event into a header
    names = {"item": columns.item} if constant_user else {"user": columns.user, "item": columns.item}
    places = {
        role: _find_usual(header, role, source) if name is None else _find_named(header, role, name, source)
        for role, name in names.items()
    }
    places_by_role = {role: place for role, place in places.items() if place is not None}
    if missing := [role for role in names if role not in places_by_role]:
        raise _missing(header, missing, source)
    places_by_role.update(_choose_time(header, columns.time, source))
    for role, place in places_by_role.items():
        other = next((each for each, taken in places_by_role.items() if each != role and taken == place), None)
        if other is not None:
            raise DataError(f"{source}: column {header[place]!r} cannot be both {role} and {other}; choose two columns")
    return places_by_role


def find_rating(header: Sequence[str], source: str) -> int:
    """Return the position of the rating column.

    Raises:
        DataError: there is none, or several.
    """
    place = _find_usual(header, "rating", source)
    if place is None:
        raise DataError(
            f"{source}: --min-rating needs a rating column, found {_listed(header)}; call it rating, or use --where with its name"
        )
    return place


def choose_title_columns(header: Sequence[str], source: str) -> dict[str, int]:
    """Choose the columns of item id and title in a table of items.

    Raises:
        DataError: one of them is missing or ambiguous; the available columns are listed.
    """
    places = {role: _find_usual(header, role, source) for role in ("id", "title")}
    places_by_role = {role: place for role, place in places.items() if place is not None}
    if len(places_by_role) < len(places):
        missing = " and ".join(f"item {role}s" for role in places if role not in places_by_role)
        raise DataError(f"{source}: no column of {missing} found among {_listed(header)}; call the columns item_id and title")
    return places_by_role


FEATURE = "feature:"  # the role of a column that is an item feature: this and its place


def choose_item_columns(header: Sequence[str], item: str | None, features: Sequence[str], source: str) -> dict[str, int]:
    """Choose the columns of item id, features and, if there is one, title in a table of items.

    Without a name, the column of ids is chosen by its usual name, and all columns but those of ids and titles are features.

    Raises:
        DataError: the column of ids or a named column is missing or ambiguous.
    """
    place = _find_usual(header, "id", source) if item is None else _find_named(header, "item", item, source)
    if place is None:
        raise DataError(
            f"{source}: no column of item ids found among {_listed(header)}; call it item_id, or name it with "
            f"--set features.id=NAME"
        )
    places = {"id": place}
    title = _find_usual(header, "title", source)
    if title is not None and title != place:
        places["title"] = title
    feature_columns = [_find_named(header, "feature", each, source) for each in features]
    for each in feature_columns or [each for each in range(len(header)) if each not in places.values()]:
        if each == place:
            raise DataError(f"{source}: column {header[each]!r} has the item ids; remove it from features.columns")
        places[f"{FEATURE}{each}"] = each
    return places


def bare_name(name: str) -> str:
    """`user_id:token` -> `user_id`; other names are unchanged."""
    bare, colon, kind = name.rpartition(":")
    return bare if colon and kind in RECBOLE_TYPES else name


def is_list_column(name: str) -> bool:
    """Whether RecBole's type in a header declares a sequence of ids."""
    return name.endswith(":token_seq")


def looks_like_data(header: Sequence[str]) -> bool:
    """Whether a first line holds values rather than names: numbers, dates or ids such as U100."""
    return any(_is_value(part) for name in header for part in name.replace("::", " ").split())


def missing_header(header: Sequence[str], source: str) -> AmbiguousColumnsError:
    """Return the error for a file whose first line is data."""
    first = _shortened("  ".join(header))
    names = ["user", "item", "rating", "time", *(f"column{place}" for place in range(5, len(header) + 1))][: len(header)]
    names = ["user", "item", "time"] if len(header) == 3 else names
    return AmbiguousColumnsError(
        f"{source}: the first line looks like data, not like column names: {first!r}",
        f"name the columns by position with --columns {','.join(names)} (in this order, if it is right), or put a line of names "
        "above it",
    )


def _choose_time(header: Sequence[str], name: str | None, source: str) -> dict[str, int]:
    if name is not None:
        pair = "+" in name and name not in header
        parts_of_name = zip(("date", "clock"), name.split("+", 1), strict=True) if pair else [("time", name)]
        return {role: _find_named(header, "time", each, source) for role, each in parts_of_name}
    plain = [_plain(bare_name(each)) for each in header]
    place = _find_usual(header, "time", source)
    parts = {role: plain.index(found[0]) for role, usual in PARTS.items() if (found := [each for each in usual if each in plain])}
    if place is None or plain[place] == "day":
        if {"year", "month", "day"} <= parts.keys():
            return parts
        if place is not None and ("month" in parts or "year" in parts):
            split = _listed([header[each] for each in parts.values()])
            raise AmbiguousColumnsError(f"{source}: the time is split over {split}", f"{_flag('time')}, a whole date")
    if place is None:
        return {}
    dates = [each for each, known in enumerate(plain) if known in DATE_NAMES and each != place]
    if plain[place] in CLOCK_NAMES and len(dates) == 1:
        return {"time": place, "date": dates[0]}  # the values decide
    if plain[place] in DATE_NAMES and "hour" in parts:
        return {"date": place} | {role: parts[role] for role in ("hour", "minute", "second") if role in parts}
    return {"time": place}


def _find_named(header: Sequence[str], role: str, name: str, source: str) -> int:
    places = [place for place, each in enumerate(header) if name in {each, bare_name(each)}]
    if not places:
        near = nearest(name, [bare_name(each) for each in header])
        hint = f"; did you mean {near!r}?" if near else ""
        raise DataError(f"{source}: column {name!r} ({role}) not found. Available columns: {_listed(header)}{hint}")
    if len(places) > 1:
        raise DataError(f"{source}: {len(places)} columns are called {name!r} (requested as {role}); {RENAME}")
    return places[0]


def _find_usual(header: Sequence[str], role: str, source: str) -> int | None:
    plain = [_plain(bare_name(name)) for name in header]
    for group in USUAL[role]:
        places = [place for place, name in enumerate(plain) if name in group.split()]
        names = list(dict.fromkeys(header[place] for place in places))
        if len(names) > 1:
            raise AmbiguousColumnsError(f"{source}: the {role} column could be {' and '.join(map(repr, names))}", _flag(role))
        if len(places) > 1:  # a name would not tell them apart
            raise DataError(f"{source}: {len(places)} columns are called {names[0]!r} (chosen as {role}); {RENAME}")
        if places:
            return places[0]
    return None


def _flag(role: str) -> str:
    return f"choose one with {_options([role])}" if role in {"user", "item", "time"} else "rename or remove one of them"


def _missing(header: Sequence[str], missing: Sequence[str], source: str) -> AmbiguousColumnsError:
    if looks_like_data(header):
        return missing_header(header, source)
    reason = f"{source}: no {' or '.join(missing)} column found. Available columns: {_listed(header)}"
    if len(header) == 1 and not source.endswith((" frame", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")):
        return AmbiguousColumnsError(reason, "if the columns are separated by another character, name it with --separator")
    user = "; a file of one person without a user column: --constant-user me" if missing == ["user"] else ""
    index = "; if the ids are the index of the frame, pass frame.reset_index()" if source == "pandas frame" else ""
    return AmbiguousColumnsError(reason, f"choose with {_options(missing)}{user}{index}")


def _options(roles: Sequence[str]) -> str:
    options, settings = " ".join(f"--{role} NAME" for role in roles), " ".join(f"--set data.{role}=NAME" for role in roles)
    return f"{options} (reproduce: {settings}), in Python Columns({', '.join(f'{role}=NAME' for role in roles)})"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_-. ")


def _is_value(text: str) -> bool:
    """Whether a field is a number, a date, or an id of letters and many digits."""
    digits = sum(letter.isdigit() for letter in text)
    if digits and digits >= len(text) - digits and not text.isidentifier():
        return True  # 2019-11-11, 09:00, 3.5
    if text.isidentifier() and digits >= 3 and text[:1].isalpha() and not text.islower():
        return True  # U100, N8668, A39HTATAQ9V7YF
    try:
        float(text)
    except ValueError:
        return False
    return text.lower() not in {"nan", "inf", "infinity"}


def _listed(header: Sequence[str]) -> str:
    return _shortened(", ".join(repr(name) for name in header)) or "none"


def _shortened(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + " …"
