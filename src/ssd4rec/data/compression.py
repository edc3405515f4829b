"""Compressed files as bytes: gzip, bzip2, xz, Zstandard and zip, by their first bytes and with a bound on their expansion."""

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ssd4rec.errors import DataError, first_line

FORMATS: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
OPENERS: dict[str, Callable[[Path], Any]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "Zstandard": lambda path: pa.input_stream(str(path), compression="zstd"),
}
DAMAGED = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    OSError,
)
AT_ONCE = 1 << 22  # bytes
ALWAYS_ALLOWED = 1 << 26  # decompressed bytes


def format_of(head: bytes) -> str | None:
    """Return the compression of a file that begins with these bytes; None: not compressed."""
    return next((name for magic, name in FORMATS.items() if head.startswith(magic)), None)


def decompress(path: Path, kind: str, max_expansion: float, readable: Callable[[str], bool]) -> tuple[str, bytes]:
    """Decompress a file.

    Args:
        path: a compressed file.
        kind: its compression, from `format_of`.
        max_expansion: the most decompressed bytes per compressed byte, above 64 MB.
        readable: whether a file of this name inside of a zip file can be read.

    Returns:
        The name of the content and the content.

    Raises:
        DataError: the file is damaged, cut short or encrypted, expands too much, or is a zip file without exactly one readable
            file.
    """
    size = path.stat().st_size
    try:
        if kind == "zip":
            return _from_zip(path, size, max_expansion, readable)
        with OPENERS[kind](path) as stream:
            return path.name, _bounded(path, stream, size, max_expansion)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, gzip.BadGzipFile):
            raise
        state = f"cut short after {size:,} bytes" if isinstance(error, EOFError) else f"damaged ({first_line(error)})"
        raise DataError(f"{path}: the {kind} file is {state}; copy or download it again") from error


def _bounded(path: Path, stream: IO[bytes], compressed: int, max_expansion: float) -> bytes:
    blocks, size = [], 0
    limit = max(ALWAYS_ALLOWED, int(max_expansion * compressed))
    while block := stream.read(AT_ONCE):
        blocks.append(block)
        size += len(block)
        if size > limit:
            raise DataError(
                f"{path}: {compressed:,} compressed bytes expand to more than {limit:,}, which is not usual for interactions; if "
                f"the file is right, allow it with --set data.max_expansion=100000"
            )
    return b"".join(blocks)


def _from_zip(path: Path, size: int, max_expansion: float, readable: Callable[[str], bool]) -> tuple[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
        files = [name for name in members if readable(name)]
        if len(files) != 1:
            inside = f"it holds {', '.join(members[:8]) or 'nothing'}{' …' if len(members) > 8 else ''}"
            raise DataError(f"{path}: expected a zip file with one table, {inside}; extract the table and give its path")
        if archive.getinfo(files[0]).flag_bits & 1:
            raise DataError(f"{path}: the zip file is encrypted; extract {files[0]} and give its path")
        with archive.open(files[0]) as stream:
            return files[0].rpartition("/")[2], _bounded(path, stream, size, max_expansion)
