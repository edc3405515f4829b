"""Lists of items in one cell as one interaction a row: list columns, text such as "[1, 2, 3]", and RecBole's sequence files."""

import ast
from dataclasses import replace

import polars as pl

from ssd4rec.data.columns import Table, is_list_column
from ssd4rec.data.values import exact_series
from ssd4rec.errors import DataError

BRACKETS = r"^\s*[\[(].*[\])]\s*$"
VALUE = r"[^\s,;|]+"  # between separators


def explode_lists(table: Table, *, sequences: bool) -> Table:
    """Give each item of a list its own row, in the order of the list.

    Args:
        table: user, item and perhaps time; a time of a list belongs to all of its items, a list of times to them one by one.
        sequences: text in the item column is a list of items, separated by blanks or commas.

    Raises:
        DataError: a list of times has another length than its items, or RecBole's prefixes of one user do not fit each other.
    """
    if "item_list" in table.frame.columns:
        return _from_prefixes(table)
    items = table.frame["item"]
    if items.dtype == pl.String:
        separated = sequences or is_list_column(table.names["item"])
        if separated or (items.str.contains(BRACKETS).all() and items.str.contains(r"[\s,]|^\s*[\[(]\s*[\])]").any()):
            items = _split(table, "item", separated=separated)
    if not isinstance(items.dtype, pl.List | pl.Array):
        return table
    lists = {"item": items}
    if "time" in table.frame.columns:
        times = table.frame["time"]
        if times.dtype == pl.String and times.str.contains(BRACKETS).all():
            times = _split(table, "time", separated=False)
        if isinstance(times.dtype, pl.List | pl.Array):
            lists["time"] = times
    columns = [
        (column.arr.to_list() if isinstance(column.dtype, pl.Array) else column).alias(role) for role, column in lists.items()
    ]
    frame = table.frame.with_columns(columns).with_row_index("row").filter(pl.col("item").list.len() > 0)
    length = pl.col("item").list.len()
    unequal = frame.filter(pl.any_horizontal(pl.col(role).list.len().ne_missing(length) for role in lists))
    if unequal.height:
        raise DataError(
            f"{table.source}: {table.where(int(unequal['row'][0]))} has lists of items and times of different lengths; "
            "correct it, or choose another time column with --time"
        )
    if not frame.height:
        raise DataError(f"{table.source}: all lists of items are empty; expected items in column {table.names['item']!r}")
    frame = frame.explode(*lists)
    rows = frame["row"]
    note = f"column {table.names['item']!r} holds lists: each item is read as one interaction, in the order of the list"
    return replace(table, frame=frame.drop("row"), where=lambda row: table.where(int(rows[row])), notes=(*table.notes, note))


def _split(table: Table, role: str, *, separated: bool) -> pl.Series:
    """Return the lists that the text of a column describes."""
    text = table.frame[role].str.strip_chars()
    if separated:
        return text.str.extract_all(VALUE)
    if text.str.contains("[\"']").any():
        return _literals(table, role)
    return text.str.strip_chars("[]()").str.extract_all(VALUE)


def _literals(table: Table, role: str) -> pl.Series:
    values = []
    for row, text in enumerate(table.frame[role]):
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DataError(
                f"{table.source}: {table.where(row)} holds {text[:100]!r} in column {table.names[role]!r}, which is not a list; "
                'expected text such as ["a", "b"]'
            ) from error
        values.append(list(value) if isinstance(value, list | tuple | set) else [value])
    return exact_series(values, f"{table.source}: column {table.names[role]!r}")


def _from_prefixes(table: Table) -> Table:
    """Read RecBole's sequence files: each row is a prefix of a user's sequence and the item that follows it."""
    prefixes = table.frame["item_list"]
    if prefixes.dtype != pl.String or prefixes.null_count():
        raise DataError(
            f"{table.source}: column {table.names['item_list']!r} must hold text, items separated by blanks, in each row"
        )
    sequence = pl.concat_list(pl.col("item_list").str.extract_all(r"\S+"), pl.col("item").cast(pl.String))
    rows = table.frame.select("user", sequence=sequence).with_row_index("row")
    longest = pl.col("sequence").get(pl.col("sequence").list.len().arg_max())
    users = rows.group_by("user", maintain_order=True).agg(pl.col("row").first(), item=longest)
    wrong = rows.join(users, "user").filter(pl.col("item").list.head(pl.col("sequence").list.len()) != pl.col("sequence"))
    if wrong.height:
        row, user = wrong.sort("row").row(0)[:2]
        raise DataError(
            f"{table.source}: {table.where(row)} is not a prefix of the longest sequence of user {user!r}; write one row "
            "per user with its whole sequence, or one interaction a row"
        )
    frame = users.explode("item")
    first_rows = frame["row"]
    note = (
        f"columns {table.names['item_list']!r} and {table.names['item']!r} hold prefixes and the next item: the longest "
        "sequence of each user is read, in its order; other columns are not used"
    )
    return replace(
        table,
        frame=frame.select("user", "item"),
        names={role: table.names[role] for role in ("user", "item")},
        where=lambda row: table.where(int(first_rows[row])),
        notes=(*table.notes, note),
    )
