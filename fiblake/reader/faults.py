"""Errors of the reader: they name the file that cannot be used, and symbols that have no bars."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from fiblake.calendar import CalendarRangeError
from fiblake.decoding import decoding
from fiblake.errors import ContractError, FiblakeError, NotFoundError
from fiblake.lake import Bronze, check_known

if TYPE_CHECKING:
    from fiblake.objects import ObjectReader

RECONCILE: Final = "`fiblake reconcile` says what to do"


@contextmanager
def using(what: str, remedy: str = RECONCILE) -> Iterator[None]:
    """Convert an error of the block into a ContractError that names the file; see `decoding`.

    A day outside the calendar is here an error of the file, not of a setting.
    """
    with decoding(f"{what} cannot be used", remedy):
        try:
            yield
        except CalendarRangeError as error:
            raise ContractError(str(error)) from error


def refuse_missing(store: "ObjectReader", bronze: Bronze, symbols: Sequence[str]) -> NoReturn:
    """Raise NotFoundError for symbols that have no data.parquet: they are unknown, or not consolidated yet."""
    check_known(symbols, bronze.symbols_in(store.folders(f"{bronze.prefix}/")))
    raise NotFoundError(f"{', '.join(symbols)}: the bars are not consolidated yet; try again in some minutes")


def check_type(name: str, value: object, *types: type, example: str, error: type[FiblakeError] = ContractError) -> None:
    """Raise `error` with an example of the right value if an argument has another type."""
    if not isinstance(value, types):
        raise error(f"{name} is of type {type(value).__name__}: write {example}")
