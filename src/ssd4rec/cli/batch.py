"""`recommend --users … --out FOLDER`: recommendations in parts, by one process, by shards, or on Ray."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ssd4rec.cli import console
from ssd4rec.errors import ConfigError

if TYPE_CHECKING:
    from ssd4rec.serving.job import Job
    from ssd4rec.serving.parts import Coverage

ENGINES = ("ray",)
MISSING_SHOWN = 5


def is_parts_folder(out: Path, shard: str | None, engine: str | None) -> bool:
    """Return whether `--out` names a folder of parts, not a file."""
    return shard is not None or engine is not None or not out.suffix


def recommend_in_parts(job: "Job", *, shard: str | None, engine: str | None, workers: int | None, as_json: bool) -> None:
    """Run a batch job, or a shard of it; parts that are complete are skipped."""
    from ssd4rec.serving.parts import Shard

    if engine is not None and engine not in ENGINES:
        raise ConfigError(
            f"--engine is {' or '.join(ENGINES)}; found {engine!r} (for Spark see the guide on batch recommendations)"
        )
    if engine is not None and shard is not None:
        raise ConfigError("--engine splits the job by itself; leave out --shard")
    if engine is None and workers is not None:
        raise ConfigError("--workers needs --engine; without an engine run several processes with --shard i/n")
    own = Shard() if shard is None else Shard.parse(shard)
    if engine == "ray":
        from ssd4rec.serving.ray_engine import recommend_on_ray

        coverage = recommend_on_ray(job, workers)
    else:
        with console.progress_bar() as bar:
            coverage = job.open().run(own, console.reporter(bar, "parts"))
    _show(coverage, job.out, as_json=as_json)


def _show(coverage: "Coverage", out: str, *, as_json: bool) -> None:
    complete = coverage.parts - len(coverage.missing)
    if as_json:
        console.print_json({"out": out, **asdict(coverage)})
        return
    console.out.print(
        f"{complete} of {coverage.parts} parts complete: {coverage.rows:,} recommendations to {coverage.users:,} users"
    )
    if coverage.missing:
        shown = ", ".join(map(str, coverage.missing[:MISSING_SHOWN])) + (
            ", …" if complete + MISSING_SHOWN < coverage.parts else ""
        )
        console.say(f"missing parts: {shown}; run the shards that write them, or the command without --shard")
    if coverage.unknown_interactions:
        console.say(
            f"warning: {coverage.unknown_interactions:,} interactions with items that the model does not know were skipped"
        )
    if coverage.popular_users:
        console.say(f"warning: {coverage.popular_users:,} users had no known item and got popular items")
