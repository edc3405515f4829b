"""Metadata of items: titles, categories, visibility."""

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, select, update

from ssd4rec.service.schemas import ItemIn
from ssd4rec.service.store.bulk import upsert
from ssd4rec.service.store.tables import counters, items


def put_item(connection: Connection, item_id: str, item: ItemIn) -> None:
    """Store the metadata of an item in place of what was stored, and raise the version that all processes compare."""
    connection.execute(update(counters).where(counters.c.name == "items").values(value=counters.c.value + 1))
    version = connection.scalar(select(counters.c.value).where(counters.c.name == "items"))
    values = {**item.model_dump(), "categories": json.dumps(item.categories), "version": version}
    new = upsert(connection, items).values(item_id=item_id, **values)
    connection.execute(new.on_conflict_do_update(index_elements=["item_id"], set_=values))


def find_item(connection: Connection, item_id: str) -> Any:
    """Return the row of an item, or None."""
    return connection.execute(select(items).where(items.c.item_id == item_id)).first()


def stored_titles(connection: Connection, item_ids: Collection[str]) -> dict[str, str]:
    """Return the titles that are stored for some items."""
    query = select(items.c.item_id, items.c.title).where(items.c.item_id.in_(item_ids), items.c.title.is_not(None))
    return {row.item_id: row.title for row in connection.execute(query) if row.title}


def changed_items(connection: Connection, after: int) -> list[Any]:
    """Return the items that were written after a version."""
    return list(connection.execute(select(items).where(items.c.version > after).order_by(items.c.version)).all())


def items_version(connection: Connection) -> int:
    """Return the version of the metadata."""
    return connection.scalar(select(counters.c.value).where(counters.c.name == "items")) or 0
