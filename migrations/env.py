"""Alembic's entry point for a migration, on the connection that migrations.schema opened."""

from typing import Final

from alembic import context
from sqlalchemy import Connection, text

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtext('fiblake schema'))")


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection)
    with context.begin_transaction():
        # If two deployments migrate at the same time, the second one waits, and then has nothing to do.
        connection.execute(_LOCK)
        context.run_migrations()


_migrate(context.config.attributes["connection"])
