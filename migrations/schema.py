"""Migrate the database's schema to a version, with Alembic, configured here instead of in an alembic.ini."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from fiblake.errors import EntitlementError, UpstreamError
from shared.database import CONNECT_SECONDS, DatabaseAddress, Tls

HEAD: Final = "head"
BASE: Final = "base"


def upgrade(address: DatabaseAddress, tls: Tls, to: str = HEAD) -> None:
    """Upgrade the schema to version `to`, in one transaction; a schema that is up to date does not change.

    Raises EntitlementError if the credentials are refused, UpstreamError if the database fails.
    """
    _run(address, tls, lambda config: command.upgrade(config, to))


def downgrade(address: DatabaseAddress, tls: Tls, to: str = BASE) -> None:
    """Downgrade the schema to version `to`; tables of later versions are dropped with their rows. Raises as upgrade."""
    _run(address, tls, lambda config: command.downgrade(config, to))


def _run(address: DatabaseAddress, tls: Tls, migrate: Callable[[Config], None]) -> None:
    try:
        asyncio.run(_connected(address, tls, migrate))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError, OSError, TimeoutError) as error:
        raise UpstreamError(f"the schema cannot be migrated: {type(error).__name__} {error}") from error


async def _connected(address: DatabaseAddress, tls: Tls, migrate: Callable[[Config], None]) -> None:
    context = tls.context()

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        # No URL, because it would contain the password, and `host` may be a socket's directory. No time limits either.
        try:
            return await asyncpg.connect(
                **address.arguments(), ssl=context, timeout=CONNECT_SECONDS, statement_cache_size=0
            )  # fmt: skip
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            # Translated here, because SQLAlchemy would wrap all errors in the same class.
            raise EntitlementError(f"the database refuses its user: {error}") from error

    # No statement is prepared by name: a pooler would search the name on another connection.
    unnamed = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": connect, **unnamed}, poolclass=NullPool
    )  # fmt: skip
    async with engine.connect() as connection:
        await connection.run_sync(lambda plain: migrate(_config(plain)))


def _config(connection: Any) -> Config:  # noqa: ANN401 (handed through to env.py)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
