"""Row filters: an SQL condition, and a least rating."""

import re
from collections.abc import Sequence

import polars as pl

from ssd4rec.data.columns import Table, bare_name
from ssd4rec.errors import DataError, first_line

PREFIX = "column "  # of the roles of columns that a condition names


def columns_in(condition: str, header: Sequence[str]) -> list[int]:
    """Return the positions of the columns that occur in a condition."""
    words = set(re.findall(r"\w+", condition))
    return [
        place
        for place, name in enumerate(header)
        if bare_name(name) in words or (not bare_name(name).isidentifier() and bare_name(name) in condition)
    ]


def apply_filters(table: Table, where: str | None, min_rating: float | None) -> tuple[pl.Series | None, tuple[str, ...]]:
    """Evaluate the filters.

    Args:
        table: with the columns of the condition as roles "column NAME", and the rating as role "rating".
        where: an SQL condition.
        min_rating: the least rating that stays.

    Returns:
        A mask of the rows that stay (None: no filter), and a description of each filter with its counts.

    Raises:
        DataError: the condition cannot be evaluated, or no row is left.
    """
    mask, descriptions = None, []
    if where is not None:
        mask = _where(table, where)
        descriptions.append(f"where {where}: {int(mask.sum()):,} of {len(mask):,} rows")
    if min_rating is not None:
        if "rating" not in table.frame.columns:
            raise DataError(f"{table.source}: --min-rating needs a rating column; a file of sequences has none, leave it out")
        ratings = _numbers(table.frame["rating"])
        if not ratings.dtype.is_numeric():
            raise DataError(f"{table.source}: column {table.names['rating']!r} does not contain numbers; filter it with --where")
        high = (ratings >= min_rating).fill_null(value=False)
        descriptions.append(f"rating of {min_rating:g} or more: {int(high.sum()):,} of {len(high):,} rows")
        mask = high if mask is None else mask & high
    if mask is not None and not mask.any():
        raise DataError(f"{table.source}: no row is left by the filter ({'; '.join(descriptions)}); correct the condition")
    return mask, tuple(descriptions)


def _where(table: Table, condition: str) -> pl.Series:
    roles = [role for role in table.frame.columns if role.startswith(PREFIX)]
    frame = pl.DataFrame([_numbers(table.frame[role]).alias(bare_name(table.names[role])) for role in roles])
    if not roles:
        columns = ", ".join(table.header)[:300]
        raise DataError(f"{table.source}: --where {condition!r} names no column. Available columns: {columns}")
    query = f"SELECT __row FROM self WHERE {_with_quoted_names(condition, frame.columns)}"  # noqa: S608 - the user's own data
    try:
        rows = pl.SQLContext({"self": frame.with_row_index("__row")}).execute(query, eager=True)["__row"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = first_line(error).partition("; valid columns")[0]
        raise DataError(
            f"{table.source}: --where {condition!r} cannot be evaluated ({reason}); write a condition such as "
            f"--where \"event = 'purchase'\" with the columns {', '.join(bare_name(name) for name in table.header)[:300]}"
        ) from error
    mask = pl.zeros(frame.height, dtype=pl.Boolean, eager=True).to_numpy().copy()
    mask[rows.to_numpy()] = True
    return pl.Series(mask)


def _with_quoted_names(condition: str, names: Sequence[str]) -> str:
    """Quote column names, some of which are words of SQL: user = 'a' -> "user" = 'a'."""
    parts = re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|\w+|\s+|.", condition)
    return "".join(f'"{part}"' if part in names else part for part in parts)


def _numbers(column: pl.Series) -> pl.Series:
    """Return text as numbers if all of it is, and decimals as floating point; empty text and NaN are null."""
    if column.dtype.is_decimal():
        return column.cast(pl.Float64)
    if column.dtype.is_float():
        return column.fill_nan(None)
    if column.dtype != pl.String:
        return column
    present = pl.select(pl.when(column.str.strip_chars() != "").then(column).alias(column.name)).to_series()
    for dtype in (pl.Int64, pl.Float64):
        numbers = present.str.strip_chars().cast(dtype, strict=False)
        if numbers.null_count() == present.null_count():
            return numbers
    return present
