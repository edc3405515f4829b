"""Atomic writes, locks between processes, checksums, Parquet and JSON."""

import errno
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ssd4rec.errors import first_line

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

# A file system without locks, such as some network disks: nobody can be kept out there.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` at the end of the block.

    The data are on the disk before the rename. If the block fails, the temporary file is removed and an existing file at
    `path` is unchanged. Temporary files of killed processes are removed by the next write to the same path. The permissions
    are those that the writer of the file chose: `open` follows the umask, safetensors restricts access to the owner.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        The temporary path, unique to this process.

    Raises:
        OSError: nothing was written, or `path` cannot be replaced.
    """
    prefix = f".{path.name}.partial-"
    with suppress(OSError):  # a leftover that cannot be listed or removed must not prevent the write
        for leftover in stale_temp_files(path.parent, prefix):
            leftover.unlink()
    partial = path.parent / f"{prefix}{os.getpid()}"
    try:
        yield partial
        sync([partial])  # without it, a power cut could leave the new name with half of the data
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            partial.unlink()
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write text as UTF-8 with `atomic_write`."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; at the end of the block rename it to `target`, replacing a folder of this name.

    If the block fails, the temporary folder is removed and an existing `target` is unchanged.

    Raises:
        OSError: a folder cannot be created or renamed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        replace_folder(new, target, old)


def replace_folder(new: Path, target: Path, old: Path) -> None:
    """Rename `new` to `target`, which becomes `old` if it exists; restore it if that fails."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


@contextmanager
def exclusive_lock(path: Path, busy: Exception, refused: Callable[[str], Exception]) -> Iterator[None]:
    """Hold a lock on a file inside the block; the system releases it when the process ends.

    On file systems without locks, the block runs unlocked.

    Args:
        path: the lock file; it and its folder are created if needed, and stay.
        busy: raised if another process holds the lock.
        refused: makes the exception to raise if the lock file cannot be created, from the reason.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - most users of this module lock nothing

    with ExitStack() as lock:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.enter_context(FileLock(path, timeout=0, fallback_to_soft=False))
        except Timeout as error:
            raise busy from error
        except NotImplementedError:  # filelock's answer to ENOSYS
            pass
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise refused(error.strerror or str(error)) from error
        yield


def sync(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(text: str, tensors: "Mapping[str, Tensor]") -> str:
    """Return the SHA-256 of a text and of every tensor's name, type, shape and bytes, as hexadecimal digits."""
    import torch  # noqa: PLC0415 - most users of this module have no tensors

    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_parquet(path: Path) -> "pl.DataFrame":
    """Read a whole Parquet file into memory.

    Given a path, Polars maps the file: if it is truncated while it is mapped, the system kills the process (SIGBUS).

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is damaged, or not Parquet.
    """
    import polars as pl  # noqa: PLC0415 - most users of this module read no table

    try:
        return pl.read_parquet(io.BytesIO(path.read_bytes()))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path.name} is not a readable Parquet file: {first_line(error)}") from error


def stale_temp_files(folder: Path, prefix: str) -> list[Path]:
    """List the entries named `prefix` plus the id of a process that no longer runs on this machine.

    An entry with the id of this process counts as stale: an earlier process with the same id left it. So does one of a
    process on another machine that shares the disk.

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
    r"""Return strict JSON: NaN and infinities become null, NumPy scalars numbers, paths strings.

    Args:
        value: mappings, lists, tuples, strings, paths, Python and NumPy numbers, True, False and None, nested.
        indent: spaces per level; None: a single line.
        ensure_ascii: write é as \u00e9.

    Raises:
        TypeError: a value of another type.
    """
    return json.dumps(_to_plain(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def escaped(text: str) -> str:
    r"""Escape bytes of a path that are not text: the file b"caf\xe9.csv" -> caf\udce9.csv."""
    return text.encode(errors="backslashreplace").decode()


def _to_plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {escaped(str(name)): _to_plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(each) for each in value]
    if isinstance(value, str | Path):
        return escaped(str(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a NumPy scalar; NumPy is not imported for this
        return _to_plain(value.item())
    return value
