"""Delimited text (CSV, TSV, RecBole files, one user a line) as a table of chosen columns; errors name the line.

Arrow parses: unlike polars, it refuses rows with too few or too many fields. The csv module reads the first lines, and finds
the line of an error.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from ssd4rec.data.columns import Choose, ReadOptions, Table, looks_like_data, missing_header
from ssd4rec.errors import DataError

SEPARATORS = ("\t", ",", ";", "::", "|")
SPACE = "space"  # runs of blanks and tabs
NAMED_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", " ": SPACE, "blank": SPACE}
STAND_IN = b"\x1f"  # for a separator of several characters
COMMENTS = (b"#", b"%")
UTF8_MARK, UTF16_MARKS = codecs.BOM_UTF8, (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHECKED_AT_ONCE = 1 << 24  # bytes
LONGEST_LINE = 1 << 24  # bytes
SAMPLED = 50  # lines that decide on the separator
EXPECTED = "expected a line of column names and rows of user, item and time"
MOVIELENS = ("user", "item", "rating", "time")
RATING, EPOCH = re.compile(r"\s*\d{1,2}(\.\d+)?\s*"), re.compile(r"\s*(\d{9,10}|\d{12,13})\s*")
AMAZON_USER, AMAZON_ITEM = re.compile(r"A[0-9A-Z]{8,}"), re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")


@dataclass(frozen=True)
class _Text:
    """Text with its separator; comments and separators of several characters are normalized, line by line."""

    source: str
    data: bytes
    start: int  # where the header, or the first row, begins
    separator: str  # a single character
    shown: str  # the separator as the user knows it
    notes: tuple[str, ...] = ()


def read_delimited(source: str, data: bytes, choose: Choose, options: ReadOptions = ReadOptions()) -> Table:  # noqa: B008 - frozen
    """Read the columns that `choose` picks, as text exactly as written.

    Raises:
        DataError: the text is empty, has no rows, is not UTF-8, has rows of another length than its header or a quote that is
            not closed; the message names the line.
    """
    check_utf8(source, data)
    text = _normalize(source, data, options)
    first, end = _first_row(text)
    sample = _sample(text)
    if options.layout == "sequences" and not options.names and (looks_like_data(first) or not _has_names(first, choose)):
        return _read_sequences(text)
    header, notes = first, list(text.notes)
    if options.names:
        if not looks_like_data(first) and _has_names(first, choose):
            raise DataError(
                f"{source} has a header ({', '.join(first)[:300]}), but --columns is for files without one; leave it out"
            )
        header, end = _named_by_position(text, first, options.names), text.start
    elif looks_like_data(first) and not _has_names(first, choose):
        if options.layout == "auto" and len({len(row) for row in sample}) > 1 and len(text.separator) == 1 and len(first) > 1:
            notes.append("no header and lines of different lengths: each line is read as a user and the items in order of time")
            return replace(_read_sequences(text), notes=tuple(notes))
        header, end = _usual_names(text, first, sample), text.start
        notes.append(f"no header: the columns are taken as {', '.join(header)} (--columns gives other names)")
    places = choose(header)
    if not re.compile(rb"\S").search(text.data, end):  # no copy of a large file
        raise DataError(f"{source} has a header and no rows: {', '.join(header)}")
    quoted = _quotes_are_marks(text)
    frame = _parse(text, end, header, places, quoted=quoted)
    if quoted and frame.height != text.data.count(b"\n", end) + (not text.data.endswith(b"\n")):
        _check_quotes(text)  # a field spans several lines: intended, or a missing quote
    skipped = end != text.start

    def where(row: int) -> str:
        line, _ = next(islice(_rows(text, quoted=quoted), row + skipped, None))
        return f"line {line}"

    return Table(frame, source, header, {role: header[place] for role, place in places.items()}, where, tuple(notes))


def check_utf8(source: str, data: bytes) -> None:
    """Raise DataError, naming line and byte, unless the bytes are UTF-8 text without NUL."""
    if data.startswith(UTF16_MARKS):
        raise DataError(f"{source} is UTF-16 text; expected UTF-8: save it as UTF-8, e.g. iconv -f utf16 -t utf8 FILE > NEW")
    if (nul := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise DataError(
            f"{source}: line {line} has a NUL byte at offset {nul:,}, as after a power cut or a failed copy; copy the file "
            r"again, or remove these bytes: tr -d '\000' < FILE > NEW"
        )
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), CHECKED_AT_ONCE):
        chunk = data[start : start + CHECKED_AT_ONCE]
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=start + CHECKED_AT_ONCE >= len(data))
        except UnicodeDecodeError as error:
            done = start - pending + error.start
            line = data.count(b"\n", 0, done) + 1
            raise DataError(
                f"{source}: line {line} is not UTF-8 text (byte {data[done]:#04x} at offset {done:,}); "
                f"save the file as UTF-8, e.g. iconv -f latin1 -t utf8"
            ) from error


def _normalize(source: str, data: bytes, options: ReadOptions) -> _Text:
    """Find the first line and the separator; comment lines become empty lines, so that line numbers stay right."""
    if not data:
        raise DataError(f"{source} is empty; {EXPECTED}")
    start = len(UTF8_MARK) if data.startswith(UTF8_MARK) else 0
    separator = NAMED_SEPARATORS.get(options.separator or "", options.separator)
    stated = re.compile(rb"sep=(.)\r?\n", re.IGNORECASE).match(data, start)  # Excel's first line
    if stated:
        start, separator = stated.end(), separator or stated[1].decode()
    notes: list[str] = []
    first = next_line(source, data, start)
    mark = next((each for each in COMMENTS if first.lstrip().startswith(each)), None)
    if mark is not None and _has_usual_names(first):  # "# user item time" is a header
        start = data.find(mark, start) + 1
    elif mark is not None:
        data, dropped = re.subn(rb"(?m)^[ \t]*" + mark + rb"[^\n]*", b"", data)
        notes.append(f"{dropped:,} lines that begin with {mark.decode()!r} are skipped as comments")
        first = next_line(source, data, start)
    if separator is None:
        separator = _detect_separator(data, start)
    elif separator != SPACE and (not separator or not (separator.isprintable() or separator == "\t") or separator in '"\n'):
        raise DataError(f"{source}: the separator {separator!r} cannot be used; use a printable character, tab or space")
    shown = separator
    if separator == SPACE:
        data, separator = data[:start] + _single_tabs(data[start:]), "\t"
    elif len(separator.encode()) > 1:
        if STAND_IN in data:
            raise DataError(f"{source} has the control character 0x1f next to the separator {separator!r}; remove it")
        data, separator = data.replace(separator.encode(), STAND_IN), STAND_IN.decode()
    return _Text(source, data, start, separator, shown, tuple(notes))


def _single_tabs(data: bytes) -> bytes:
    """Replace runs of blanks and tabs inside of lines by one tab, and remove them at both ends."""
    return re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+$|[ \t]+(?=\r$)", b"", data))


def _has_usual_names(line: bytes) -> bool:
    names = re.split(r"[\s,;|]+", line.decode(errors="replace").lower().lstrip("#% "))
    return any("user" in each for each in names) and any("item" in each for each in names) and len(names) < 20


def next_line(source: str, data: bytes, start: int) -> bytes:
    """Return the first line that is not blank."""
    match = re.compile(rb"[^\n]*[^\s][^\n]*").search(data, start)
    if not match:
        raise DataError(f"{source} has no rows; {EXPECTED}")
    line = match[0].strip(b"\r\n")
    if b"\r" in line:
        raise DataError(f"{source} uses single carriage returns as line ends; save it with Unix or Windows line ends")
    return line


def _detect_separator(data: bytes, start: int) -> str:
    """Return the separator that splits the first lines into the same number of fields, the most of them if several do."""
    end = data.find(b"\n", start + (1 << 18))  # whole lines
    lines = [line.decode(errors="replace") for line in data[start : end if end >= 0 else len(data)].splitlines()]
    lines = [line for line in lines if line.strip()][:SAMPLED]
    best, most = "", 1
    for steady_only in (True, False):
        for separator in SEPARATORS:
            widths = [field_count(line, separator) for line in lines]
            if widths[0] > most and (len(set(widths)) == 1 or not steady_only):
                best, most = separator, widths[0]
        if best:
            return best
    return SPACE if len(lines[0].split()) > 1 and not any('"' in line for line in lines) else ","


def field_count(line: str, separator: str) -> int:
    """Count the fields of a line; quotes enclose fields, except next to separators of two characters."""
    if len(separator) > 1:
        return line.count(separator) + 1
    try:
        with _long_fields():
            return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:
        return 1


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the limit of the csv module on the length of a field, 131,072 characters."""
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _first_row(text: _Text) -> tuple[list[str], int]:
    """Return the fields of the first line, and where the next one begins."""
    line = next_line(text.source, text.data, text.start)
    end = text.data.find(b"\n", text.data.find(line, text.start))
    with _long_fields():
        fields = next(csv.reader([line.decode()], delimiter=text.separator))
    return fields, len(text.data) if end < 0 else end + 1


