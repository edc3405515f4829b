"""Which column of a table is the user, which the item, which the time; a table of these alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from ssd4rec._suggestions import nearest
from ssd4rec.errors import DataError

ITEM_NAMES = (
    "itemid item iid itemidx",
    "movieid movie asin productid product videoid articleid bookid songid trackid gameid newsid businessid sku isbn",
    "parentasin artistid",
)
# Usual names, without case and without "_", "-", "." and spaces. The first group of which the table has a name decides;
# two names of one group are ambiguous.
USUAL: Mapping[str, tuple[str, ...]] = {
    "user": (
        "userid user uid useridx",
        "customerid customer reviewerid visitorid memberid accountid clientid householdid authorid",
        "sessionid session",
    ),
    "item": ITEM_NAMES,
    "time": (
        "timestamp timestamps time ts unixreviewtime unixtime unixtimestamp timems timestampms eventtime datetime createdat "
        "reviewtimestamp transactiontimestamp purchasetime",
        "date day reviewdate",
    ),
    "id": (*ITEM_NAMES, "id"),
    "title": (
        "title movietitle itemtitle producttitle videotitle booktitle",
        "name itemname productname moviename",
    ),
}
RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
OPTIONAL = ("time",)
RENAME = "rename one of them, or remove it"

# The header as written -> for each role the place of its column.
Choose = Callable[[Sequence[str]], Mapping[str, int]]


class AmbiguousColumnsError(DataError):
    """Which column is which cannot be told; `found` is what came, without the advice to name one."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}; {advice}")
        self.found = found


@dataclass(frozen=True)
class Table:
    """The chosen columns of a file or frame, renamed to their roles."""

    frame: pl.DataFrame
    source: str  # a path, or the kind of frame
    header: Sequence[str]  # all columns' names as written
    names: Mapping[str, str]  # for each role the column's name as written
    where: Callable[[int], str]  # 0-based row -> "line 7" of a text file, or "row 6" of anything else


@dataclass(frozen=True)
class Columns:
    """The names of the columns; None: found by their usual names."""

    user: str | None = None
    item: str | None = None
    time: str | None = None


def choose_columns(header: Sequence[str], columns: Columns, source: str) -> dict[str, int]:
    """Find the columns of user, item and, if there is one, time.

    Args:
        header: the table's column names as written; `user_id:token` is RecBole's way to write `user_id`.
        columns: names that the caller gave.
        source: the table, for messages.

    Returns:
        For each role its place in the header; no "time" when the table has none.

    Raises:
        DataError: a named column is not there, there twice, or given two roles; a usual name is missing or ambiguous;
            the header looks like data.
    """
    named = {"user": columns.user, "item": columns.item, "time": columns.time}
    chosen: dict[str, int] = {}
    for role, name in named.items():
        place = _find_usual(header, role, source) if name is None else _find_named(header, role, name, source)
        if place is not None:
            chosen[role] = place
    missing = [role for role in named if role not in chosen and role not in OPTIONAL]
    if missing:
        raise _missing(header, missing, source)
    _check_apart(header, chosen, source)
    return chosen


def choose_title_columns(header: Sequence[str], source: str) -> dict[str, int]:
    """Find the columns of item id and title in a table of items.

    Raises:
        DataError: one of them is missing or ambiguous; the columns found are listed.
    """
    found = {role: _find_usual(header, role, source) for role in ("id", "title")}
    chosen = {role: place for role, place in found.items() if place is not None}
    if len(chosen) < len(found):
        missing = " and ".join(f"item {role}s" for role in found if role not in chosen)
        raise DataError(f"{source}: no column of {missing} found among {_listed(header)}; call the columns item_id and title")
    return chosen


def bare_name(name: str) -> str:
    """`user_id:token` -> `user_id`; other names stay as they are."""
    bare, colon, kind = name.rpartition(":")
    return bare if colon and kind in RECBOLE_TYPES else name


def _find_named(header: Sequence[str], role: str, name: str, source: str) -> int:
    places = [place for place, found in enumerate(header) if name in {found, bare_name(found)}]
    if not places:
        near = nearest(name, [bare_name(found) for found in header])
        hint = f"; did you mean {near!r}?" if near else ""
        raise DataError(f"{source}: no column {name!r} (asked for as {role}) among {_listed(header)}{hint}")
    if len(places) > 1:
        raise DataError(f"{source}: {len(places)} columns are called {name!r} (asked for as {role}); {RENAME}")
    return places[0]


def _find_usual(header: Sequence[str], role: str, source: str) -> int | None:
    plain = [_plain(bare_name(name)) for name in header]
    for group in USUAL[role]:
        places = [place for place, name in enumerate(plain) if name in group.split()]
        names = list(dict.fromkeys(header[place] for place in places))
        if len(names) > 1:
            raise AmbiguousColumnsError(f"{source}: the {role} column could be {' and '.join(map(repr, names))}", _flag(role))
        if len(places) > 1:  # a name would not tell them apart
            raise DataError(f"{source}: {len(places)} columns are called {names[0]!r} (taken for the {role}); {RENAME}")
        if places:
            return places[0]
    return None


def _flag(role: str) -> str:
    if role not in {"user", "item", "time"}:
        return "rename or remove one of them"
    return f"say which with {_options([role])}"


def _missing(header: Sequence[str], missing: Sequence[str], source: str) -> AmbiguousColumnsError:
    if _looks_like_data(header):
        first = _shortened("  ".join(header))
        found = f"{source}: the first line looks like data, not like column names: {first!r}"
        return AmbiguousColumnsError(found, _first_line_advice(header))
    found = f"{source}: no {' or '.join(missing)} column found among {_listed(header)}"
    return AmbiguousColumnsError(found, f"name it with {_options(missing)}")


def _options(roles: Sequence[str]) -> str:
    options, settings = " ".join(f"--{role} NAME" for role in roles), " ".join(f"--set data.{role}=NAME" for role in roles)
    return f"{options} (reproduce: {settings}), in Python Columns({', '.join(f'{role}=NAME' for role in roles)})"


def _looks_like_data(header: Sequence[str]) -> bool:
    return any(_is_number(field) for name in header for field in name.replace("::", " ").split())


def _first_line_advice(header: Sequence[str]) -> str:
    if len(header) == 1 and "::" in header[0]:
        return (
            "separate the fields by tabs and put names above them, e.g. for MovieLens "
            r"(printf 'user_id\titem_id\trating\ttimestamp\n'; sed 's/::/\t/g' FILE) > FILE.tsv"
        )
    return "put a line of names above it, e.g. user_id, item_id, rating, timestamp, separated as the fields are"


def _check_apart(header: Sequence[str], chosen: Mapping[str, int], source: str) -> None:
    for role, place in chosen.items():
        other = next((each for each, taken in chosen.items() if each != role and taken == place), None)
        if other is not None:
            raise DataError(f"{source}: column {header[place]!r} cannot be both {role} and {other}; name two columns")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_-. ")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(header: Sequence[str]) -> str:
    return _shortened(", ".join(repr(name) for name in header)) or "no columns at all"


def _shortened(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + " …"
