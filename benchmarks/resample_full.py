"""Resample all of bronze into all silver tables: ours, and other tools. Same input, same month files, compared.

Each contestant is a function that imports what it needs and returns the work to be timed: `work(lake, out)` reads
`lake`/bronze/raw_ohlcv/symbol=*/data.parquet and writes `out`/silver/... in the lake's layout.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.lake import BRONZE_LAKE
from benchmarks.measure import Work
from benchmarks.servers import Nobody
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Month, silver_key

COLUMNS: Final = ("symbol", "ts", "open", "high", "low", "close", "volume", "bars", "last_date", "is_complete")
MEMORY_MB: Final = 3000


def ours() -> Work:
    """Return the service's own job, on a folder instead of a bucket."""
    from benchmarks.folder import Folder  # noqa: PLC0415 (each process loads what its contestant needs)
    from services.resampler.__main__ import RESERVED_MB, return_what_is_freed  # noqa: PLC0415
    from services.resampler.computing import usable_cores  # noqa: PLC0415
    from services.resampler.full import FullResampler  # noqa: PLC0415

    def work(lake: str, out: str, memory_mb: int = MEMORY_MB) -> Mapping[str, Any]:
        return_what_is_freed()
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bronze").symlink_to(Path(lake) / "bronze")
        resampler = FullResampler(
            Folder(folder), BRONZE_LAKE, nyse(), Nobody(), retention_years=0, adjusted=True,
            most_bytes=(memory_mb - RESERVED_MB) << 20, months_at_once=usable_cores() + 1,
        )  # fmt: skip
        summary = resampler.run(datetime.now(UTC))
        return {"rows": sum(summary.rows.values()), "readings": summary.readings}

    return work


def ours_through_s3() -> Work:
    """Return the same through S3: the bucket that the environment names."""
    from services.resampler.__main__ import resample  # noqa: PLC0415
    from services.resampler.settings import FullResamplerSettings  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    def work(memory_mb: int = MEMORY_MB) -> Mapping[str, Any]:
        summary = resample(load(FullResamplerSettings).model_copy(update={"memory_mb": memory_mb}))
        return {"rows": sum(summary.rows.values()), "written": summary.written}

    return work


def duckdb_well() -> Work:
    """Return DuckDB written well: one reading, arg_min and arg_max, one GROUP BY an interval, files by pyarrow."""
    import duckdb  # noqa: PLC0415

    def work(lake: str, out: str) -> None:
        connection = duckdb.connect()
        _calendar(connection)
        connection.execute(f"""
            CREATE TABLE bars AS SELECT symbol, ordinal, open, high, low, close, volume
            FROM read_parquet('{lake}/bronze/raw_ohlcv/*/data.parquet', hive_partitioning = false)
            JOIN calendar ON timestamp = session
        """)
        for n in INTERVALS:
            table = connection.sql(f"""
                WITH buckets AS (
                    SELECT symbol, ordinal // {n} * {n} AS begins, arg_min(open, ordinal) AS open, max(high) AS high,
                        min(low) AS low, arg_max(close, ordinal) AS close, sum(volume) AS volume,
                        count(*)::INTEGER AS bars, max(ordinal) AS last
                    FROM bars GROUP BY ALL
                ), lasts AS (SELECT symbol, max(last) AS newest FROM buckets GROUP BY symbol)
                SELECT symbol, f.session AS ts, open, high, low, close, volume, bars, l.session AS last_date,
                    newest >= begins + {n} - 1 AS is_complete
                FROM buckets JOIN lasts USING (symbol)
                JOIN calendar f ON f.ordinal = begins JOIN calendar l ON l.ordinal = last
                ORDER BY date_trunc('month', ts), symbol, ts
            """).to_arrow_table()
            _write_arrow(table, n, Path(out))

    return work


