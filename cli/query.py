"""`fiblake query "SQL"`: DuckDB over the lake, from wherever there are credentials."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.output import answer, progress, table
from cli.target import target

if TYPE_CHECKING:
    import duckdb

EXAMPLE = (
    "Example: fiblake query \"SELECT ts, close FROM silver_21d WHERE symbol = 'AAPL' ORDER BY ts DESC LIMIT 5\"\n\n"
    'Example: fiblake query "FROM bronze" --symbols AAPL,MSFT --parquet bars.parquet'
)


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SELECT, in DuckDB's SQL.")],
    *,
    symbols: options.Symbols = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows here instead, as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the rows here instead, as Parquet.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to print at the most.")] = 50,
) -> None:
    """Ask the lake: views bronze, silver_3d ... silver_34d, metadata (companies by symbol), splits, and manifest.

    Only the views that the query names are read, each file once a version: copies stay in the user's cache. Of a large
    lake, --symbols keeps bronze small.
    """
    from cli import tables
    from shared.errors import ContractError

    chosen = options.named(symbols)
    try:
        names = tables.named_in(sql)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="SQL") from error
    with progress("files of the lake") as advance:
        connection = tables.opened(target(context).store, names, chosen, advance)
    with connection:
        _give(context, connection.sql(sql), csv, parquet, rows)


def _give(
    context: typer.Context, found: "duckdb.DuckDBPyRelation", csv: Path | None, parquet: Path | None, most: int
) -> None:
    if csv:
        found.write_csv(str(csv), header=True)
    if parquet:
        found.write_parquet(str(parquet))
    if csv or parquet:
        return
    names = found.columns
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in found.limit(most + 1).fetchall()]
    more = "and more: --rows, --csv and --parquet give them" if len(rows) > most else ""
    shown = rows[:most]
    answer(context, shown, lambda console: console.print(table("", shown, names), more))