def _sample(text: _Text) -> list[list[str]]:
    """Return the fields of the first lines, split without regard to quotes."""
    lines = text.data[text.start : text.start + (1 << 18)].decode(errors="replace").split("\n")
    return [line.rstrip("\r").split(text.separator) for line in lines[: SAMPLED + 1] if line.strip()][:SAMPLED]


def _has_names(header: Sequence[str], choose: Choose) -> bool:
    try:
        choose(header)
    except DataError:
        return False
    return True


def _named_by_position(text: _Text, first: Sequence[str], names: Sequence[str]) -> list[str]:
    if len(names) != len(first):
        raise DataError(
            f"{text.source}: --columns names {len(names)} columns, but the first line has {len(first)} fields separated by "
            f"{text.shown!r}: {'  '.join(first)[:200]}; name each of them, with _ for those that are not needed"
        )
    return [name if name not in {"", "_"} else f"column{place}" for place, name in enumerate(names, start=1)]


def _usual_names(text: _Text, first: Sequence[str], sample: Sequence[Sequence[str]]) -> list[str]:
    """Return names for the common files without a header: user, item, rating and time as in MovieLens and Amazon's ratings."""
    rows = [row for row in sample if len(row) == len(MOVIELENS)]
    if len(first) != len(MOVIELENS) or not rows or not all(RATING.fullmatch(row[2]) and EPOCH.fullmatch(row[3]) for row in rows):
        raise missing_header(first, text.source)
    swapped = all(AMAZON_ITEM.fullmatch(row[0]) and AMAZON_USER.fullmatch(row[1]) for row in rows)  # Amazon 2018
    return ["item", "user", "rating", "time"] if swapped else list(MOVIELENS)


