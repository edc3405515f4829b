"""Run by alembic: apply the migrations on the connection that `store.schema` passes."""

from alembic import context

from ssd4rec.service.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
