"""Long benches in pieces: what is finished is kept for half a day, so that an interrupted bench goes on where it stopped."""

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
    """--only, --state and --anew."""
    parser.add_argument("--only", action="append", metavar="NAME", help="this piece alone; repeatable")
    parser.add_argument("--state", type=Path, default=cache_folder(os.environ) / "benchmarks", help="finished pieces lie here")
    parser.add_argument("--anew", action="store_true", help=f"measure pieces again that are less than {HOURS_KEPT} hours old")


def chosen(names: list[str], only: list[str] | None) -> list[str]:
    """The names that --only asks for; all of them without it."""
    if unknown := [name for name in only or [] if name not in names]:
        sys.exit(f"--only {unknown[0]}: there is no such piece; pieces are {', '.join(names)}")
    return [name for name in names if not only or name in only]


def piece(name: str, settings: dict[str, Any], options: argparse.Namespace, work: Callable[[], dict[str, Any]]) -> Piece:
    """What was kept of a piece with these settings, or its measurement, kept from now on.

    Args:
        name: of the piece.
        settings: JSON-able; whatever changes the figures.
        options: with the attributes of `add_options`.
        work: makes the measurement. A result with the key "failed" is not kept.
    """
    stamp = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    file = options.state / f"{name}-{stamp}.json"
    if not options.anew and file.is_file() and time.time() - file.stat().st_mtime < HOURS_KEPT * 3600:
        kept = json.loads(file.read_text(encoding="utf-8"))
        say(f"{name}: measured {kept['measured']}, kept in {file}; --anew measures again")
        return Piece(kept["result"], kept["measured"])
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
    """One line for people, on standard error."""
    print(line, file=sys.stderr, flush=True)
