"""Item vectors as a Parquet file, for search engines and vector databases."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ssd4rec._io import atomic_write
from ssd4rec.artifact import Artifact
from ssd4rec.errors import DataError
from ssd4rec.serving.recommender import Recommender


def export_item_vectors(artifact: Artifact, path: str | Path) -> int:
    """Write one row an item: id, title and vector (fixed-size list of float32). The score of an item is state . vector.

    Args:
        artifact: a loaded model.
        path: the file to write; it appears complete or not at all.

    Returns:
        How many items there are.

    Raises:
        DataError: the file cannot be written.
    """
    table = Recommender(artifact).item_vectors.rename({"item_id": "id"}).to_arrow(compat_level=pl.CompatLevel.oldest())
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            pq.write_table(table, partial)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; give another file, or free some space") from error
    return int(table.num_rows)
