"""The lake as DuckDB's tables: `bronze`, `silver_3d` (and so on), `metadata`, `splits`, `universe`, `manifest`."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

import duckdb

from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE, MANIFEST
from fiblake.decoding import decoding, limit, market_limit, open_parquet
from fiblake.errors import ContractError
from fiblake.lake import (
    DIVIDENDS_PREFIX,
    IDENTITIES_PREFIX,
    INTERVALS,
    MANIFEST_KEY,
    SPLITS_PREFIX,
    UNIVERSE_KEY,
    Bronze,
    is_reference,
    parse_silver_key,
    silver_prefix,
)
from fiblake.reader.cache import copies, fetch, folder
from fiblake.reader.faults import refuse_missing
from fiblake.reference import DIVIDENDS, IDENTITIES, SPLITS
from fiblake.universe import UNIVERSE

if TYPE_CHECKING:
    import pyarrow as pa

    from fiblake.objects import ObjectReader, StoredObject

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    # DuckDB downloads no extension at run time: its wheel has all that is needed.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # A name in a query is the name of a view, never of a variable of this program.
    "python_enable_replacements": False,
}
_TYPES: Final = {
    "string": "VARCHAR", "date32[day]": "DATE", "double": "DOUBLE", "int64": "BIGINT", "int32": "INTEGER",
    "bool": "BOOLEAN", "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip
_SINGLE_KEYS: Final = {"manifest": MANIFEST_KEY, "universe": UNIVERSE_KEY}
"""Views of one object each."""
_REFERENCE_PREFIXES: Final = {
    "metadata": f"{IDENTITIES_PREFIX}/", "splits": f"{SPLITS_PREFIX}/", "dividends": f"{DIVIDENDS_PREFIX}/",
}  # fmt: skip
_INTERVALS: Final = {f"silver_{n}d": n for n in INTERVALS}
FETCHES: Final = 3
"""An object is fetched this often if other readers keep removing its copy."""
Advance = Callable[[int], None]
ResultT = TypeVar("ResultT")


def schemas() -> "dict[str, pa.Schema]":
    """Return the columns of each view."""
    silver = {f"silver_{n}d": SILVER for n in INTERVALS}
    companies = {"metadata": IDENTITIES, "universe": UNIVERSE}
    return {"bronze": BRONZE, **silver, **companies, "splits": SPLITS, "dividends": DIVIDENDS, "manifest": MANIFEST}


def views_named_in(sql: str, files_hint: str, *, local_files: bool = False, distinct_columns: bool = False) -> set[str]:
    """Return the views that a query names; raise ContractError if it is no query, or DuckDB does not accept it.

    `files_hint` is the remedy in the error about a query that names a file of this machine. With `distinct_columns`, a
    query with two columns of one name is refused, too.
    """
    with open_scratch(local_files=local_files) as scratch:
        try:
            sql.encode()
            statements = scratch.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise ContractError("one SELECT is taken, and nothing else: the lake is only read")
            columns = scratch.sql(sql).columns  # names and types are checked here, before anything is read
        except duckdb.PermissionException as error:
            raise ContractError(f"no files of this machine are read: {error}; {files_hint}") from error
        except UnicodeEncodeError as error:
            raise ContractError("the query holds half of a pair of surrogates: write it in UTF-8") from error
        except duckdb.Error as error:
            raise ContractError(f"DuckDB does not understand the query: {error}") from error
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if distinct_columns and repeated:
        raise ContractError(
            f"two columns of the query are named {', '.join(repeated)}: give each column a name of its own, with AS"
        )
    # Any word may be the name of a view; a view that the query does not use is harmless.
    return {name for name in schemas() if re.search(rf"\b{name}\b", sql, re.IGNORECASE)}


def open_scratch(*, local_files: bool) -> "duckdb.DuckDBPyConnection":
    """Open a database that has the columns of each view and no rows, to check queries.

    It is opened for each query: a fork must not inherit a connection of DuckDB.
    """
    scratch = duckdb.connect(config={**_SETTINGS, "temp_directory": ""})
    columns_of = {name: [f'"{f.name}" {_TYPES[str(f.type)]}' for f in schema] for name, schema in schemas().items()}
    scratch.execute(";".join(f'CREATE TABLE "{name}" ({", ".join(of)})' for name, of in columns_of.items()))
    if not local_files:
        _lock(scratch, [], [])
    return scratch


@dataclass
class Views:
    """Views over copies of the lake's files."""

    connection: "duckdb.DuckDBPyConnection"
    files: Mapping[str, dict[str, Path]]
    """The copies of each view's objects, by key."""
    symbols: tuple[str, ...]
    fetch_again: Callable[[str, str], Path | None]
    """Fetches an object of a view, by the view's name and the key; None: it was deleted, or it cannot be read."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """The reasons why files cannot be read, by key. Such files are in no view."""
    fetches: Counter[str] = field(default_factory=Counter)
    """How often an object was fetched again, by key."""

    def answer(self, ask: "Callable[[duckdb.DuckDBPyConnection], ResultT]") -> ResultT:
        """Return the result of `ask` for the views.

        If `ask` fails, copies that cannot be read are fetched again, and `ask` is repeated. Files that still cannot be
        read are removed from the views (see `unreadable`). Raises ContractError if all files can be read.
        """
        while True:
            try:
                self._make_views()
                return ask(self.connection)
            except duckdb.Error as error:
                if not self._replace_unreadable():
                    raise ContractError(f"DuckDB cannot answer the query: {error}") from error

    def _replace_unreadable(self) -> bool:
        """Return whether files were replaced or removed from the views; delete copies that cannot be read.

        Another reader may have replaced a copy by a newer version, or the disk may have damaged it. So an object is
        reported only if it cannot be read right after it was fetched.
        """
        is_changed = False
        for name, files in self.files.items():
            for key, file in list(files.items()):
                try:
                    _rows(self.connection, name, [file]).aggregate("bit_xor(hash(COLUMNS(*)))").fetchall()
                except duckdb.Error as error:
                    is_changed = True
                    del files[key]
                    allowed = 1 if file.exists() else FETCHES
                    file.unlink(missing_ok=True)
                    if self.fetches[key] >= allowed:
                        self.unreadable[key] = str(error).replace(str(file), key).partition("\n")[0]
                        continue
                    self.fetches[key] += 1
                    if copy := self.fetch_again(name, key):
                        files[key] = copy
        return is_changed

    def _make_views(self) -> None:
        """Create all views; the view of a table that was not fetched cannot be used."""
        unused: list[str] = []
        for name, schema in schemas().items():
            if files := list(self.files.get(name, {}).values()):
                rows = _rows(self.connection, name, files)
                if self.symbols:
                    rows = rows.filter(f"symbol IN ({', '.join(repr(symbol) for symbol in self.symbols)})")
                rows.create_view(name, replace=True)
                continue
            nulls = ", ".join(f'CAST(NULL AS {_TYPES[str(f.type)]}) AS "{f.name}"' for f in schema)
            none = "false" if name in self.files else f"error('the query must name {name} in plain letters')::BOOLEAN"
            unused.append(f'CREATE OR REPLACE VIEW "{name}" AS SELECT {nulls} WHERE {none}')
        self.connection.execute(";".join(unused))  # in one call, because each takes a millisecond


def open_views(  # noqa: PLR0917
    store: "ObjectReader", bronze: Bronze, names: set[str], symbols: Sequence[str], advance: Advance,
    root: Path | None = None, outputs: Sequence[Path] = (), *, local_files: bool = False,
) -> Views:  # fmt: skip
    """Return views over the present lake; `symbols` (none: all) limits them.

    A query may read the copies of the lake's files and write `outputs`. It may use no other file of this machine,
    unless `local_files` allows it.
    """
    refused: dict[str, str] = {}
    files = {
        name: copies(
            store, _versions(store, bronze, name, symbols), advance, root, partial(_accept, check_of(name), refused)
        )
        for name in sorted(names)
    }

    def fetch_again(name: str, key: str) -> Path | None:
        return fetch(store, [key], root, partial(_accept, check_of(name), refused)).get(key)

    # DuckDB's own default is a folder below the working directory, whose files a query could read.
    spill = (root or folder()) / store.bucket / f".spill-{uuid4().hex}"
    connection = duckdb.connect(config={**_SETTINGS, "temp_directory": str(spill)})
    connection.execute("SET TimeZone = 'UTC'")
    if not local_files:
        # To replace an existing file, DuckDB writes tmp_NAME beside it and renames that.
        paths = [path for file in outputs for path in (file, file.with_name(f"tmp_{file.name}"))]
        _lock(connection, [(root or folder()) / store.bucket], paths)
    return Views(connection, files, tuple(symbols), fetch_again, refused)


def _accept(check: Callable[[bytes], None], refused: dict[str, str], stored: "StoredObject") -> bool:
    """Return whether a file passes the check; if not, add the reason to `refused`."""
    try:
        check(stored.data)
    except ContractError as error:
        refused[stored.key] = str(error)
        return False
    return True


def check_of(name: str) -> Callable[[bytes], None]:
    """Return a check that raises ContractError for a file that DuckDB must not read: DuckDB has no size limit.

    The function reads the file once with the limits of the services: its footer, its pages and its texts.
    """
    columns, allowed = schemas()[name].names, market_limit() if schemas()[name] is SILVER else limit()

    def check(data: bytes) -> None:
        file = open_parquet(data, "it", columns, allowed=allowed)
        with decoding("it cannot be read"):
            file.read([column for column in file.names if column in columns])

    return check


def _lock(connection: "duckdb.DuckDBPyConnection", folders: Sequence[Path], files: Sequence[Path]) -> None:
    for setting, paths in (("allowed_directories", folders), ("allowed_paths", files)):
        quoted = ", ".join("'{}'".format(str(path.absolute()).replace("'", "''")) for path in paths)
        connection.execute(f"SET {setting} = [{quoted}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _data_files(store: "ObjectReader", bronze: Bronze, symbols: Sequence[str]) -> dict[str, str]:
    """Return the data.parquet of each symbol, with its ETag; raise NotFoundError for symbols without one."""
    keys = [bronze.data_key(symbol) for symbol in symbols]
    etags = store.versions(keys)
    if missing := [symbol for symbol, etag in zip(symbols, etags, strict=True) if not etag]:
        refuse_missing(store, bronze, missing)
    return {key: etag for key, etag in zip(keys, etags, strict=True) if etag}


def _versions(store: "ObjectReader", bronze: Bronze, name: str, symbols: Sequence[str]) -> dict[str, str]:
    """Return the objects of a view, with their ETags.

    Raises NotFoundError for symbols without bars, also for silver, where the result would only be empty.
    """
    if symbols and (name == "bronze" or name.startswith("silver_")):
        data_files = _data_files(store, bronze, symbols)
        if name == "bronze":
            return data_files
    if name == "bronze":
        return {
            info.key: info.etag for info in store.list_objects(f"{bronze.prefix}/") if bronze.is_consolidated(info.key)
        }
    if name in _SINGLE_KEYS:
        key = _SINGLE_KEYS[name]
        (etag,) = store.versions([key])
        return {key: etag} if etag else {}
    # Only files that services read: a copy under another name would repeat rows, or spoil the query.
    if name in _REFERENCE_PREFIXES:
        return {info.key: info.etag for info in store.list_objects(_REFERENCE_PREFIXES[name]) if is_reference(info.key)}
    interval = _INTERVALS[name]
    listing = store.list_objects(silver_prefix(interval))
    return {info.key: info.etag for info in listing if parse_silver_key(interval, info.key)}


def _rows(connection: "duckdb.DuckDBPyConnection", name: str, files: Sequence[Path]) -> "duckdb.DuckDBPyRelation":
    """Return the SQL for the files' rows with the view's columns and types.

    Columns are matched by name, because files of an older version, or of another program, may lack a column.
    """
    rows = connection.read_parquet([str(file) for file in files], union_by_name=True)
    fields = [(f.name, _TYPES[str(f.type)]) for f in schemas()[name]]
    values = [f'"{column}"' if column in rows.columns else "NULL" for column, _ in fields]
    casts = [f'CAST({value} AS {kind}) AS "{column}"' for value, (column, kind) in zip(values, fields, strict=True)]
    return rows.project(", ".join(casts))
