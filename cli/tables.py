"""The lake as DuckDB's tables: `bronze`, `silver_3d` ... `silver_34d`, `metadata`, `splits`, `manifest`."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.cache import copies
from shared.errors import ContractError
from shared.lake import IDENTITIES_PREFIX, INTERVALS, MANIFEST_KEY, SPLITS_PREFIX, Bronze, silver_prefix

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from shared.objects import ObjectStore

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    # Nothing is fetched at run time: what is needed is in DuckDB's wheel.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # A name in a query is a view's, never that of a variable of this program.
    "python_enable_replacements": False,
}
Advance = Callable[[int], None]


def schemas() -> "dict[str, pa.Schema]":
    """Give the columns of each view."""
    from shared.bars import BRONZE, MANIFEST, SILVER
    from shared.reference import IDENTITIES, SPLITS

    silver = {f"silver_{n}d": SILVER for n in INTERVALS}
    return {"bronze": BRONZE, **silver, "metadata": IDENTITIES, "splits": SPLITS, "manifest": MANIFEST}


def named_in(sql: str) -> set[str]:
    """Give the views that a query names; raise ContractError if it is no query, or DuckDB does not understand it."""
    import duckdb

    with duckdb.connect(config=_SETTINGS) as scratch:
        for name, schema in schemas().items():
            scratch.register("columns_of_it", schema.empty_table())
            scratch.execute(f'CREATE TABLE "{name}" AS FROM columns_of_it')
        scratch.unregister("columns_of_it")
        try:
            statements = scratch.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise ContractError("one SELECT is taken, and nothing else: the lake is only read")
            scratch.sql(sql)  # names and types are checked here, before anything is read
        except duckdb.Error as error:
            raise ContractError(f"DuckDB does not understand the query: {error}") from error
    # By the words: one that is no table's only costs a view that nobody asks.
    return {name for name in schemas() if re.search(rf"\b{name}\b", sql, re.IGNORECASE)}


def opened(
    store: "ObjectStore", names: set[str], symbols: Sequence[str], advance: Advance, root: Path | None = None
) -> "duckdb.DuckDBPyConnection":
    """Give a connection with these views over the lake as it now is; `symbols` (none: all) limits them."""
    import duckdb

    connection = duckdb.connect(config=_SETTINGS)
    for name in sorted(names):
        files = copies(store, _versions(store, name, symbols), advance, root)
        _view(connection, name, files, symbols)
    return connection


def _versions(store: "ObjectStore", name: str, symbols: Sequence[str]) -> dict[str, str]:
    """Give the objects that a view is made of, and their versions."""
    bronze = Bronze()
    if name == "bronze" and symbols:
        keys = [bronze.data_key(symbol) for symbol in symbols]
        return {key: etag for key, etag in zip(keys, store.versions(keys), strict=True) if etag}
    if name == "bronze":
        return {info.key: info.etag for info in store.listed(f"{bronze.prefix}/") if bronze.is_consolidated(info.key)}
    if name == "manifest":
        (etag,) = store.versions([MANIFEST_KEY])
        return {MANIFEST_KEY: etag} if etag else {}
    prefixes = {f"silver_{n}d": silver_prefix(n) for n in INTERVALS}
    prefixes |= {"metadata": f"{IDENTITIES_PREFIX}/", "splits": f"{SPLITS_PREFIX}/"}
    return {info.key: info.etag for info in store.listed(prefixes[name]) if info.key.endswith(".parquet")}


def _view(connection: "duckdb.DuckDBPyConnection", name: str, files: Sequence[Path], symbols: Sequence[str]) -> None:
    schema = schemas()[name]
    if not files:
        connection.register(name, schema.empty_table())
        return
    # By name: files of an older version, or somebody's own, may lack a column that may be null.
    rows = connection.read_parquet([str(file) for file in files], union_by_name=True)
    known = [column for column in schema.names if column in rows.columns]
    rows = rows.project(", ".join(f'"{column}"' for column in known))
    if symbols:
        rows = rows.filter(f"symbol IN ({', '.join(repr(symbol) for symbol in symbols)})")
    rows.create_view(name)
