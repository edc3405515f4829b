"""Downloads that go on where they were cut: NAME.part grows by HTTP ranges, is checked, and then takes its name.

NAME.origin stays beside both: the address that they came from and, in a second line, the ETag or date of that copy.
"""

import hashlib
import http.client
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ssd4rec._io import exclusive_lock
from ssd4rec.datasets.addresses import as_asked
from ssd4rec.errors import DataError

BLOCK = 1 << 16  # bytes
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 3  # in a row that bring nothing
NUMBER = "[0-9]{1,18}"  # of bytes
OTHERWISE = "or give the file, or another address of it, with --from"

# (bytes there, bytes in all), None where the server does not say how many
Progress = Callable[[int, int | None], None]


class _CutError(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class _Part:
    """An unfinished download."""

    address: str
    path: Path  # NAME.part
    origin: Path  # NAME.origin
    file: FileIO  # opened to append

    @property
    def size(self) -> int:
        return self.file.seek(0, os.SEEK_END)

    def empty(self) -> None:
        self.file.truncate(0)
        self.origin.unlink(missing_ok=True)

    def append(self, block: bytes) -> None:
        left = memoryview(block)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise DataError(
                f"cannot write {self.path}: {error.strerror or error}; {self.size:,} bytes are kept: make room and run it again"
            ) from error


def download(address: str, target: Path, checksum: str | None = None, progress: Progress | None = None) -> None:
    """Download a file, or what is missing of it.

    Args:
        address: http or https.
        target: the file to make; `target`.part is what there is of it until it is whole.
        checksum: "md5:…" or "sha256:…"; None: nothing but the length is checked, and what is here already is taken only if it
            came from the same address.
        progress: called with the bytes that are there and the bytes in all.

    Raises:
        DataError: no answer, an answer other than the file, a connection that ends early again and again, a file of another
            checksum (it is removed), an empty file, a folder that cannot be written, another process at the same file.
    """
    if not address.startswith(("http://", "https://")):
        raise DataError(f"{address} is no http or https address; name a file, or an address of that kind")
    address = as_asked(address)
    kind = (checksum or "").partition(":")[0]
    if target.exists():
        if hash_of(target, kind) == checksum if checksum else _came_from(_origin_of(target))[0] == address:
            return
        discard(target)
    with _part_of(address, target) as part:
        _fill(part, progress or (lambda _done, _total: None), checked=checksum is not None)
        if not part.size:
            raise DataError(f"{address} answered with an empty file; try later, {OTHERWISE}")
        if checksum is not None and (found := hash_of(part.path, kind)) != checksum:
            part.empty()
            raise DataError(
                f"{address}: the file has {found}, its publisher states {checksum}; it was removed: run it again, {OTHERWISE}"
            )
        part.path.replace(target)


def discard(target: Path) -> None:
    """Remove a file that was downloaded, if it is there."""
    target.unlink(missing_ok=True)
    _origin_of(target).unlink(missing_ok=True)


def hash_of(path: Path, kind: str) -> str:
    """The checksum of a file, "md5:…" or "sha256:…", as the kind says."""
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()}"


@contextmanager
def _part_of(address: str, target: Path) -> Iterator[_Part]:
    path = target.with_name(f"{target.name}.part")
    busy = DataError(f"{path} is being downloaded by another process; wait for it")

    def refused(why: str) -> DataError:
        return DataError(f"cannot write {path}: {why}; set XDG_CACHE_HOME to a folder that can be")

    lock = target.with_name(f".{target.name}.lock")
    with exclusive_lock(lock, busy, refused), path.open("ab", buffering=0) as file:
        part = _Part(address, path, _origin_of(target), file)
        try:
            yield part
        finally:
            lock.unlink(missing_ok=True)
            if not part.size:
                path.unlink(missing_ok=True)
                part.origin.unlink(missing_ok=True)


def _origin_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.origin")


def _came_from(origin: Path) -> tuple[str, str]:
    """An address and a version; empty where they are not known."""
    address, _, version = (origin.read_text(encoding="utf-8", errors="replace") if origin.exists() else "").partition("\n")
    return address, version