def _read_sequences(text: _Text) -> Table:
    """Read one user a line: the user, then the items in order of time."""
    lines = pl.Series(text.data[text.start :].decode().split("\n")).str.strip_chars(" \t\r").str.strip_chars(text.separator)
    number = pl.int_range(1, len(lines) + 1, eager=True) + text.data.count(b"\n", 0, text.start)
    frame = pl.DataFrame({"line": number, "text": lines}).filter(pl.col("text") != "")
    split = pl.col("text").str.split(text.separator)
    frame = frame.select("line", split.list.first().alias("user"), split.list.slice(1).alias("item"))
    if (lonely := frame.filter(pl.col("item").list.len() == 0)).height:
        raise DataError(f"{text.source}: line {lonely['line'][0]} has a user and no items; expected user item item …")
    if repeated := frame.height - frame["user"].n_unique():
        raise DataError(
            f"{text.source}: {repeated:,} lines begin with a user that an earlier line begins with, such as line "
            f"{frame.filter(pl.col('user').is_duplicated())['line'][1]}; if the lines are pairs of user and item, name the "
            "columns with --columns user,item; otherwise join the lines of each user"
        )
    frame = frame.explode("item")
    numbers = frame["line"]
    names = {"user": "first field", "item": "other fields"}
    return Table(frame.select("user", "item"), text.source, list(names.values()), names, lambda row: f"line {numbers[row]}")


