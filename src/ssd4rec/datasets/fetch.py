"""Fetch a named data set: download or take a file, read the publisher's form, check its counts, keep it as Parquet."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ssd4rec.data.sequences import Counts
from ssd4rec.datasets.archives import Given, PublishedFile, read_given
from ssd4rec.datasets.download import Progress, discard, download, hash_of
from ssd4rec.datasets.registry import BUILT_IN, CHECKED_HASH, KnownDataset, check_counts, folder_of, open_known, where
from ssd4rec.datasets.store import Stored, is_stored, load_dataset, save_dataset
from ssd4rec.datasets.workspace import workspace
from ssd4rec.errors import DataError

COUNTS_ONLY = "counts only"
CHECKSUM_NAMES = {"md5": "MD5", "sha256": "SHA-256"}
# A file's name -> what is called with the bytes of it that are there and the bytes in all.
ProgressOf = Callable[[str], Progress]


@dataclass(frozen=True)
class Fetched:
    """A data set that can now be opened by its name."""

    name: str
    folder: str
    source: str  # addresses or a path
    checked: str  # what was compared besides the counts
    raw: Counts
    kept: Counts  # after the 5-core
    titles: int
    notes: tuple[str, ...]  # what is right but may surprise
    was_there: bool  # nothing was done


def fetch(known: KnownDataset, cache: Path, source: str | None = None, progress_of: ProgressOf | None = None) -> Fetched:
    """Bring a data set into the cache, so that `open_known` opens it.

    Args:
        known: which.
        cache: the folder of `cache_folder`.
        source: a file (the publisher's archive or table; `.inter`, CSV, Parquet, each also gzip) or another http address of
            one; None: the publisher's addresses, unless the data set is there already.
        progress_of: what to call while a file of that name is downloaded.

    Returns:
        What lies there now.

    Raises:
        DataError: the download failed (what came is kept, and the next call goes on), the file is damaged or not this data
            set (a downloaded one is removed), the cache cannot be written; `source` is an address that is not http's.
        BackendError: the package that holds the built-in data set is not installed.
    """
    try:
        if source is None and is_stored(folder_of(known, cache)):
            with contextlib.suppress(DataError):  # damaged: fetched again
                return _described(known, cache, was_there=True)
        if source is None and known.name == BUILT_IN:
            opened = open_known(BUILT_IN)
            _keep(
                known, cache, _check(known, Given(opened.interactions, opened.titles, published=True), where(known), CHECKED_HASH)
            )
        elif source is None or _is_address(source):
            _download_and_keep(known, cache, known.files if source is None else (_elsewhere(known, source),), progress_of)
        elif "://" in source and not Path(source).exists():
            raise DataError(f"{source} is no address of http or https, which alone are downloaded; give one, or a file")
        else:
            given = _read(known, [Path(source)], cache)
            _keep(known, cache, _check(known, given, source, _checksum_of_given(known, Path(source))))
    except OSError as error:
        reason = f"{error.filename or cache}: {error.strerror or error}"
        raise DataError(f"{reason}; make room, or set XDG_CACHE_HOME to a folder that can be written") from error
    return _described(known, cache, was_there=False)


def _download_and_keep(known: KnownDataset, cache: Path, files: Sequence[PublishedFile], progress_of: ProgressOf | None) -> None:
    folder = cache / "downloads" / known.name
    paths = [folder / file.name for file in files]
    for file, path in zip(files, paths, strict=True):
        download(file.address, path, file.checksum, progress_of(file.name) if progress_of else None)
    stated = [file.checksum for file in files if file.checksum]
    try:
        given = _read(known, paths, cache)
        checked = _check(known, given, " ".join(file.address for file in files), _as_stated(stated[0]) if stated else COUNTS_ONLY)
    except DataError as error:
        _discard(paths)  # it is not what it should be, and would not be the next time
        said = str(error)
        for file, path in zip(files, paths, strict=True):
            said = said.replace(str(path), file.address)  # where it is still to be found
        raise DataError(said) from error
    _keep(known, cache, checked)
    _discard(paths)


def _discard(paths: Sequence[Path]) -> None:
    for path in paths:
        discard(path)


def _read(known: KnownDataset, paths: Sequence[Path], cache: Path) -> Given:
    with workspace(cache, ".reading.") as folder:
        return read_given(paths, known.table, known.titles, folder)


def _check(known: KnownDataset, given: Given, source: str, checked: str) -> Stored:
    try:
        kept, notes = check_counts(known, given.interactions, whole=given.published)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    read = replace(given.interactions.read, source=source, notes=(*given.interactions.read.notes, *notes))
    about = {"source": source, "checked": checked, "kept": asdict(kept), "license": known.license}
    return Stored(replace(given.interactions, read=read), given.titles, about)


def _keep(known: KnownDataset, cache: Path, checked: Stored) -> None:
    save_dataset(folder_of(known, cache), checked.interactions, checked.titles, checked.about)


def _described(known: KnownDataset, cache: Path, *, was_there: bool) -> Fetched:
    folder = folder_of(known, cache)
    stored = load_dataset(folder)
    read = stored.interactions.read
    untitled = known.titles if stored.titles is None else None
    return Fetched(
        name=known.name,
        folder=str(folder),
        source=stored.about["source"],
        checked=stored.about["checked"],
        raw=Counts(read.users, read.items, read.rows),
        kept=Counts(**stored.about["kept"]),
        titles=0 if stored.titles is None else stored.titles.height,
        notes=(*read.notes, *([f"no titles came with it: the publisher's are in {untitled.path}"] if untitled else [])),
        was_there=was_there,
    )


def _is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _elsewhere(known: KnownDataset, address: str) -> PublishedFile:
    """A file at another address: of the publisher's name, it must be the publisher's file."""
    file = PublishedFile(address)
    return replace(file, checksum=next((each.checksum for each in known.files if each.name == file.name), None))


def _checksum_of_given(known: KnownDataset, path: Path) -> str:
    """An archive that was packed again is as good, if the counts are right; what is the publisher's own is said to be."""
    stated = next((file.checksum for file in known.files if file.name == path.name and file.checksum), None)
    same = stated is not None and hash_of(path, stated.partition(":")[0]) == stated
    return _as_stated(stated) if stated and same else COUNTS_ONLY


def _as_stated(checksum: str) -> str:
    return f"{CHECKSUM_NAMES[checksum.partition(':')[0]]} as the publisher states it"
