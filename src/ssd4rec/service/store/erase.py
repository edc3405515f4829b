"""What must happen after an erasure so that nothing of it is left in the files of the database."""

import logging
import time

from sqlalchemy import Engine

log = logging.getLogger(__name__)
TRIES, PAUSE = 20, 0.05


def erased_on_disk(engine: Engine) -> None:
    """Truncate the write-ahead log of SQLite, which holds older pages; PostgreSQL does so by its own checkpoints."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect().execution_options(reads=True) as connection:
        for _ in range(TRIES):
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            if not busy:
                return
            time.sleep(PAUSE)
    log.warning("the write-ahead log is in use and was not truncated; the next erasure tries again")
