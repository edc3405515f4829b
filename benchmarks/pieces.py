"""Long benchmarks in pieces: results are cached for half a day, so that an interrupted benchmark continues."""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from common import commit
from ssd4rec.datasets.registry import cache_folder

HOURS_KEPT = 12
# a folder of NAME.inter.gz, as `ssd4rec data list` names them
DATA = Path(os.environ.get("SSD4REC_DATA", Path(__file__).parents[2] / "shared" / "data"))


class Piece(NamedTuple):
    """One measurement, and when it was made."""

    result: dict[str, Any]
    measured: str  # "2026-11-21 10:02 at 1a2b3c4"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --only, --state and --again."""
    parser.add_argument("--only", action="append", metavar="NAME", help="this piece alone; repeatable")
    parser.add_argument("--state", type=Path, default=cache_folder(os.environ) / "benchmarks", help="folder of finished pieces")
    parser.add_argument("--again", action="store_true", help=f"measure pieces again that are less than {HOURS_KEPT} hours old")


def select(names: list[str], only: list[str] | None) -> list[str]:
    """Return the names in --only; without it, all names."""
    if unknown := [name for name in only or [] if name not in names]:
        sys.exit(f"--only {unknown[0]}: unknown piece; the pieces are {', '.join(names)}")
    return [name for name in names if not only or name in only]


def piece(name: str, settings: dict[str, Any], options: argparse.Namespace, work: Callable[[], dict[str, Any]]) -> Piece:
    """Return the cached result of a piece with these settings, or measure it.

    Args:
        name: of the piece.
        settings: JSON values that decide the result.
        options: with the attributes of `add_options`.
        work: makes the measurement. A result with the key "failed" is not cached.
    """
    stamp = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    file = options.state / f"{name}-{stamp}.json"
    if not options.again and file.is_file() and time.time() - file.stat().st_mtime < HOURS_KEPT * 3600:
        cached = json.loads(file.read_text(encoding="utf-8"))
        say(f"{name}: measured {cached['measured']}, cached in {file}; --again measures again")
        return Piece(cached["result"], cached["measured"])
    say(f"{name}: measuring")
    began = time.monotonic()
    result = work()
    measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M} at {commit()}"
    say(f"{name}: {result.get('failed', 'done')}, {time.monotonic() - began:.0f} s")
    if "failed" not in result:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"settings": settings, "measured": measured, "result": result}), encoding="utf-8")
        partial.replace(file)
    return Piece(result, measured)


def say(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)
