"""`fiblake query "SQL"`: DuckDB over the lake, on any machine with credentials."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, as_json, printable, progress, table, wants_json
from cli.target import target
from fiblake.wording import pluralize

if TYPE_CHECKING:
    import duckdb

EXAMPLE = (
    "Example: fiblake query \"SELECT ts, close FROM silver_21d WHERE symbol = 'AAPL' ORDER BY ts DESC LIMIT 5\"\n\n"
    'Example: fiblake query "FROM bronze" --symbols AAPL,MSFT --parquet bars.parquet\n\n'
    'Example: fiblake query "SHOW TABLES"'
)
ROWS_SHOWN: Final = 50
ROWS_AT_ONCE: Final = 10_000


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SELECT, in DuckDB's SQL.")],
    *,
    symbols: options.Symbols = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows to this file, as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the rows to this file, as Parquet.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help=f"The maximum of rows to print ({ROWS_SHOWN}; with --json all).")
    ] = None,
    local_files: Annotated[
        bool, typer.Option("--local-files", help="Let the query read files of this machine as well.")
    ] = False,
) -> None:
    """Query the lake: bronze, silver_3d (silver_5d ...), metadata (companies), splits, dividends, universe, manifest.

    Only the views that the query names are read, each version of a file once: copies stay in the user's cache. For a
    large lake, --symbols limits bronze. Exit code 3: files could not be read, and their rows are missing.
    """
    from fiblake.errors import ContractError
    from fiblake.lake import Bronze
    from fiblake.reader import views

    chosen = options.parse_symbols(symbols)
    files = [
        path for path in (options.check_writable(csv, "--csv"), options.check_writable(parquet, "--parquet")) if path
    ]
    if files and rows:
        raise typer.BadParameter("it limits what is printed; --csv and --parquet write all rows", param_hint="--rows")
    try:
        names = views.views_named_in(sql, "--local-files allows them", local_files=local_files)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="SQL") from error
    with progress("files of the lake") as advance:
        store = target(context).store
        lake = views.open_views(store, Bronze(), names, chosen, advance, outputs=files, local_files=local_files)
    with lake.connection:
        try:
            lake.answer(lambda connection: _print_rows(context, connection.sql(sql), csv, parquet, rows))
        except ContractError as error:
            raise typer.BadParameter(str(error), param_hint="SQL") from error
    for key, fault in lake.unreadable.items():
        sys.stderr.write(printable(f"fiblake: {key} cannot be read, and its rows are missing: {fault}\n"))
    if lake.unreadable:
        raise typer.Exit(3)


def _print_rows(
    context: typer.Context, query: "duckdb.DuckDBPyRelation", csv: Path | None, parquet: Path | None, most: int | None
) -> None:
    if csv:
        query.write_csv(str(csv.absolute()), header=True)
    if parquet:
        query.write_parquet(str(parquet.absolute()))
    if csv or parquet:
        return
    headers, names = query.columns, _distinct(query.columns)
    rows = _without_zones(query).materialize()
    total = len(rows)
    shown = min(total, most or (total if wants_json(context) else ROWS_SHOWN))
    if wants_json(context):
        _write_json(names, _parts(rows, shown))
    else:
        dicts = [dict(zip(names, row, strict=True)) for part in _parts(rows, shown) for row in part]
        answer(context, dicts, lambda console: console.print(table("", dicts, names, headers)))
    if shown < total:
        more = f"{shown:,} of {pluralize(total, 'row')}: --rows, --csv and --parquet give more\n"
        (sys.stderr if wants_json(context) else sys.stdout).write(more)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names without repeats: a second `a` is `a_1`, as in DuckDB's own tables."""
    distinct: dict[str, None] = {}
    for name in names:
        number, free = 0, name
        while free in distinct:
            number += 1
            free = f"{name}_{number}"
        distinct[free] = None
    return list(distinct)


def _without_zones(relation: "duckdb.DuckDBPyRelation") -> "duckdb.DuckDBPyRelation":
    """Return the rows with instants as text in UTC: DuckDB needs another library to return them as values."""
    if not any("TIME ZONE" in str(kind) for kind in relation.types):
        return relation
    return relation.project(", ".join(_column(n, str(kind)) for n, kind in enumerate(relation.types, start=1)))


def _column(number: int, kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"regexp_replace(CAST(#{number} AS VARCHAR), '[+]00$', 'Z')"  # the connection's zone is UTC
    return f"CAST(#{number} AS VARCHAR)" if "TIME ZONE" in kind else f"#{number}"


def _parts(rows: "duckdb.DuckDBPyRelation", most: int) -> Iterator[list[tuple[Any, ...]]]:
    for start in range(0, most, ROWS_AT_ONCE):
        yield rows.limit(min(ROWS_AT_ONCE, most - start), start).fetchall()


def _write_json(names: Sequence[str], parts: Iterator[list[tuple[Any, ...]]]) -> None:
    """Write the rows as one JSON array, part by part: there may be millions."""
    joint = "["
    for part in parts:
        for row in part:
            sys.stdout.write(joint + as_json(dict(zip(names, row, strict=True))))
            joint = ", "
    sys.stdout.write("[]\n" if joint == "[" else "]\n")
