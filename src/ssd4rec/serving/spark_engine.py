"""Batch recommending inside Spark: a frame of sequences in, a frame of recommendations out, through `mapInArrow`."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ssd4rec.errors import DataError
from ssd4rec.serving.arrow import ArrowRecommender, BatchOptions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def recommend_in_spark(sequences: "DataFrame", model: str, options: BatchOptions | None = None) -> "DataFrame":
    """Recommend to every row of a Spark frame.

    Each Python worker loads the model once; Spark splits, schedules and repeats the work.

    Args:
        sequences: columns user and items (array of item ids, oldest first), e.g. from `sequences_of`; with `options.at` also
            last_event, in seconds since 1970.
        model: the folder of a model, at the same path on every machine.
        options: what is recommended.

    Returns:
        A frame with the columns user_id, item_id, score, rank.

    Raises:
        DataError: a column is missing.
    """
    from pyspark.sql import types  # noqa: PLC0415 - an extra

    chosen = options or BatchOptions()
    if missing := set(chosen.columns) - set(sequences.columns):
        raise DataError(f"the frame needs the columns user and items, {', '.join(sorted(missing))} not found; rename them")
    fields = {field.name: field.dataType for field in sequences.schema.fields}
    schema = types.StructType(
        [
            types.StructField("user_id", fields["user"]),
            types.StructField("item_id", fields["items"].elementType),
            types.StructField("score", types.DoubleType()),
            types.StructField("rank", types.LongType()),
        ]
    )

    def recommend(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        recommender = _load(model, chosen)
        for batch in batches:
            yield from _as_spark(recommender(batch), batch.schema).to_batches()

    return sequences.select(*chosen.columns).mapInArrow(recommend, schema)


def sequences_of(interactions: "DataFrame", user: str, item: str, time: str) -> "DataFrame":
    """Return one row a user, with items in the order of time; simultaneous events are ordered by item id.

    Args:
        interactions: one row an interaction.
        user: name of the user column.
        item: name of the item column.
        time: name of the time column.
    """
    from pyspark.sql import functions  # noqa: PLC0415 - an extra

    events = functions.array_sort(functions.collect_list(functions.struct(functions.col(time), functions.col(item))))
    grouped = interactions.groupBy(functions.col(user).alias("user")).agg(events.alias("events"))
    return grouped.select("user", functions.col(f"events.{item}").alias("items"))


@cache  # a Python worker serves many partitions
def _load(model: str, options: BatchOptions) -> ArrowRecommender:
    import torch  # noqa: PLC0415 - only in workers

    torch.set_num_threads(1)  # Spark runs one worker a core
    return ArrowRecommender(model, options)


def _as_spark(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the types of the Spark frame: string, not large_string."""
    types: list[Any] = [schema.field("user").type, schema.field("items").type.value_type, pa.float64(), pa.int64()]
    return table.cast(pa.schema(list(zip(table.column_names, types, strict=True))))
