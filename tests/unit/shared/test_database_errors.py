"""What the database's driver raises reaches callers as one of our errors, which say whether to try again."""

import asyncpg
import pytest

from fiblake.errors import ConfigurationError, EntitlementError, FiblakeError, UpstreamError
from shared.database.connection import DatabaseAddress, Tls, connection_to, translated


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        # The errors of a backend that is ended right before a query; the timing decides which.
        (asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress"), UpstreamError),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), UpstreamError),
        (asyncpg.InterfaceError("connection is closed"), UpstreamError),
        (asyncpg.AdminShutdownError("terminating connection due to administrator command"), UpstreamError),
        (ConnectionResetError("reset by peer"), UpstreamError),
        (TimeoutError(), UpstreamError),
        (asyncpg.InvalidPasswordError("password authentication failed"), EntitlementError),
        (asyncpg.UndefinedTableError('relation "raw_ohlcv" does not exist'), ConfigurationError),
    ],
)
def test_an_error_of_the_driver_becomes_one_of_ours(raised: Exception, kind: type[FiblakeError]) -> None:
    with pytest.raises(kind), translated():
        raise raised


def test_an_error_that_is_not_the_driver_s_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError


class Cut:
    """A broken connection, which raises when it is closed."""

    async def close(self) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 2; another operation (11) is in progress")


@pytest.fixture
def _cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(**_: object) -> Cut:
        return Cut()

    monkeypatch.setattr(asyncpg, "connect", connect)


ADDRESS = DatabaseAddress("localhost", 5432, "someone", "fiblake", "secret")


@pytest.mark.usefixtures("_cut_off")
async def test_the_error_that_broke_a_connection_is_reported_and_not_the_one_of_its_closing() -> None:
    with pytest.raises(ZeroDivisionError):
        async with connection_to(ADDRESS, Tls(verify=False)):
            raise ZeroDivisionError


@pytest.mark.usefixtures("_cut_off")
async def test_a_connection_that_cannot_be_closed_is_an_error_of_ours() -> None:
    with pytest.raises(UpstreamError, match="InternalClientError"):
        async with connection_to(ADDRESS, Tls(verify=False)):
            pass
