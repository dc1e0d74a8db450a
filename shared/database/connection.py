"""The address of the database, how a connection is opened and protected, and the translation of errors."""

import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import asyncpg

from fiblake.errors import ConfigurationError, EntitlementError, UpstreamError

CONNECT_SECONDS: Final = 10
STATEMENT_SECONDS: Final = 60
_LIMIT: Final = f"SET LOCAL statement_timeout = {STATEMENT_SECONDS * 1000}"


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """The address of the database, with user and password; no repr has the password."""

    host: str
    port: int
    user: str
    database: str
    _password: str

    def __repr__(self) -> str:
        """Return the address without its password."""
        return f"DatabaseAddress({self})"

    def __str__(self) -> str:
        """Return the address for messages, without its password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    @classmethod
    def of_secret(cls, secret: str) -> "DatabaseAddress":
        """Read an RDS secret's JSON (raises ConfigurationError); `host` may be the directory of a Unix socket."""
        try:
            fields = json.loads(secret)
            name = fields.get("dbname", "postgres")
            return cls(fields["host"], int(fields.get("port", 5432)), fields["username"], name, fields["password"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            # Not chained: the decoder's error quotes the secret.
            raise ConfigurationError(
                "the database's secret is not RDS's JSON (host, port, username, password, dbname): "
                f"{type(error).__name__}"
            ) from None

    def arguments(self) -> dict[str, Any]:
        """Return asyncpg's connection arguments, all of them: it reads those that are missing from PG* variables."""
        names = {"host": self.host, "port": self.port, "user": self.user, "database": self.database}
        rest = {"target_session_attrs": "any", "direct_tls": False, "krbsrvname": "postgres", "gsslib": "gssapi"}
        return {**names, "password": self._password, **rest}


@dataclass(frozen=True, slots=True)
class Tls:
    """The protection of the connection: the server's certificate is verified, or (a local server) there is no TLS.

    `ca_file` has the authorities to trust instead of the system's: Amazon's own authorities sign RDS's certificates.
    """

    verify: bool = True
    ca_file: str | None = None

    def context(self) -> ssl.SSLContext | Literal[False]:
        """Return asyncpg's `ssl` argument; raise ConfigurationError if `ca_file` cannot be read."""
        if not self.verify:
            return False
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ConfigurationError(f"the certificates in {self.ca_file} cannot be read: {error}") from error


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Opening = Callable[[], AbstractAsyncContextManager[Any]]


class Connected:
    """The base of the tables' methods: their connection, and a way to open another one.

    Every query runs in a transaction. So the methods work through a pooler that gives each transaction another
    connection to the server: nothing is stored in a session, no statement is prepared by name, and each transaction
    sets its own time limit.
    """

    def __init__(self, connection: Connection, open_another: Opening) -> None:
        self._connection = connection
        self._open_another = open_another
        self._locks: list[Connection] = []

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """Run the block as one transaction; translate the driver's errors."""
        with translated():
            async with self._connection.transaction():
                await self._connection.execute(_LIMIT)
                yield


@asynccontextmanager
async def connection_to(address: DatabaseAddress, tls: Tls) -> AsyncIterator[Connection]:
    """Open one connection; raise EntitlementError for refused credentials, UpstreamError without an answer.

    A pooler (PgBouncer, RDS Proxy) refuses start-up parameters that it does not know, so only the encoding is sent.
    """
    context = tls.context()
    with translated():
        try:
            connection = await asyncpg.connect(
                **address.arguments(), ssl=context, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS,
                statement_cache_size=0,
            )  # fmt: skip
        except (ConnectionError, FileNotFoundError, TimeoutError, socket.gaierror) as error:
            raise UpstreamError(
                f"the database is down, or is not there: there is no answer at {address} ({type(error).__name__})"
            ) from error
    try:
        yield connection
    except BaseException:
        # A broken connection also fails when it is closed; the first error is the one to report.
        with suppress(UpstreamError), translated():
            await connection.close()
        raise
    with translated():
        await connection.close()


# If the server closes the connection right before a query, the driver raises an internal error.
_DRIVER_ERRORS: Final = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError,
)  # fmt: skip


class translated:  # noqa: N801 (a context manager, read as a verb)
    """Translate the driver's errors; the driver's texts contain no password."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
            raise EntitlementError(
                f"the database refuses its user: {error}; `fiblake migrate` makes the fetchers' user and sets its "
                "password"
            ) from error
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise ConfigurationError(f"{error}: `fiblake migrate` gives the fetchers' user its rights") from error
        if isinstance(error, asyncpg.PostgresError) and "startup parameter" in str(error).lower():
            raise ConfigurationError(
                f"the database, or the pooler before it, refuses how the connection is opened: {error}; let the pooler "
                "take that parameter (PgBouncer: ignore_startup_parameters), or name the database itself in the secret"
            ) from error
        if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
            raise ConfigurationError(f"{error}: bring the schema up to date with `fiblake migrate`") from error
        if isinstance(error, ssl.SSLCertVerificationError):
            raise ConfigurationError(
                f"the database's certificate is not trusted ({error.verify_message}): "
                "name the file with RDS's authorities in DATABASE_CA_FILE"
            ) from error
        if isinstance(error, _DRIVER_ERRORS):
            raise UpstreamError(f"the database failed: {type(error).__name__} {error}") from error
