"""One run: settings and data in, figures and ranks out, kept under the hash of what decided them."""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ssd4rec.config import Config
from ssd4rec.data.interactions import Columns, Interactions, read_interactions
from ssd4rec.data.sequences import build_sequences
from ssd4rec.data.split import make_split
from ssd4rec.data.summary import describe
from ssd4rec.datasets.registry import KNOWN, is_known, open_known
from ssd4rec.errors import DataError
from ssd4rec.evaluation.metrics import Ranks
from ssd4rec.paper.studies import LENGTHS, Point

NUMERICS = 2  # raised when a change of the code changes what a run with the same settings learns
NUMERICS_OF = {"caser": 3}  # where it changed one model alone
MEASURED = 3  # raised when a change of the code changes what is measured: a trained model is measured again, not trained
MEASURED_CUT = 4  # where data.max_length cuts what is read
MEASURES = ("test", "with_fusion", "protocol", "training", "model", "versions")  # what a result has beside its cost
YOUNGER = {  # settings that the first runs had not: the rule then
    "data.tie_order": "file",
    "training.ema_decay": 0.0,
    "training.label_smoothing": 0.0,
    "backbone.input_dropout": 0.0,
    "backbone.input_fade": 0.0,
    "backbone.repeat_logits": "none",
    "backbone.norm_first": False,
}
STUDIED = tuple(length for length in LENGTHS if length is not None)
COUNTED_IN = "counted"  # folder of what is not learned, beside that of the runs
SPEC, RESULT, RANKS, FAILURE = "run.json", "result.json", "ranks.npy", "failure.txt"


@dataclass(frozen=True)
class Dataset:
    """What a person named, looked at."""

    source: str  # a name, or an absolute path
    name: str  # that of the report
    known: str | None  # the named data set whose counts after the 5-core it has
    fingerprint: str
    description: Mapping[str, Any]
    overlap: Mapping[int, float] = field(default_factory=dict)  # of windows of so many events: how often a pass reads an event
    longer: Mapping[int, int] = field(default_factory=dict)  # histories of more events than so many


@dataclass(frozen=True)
class Run:
    """One training: a data set and all settings, the seed among them."""

    data: Dataset
    config: Config

    @property
    def key(self) -> str:
        """The name of its folder: the hash of all that decides its figures."""
        settings = self.config.model_dump(mode="json", exclude={"fusion"})  # every run is measured without and with one
        decides = _older(settings)
        numerics = NUMERICS_OF.get(self.config.backbone.name, NUMERICS)
        return _key({"settings": decides, "data": self.data.fingerprint, "numerics": [numerics, metadata.version("ssd4rec")]})

    @property
    def counted(self) -> str:
        """The name of the folder of what is not learned, which all runs on these data under this protocol share."""
        decides = _older(self.config.model_dump(mode="json", include={"data", "evaluation"}))
        how = [measured(self.config.data.max_length), metadata.version("ssd4rec")]
        return _key({"settings": decides, "data": self.data.fingerprint, "measured": how})


@dataclass(frozen=True)
class Part:
    """One study on one data set."""

    study: str
    data: Dataset
    points: tuple[Point, ...]
    without: tuple[str, ...] = ()  # labels of points that change nothing on these data
    command: str = ""  # that makes it again, but for --out and --jobs

    @property
    def runs(self) -> Iterator[tuple[str, Run]]:
        """The label and the run of every point under every seed."""
        for point in self.points:
            for config in point.configs:
                yield point.label, Run(self.data, config)


def _older(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """As the first runs had them, which are worth keeping: without what is younger and says what was the rule then."""
    return {
        group: {key: value for key, value in found.items() if (f"{group}.{key}", value) not in YOUNGER.items()}
        for group, found in settings.items()
    }


def _key(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def open_interactions(source: str, config: Config, cache: Path) -> Interactions:
    """A named data set, or a file.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if is_known(source):
        return open_known(source, cache).interactions
    columns = Columns(user=config.data.user, item=config.data.item, time=config.data.time)
    return read_interactions(source, columns)


def look_at(source: str, config: Config, cache: Path) -> Dataset:
    """Read a data set once, to know what it is; which one it is is told by its counts, not by its name.

    Raises:
        DataError: it cannot be read, or nothing is left after the k-core.
    """
    interactions = open_interactions(source, config, cache)
    histories, _ = build_sequences(interactions, config.data.min_interactions, tie_order=config.data.tie_order)
    description = json.loads(json.dumps(describe(interactions, histories), default=str))
    kept = description["kept"]
    counts = (kept["users"], kept["items"], kept["interactions"])
    known = next(
        (each.name for each in KNOWN.values() if (each.kept.users, each.kept.items, each.kept.interactions) == counts), None
    )
    name = source if is_known(source) else Path(source).name
    train = make_split(histories, config.data.model_copy(update={"max_length": None})).train
    lengths = np.diff(histories.offsets)
    longer = {length: int(np.count_nonzero(lengths > length)) for length in STUDIED}
    windows = {length: replace(train, max_length=length).tokens_one_pass for length in STUDIED}
    overlap = {length: tokens / train.tokens_one_pass for length, tokens in windows.items()}
    place = source if is_known(source) else str(Path(source).resolve())
    return Dataset(place, name, known, histories.fingerprint(), description, overlap, longer)


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a run gave; None: it is not finished, failed when it was last tried, or was measured in another way than now.

    Raises:
        DataError: its file is damaged.
    """
    found = None if (folder / FAILURE).is_file() else last_result_of(folder)
    if found is None or found.get("measured") != measured(found.get("settings", {}).get("data", {}).get("max_length")):
        return None
    _check(found, MEASURES, folder)
    return found


def measured(max_length: int | None) -> int:
    """The version of what is measured of a run that reads so many events of a history."""
    return MEASURED if max_length is None else MEASURED_CUT


def last_result_of(folder: Path) -> dict[str, Any] | None:
    """What a run gave when it was last finished, however it was measured then.

    Raises:
        DataError: its file is damaged.
    """
    found = _read(folder)
    if found is not None:
        _check(found, ("efficiency",), folder)
    return found


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RESULT} cannot be read: {error}; remove {folder} and give the command again") from error
    return found if isinstance(found, dict) else {}


def _check(found: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    if missing := [name for name in names if not isinstance(found.get(name), dict)]:
        what = f"it holds no {' and no '.join(missing)}"
        raise DataError(f"{folder / RESULT} cannot be read: {what}; remove {folder} and give the command again")


def counted_in(folder: Path) -> dict[str, Any]:
    """The figures of what is not learned, by name; empty: no run has measured them yet."""
    return _read(folder) or {}


def keep_ranks(folder: Path, name: str, ranks: Ranks) -> None:
    """Write them for `ranks_of`, as int32: no catalog has more items, and runs are kept in great number."""
    np.save(folder / name, ranks.astype(np.int32), allow_pickle=False)


def ranks_of(folder: Path, name: str = RANKS) -> Ranks:
    """1-based rank of each user's test item, in the order of users."""
    try:
        ranks: Ranks = np.load(folder / name, allow_pickle=False).astype(np.int64)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder / name} cannot be read: {error}; remove {folder} and give the command again") from error
    return ranks


def commit() -> str | None:
    """Of the working copy that the package lies in, `-dirty` where the package differs from it; None: it was installed."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed arguments

    try:
        return git("describe", "--always", "--abbrev=12") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
