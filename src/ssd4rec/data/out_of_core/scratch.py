"""The working folder of a build: events as flat binary columns, and small records of how far each stage came."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssd4rec._io import write_atomically
from ssd4rec.errors import DataError, first_line

DTYPES: dict[str, np.dtype[Any]] = {"user": np.dtype(np.int32), "item": np.dtype(np.int32), "time": np.dtype(np.int64)}

Block = dict[str, npt.NDArray[Any]]  # column -> [rows]


class EventFile:
    """Events as one binary file a column, appended to and read in blocks."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = {column: folder / f"{name}.{column}" for column in DTYPES}

    def append(self, block: Block) -> None:
        """Add rows at the end."""
        for column, path in self._paths.items():
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(block[column], dtype=DTYPES[column]).data)

    def cut(self, rows: int) -> None:
        """Forget all rows but the first ones: a killed process may have written more than it recorded."""
        for column, path in self._paths.items():
            with path.open("ab") as file:
                file.truncate(rows * DTYPES[column].itemsize)

    def blocks(self, rows_at_once: int, columns: tuple[str, ...] = tuple(DTYPES)) -> Iterator[Block]:
        """Yield the rows in order, at most so many at once."""
        with ExitStack() as stack:
            files = {column: stack.enter_context(self._paths[column].open("rb")) for column in columns}
            while True:
                block = {column: np.fromfile(file, DTYPES[column], rows_at_once) for column, file in files.items()}
                if not len(block[columns[0]]):
                    return
                yield block

    def read(self) -> Block:
        """Return all rows; none where nothing was appended."""
        empty = {column: np.zeros(0, dtype) for column, dtype in DTYPES.items()}
        return next(self.blocks(-1), empty) if self._paths["user"].exists() else empty

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths.values():
            path.unlink(missing_ok=True)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record of progress, complete or not at all."""
    write_atomically(path, json.dumps(record))


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a record of progress, or None where there is none."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def choose_once(path: Path, choose: Callable[[], int]) -> int:
    """Return a number as the first run of a build chose it: a resumed one has other free memory."""
    record = read_record(path)
    if record is None:
        record = {"number": choose()}
        write_record(path, record)
    return int(record["number"])


def damaged(folder: Path, error: Exception) -> DataError:
    """Return the error for a working folder whose files were changed or cut."""
    return DataError(f"the unfinished build in {folder} is damaged ({first_line(error)}); remove this folder and build again")
