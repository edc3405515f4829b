"""Feed damaged and unusual inputs to every reader; count exceptions that are not the library's own. The goal is 0.

Run: python tests/fuzz/campaign.py [--cases 10000] [--seed 2024] [--minutes 15]

Each case is a well-formed input of one kind with random damage: flipped, removed, repeated and inserted bytes, cut ends,
unusual values and structures. A case fails if reading raises anything but SSD4RecError, or if its message is longer than
2,000 characters. The process exits with 1 if a case failed, and prints the seed of each such case.
"""

import argparse
import bz2
import gzip
import io
import json
import lzma
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ssd4rec.data.columns import Columns
from ssd4rec.data.interactions import ReadOptions, read_interactions, read_titles
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import leave_last_out, split_by_time
from ssd4rec.errors import SSD4RecError

LONGEST_MESSAGE = 2000
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
    header, odd = pick(rng, HEADERS), float(pick(rng, [0.0, 0.0, 0.05, 0.3]))
    return header, [[value_of(rng, name, odd) for name in header] for _ in range(int(rng.integers(1, 60)))]


def delimited(rng: Rng) -> bytes:
    header, rows = table(rng)
    separator, end = str(pick(rng, [",", "\t", ";", "|", "::", " ", "\x01"])), str(pick(rng, ["\n", "\r\n", "\r"]))
    quote = rng.random() < 0.3
    lines = [separator.join(header)] if rng.random() < 0.8 else []
    lines += [separator.join(f'"{value}"' if quote else value for value in row) for row in rows]
    start = str(pick(rng, ["", "\ufeff", "# about\n", "sep=;\n", "\n\n"]))
    return (start + end.join(lines) + end).encode(errors="surrogatepass")


def sequences(rng: Rng) -> bytes:
    lines = [" ".join([str(user), *(str(int(item)) for item in rng.integers(0, 30, rng.integers(0, 12)))]) for user in range(20)]
    return "\n".join(lines).encode()


def json_lines(rng: Rng) -> bytes:
    header, rows = table(rng)
    objects, odd = [dict(zip(header, row, strict=True)) for row in rows], float(pick(rng, [0.0, 0.05, 0.3]))
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


KINDS: dict[str, tuple[str, Callable[[Rng], bytes]]] = {
    "delimited": ("log.csv", delimited),
    "sequences": ("log.txt", sequences),
    "json": ("log.json", json_lines),
    "parquet": ("log.parquet", parquet),
    "gzip": ("log.csv.gz", lambda rng: gzip.compress(delimited(rng))),
    "bzip2": ("log.csv.bz2", lambda rng: bz2.compress(delimited(rng))),
    "xz": ("log.csv.xz", lambda rng: lzma.compress(delimited(rng))),
    "zip": ("log.zip", lambda rng: zipped(delimited(rng))),
}


def damage(rng: Rng, data: bytes) -> bytes:
    """Change a few bytes, or none."""
    array = bytearray(data)
    for _ in range(int(pick(rng, [0, 0, 1, 1, 2, 5, 20]))):
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
            array[place:place] = pick(
                rng, [b"\0" * 64, b'"', b"\xff\xfe", b"\r", b"\n", b"9" * 5000, b"\xed\xa0\x80", b"[", b"{"]
            )
        else:
            del array[place:]
    return bytes(array)


def read_options(rng: Rng) -> ReadOptions:
    if rng.random() < 0.6:
        return ReadOptions()
    return ReadOptions(
        names=pick(rng, [(), (), ("user", "item", "time"), ("user", "item", "_")]),
        separator=pick(rng, [None, ",", "::", "space", '"', "", "\n"]),
        layout=pick(rng, ["auto", "sequences", "interactions"]),
        where=pick(rng, [None, "user_id = 'u1'", "timestamp > 5", "1 =", "item LIKE '%'", "user_id IN (SELECT 1)"]),
        min_rating=pick(rng, [None, None, 3.0]),
        time_format=pick(rng, [None, None, "%Y", "%d/%m/%Y", "%%", "%"]),
        constant_user=pick(rng, [None, None, "me"]),
        drop_missing=bool(rng.random() < 0.5),
        duplicates=pick(rng, ["keep", "drop"]),
    )


def frame_case(rng: Rng) -> None:
    """Read a frame of Python objects."""
    header = pick(rng, HEADERS[:4])
    values = [*JSON_VALUES, b"x", 3 + 4j, ("a", 1), np.int64(3), np.nan]
    odd = float(pick(rng, [0.0, 0.1, 0.3]))
    columns = {name: [pick(rng, values) if rng.random() < odd else "7" for _ in range(8)] for name in header}
    if rng.random() < 0.5:
        import pandas as pd  # noqa: PLC0415 - the other half needs polars alone

        source: Any = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})
    else:
        source = pl.DataFrame({name: pl.Series(column, dtype=pl.Object) for name, column in columns.items()})
    follow(read_interactions(source, Columns(), read_options(rng)))


def file_case(rng: Rng, folder: Path) -> None:
    """Read a damaged file."""
    name, make = KINDS[pick(rng, list(KINDS))]
    path = folder / (name if rng.random() < 0.95 else str(pick(rng, ["log.tsv", "log.parquet", "log.jsonl", "log.csv.zst"])))
    path.write_bytes(damage(rng, make(rng)))
    if rng.random() < 0.1:
        read_titles(path)
    else:
        follow(read_interactions(path, Columns(), read_options(rng)))


def follow(interactions: Any) -> None:
    """Use what was read: every accepted input must give sequences and splits."""
    sequences, _ = build_sequences(interactions, 1)
    for split in (leave_last_out, split_by_time):
        with suppress(SSD4RecError):  # too few events for a split
            split(sequences, learned=False)


def run(cases: int, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Return the outcomes and the failures."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in range(cases):
            if time.monotonic() > end:
                break
            rng = np.random.default_rng([seed, case])
            try:
                frame_case(rng) if rng.random() < 0.15 else file_case(rng, Path(folder))
                outcomes["read"] += 1
            except SSD4RecError as error:
                outcomes["refused"] += 1
                if len(str(error)) > LONGEST_MESSAGE or "\n" in str(error):
                    failures.append(f"case {case}: message of {len(str(error)):,} characters: {str(error)[:200]!r}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "ssd4rec" in frame.filename]
                place = ours[-1] if ours else traceback.extract_tb(error.__traceback__)[-1]
                failures.append(f"case {case}: {type(error).__name__}: {str(error)[:200]!r} ({place.filename}:{place.lineno})")
    return outcomes, failures


def main() -> None:
    """Run the campaign and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--minutes", type=float, default=15.0)
    arguments = parser.parse_args()
    began = time.monotonic()
    outcomes, failures = run(arguments.cases, arguments.seed, arguments.minutes * 60)
    done = outcomes.total() + len([each for each in failures if "message of" not in each])
    sys.stdout.write("\n".join(failures[:50]) + ("\n" if failures else ""))
    sys.stdout.write(
        f"{done:,} cases in {time.monotonic() - began:.0f} s: {outcomes['read']:,} read, {outcomes['refused']:,} refused with a "
        f"clear error, {len(failures):,} failures (seed {arguments.seed})\n"
    )
    sys.exit(1 if failures or done < arguments.cases else 0)


if __name__ == "__main__":
    main()
