"""Recommendations for all users in parts: files that are complete or absent, which any number of processes write.

part-00000.parquet …    users 0 … 8,191, and so on: user_id, item_id, score, rank
plan.json               what is recommended to whom; a process with another plan refuses to join
manifest.json           written once every part is complete: rows and SHA-256 of each
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from ssd4rec._io import atomic_write, sha256_of, write_atomically
from ssd4rec.config import DataConfig
from ssd4rec.data.columns import ReadOptions, options_of
from ssd4rec.data.interactions import Columns
from ssd4rec.data.request_times import check_clock
from ssd4rec.errors import ConfigError, DataError
from ssd4rec.serving.arrow import USERS_AT_ONCE, ArrowRecommender, BatchOptions
from ssd4rec.serving.sources import SequenceSource, open_source

logger = logging.getLogger(__name__)

FILTERS = ("where", "min_rating", "drop_missing", "duplicates")
USERS_PER_PART = 8 * USERS_AT_ONCE
COUNTS = ("users", "popular_users", "unknown_interactions")  # of a part, in the metadata of its file
PLAN, MANIFEST = "plan.json", "manifest.json"

Progress = Callable[[int, int], None]  # (parts done, all of this shard)


@dataclass(frozen=True)
class Shard:
    """One of n processes that share a job: it writes the parts p with p modulo n = index - 1."""

    index: int = 1  # 1 … count
    count: int = 1

    @staticmethod
    def parse(text: str) -> "Shard":
        """Read "2/8" as the second of eight.

        Raises:
            ConfigError: it is not i/n with 1 <= i <= n.
        """
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return Shard(int(index), int(count))
        raise ConfigError(f'--shard is i/n such as 2/8, the second of eight; found "{text}"')

    def parts(self, total: int) -> range:
        """Return the parts that this process writes."""
        return range(self.index - 1, total, self.count)


@dataclass(frozen=True)
class Coverage:
    """How far a job is."""

    parts: int
    missing: tuple[int, ...]
    rows: int  # of the parts that are complete
    users: int
    popular_users: int
    unknown_interactions: int


class PartsFolder:
    """The output folder of a batch job.

    Args:
        directory: made if it does not exist.
        recommender: the model and what it recommends.
        source: whom it recommends to.
        users_per_part: a multiple of 1,024.

    Raises:
        DataError: the folder has another plan, or cannot be written.
        ConfigError: `users_per_part` is not such a multiple.
    """

    def __init__(
        self,
        directory: str | Path,
        recommender: ArrowRecommender,
        source: SequenceSource,
        users_per_part: int = USERS_PER_PART,
    ) -> None:
        if users_per_part < USERS_AT_ONCE or users_per_part % USERS_AT_ONCE:
            raise ConfigError(f"users_per_part must be a multiple of {USERS_AT_ONCE:,}, found {users_per_part:,}")
        self.folder, self.recommender, self.source, self._size = Path(directory), recommender, source, users_per_part
        self.total = -(-len(source) // users_per_part)
        plan = {
            "model": recommender.recommender.fingerprint(),
            "options": asdict(recommender.options),
            "source": source.identity,
            "users_per_part": users_per_part,
            "parts": self.total,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._join(plan)
        except OSError as error:
            raise DataError(f"cannot write to {self.folder}: {error.strerror or error}; give another folder") from error

    def missing(self, shard: Shard = Shard()) -> list[int]:
        """Return the parts of a shard that are not complete."""
        return [part for part in shard.parts(self.total) if not self.path(part).exists()]

    def path(self, part: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{part:05}.parquet"

    def write(self, part: int) -> None:
        """Recommend to the users of a part and write its file, complete or not at all."""
        first = part * self._size
        batch = self.source.batch(first, min(first + self._size, len(self.source)))
        result = self.recommender.recommend(batch)
        counts = {name: getattr(result, name) for name in COUNTS}
        table = result.table.replace_schema_metadata({"ssd4rec": json.dumps(counts)})
        try:
            with atomic_write(self.path(part)) as partial:
                pq.write_table(table, partial)
        except OSError as error:
            raise DataError(
                f"cannot write {self.path(part)}: {error.strerror or error}; free some space and run it again"
            ) from error

    def run(self, shard: Shard = Shard(), progress: Progress | None = None) -> Coverage:
        """Write the parts of a shard that are missing; write the manifest if all parts of the job are complete then."""
        missing, own = self.missing(shard), len(shard.parts(self.total))
        for done, part in enumerate(missing, start=own - len(missing) + 1):
            self.write(part)
            if progress:
                progress(done, own)
        return self.finish()

    def finish(self) -> Coverage:
        """Count what is complete; write the manifest if everything is."""
        missing = self.missing()
        counts = [_counts(self.path(part)) for part in range(self.total) if part not in set(missing)]
        totals = {name: sum(each[name] for each in counts) for name in ("rows", *COUNTS)}
        coverage = Coverage(self.total, tuple(missing), **totals)
        if not missing and not (self.folder / MANIFEST).exists():
            parts = [
                {"file": self.path(part).name, "rows": each["rows"], "users": each["users"], "sha256": sha256_of(self.path(part))}
                for part, each in enumerate(counts)
            ]
            manifest = {"users": coverage.users, "rows": coverage.rows, "parts": parts}
            write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1))
        return coverage

    def _join(self, plan: Mapping[str, Any]) -> None:
        path = self.folder / PLAN
        if not path.exists():
            if others := [each.name for each in self.folder.iterdir() if each.name.startswith("part-")]:
                raise DataError(f"{self.folder} holds {others[0]} and no {PLAN}; give an empty folder")
            write_atomically(path, json.dumps(plan, indent=1))
            return
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); remove the folder, and run the job again") from error
        if other != json.loads(json.dumps(plan)):
            differing = ", ".join(name for name in plan if other.get(name) != plan[name])
            raise DataError(
                f"{self.folder} has the parts of another job (other {differing}); give another folder, or remove this one"
            )


def check_coverage(directory: str | Path) -> Iterator[str]:
    """Yield one line for each way in which a finished job is not complete: parts that are missing or were changed.

    Raises:
        DataError: the job is not finished; the manifest is missing.
    """
    folder = Path(directory)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} has no {MANIFEST}: the job is not finished; run its missing shards") from error
    for part in manifest["parts"]:
        path = folder / part["file"]
        if not path.is_file():
            yield f"{path.name} is missing"
        elif sha256_of(path) != part["sha256"]:
            yield f"{path.name} was changed"


def _counts(path: Path) -> dict[str, int]:
    metadata = pq.read_metadata(path)
    try:
        counts: dict[str, int] = json.loads(metadata.metadata[b"ssd4rec"])
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a part that this version wrote; remove it, and run the job again") from error
    return {**counts, "rows": metadata.num_rows}


@dataclass(frozen=True)
class Job:
    """A batch job as a worker needs it: everything is a path or a plain value. Paths must be the same on all machines."""

    model: str
    users: str
    out: str
    options: BatchOptions
    columns: Columns = field(default_factory=Columns)
    users_per_part: int = USERS_PER_PART
    device: str = "cpu"

    def open(self) -> PartsFolder:
        """Load the model, open the source and join the output folder."""
        if self.device == "cpu":
            torch.set_num_threads(1)  # a worker a core; sums in one order, whoever computes them
        recommender = ArrowRecommender(self.model, self.options, self.device)
        artifact = recommender.recommender.artifact
        columns = _remembered(self.columns, artifact.config.data)
        source = open_source(self.users, columns, artifact.catalog, artifact.config.data.tie_order)
        if self.options.at is not None:
            check_clock(source.clock)
        if self.options.retrieval == "approximate":
            logger.warning(recommender.measure(source.batch(0, min(USERS_AT_ONCE, len(source)))))
        return PartsFolder(self.out, recommender, source, self.users_per_part)


def _remembered(columns: Columns, data: DataConfig) -> Columns:
    """Return column names, those of the training where none are passed; warn about filters of the training."""
    options = asdict(options_of(data))
    filters = [name for name in FILTERS if options[name] != asdict(ReadOptions())[name]]
    if filters:
        logger.warning(
            "the model was trained with %s, which a folder of parts does not apply; filter the data before, or write one file",
            ", ".join(f"data.{name} = {options[name]!r}" for name in filters),
        )
    return Columns(columns.user or data.user, columns.item or data.item, columns.time or data.time)


def make_job(model: str | Path, users: str | Path, out: str | Path, options: BatchOptions, **others: Any) -> Job:
    """Return a job whose paths do not depend on the working folder."""
    model_path, users_path, out_path = (str(Path(each).resolve()) for each in (model, users, out))
    return Job(model_path, users_path, out_path, options, **others)