def _quotes_are_marks(text: _Text) -> bool:
    r"""Whether `"` encloses fields: some field begins with one. Between tabs it may be a letter, too: 7\t"Great" film."""
    data, separator = text.data, text.separator
    if text.separator == STAND_IN.decode() or text.shown == SPACE or not begins_quoted(data, separator):
        return False
    if separator != "\t":
        return True
    try:
        return not any("\n" in field for _, fields in _rows(text, quoted=True) for field in fields)
    except csv.Error:
        return False


def begins_quoted(data: bytes, separator: str) -> bool:
    """Whether some field begins with a quote."""
    begins = (b'"', UTF8_MARK + b'"')
    return data.startswith(begins) or any(edge + b'"' in data for edge in (separator.encode(), b"\n", b"\r"))


def _parse(text: _Text, start: int, header: Sequence[str], places: Mapping[str, int], *, quoted: bool) -> pl.DataFrame:
    names = [str(place) for place in range(len(header))]  # a header may hold one name twice
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(pa.py_buffer(text.data).slice(start)),
            pa_csv.ReadOptions(column_names=names, block_size=LONGEST_LINE),
            pa_csv.ParseOptions(delimiter=text.separator, quote_char='"' if quoted else False, newlines_in_values=quoted),
            pa_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.large_string()),
                strings_can_be_null=False,
                include_columns=[str(place) for place in dict.fromkeys(places.values())],
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(_what_is_ragged(text, header, quoted=quoted) or f"{text.source}: {error}") from error
    frame = cast("pl.DataFrame", pl.from_arrow(table))
    return frame.select(pl.col(str(place)).alias(role) for role, place in places.items())


def _what_is_ragged(text: _Text, header: Sequence[str], *, quoted: bool) -> str | None:
    lengths: Counter[int] = Counter()
    ragged: tuple[int, list[str]] | None = None
    try:
        for line, fields in _rows(text, quoted=quoted):
            lengths[len(fields)] += 1
            if ragged is None and len(fields) != len(header):
                ragged = line, fields
    except csv.Error as error:
        return f"{text.source}: a quoted field is not closed ({error}); quotes inside a quoted field are written twice"
    if ragged is None:
        return None
    line, fields = ragged
    broken = any("\n" in field for field in fields)
    advice = "close the quote that is opened there" if broken else "correct or remove the line"
    if not broken and lengths.total() > 3 and lengths[len(header)] < lengths.total() / 2:
        advice = (
            "most lines have another length than the header; a file with one user a line, followed by the items, is read with "
            "--format sequences, another separator is named with --separator"
        )
    return (
        f"{text.source}: line {line} has {len(fields)} field{'s' if len(fields) > 1 else ''}, expected {len(header)} as in the "
        f"header ({', '.join(header)[:300]}); {advice}"
    )


def _check_quotes(text: _Text) -> None:
    """Raise DataError, naming the line, unless every quoted field is closed where a field ends."""
    last = 0
    try:
        for last, _ in _rows(text, quoted=True, strict=True):  # noqa: B007 - needed when the next row fails
            pass
    except csv.Error as error:
        raise DataError(
            f"{text.source}: a quoted field that begins after line {last} is not closed where it should be ({error}); close it, "
            "and write a quote inside a quoted field twice"
        ) from error


def _rows(text: _Text, *, quoted: bool, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield the 1-based number of the first line and the fields of each row, the header first.

    A microsecond a row, many times what Arrow takes: for messages, and for files in which some field begins with a quote.
    """
    skipped = text.data.count(b"\n", 0, text.start)
    stream = io.TextIOWrapper(io.BytesIO(text.data[text.start :]), encoding="utf-8", newline="")
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with _long_fields():
        reader = csv.reader(stream, delimiter=text.separator, quoting=quoting, strict=strict)  # type: ignore[arg-type]  # an int
        line = 1
        for fields in reader:
            if fields:
                yield skipped + line, fields
            line = reader.line_num + 1
