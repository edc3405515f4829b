"""Checks of user and item ids: missing values, placeholders, decimal numbers and surrounding blanks."""

import polars as pl

from ssd4rec.data.catalog import plain_ids
from ssd4rec.data.columns import Table
from ssd4rec.errors import DataError

INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
ID_TYPES = frozenset({*INTEGERS, pl.Float32, pl.Float64, pl.String, pl.Null})  # Null: all are missing
WORDS = frozenset({"na", "nan", "none", "null", r"\n", "n/a", "<na>", "#n/a", "nil", "undefined", "(null)", "unknown", "-1", "0"})
NUMBERS = (-1, 0)
COMMON = frozenset({"-1", "0", "unknown"})  # may be ids: placeholders only if they are far more frequent than others
SEVERAL = r"^\s*\w*\d\w*([ ,;|]+\w*\d\w*){1,}\s*$"  # ids with digits, separated
ROUNDED = r"^\s*\d[.,]\d+[eE]\+\d+\s*$"
SHARE, TIMES = 0.02, 20  # of all rows, and of the rows of an average id


def missing_ids(ids: pl.Series, distinct: pl.Series) -> pl.Series | None:
    """Return a mask of ids that are null, empty, blank or NaN; None: there are none."""
    if ids.dtype == pl.String:
        missing = distinct.filter(distinct.is_null() | (distinct.str.strip_chars() == ""))
    elif ids.dtype.is_float():
        missing = distinct.filter(distinct.is_null() | distinct.is_nan())
    else:
        missing = distinct.filter(distinct.is_null())
    return ids.is_in(missing.implode(), nulls_equal=True) if len(missing) else None


def placeholders(ids: pl.Series, distinct: pl.Series) -> list[object]:
    """Return the ids that stand for a missing one, such as NA, and 0 or -1 if they are unusually frequent."""
    if ids.dtype == pl.String:
        candidates = distinct.filter(distinct.str.strip_chars().str.to_lowercase().is_in(sorted(WORDS)))
    elif ids.dtype in INTEGERS:
        candidates = distinct.filter(distinct.cast(pl.Int64, strict=False).is_in(list(NUMBERS)))
    else:
        return []
    if not len(candidates):
        return []
    counts = ids.filter(ids.is_in(candidates.implode())).value_counts(sort=True)
    average = len(ids) / max(len(distinct), 1)
    return [
        value
        for value, count in zip(counts[ids.name], counts["count"], strict=True)
        if str(value).strip().lower() not in COMMON or (count > SHARE * len(ids) and count > TIMES * average)
    ]


def check_type(table: Table, role: str) -> pl.Series:
    """Return the ids of a role, categories as text.

    Raises:
        DataError: a type that cannot be an id.
    """
    ids = plain_ids(table.frame[role])
    if ids.dtype not in ID_TYPES:
        raise DataError(f"{table.source}: column {table.names[role]!r} holds {ids.dtype}; ids must be text or numbers, cast it")
    return ids


def refuse_missing(table: Table, role: str, distinct: pl.Series, *, advice: str = "remove these rows or fill in the ids") -> None:
    """Raise DataError, naming the first row, if ids are missing."""
    missing = missing_ids(check_type(table, role), distinct)
    if missing is None:
        return
    whose, first = "item" if role == "id" else role, table.where(int(missing.arg_max() or 0))
    raise DataError(
        f"{table.source}: {int(missing.sum()):,} of {len(missing):,} {whose} ids (column {table.names[role]!r}) are missing, "
        f"the first in {first}; {advice}"
    )


def warnings_about(table: Table, role: str, ids: pl.Series, distinct: pl.Series) -> list[str]:
    """Return warnings about user or item ids that are read as they are, but may not mean what they seem to."""
    warnings = []
    if values := placeholders(ids, distinct):
        share = int(ids.is_in(values).sum()) / len(ids)
        others = [name for name in table.header if "session" in name.lower() and name != table.names[role]]
        instead = f", or choose another column, such as --user {others[0]}" if others and role == "user" else ""
        warnings.append(
            f"{share:.1%} of the rows have a placeholder ({', '.join(map(repr, values))}) as {role} id, and are read as one "
            f"{role}; drop these rows with --drop-missing{instead}"
        )
    if ids.dtype.is_float():
        warnings.append(
            f"{role} ids are decimal numbers such as {ids[0]!r} and are used as they are; cast them if they stand for integers"
        )
    if distinct.dtype != pl.String:
        return warnings

    def first(strange: pl.Series) -> str:
        return repr(str(ids.filter(ids.is_in(strange.implode()))[0])[:100])

    if len(padded := distinct.filter(distinct != distinct.str.strip_chars())):
        warnings.append(
            f"{role} ids begin or end with a blank, such as {first(padded)}, and are used as they are: "
            "requests need the blank too"
        )
    if len(rounded := distinct.filter(distinct.str.contains(ROUNDED))):
        warnings.append(
            f"{role} ids such as {first(rounded)} look like rounded by a spreadsheet, which makes different ids equal; "
            "export them as text"
        )
    several = distinct.filter(distinct.str.contains(SEVERAL)) if role == "item" else distinct.clear()
    if len(several) and 2 * len(several) >= len(distinct):
        warnings.append(
            f"item ids look like lists, such as {first(several)}, and each is read as one item; if they are lists, add "
            "--format sequences"
        )
    return warnings
