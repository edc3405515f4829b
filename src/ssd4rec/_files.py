"""A file that is whole or absent: it is written under another name, and takes its own at the end. And JSON, in one manner."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Where to write a file: beside `path`, hidden; it takes the name at the end of the block, when it is on the disk.

    However the block fails, what was written is removed and a file that was at `path` before stays. What a killed process left
    goes with the next file of the name. Who may read the file is what its writer made it: for all that the umask leaves with
    `open`, for its owner alone with safetensors.

    Args:
        path: of the file; its folder is there.

    Yields:
        The path to write to, this process's own.

    Raises:
        OSError: nothing was written, or `path` cannot be replaced.
    """
    prefix = f".{path.name}.partial-"
    with suppress(OSError):  # what cannot be listed or removed is no reason not to write
        for left in stale_temp_files(path.parent, prefix):
            left.unlink()
    partial = path.parent / f"{prefix}{os.getpid()}"
    try:
        yield partial
        sync([partial])  # else a power cut could leave the new name with half of what it stands for
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # there may be no such file or folder: the first error is the one to tell
            partial.unlink()
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text in UTF-8 as a file that is whole or absent."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sync(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """In hexadecimal digits, of what is in a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stale_temp_files(folder: Path, prefix: str) -> list[Path]:
    """What processes of this machine that are no more have left: entries named `prefix` and the number of the process.

    This process's own number is among the dead ones: who had it before has left it. Of a process on another machine with the
    same disk nothing is known: it is taken for dead, and its write fails.

    Raises:
        OSError: the folder cannot be listed.
    """
    numbered = {entry: entry.name.removeprefix(prefix) for entry in folder.iterdir() if entry.name.startswith(prefix)}
    return [entry for entry, number in numbered.items() if number.isdecimal() and not _is_another_alive(int(number))]


def _is_another_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def as_json(value: object, *, indent: int | None = None, ensure_ascii: bool = False) -> str:
    r"""What any reader of JSON takes: a number that is none becomes null, a number of numpy's a number, a path a text.

    Args:
        value: mappings, lists, tuples, texts, paths, numbers of Python and numpy, True, False and None, in each other.
        indent: blanks a level; None: all on one line.
        ensure_ascii: write é as \u00e9.

    Raises:
        TypeError: there is something else in it.
    """
    return json.dumps(_sayable(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def escaped(text: str) -> str:
    r"""Paths need not be text: the file b"caf\xe9.csv" -> caf\udce9.csv."""
    return text.encode(errors="backslashreplace").decode()


def _sayable(value: object) -> object:
    if isinstance(value, Mapping):
        return {escaped(str(name)): _sayable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    if isinstance(value, str | Path):
        return escaped(str(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a number of numpy's, which is not imported for this
        return _sayable(value.item())
    return value
