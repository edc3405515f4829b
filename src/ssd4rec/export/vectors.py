"""Item vectors as a Parquet file, for search engines and vector databases."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ssd4rec._io import atomic_write
from ssd4rec.artifact import Artifact
from ssd4rec.errors import DataError


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
    vectors = artifact.model.item_vectors.detach().float().cpu().numpy()
    oldest = pl.CompatLevel.oldest()
    titles = artifact.catalog.titles
    columns = {"id": artifact.catalog.ids.rechunk().to_arrow(compat_level=oldest)}
    if titles is not None:
        columns["title"] = titles.rechunk().to_arrow(compat_level=oldest)
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            pq.write_table(pa.table(columns), partial)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; give another file, or free some space") from error
    return len(vectors)
