"""The projection of item features that a model was trained with: what turns the features of a new item into its vector."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import safetensors
from safetensors.numpy import load_file, save_file

from ssd4rec._csr import IntArray
from ssd4rec.data.item_features import FeatureColumn, encode_columns
from ssd4rec.errors import DataError
from ssd4rec.layers.item_features import EncodedRows, Floats

if TYPE_CHECKING:
    from ssd4rec.data.item_table import ItemTable


@dataclass(frozen=True)
class TrainedFeatures:
    """The columns of features and their trained projection. The item table of the artifact contains it already."""

    columns: tuple[FeatureColumn, ...]
    categories: Floats  # [C, D]
    numbers: Floats  # [F, D]
    trained: int  # items with training events or a row in the softmax; larger item indices are new items

    def vectors_of(self, table: "ItemTable", rows: IntArray) -> Floats:
        """Return the vectors of items that have only features, [R, D], from rows [R] of a table.

        Raises:
            DataError: a column of the training is missing or of another kind, or its vectors have another length.
        """
        for column in self.columns:
            values = table.columns.get(column.name)
            if values is None:
                raise DataError(
                    f"{table.source}: the model has the feature {column.name!r}, but the table has no such column; found "
                    f"{', '.join(table.columns)}"
                )
            if (values.dtype == pl.List(pl.String)) != (column.kind == "categories"):
                raise DataError(
                    f"{table.source}: column {column.name!r} is read as {values.dtype}, but was a column of {column.kind} in "
                    f"training; write it as in the file of the training"
                )
        return self.project(encode_columns(self.columns, table, rows))

    def project(self, rows: EncodedRows) -> Floats:
        """Return the projection of encoded features, [R, D]."""
        out: Floats = (rows.vectors @ self.numbers).astype(np.float32)
        row = np.repeat(np.arange(len(out)), np.diff(rows.offsets))
        np.add.at(out, row, rows.weights[:, None] * self.categories[rows.codes])
        return out

    def write(self, path: Path) -> None:
        """Write a safetensors file; the columns are in its metadata."""
        about = {"columns": json.dumps([asdict(each) for each in self.columns]), "trained": str(self.trained)}
        save_file({"categories": self.categories, "numbers": self.numbers}, path, metadata=about)

    @classmethod
    def read(cls, path: Path) -> "TrainedFeatures":
        """Read what `write` wrote, exactly."""
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata()
        columns = tuple(_column(each) for each in json.loads(about["columns"]))
        return cls(columns, **load_file(path), trained=int(about["trained"]))


def _column(fields: dict[str, Any]) -> FeatureColumn:
    return FeatureColumn(**{**fields, "values": tuple(fields["values"]), "mean": tuple(fields["mean"])})
