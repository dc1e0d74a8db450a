"""What the database's driver raises reaches callers as one of our errors, which say whether to try again."""

import asyncpg
import pytest

from shared.database.connection import translated
from shared.errors import ConfigurationError, EntitlementError, FiblakeError, UpstreamError


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        # What a backend that is ended just before it is asked something looks like, by chance of timing.
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
def test_an_error_of_the_driver_becomes_one_of_ours(raised: Exception, told: type[FiblakeError]) -> None:
    with pytest.raises(told), translated():
        raise raised


def test_an_error_that_is_not_the_driver_s_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError
