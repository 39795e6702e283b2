"""Alembic's entry: it runs on the connection that storage.migrate opened."""

from alembic import context

from popsigner_server.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # One that makes indexes beside running servers is in no transaction with those before it.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