def _fill(part: _Part, progress: Progress, *, checked: bool) -> None:
    most, in_vain = part.size, 0
    while True:
        try:
            _receive(part, progress, checked=checked)
        except _CutError as error:
            in_vain = 0 if part.size > most else in_vain + 1
            most = max(most, part.size)
            if in_vain == ATTEMPTS:
                raise DataError(
                    f"{part.address}: {error}; {part.size:,} bytes are kept in {part.path}: run it again to go on, {OTHERWISE}"
                ) from error
        else:
            return


def _receive(part: _Part, progress: Progress, *, checked: bool) -> None:
    """Ask for what is missing and append it."""
    address, version = _came_from(part.origin)
    if part.size and not checked and (address != part.address or not version):
        part.empty()  # it could be a piece of another copy, and nothing would tell
    done = part.size
    response = _ask(part, done, version)
    if response is None:
        return
    with response:
        if response.status == http.client.PARTIAL_CONTENT:
            total = _total_of_range(part, response.headers, done)
        else:  # the whole file: it is another one by now, or the server has no ranges
            part.empty()
            done, total = 0, _length(response.headers)
            part.origin.write_text(f"{part.address}\n{_version(response.headers)}", encoding="utf-8")
        progress(done, total)
        for block in _blocks(response):
            part.append(block)
            done += len(block)
            progress(done, total)
    if total is not None and done < total:
        raise _CutError(f"the connection ended after {done:,} of {total:,} bytes")
    if total is None and response.status == http.client.PARTIAL_CONTENT:
        raise _CutError(f"of how many bytes these {done:,} are was not said")  # the next answer tells whether there are more


def _ask(part: _Part, done: int, version: str) -> http.client.HTTPResponse | None:
    """The answer to a request for what comes after the first `done` bytes; None: nothing does."""
    headers = {"User-Agent": f"ssd4rec/{metadata.version('ssd4rec')}", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", **({"If-Range": version} if version else {})}
    request = Request(part.address, headers=headers)  # noqa: S310 - http or https, see download
    try:
        answer: http.client.HTTPResponse = urlopen(request, timeout=TIMEOUT)  # noqa: S310 - the same
    except HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            if error.headers.get("Content-Range") == f"bytes */{done}":
                return None
            part.empty()  # longer than the file
            raise _CutError("the kept part does not fit the file") from error
        raise DataError(f"{part.address} answered {error.code} {_one_line(error.reason)}; try later, {OTHERWISE}") from error
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:  # the last two: where it is sent on to
        reason = error.reason if isinstance(error, URLError) else error
        raise DataError(
            f"no answer from {part.address} ({_one_line(reason)}); check the network and run it again, {OTHERWISE}"
        ) from error
    else:
        return answer


def _total_of_range(part: _Part, headers: Message, done: int) -> int | None:
    """The bytes of the whole file; the answer may hold fewer than were asked for.

    Content-Range: bytes 200000-299999/857703; an asterisk where the server does not know.
    """
    found = re.fullmatch(rf"bytes ({NUMBER})-{NUMBER}/({NUMBER}|\*)", str(headers.get("Content-Range")).strip())
    if not done or not found or int(found[1]) != done:
        part.empty()
        raise _CutError("another part of the file came than was asked for")
    return None if found[2] == "*" else int(found[2])


def _length(headers: Message) -> int | None:
    """Content-Length, which a proxy may have doubled ("857703, 857703"); None where there is none that can be read."""
    stated = {each.strip() for each in str(headers.get("Content-Length", "")).split(",")}
    length = stated.pop()
    return int(length) if not stated and re.fullmatch(NUMBER, length) else None


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())


def _version(headers: Message) -> str:
    """What If-Range takes: a strong ETag or a date; nothing if there is neither."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = response.read1(BLOCK)  # what is there, not a full block: less is lost when it is cut
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection broke ({error})") from error
        if not block:
            return
        yield block
