"""The fetchers' user of the database: it may read and write the rows of the tables, and nothing else.

A user belongs to the server, not to the schema, and its name and password come from a secret that may change. So it is
not part of a schema version: each migration calls `set_up_fetcher_user` at its end.
"""

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64encode
from typing import Final

import asyncpg

from fiblake.errors import ConfigurationError, EntitlementError, UpstreamError
from shared.database import DatabaseAddress, Tls
from shared.database.connection import Connection, connection_to, translated

TABLES: Final = (
    "data_ingestion_watermark", "dividend_checks", "dividends", "files_in_doubt", "ingested_sessions", "raw_ohlcv",
    "runs", "splits", "symbol_metadata",
)  # fmt: skip
"""All tables of the schema. If you add a table to the schema, add it here."""
ITERATIONS: Final = 4096
"""PostgreSQL's own default (scram_iterations)."""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('fiblake schema'))"
_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_CREATE: Final = "SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)"
_CHANGE: Final = "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)"
# TEMPORARY, because each transaction stages rows in temporary tables.
_GRANTS: Final = (
    "SELECT format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), $1::text)",
    "SELECT format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), $1::text)",
)
_TABLE_GRANTS: Final = (
    "SELECT format('REVOKE ALL ON %I FROM %I', $2::text, $1::text)",
    "SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I', $2::text, $1::text)",
)
_MORE: Final = """
SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication AS administers,
       has_schema_privilege(rolname, current_schema(), 'CREATE') AS creates,
       pg_has_role(rolname, (SELECT relowner FROM pg_class WHERE oid = 'raw_ohlcv'::regclass), 'MEMBER') AS owns
FROM pg_roles
WHERE rolname = current_user
"""


def set_up_fetcher_user(owner: DatabaseAddress, fetcher: DatabaseAddress, tls: Tls) -> None:
    """Create the fetchers' user if there is none, set its password to the secret's, and grant its rights.

    The schema must be up to date. Raises ConfigurationError if the secrets contradict each other, or the user has more
    rights than it should; EntitlementError if `owner` may not create users; UpstreamError if the database fails.
    """
    if fetcher.user == owner.user:
        raise ConfigurationError(f"both secrets name the user {owner.user}: the fetchers need a user of their own")
    asyncio.run(_set_up(owner, fetcher, tls))


async def _set_up(owner: DatabaseAddress, fetcher: DatabaseAddress, tls: Tls) -> None:
    async with connection_to(owner, tls) as connection:
        with translated():
            async with connection.transaction():
                await connection.execute(_LOCK)
                exists = await connection.fetchval(_EXISTS, fetcher.user)
                if not exists:
                    await _write_user(connection, _CREATE, owner, fetcher)
                elif not await _logs_in(fetcher, tls):
                    await _write_user(connection, _CHANGE, owner, fetcher)
                await _grant(connection, fetcher.user)
    # Log in like the fetchers: an error in their secret shows here, and not at the next run.
    async with connection_to(fetcher, tls) as connection:
        with translated():
            _check(fetcher, await connection.fetchrow(_MORE))


async def _logs_in(fetcher: DatabaseAddress, tls: Tls) -> bool:
    try:
        async with connection_to(fetcher, tls):
            return True
    except EntitlementError:
        return False
    except ConfigurationError as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            return True  # the password is right; only the right to connect is missing, which is granted next
        raise


async def _write_user(connection: Connection, statement: str, owner: DatabaseAddress, fetcher: DatabaseAddress) -> None:
    try:
        await _run(connection, statement, fetcher.user, verifier(str(fetcher.arguments()["password"])))
    except asyncpg.InsufficientPrivilegeError as error:
        raise EntitlementError(
            f"the user {owner.user} may not make or change the fetchers' user {fetcher.user}: let it (ALTER ROLE "
            f"{owner.user} CREATEROLE), or make {fetcher.user} by hand with the password of its secret"
        ) from error


async def _grant(connection: Connection, user: str) -> None:
    for statement in _GRANTS:
        await _run(connection, statement, user)
    for table in TABLES:
        for statement in _TABLE_GRANTS:
            await _run(connection, statement, user, table)


async def _run(connection: Connection, statement: str, *values: str) -> None:
    """Execute a statement with values; such commands accept no parameters, so the server itself quotes the values."""
    await connection.execute(await connection.fetchval(statement, *values))


def _check(fetcher: DatabaseAddress, rights: "asyncpg.Record | None") -> None:
    if rights is None:
        raise UpstreamError(f"the database does not say what its user {fetcher.user} may do")
    if rights["administers"] or rights["owns"]:
        raise ConfigurationError(
            f"the fetchers' user {fetcher.user} administers the database or owns its tables: name a user of their own "
            "in the fetchers' secret; the migration makes it"
        )
    if rights["creates"]:
        raise ConfigurationError(
            f"the fetchers' user {fetcher.user} may create tables, as everybody may before PostgreSQL 15: take that "
            "away (REVOKE CREATE ON SCHEMA public FROM PUBLIC), and migrate again"
        )


def verifier(password: str) -> str:
    """Return PostgreSQL's stored form of a password (RFC 5802, SCRAM-SHA-256), so that no server log has the password.

    Raises ConfigurationError for an empty password, or one that would need normalisation.
    """
    if not password or not (password.isascii() and password.isprintable()):
        raise ConfigurationError(
            "the password in the fetchers' secret must be of printable ASCII characters: change it"
        )
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"
