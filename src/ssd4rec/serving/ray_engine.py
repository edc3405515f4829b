"""Batch recommending on Ray: parts are tasks of Ray Data, and each actor holds one model."""

import os
from typing import Any

from ssd4rec.errors import BackendError
from ssd4rec.serving.parts import Coverage, Job


class PartWriter:
    """A Ray actor: it holds one model and writes the parts whose numbers arrive."""

    def __init__(self, job: Job) -> None:
        self._parts = job.open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the parts of a batch that are missing; a part that a killed worker did not finish arrives again."""
        for part in batch["id"].tolist():
            if not self._parts.path(part).exists():
                self._parts.write(part)
        return {"part": batch["id"]}


def recommend_on_ray(job: Job, workers: int | None = None, address: str | None = None) -> Coverage:
    """Run a batch job on a Ray cluster, and resume one: parts that are complete are skipped.

    Args:
        job: what is recommended to whom.
        workers: actors, each with one CPU (or one GPU, where the job's device is one); None: one for each CPU.
        address: of a cluster; None: $RAY_ADDRESS, or a cluster of this machine that ends with this process.

    Raises:
        BackendError: Ray is not installed.
        DataError: see `PartsFolder`.
    """
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BackendError("the engine ray is not installed; pip install 'ssd4rec[ray]'") from error
    parts = job.open()
    missing = parts.missing()
    if missing:
        started = not ray.is_initialized()
        if started:
            ray.init(address=address or os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
        try:
            count = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
            numbers = ray.data.from_items([{"id": part} for part in missing], override_num_blocks=len(missing))
            on_gpu = {} if job.device == "cpu" else {"num_gpus": 1}
            written = numbers.map_batches(
                PartWriter,
                fn_constructor_args=(job,),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(count, len(missing))),
                num_cpus=1,
                **on_gpu,
            )
            for _ in written.iter_batches(batch_size=None):
                pass
        finally:
            if started:
                ray.shutdown()
    return parts.finish()
