"""Fetch a named data set: download or read a file, check its counts, and keep it as Parquet. Downloads and hashes by pooch."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ssd4rec._io import exclusive_lock
from ssd4rec.data.k_core import Counts
from ssd4rec.datasets.archives import Opened, PublishedFile, read_files
from ssd4rec.datasets.packages import PACKAGES
from ssd4rec.datasets.registry import PACKAGE, NamedDataset, about, check_counts, folder_of, open_dataset, where
from ssd4rec.datasets.store import ELSEWHERE, About, is_stored, load_dataset, save_dataset
from ssd4rec.errors import DataError, first_line

COUNTS_ONLY = "counts only"
OTHERWISE = "try again later, or give a file or another address of it with --from"
TIMEOUT = 60  # seconds without a byte

# Called with the name of a file; returns a callback for the bytes received and the total (None: unknown).
ProgressOf = Callable[[str], Callable[[int, int | None], None]]


@dataclass(frozen=True)
class Fetched:
    """A data set that can be opened by its name."""

    name: str
    folder: str
    source: str  # addresses, a path or a package
    checked: str  # what was compared besides the counts
    raw: Counts
    kept: Counts  # after the 5-core
    titles: int
    notes: tuple[str, ...]  # warnings
    was_there: bool  # nothing was done


def fetch(dataset: NamedDataset, cache: Path, source: str | None = None, progress_of: ProgressOf | None = None) -> Fetched:
    """Bring a data set into the cache, so that `open_dataset` opens it.

    Args:
        dataset: the data set.
        cache: the folder of `cache_folder`.
        source: a file (the publisher's archive or table; `.inter`, CSV, Parquet and so on) or another http address of one;
            None: the publisher's addresses or the package, unless the data set is in the cache already.
        progress_of: reports the progress of a download.

    Raises:
        DataError: the download failed, the file is damaged or not this data set, the cache cannot be written, another process
            fetches this data set, or `source` is an address of another kind than http.
        BackendError: the package of the data set is not installed.
    """
    folder = folder_of(dataset, cache)
    if source is None and is_stored(folder):
        with suppress(DataError):  # damaged: fetched again
            return _describe(dataset, cache, was_there=True)
    busy = DataError(f"another process is fetching {dataset.name}; wait for it")

    def refused(reason: str) -> DataError:
        return DataError(f"cannot write {cache}: {reason}; {ELSEWHERE}")

    with exclusive_lock(cache / f".{dataset.name}.lock", busy, refused):
        try:
            _keep(dataset, cache, *_contents(dataset, cache, source, progress_of))
        except OSError as error:
            raise refused(f"{error.filename or cache}: {error.strerror or error}") from error
    return _describe(dataset, cache, was_there=False)


def _contents(dataset: NamedDataset, cache: Path, source: str | None, progress_of: ProgressOf | None) -> tuple[Opened, About]:
    """Return the contents of a data set, where they come from, and what was compared besides the counts."""
    if source is None and dataset.name in PACKAGES:
        return open_dataset(dataset.name), about(dataset, where(dataset), PACKAGE)
    if source is not None and not source.lower().startswith(("http://", "https://")):
        if "://" in source and not Path(source).exists():
            raise DataError(f"{source} is not an http or https address; give one, or a file")
        contents = read_files([Path(source)], dataset.table, dataset.titles)
        return contents, about(dataset, source, _as_stated(_matching_checksum(dataset, Path(source))))
    files = dataset.files if source is None else (_at_address(dataset, source),)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download.") as folder:
        paths = [_download(file, Path(folder), progress_of) for file in files]
        try:
            contents = read_files(paths, dataset.table, dataset.titles)
        except DataError as error:  # the file is gone: name its address
            raise DataError(str(error).replace(f"{folder}/", f"{files[0].address.rpartition('/')[0]}/")) from error
    return contents, about(dataset, " ".join(file.address for file in files), _as_stated(files[0].checksum))


def _download(file: PublishedFile, folder: Path, progress_of: ProgressOf | None) -> Path:
    import pooch  # noqa: PLC0415 - it imports requests, which the other commands need not wait for
    import requests  # noqa: PLC0415

    name = Path(urlsplit(file.address).path).name or "download"
    downloader = pooch.HTTPDownloader(progressbar=_Progress(progress_of(name)) if progress_of else False, timeout=TIMEOUT)
    pooch.get_logger().setLevel("WARNING")
    try:
        path = Path(pooch.retrieve(file.address, file.checksum, fname=name, path=folder, downloader=downloader))
    except requests.exceptions.RequestException as error:
        raise DataError(f"no file from {file.address} ({first_line(error)}); {OTHERWISE}") from error
    except ValueError as error:  # pooch's answer to another hash
        raise DataError(
            f"{file.address}: the file does not have the checksum that its publisher states, {file.checksum}; it was removed: "
            f"{OTHERWISE}"
        ) from error
    if not path.stat().st_size:
        raise DataError(f"{file.address} answered with an empty file; {OTHERWISE}")
    return path


class _Progress:
    """A progress bar as pooch updates it."""

    total = 0  # bytes; set by pooch, 0 if unknown

    def __init__(self, report: Callable[[int, int | None], None]) -> None:
        self._report, self._done = report, 0

    def update(self, count: int) -> None:
        self._done += count
        self._report(min(self._done, self.total) if self.total else self._done, self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Do nothing: the bar belongs to the command line."""


def _keep(dataset: NamedDataset, cache: Path, files: Opened, origin: About) -> None:
    """Check the counts and write the data set into the cache."""
    try:
        notes = check_counts(dataset, files.interactions, complete=files.published)
    except DataError as error:
        raise DataError(f"{origin.source}: {error}") from error
    if dataset.titles is not None and files.titles is None:
        notes = (*notes, f"titles are missing: the publisher's are in {dataset.titles.path}")
    report = files.interactions.read
    report = replace(report, source=origin.source, notes=(*report.notes, *notes))
    save_dataset(folder_of(dataset, cache), replace(files.interactions, read=report), files.titles, origin)


def _describe(dataset: NamedDataset, cache: Path, *, was_there: bool) -> Fetched:
    folder = folder_of(dataset, cache)
    contents, origin = load_dataset(folder)
    report = contents.interactions.read
    return Fetched(
        name=dataset.name,
        folder=str(folder),
        source=origin.source,
        checked=origin.checked,
        raw=report.counts,
        kept=origin.kept,
        titles=0 if contents.titles is None else contents.titles.height,
        notes=report.notes,
        was_there=was_there,
    )


def _at_address(dataset: NamedDataset, address: str) -> PublishedFile:
    """Return the file at another address; a file with the publisher's name must have the publisher's checksum."""
    try:
        name = Path(urlsplit(address).path).name
    except ValueError:  # an address that cannot be split
        name = ""
    if not name:
        raise DataError(f"{address} does not name a file; expected an address such as https://…/ratings.zip")
    return PublishedFile(address, dataset.checksum_of(name))


def _matching_checksum(dataset: NamedDataset, path: Path) -> str | None:
    """Return the publisher's checksum if a file has it; an archive that was packed again has another one."""
    import pooch  # noqa: PLC0415 - see `_download`

    stated = dataset.checksum_of(path.name)
    return stated if pooch.hashes.hash_matches(path, stated) else None


def _as_stated(checksum: str | None) -> str:
    return f"{checksum.partition(':')[0].upper()} as the publisher states it" if checksum else COUNTS_ONLY
