"""The named data sets: their sources and licenses, and the check that a file is the right one."""

import contextlib
import tomllib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter

from ssd4rec._suggestions import nearest
from ssd4rec.data.catalog import encode
from ssd4rec.data.interactions import Interactions, read_interactions, read_titles
from ssd4rec.data.k_core import Counts, count_k_core
from ssd4rec.datasets.archives import Opened, PublishedFile, PublishedTable
from ssd4rec.datasets.packages import PACKAGES
from ssd4rec.datasets.store import About, is_stored, load_dataset, save_dataset
from ssd4rec.errors import DataError

BUILT_IN = "ml-latest-small"
PACKAGE = "installed package"  # what was checked of a data set that is in a package


@dataclass(frozen=True)
class NamedDataset:
    """A public data set that can be used by its name."""

    name: str
    title: str
    license: str  # the terms, as the publisher states them
    homepage: str
    table: PublishedTable  # of the interactions
    kept: Counts  # after the 5-core
    raw: Counts | None = None  # of the complete file
    titles: PublishedTable | None = None
    files: tuple[PublishedFile, ...] = ()  # at the original publisher; none: it is in a package, see `PACKAGES`

    def checksum_of(self, name: str) -> str | None:
        """Return the stated checksum of a file by its name, if it has one."""
        return next((file.checksum for file in self.files if file.name == name), None)


def _read_registry() -> dict[str, NamedDataset]:
    text = resources.files("ssd4rec.datasets").joinpath("datasets.toml").read_text(encoding="utf-8")
    entries = {name: {"name": name, **fields} for name, fields in tomllib.loads(text).items()}
    return TypeAdapter(dict[str, NamedDataset]).validate_python(entries)


DATASETS = _read_registry()


def open_dataset(name: str, cache: Path | None = None) -> Opened:
    """Open a data set by its name.

    Args:
        name: one of `DATASETS`.
        cache: the folder of `cache_folder`, with the fetched data sets; None: those in packages are read again each time.

    Returns:
        Interactions and titles; ids as in the publisher's file, text files: text.

    Raises:
        DataError: an unknown name, or a data set that was not fetched, or changed since (the message says how to fetch it).
        BackendError: the package of the data set is not installed.
    """
    dataset = find_dataset(name)
    packaged = PACKAGES.get(name)
    if cache is not None and is_stored(folder_of(dataset, cache)):
        try:
            return _named(load_dataset(folder_of(dataset, cache))[0], dataset)
        except DataError as error:
            if packaged is None:
                raise DataError(f"{error}: {how_to_fetch(dataset)}") from error
    if packaged is None:
        raise DataError(f"{dataset.name} is not in the cache: {how_to_fetch(dataset)}")
    interactions, titles = packaged[0]()
    opened = _named(Opened(read_interactions(interactions), read_titles(titles), published=True), dataset)
    if cache is not None:
        with contextlib.suppress(DataError):  # a cache that cannot be written costs seconds each time, no more
            origin = about(dataset, where(dataset), PACKAGE)
            save_dataset(folder_of(dataset, cache), opened.interactions, opened.titles, origin)
    return opened


def find_dataset(name: str) -> NamedDataset:
    """Return the description of a data set.

    Raises:
        DataError: no data set has this name.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        near = nearest(name, DATASETS)
        hint = f"did you mean {near!r}? Known" if near else "known"
        raise DataError(f"no data set is called {name!r}; {hint} are {', '.join(DATASETS)}, other files are given by their path")
    return dataset


def is_named_dataset(name: str) -> bool:
    """Whether a data set has this name."""
    return name in DATASETS


def how_to_fetch(dataset: NamedDataset) -> str:
    """Return the commands that fetch a data set, and its license; one line."""
    return (
        f"ssd4rec data fetch {dataset.name} downloads {where(dataset)}, ssd4rec data fetch {dataset.name} --from FILE reads a "
        f"local file; license: {dataset.license}"
    )


def where(dataset: NamedDataset) -> str:
    """Return the addresses of the publisher, or the package to install."""
    package = f"an installed package: {PACKAGES[dataset.name][1]}" if dataset.name in PACKAGES else ""
    return " and ".join(file.address for file in dataset.files) or package


def about(dataset: NamedDataset, source: str, checked: str) -> About:
    """Describe the origin of a data set whose counts are right."""
    return About(source=source, checked=checked, kept=dataset.kept, license=dataset.license)


def check_counts(dataset: NamedDataset, interactions: Interactions, *, complete: bool) -> tuple[str, ...]:
    """Check that interactions are those of a data set.

    Args:
        dataset: the data set.
        interactions: all rows, before any filter.
        complete: the publisher's own file, of which all counts must be right; others may be a part with the same 5-core.

    Returns:
        Warnings.

    Raises:
        DataError: the counts differ; the message says which and by how many.
    """
    report = interactions.read
    raw, core = report.counts, five_core(interactions)
    published = dataset.raw or raw
    before, after = _difference(raw, published), _difference(core, dataset.kept)
    larger = any(count > expected for count, expected in zip(astuple(raw), astuple(published), strict=True))  # so not a part
    if after or larger or (complete and before):
        raise DataError(
            f"this is not {dataset.title}: {before}{'; ' if before else ''}after the 5-core {after or 'it is right'}. Get "
            f"{where(dataset)}; other data can be used by the path of their file"
        )
    note = f"a part of the publisher's file with the same 5-core ({before}); ids, times and order are those of this file"
    return (note,) if before else ()


def five_core(interactions: Interactions) -> Counts:
    """Count the users, items and interactions of the 5-core."""
    (user, users), (item, items) = (encode(interactions.table[column]) for column in ("user", "item"))
    return count_k_core(lambda: [(user, item)], len(users), len(items), 5).left


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache folder for an environment."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ssd4rec"


def folder_of(dataset: NamedDataset, cache: Path) -> Path:
    """Return the folder of a fetched data set."""
    return cache / "data" / dataset.name


def _named(opened: Opened, dataset: NamedDataset) -> Opened:
    report = replace(opened.interactions.read, source=dataset.name)
    return replace(opened, interactions=replace(opened.interactions, read=report))


def _difference(counts: Counts, expected: Counts) -> str:
    """Return `6,867 items instead of 7,111 (244 fewer)` for each count that differs."""
    pairs = [(kind, count, getattr(expected, kind)) for kind, count in vars(counts).items()]
    return ", ".join(
        f"{count:,} {kind} instead of {right:,} ({abs(count - right):,} {'fewer' if count < right else 'more'})"
        for kind, count, right in pairs
        if count != right
    )
