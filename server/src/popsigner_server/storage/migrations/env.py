"""Alembic's entry: it runs on the connection that storage.migrate opened."""

from alembic import context

from popsigner_server.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