def published() -> Work:
    """Return the published approach: ROW_NUMBER and a self-join an interval, then pandas, month by month."""
    import duckdb  # noqa: PLC0415

    def work(lake: str, out: str) -> None:
        for n in INTERVALS:
            connection = duckdb.connect()
            _calendar(connection)
            frame = connection.sql(f"""
                WITH numbered AS (
                    SELECT b.*, ordinal, ordinal // {n} AS bucket,
                        ROW_NUMBER() OVER (PARTITION BY symbol, ordinal // {n} ORDER BY ordinal) AS from_start,
                        ROW_NUMBER() OVER (PARTITION BY symbol, ordinal // {n} ORDER BY ordinal DESC) AS from_end
                    FROM read_parquet('{lake}/bronze/raw_ohlcv/*/data.parquet', hive_partitioning = false) b
                    JOIN calendar ON timestamp = session
                ), totals AS (
                    SELECT symbol, bucket, max(high) AS high, min(low) AS low, sum(volume) AS volume,
                        count(*)::INTEGER AS bars, max(timestamp) AS last_date
                    FROM numbered GROUP BY symbol, bucket
                ), lasts AS (SELECT symbol, max(ordinal) AS newest FROM numbered GROUP BY symbol)
                SELECT t.symbol, c.session AS ts, f.open, t.high, t.low, l.close, t.volume, t.bars, t.last_date,
                    newest >= t.bucket * {n} + {n} - 1 AS is_complete
                FROM totals t
                JOIN numbered f ON f.symbol = t.symbol AND f.bucket = t.bucket AND f.from_start = 1
                JOIN numbered l ON l.symbol = t.symbol AND l.bucket = t.bucket AND l.from_end = 1
                JOIN lasts ON lasts.symbol = t.symbol
                JOIN calendar c ON c.ordinal = t.bucket * {n}
                ORDER BY t.symbol, ts
            """).df()
            for (year, month), rows in frame.groupby([frame.ts.dt.year, frame.ts.dt.month]):
                rows.to_parquet(_path(Path(out), n, Month(year, month)), index=False)
            connection.close()

    return work


