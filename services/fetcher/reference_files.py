"""Write splits, dividends and identities into bronze for the consolidator: one small file for each symbol."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date

from fiblake.errors import ContractError
from fiblake.lake import IDENTITIES_PREFIX, UNIVERSE_KEY, dividends_key, identities_key, splits_key
from fiblake.reference import (
    Dividend,
    Identity,
    Split,
    dividends_file,
    identities_file,
    read_identities,
    splits_file,
)
from fiblake.symbols import SymbolRecord
from fiblake.universe import Universe, read_universe, universe_file, universe_of
from shared.objects import ObjectStore

Identities = tuple[Identity, ...]


async def put_splits(store: ObjectStore, splits: Mapping[str, Sequence[Split]]) -> None:
    """Write each symbol's splits; a symbol that no longer has any gets a file without rows."""
    await _put(store, {splits_key(symbol): splits_file(of_symbol) for symbol, of_symbol in splits.items()})


async def put_dividends(store: ObjectStore, dividends: Mapping[str, Sequence[Dividend]]) -> None:
    """Write each symbol's dividends; a symbol that no longer has any gets a file without rows."""
    await _put(store, {dividends_key(symbol): dividends_file(of_symbol) for symbol, of_symbol in dividends.items()})


async def put_identities(store: ObjectStore, identities: Mapping[str, Identities]) -> list[str]:
    """Update the files with the companies of each symbol; return the symbols that differed.

    A symbol with only one company needs no file. If it has one, the file is updated, too: a run may have written it and
    died before it stored the records, and the vendor may have corrected itself since.
    """
    keys = {identities_key(symbol): symbol for symbol in identities}
    listing = await asyncio.to_thread(store.list_objects, f"{IDENTITIES_PREFIX}/")
    existing = {info.key for info in listing}
    keys_read = [key for key, symbol in keys.items() if key in existing or len(identities[symbol]) > 1]
    files = await asyncio.to_thread(store.get_many, keys_read)
    differing = [
        keys[key]
        for key, file in zip(keys_read, files, strict=True)
        if _read(file.data if file else None, keys[key]) != identities[keys[key]]
    ]
    await _put(store, {identities_key(symbol): identities_file(identities[symbol]) for symbol in differing})
    return differing


async def put_universe(store: ObjectStore, records: Sequence[SymbolRecord], since: date) -> None:
    """Update the file of all companies from symbol_metadata, in which all companies since the day `since` are known.

    If an earlier run loaded older days, the earlier day stays.
    """

    def changed(data: bytes | None) -> bytes | None:
        stored = _read_universe(data)
        universe = universe_of(records, min(since, stored.known_since) if stored else since)
        return None if universe == stored else universe_file(universe)

    await asyncio.to_thread(store.update, UNIVERSE_KEY, changed)


async def _put(store: ObjectStore, files: Mapping[str, bytes]) -> None:
    failures = await asyncio.to_thread(store.put_many, files.items())
    for error in failures.values():
        raise error


def _read(data: bytes | None, symbol: str) -> Identities | None:
    """Read a file; None if it cannot be read and must be written again."""
    try:
        return read_identities(data, symbol) if data is not None else None
    except ContractError:
        return None


def _read_universe(data: bytes | None) -> Universe | None:
    """Read the file; None if it cannot be read and must be written again."""
    try:
        return read_universe(data) if data is not None else None
    except ContractError:
        return None
