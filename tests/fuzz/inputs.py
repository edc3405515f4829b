"""Generators of inputs for the fuzz campaign: mostly well formed, sometimes unusual, sometimes damaged."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

Rng = np.random.Generator
IDS = (
    "1",
    "7",
    "007",
    "u1",
    "NA",
    "",
    " x",
    "-1",
    "0",
    "é",
    "a,b",
    'say "x"',
    "\\N",
    "9" * 30,
    "1.5",
    "\u202e",
    "[1, 2]",
    "#1",
    "\x1b[31m",
)
TIMES = (
    "0",
    "1",
    "978300760",
    "1650882384975",
    "2016-01-31",
    "2016-01-31T18:05:00+02:00",
    "31/01/2016",
    "20160131180500",
    "1e9",
    "nan",
    "-5",
)
JSON_VALUES = (1, 2**63, 2**64, 10**400, 1.5, float("nan"), float("inf"), True, None, "x", "\ud800", [], [1, "2"], {"k": {}}, "")
HEADERS = (
    ("user_id", "item_id", "timestamp"),
    ("user_id:token", "item_id:token", "timestamp:float"),
    ("userId", "movieId", "rating", "timestamp"),
    ("user", "item", "date", "time"),
    ("user", "item", "year", "month", "day"),
    ("session_id:token", "item_id_list:token_seq", "item_id:token"),
    ("a", "b", "c"),
    ("196", "242", "3", "881250949"),
)


INSERTED = (b"\0" * 64, b'"', b"\xff\xfe", b"\r", b"\n", b"9" * 5000, b"\xed\xa0\x80", b"[", b"{")


def pick(rng: Rng, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def value_of(rng: Rng, name: str, odd: float) -> str:
    if name.startswith(("time", "date")):
        return str(pick(rng, TIMES)) if rng.random() < odd else str(int(rng.integers(978_300_000, 978_400_000)))
    if name in {"year", "month", "day", "rating"}:
        return str(int(rng.integers(1, 32)))
    return str(pick(rng, IDS)) if rng.random() < odd else f"{name[:1]}{int(rng.integers(20))}"


def table(rng: Rng) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return a header and rows; in most tables every value is usual."""
    usual = rng.random() < 0.8
    header, odd = pick(rng, HEADERS[:3] if usual else HEADERS), float(pick(rng, [0.0, 0.0, 0.0, 0.05, 0.3]))
    return header, [[value_of(rng, name, odd) for name in header] for _ in range(int(rng.integers(1, 60)))]


def delimited(rng: Rng) -> bytes:
    header, rows = table(rng)
    usual = rng.random() < 0.8
    separator = str(pick(rng, [",", "\t", ";"] if usual else ["|", "::", " ", "\x01"]))
    end = str(pick(rng, ["\n", "\r\n"] if usual else ["\n", "\r"]))
    quote = rng.random() < 0.3
    lines = [separator.join(header)] if usual or rng.random() < 0.5 else []
    lines += [separator.join(_field(value, separator, quote) for value in row) for row in rows]
    start = "" if usual else str(pick(rng, ["\ufeff", "# about\n", "sep=;\n", "\n\n"]))
    return (start + end.join(lines) + end).encode(errors="surrogatepass")


def _field(value: str, separator: str, quote: bool) -> str:
    if quote or separator in value:
        return '"' + value.replace('"', '""') + '"'
    return value


def sequences(rng: Rng) -> bytes:
    shortest = int(pick(rng, [0, 1, 1, 1]))
    lines = [
        " ".join([str(user), *(str(int(item)) for item in rng.integers(0, 30, rng.integers(shortest, 12)))]) for user in range(20)
    ]
    return "\n".join(lines).encode()


def json_lines(rng: Rng) -> bytes:
    header, rows = table(rng)
    objects, odd = [dict(zip(header, row, strict=True)) for row in rows], float(pick(rng, [0.0, 0.0, 0.0, 0.05, 0.3]))
    for value in objects:
        if rng.random() < odd:
            value[str(pick(rng, [*header, "other"]))] = pick(rng, JSON_VALUES)
    if rng.random() < 0.3:
        return json.dumps(objects).encode()
    text = "\n".join(json.dumps(value) for value in objects)
    if rng.random() < 0.05:
        text += '\n{"user_id": "u", "item_id": "i", "x": ' + "[" * 5000 + "]" * 5000 + "}"
    return text.encode()


def parquet(rng: Rng) -> bytes:
    header, rows = table(rng)
    columns = list(zip(*rows, strict=True))
    frame = pl.DataFrame({name: list(values) for name, values in zip(header, columns, strict=True)})
    if rng.random() < 0.3:
        frame = frame.with_columns(pl.col(header[1]).str.split(" "))
    file = io.BytesIO()
    frame.write_parquet(file, compression=pick(rng, ["zstd", "snappy", "uncompressed"]))
    return file.getvalue()


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", data)
    return file.getvalue()


def as_written(data: bytes) -> bytes:
    return data


KINDS: dict[str, tuple[str, Callable[[Rng], bytes], Callable[[bytes], bytes]]] = {
    "delimited": ("log.csv", delimited, as_written),
    "tabs": ("log.tsv", delimited, as_written),
    "sequences": ("log.txt", sequences, as_written),
    "json": ("log.json", json_lines, as_written),
    "parquet": ("log.parquet", parquet, as_written),
    "gzip": ("log.csv.gz", delimited, lambda data: gzip.compress(data, 1)),
    "bzip2": ("log.csv.bz2", delimited, bz2.compress),
    "xz": ("log.csv.xz", delimited, lambda data: lzma.compress(data, preset=0)),
    "zip": ("log.zip", delimited, zipped),
}


def file_content(rng: Rng) -> tuple[str, bytes]:
    """Return the name and the bytes of a file; of a compressed file, its content or the whole may be damaged."""
    name, make, compress = KINDS[pick(rng, list(KINDS))]
    data = make(rng)
    state = rng.random()
    if state < 0.25:
        data = damaged(rng, data)
    data = compress(data)
    if state > 0.9:
        data = damaged(rng, data)
    return (name if rng.random() < 0.97 else str(pick(rng, OTHER_NAMES))), data


OTHER_NAMES = ("log.tsv", "log.parquet", "log.jsonl", "log.csv.zst", "log", "log.xlsx")


def damaged(rng: Rng, data: bytes) -> bytes:
    """Flip, replace, remove, repeat and insert a few bytes, or cut the end."""
    array = bytearray(data)
    for _ in range(int(pick(rng, [1, 1, 2, 5, 20]))):
        if not array:
            break
        place = int(rng.integers(len(array)))
        action = int(rng.integers(6))
        if action == 0:
            array[place] ^= 1 << int(rng.integers(8))
        elif action == 1:
            array[place] = int(rng.integers(256))
        elif action == 2:
            del array[place : place + int(rng.integers(1, 40))]
        elif action == 3:
            array[place:place] = array[place : place + int(rng.integers(1, 200))]
        elif action == 4:
            array[place:place] = pick(rng, INSERTED)
        else:
            del array[place:]
    return bytes(array)