def polars_group_by() -> Work:
    """Return polars with a plain group_by on bars sorted by symbol and session."""
    import polars as pl  # noqa: PLC0415

    def work(lake: str, out: str) -> None:
        bars = _polars_bars(lake)
        for n in INTERVALS:
            keyed = bars.with_columns((pl.col("ordinal") // n * n).alias("begins"))
            rows = keyed.group_by("symbol", "begins").agg(*_polars_aggregates())
            _write_polars(rows, n, Path(out))

    return work


def polars_group_by_dynamic() -> Work:
    """Return polars with group_by_dynamic over the sessions' ordinals: windows of n that begin at multiples of n."""

    def work(lake: str, out: str) -> None:
        bars = _polars_bars(lake).set_sorted("symbol")
        for n in INTERVALS:
            windows = bars.group_by_dynamic(
                "ordinal", every=f"{n}i", group_by="symbol", label="left", start_by="window"
            )
            rows = windows.agg(*_polars_aggregates(last="place")).rename({"ordinal": "begins"})
            _write_polars(rows, n, Path(out))

    return work


def pandas_group_by() -> Work:
    """Return pandas: a sorted groupby with first, max, min, last and sum."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]

    def work(lake: str, out: str) -> None:
        paths = sorted(Path(lake).glob("bronze/raw_ohlcv/*/data.parquet"))
        with ThreadPoolExecutor() as pool:
            tables = list(pool.map(lambda path: pq.ParquetFile(path).read(columns=columns), paths))
        bars = pa.concat_tables(tables).to_pandas()
        sessions = nyse().sessions
        bars["ordinal"] = np.searchsorted(sessions, bars["timestamp"].to_numpy(dtype="datetime64[D]"))
        bars["symbol"] = bars["symbol"].astype("category")
        newest = bars.groupby("symbol", observed=True)["ordinal"].max()
        for n in INTERVALS:
            grouped = bars.groupby(["symbol", bars["ordinal"] // n * n], observed=True, sort=True)
            rows = grouped.agg(
                open=("open", "first"), high=("high", "max"), low=("low", "min"), close=("close", "last"),
                volume=("volume", "sum"), bars=("open", "size"), last=("ordinal", "max"),
            ).reset_index(names=["symbol", "begins"])  # fmt: skip
            rows["is_complete"] = rows["symbol"].map(newest).astype(int) >= rows["begins"] + n - 1
            rows["symbol"] = rows["symbol"].astype(str)
            rows["ts"], rows["last_date"] = sessions[rows["begins"]], sessions[rows["last"]]
            rows = rows.sort_values(["symbol", "ts"])
            rows["month"] = rows["ts"].to_numpy().astype("datetime64[M]")
            rows = rows.sort_values("month", kind="stable")
            table = pa.Table.from_pandas(rows[list(COLUMNS)], preserve_index=False)
            for name in ("ts", "last_date"):
                table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.date32()))
            _write_arrow(table, n, Path(out))

    return work


def _polars_bars(lake: str) -> Any:  # noqa: ANN401 (polars is not there for the type checker)
    import polars as pl  # noqa: PLC0415

    sessions = nyse().sessions.astype(np.int64)
    ordinals = np.zeros(sessions[-1] - sessions[0] + 1, np.int64)
    ordinals[sessions - sessions[0]] = np.arange(sessions.size)
    names = sorted(path.name.removeprefix("symbol=") for path in Path(lake, "bronze/raw_ohlcv").iterdir())
    # In the order of the files, and so of symbols and sessions: nothing is sorted that is sorted already.
    paths = [f"{lake}/bronze/raw_ohlcv/symbol={name}/data.parquet" for name in names]
    bars = pl.scan_parquet(paths, hive_partitioning=False)
    bars = bars.select("symbol", "timestamp", "open", "high", "low", "close", "volume").collect()
    days = bars["timestamp"].cast(pl.Int32).to_numpy() - sessions[0]
    ordinal = pl.Series("ordinal", ordinals[days])
    return bars.with_columns(pl.col("symbol").cast(pl.Enum(names)), ordinal, ordinal.alias("place"))


def _polars_aggregates(last: str = "ordinal") -> list[Any]:
    import polars as pl  # noqa: PLC0415

    return [
        pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(),
        pl.col("volume").sum(), pl.len().cast(pl.Int32).alias("bars"), pl.col(last).last().alias("last"),
    ]  # fmt: skip


def _write_polars(rows: Any, n: int, out: Path) -> None:  # noqa: ANN401
    import polars as pl  # noqa: PLC0415

    sessions = pl.Series(nyse().sessions).cast(pl.Date)
    rows = rows.with_columns(
        ts=sessions.gather(rows["begins"]), last_date=sessions.gather(rows["last"]),
        is_complete=pl.col("last").max().over("symbol") >= pl.col("begins") + n - 1,
    ).with_columns(month=pl.col("ts").dt.truncate("1mo"))  # fmt: skip
    rows = rows.sort("month", "symbol", "ts")
    starts = np.flatnonzero(np.diff(rows["month"].to_numpy().astype("datetime64[M]").astype(int), prepend=-1))
    ends = np.append(starts[1:], rows.height)
    rows = rows.select("month", *COLUMNS).with_columns(pl.col("symbol").cast(pl.String))

    def write(bounds: tuple[int, int]) -> None:
        part = rows.slice(bounds[0], bounds[1] - bounds[0])
        month = Month.of(part["month"][0])
        part.drop("month").write_parquet(_path(out, n, month), compression="snappy", statistics=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, zip(starts.tolist(), ends.tolist(), strict=True)))


def _calendar(connection: Any) -> None:  # noqa: ANN401 (a DuckDB connection)
    import pyarrow as pa  # noqa: PLC0415

    sessions = nyse().sessions
    days = pa.table({"session": pa.array(sessions, pa.date32()), "ordinal": np.arange(sessions.size)})
    connection.register("days", days)
    connection.execute("CREATE TABLE calendar AS SELECT * FROM days")


def _write_arrow(table: Any, n: int, out: Path) -> None:  # noqa: ANN401 (rows sorted by month, symbol, ts)
    import pyarrow.parquet as pq  # noqa: PLC0415

    months = table["ts"].to_numpy().astype("datetime64[M]").astype(int)
    starts = np.flatnonzero(np.diff(months, prepend=-(10**6)))
    ends = np.append(starts[1:], table.num_rows)

    def write(bounds: tuple[int, int]) -> None:
        part = table.slice(bounds[0], bounds[1] - bounds[0])
        path = _path(out, n, Month.of(part["ts"][0].as_py()))
        pq.write_table(part, path, use_dictionary=["symbol"], store_schema=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, zip(starts.tolist(), ends.tolist(), strict=True)))


def _path(out: Path, n: int, month: Month) -> Path:
    path = out / silver_key(n, month)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {
    "fiblake": ours,
    "fiblake through S3": ours_through_s3,
    "polars group_by": polars_group_by,
    "polars group_by_dynamic": polars_group_by_dynamic,
    "DuckDB, written well": duckdb_well,
    "pandas": pandas_group_by,
    "published (ROW_NUMBER, self-join)": published,
}
