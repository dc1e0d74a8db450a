"""Queries of research to one lake, through S3: ours, and other tools. Seconds, and requests.

All contestants have the same rows of one interval: DuckDB reads our month files, Delta Lake and ArcticDB a copy that is
written in the way that suits them. Each query is run several times on the newest stored version, and returns a pandas
frame; the median counts. All answers must be the same.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from benchmarks.lake import LAST, SIZES, symbols
from benchmarks.measure import Work, spent
from benchmarks.servers import BUCKET, KEYS
from fiblake.calendar import nyse

INTERVAL: Final = 21
TABLE: Final = f"silver_{INTERVAL}d"
COLUMNS: Final = ("open", "high", "low", "close", "volume")
ASKED: Final = 5
"""The number of times that each query runs."""
MANY: Final = 500
"""The number of symbols of the second and the last query, if the lake has as many."""
YEARS: Final = 10
QUESTIONS: Final = ("one symbol", "many symbols", "one session of all", "panel of ten years")
Frame = Any
"""A pandas frame; which pandas depends on the contestant."""


class Reader(Protocol):
    """The queries of a contestant. `ts` is the index of each answer."""

    def history(self, names: Sequence[str]) -> Frame:
        """Return columns symbol and COLUMNS of these symbols."""

    def panel(self, names: Sequence[str] | None, first: date, last: date) -> Frame:
        """Return the closes as a frame of sessions by symbols (None: all)."""


def _work(opened: Callable[[], Reader], forget: Callable[[], None] = lambda: None) -> Work:
    """Return the work of all queries; `forget` is called before each, to empty the caches."""

    def work(size: str) -> Mapping[str, Any]:
        reader = opened()
        answers = {}
        for question, asks in _questions(reader, size).items():
            frames, measured = [], []
            for ask in asks:
                forget()
                frame, took = spent(ask)
                frames.append(frame)
                measured.append(took)
            middle = {name: statistics.median(took.get(name, 0) for took in measured) for name in measured[0]}
            answers[question] = {**middle, **_digest(frames)}
        return {"wall": sum(answer["wall"] for answer in answers.values()), "answers": answers}

    return work


def _questions(reader: Reader, size: str) -> dict[str, list[Callable[[], Frame]]]:
    names = symbols(SIZES[size])
    many = names[:: max(1, len(names) // MANY)][:MANY]
    last = nyse().ordinal(LAST)
    buckets = [nyse().session(last - last % INTERVAL - INTERVAL * number) for number in range(1, ASKED + 1)]
    start = date(LAST.year - YEARS, 1, 1)
    return dict(zip(QUESTIONS, (
        [partial(reader.history, [name]) for name in names[:: len(names) // ASKED][:ASKED]],
        [partial(reader.history, many)] * ASKED,
        [partial(reader.panel, None, day, day) for day in buckets],
        [partial(reader.panel, many, start, LAST)] * ASKED,
    ), strict=True))  # fmt: skip


def _digest(frames: Sequence[Frame]) -> dict[str, float]:
    """Return the count and the sum of the answers' numbers, which must be the same for all contestants."""
    numbers = [frame.drop(columns="symbol", errors="ignore") for frame in frames]
    return {
        "numbers": sum(int(part.count().sum()) for part in numbers),
        "sum": sum(float(part.sum().sum()) for part in numbers),
    }


def differences(ours: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the queries that two contestants answer differently, from their facts."""
    return [
        f"{question}: {other[question][name]:,} and {ours[question][name]:,} ({name})"
        for question in QUESTIONS
        for name in ("numbers", "sum")
        if abs(other[question][name] - ours[question][name]) > 1e-9 * abs(ours[question][name])
    ]


def ours() -> Work:
    """Return our reader, without copies of files from before."""
    folder = Path(tempfile.mkdtemp(prefix="fiblake-reading-"))
    return _work(partial(_Ours, folder), partial(shutil.rmtree, folder, ignore_errors=True))


def ours_again() -> Work:
    """Return our reader, asked a second time: copies of the month files are in its cache."""
    folder = Path(tempfile.mkdtemp(prefix="fiblake-reading-"))

    def opened() -> Reader:
        reader = _Ours(folder)
        reader.panel(None, nyse().session(0), LAST)
        return reader

    return _work(opened)


class _Ours:
    def __init__(self, cache: Path) -> None:
        import fiblake  # noqa: PLC0415 (each process loads what its contestant needs)

        self._lake = fiblake.open(bucket=BUCKET, endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"], cache=cache)

    def history(self, names: Sequence[str]) -> Frame:
        frame = self._lake.bars(names, f"{INTERVAL}d").to_pandas()
        return frame[["symbol", *COLUMNS]]

    def panel(self, names: Sequence[str] | None, first: date, last: date) -> Frame:
        return self._lake.panel("close", f"{INTERVAL}d", names, first, last).to_pandas()


def duckdb_over_silver() -> Work:
    """Return DuckDB over our month files, with its own extension for S3; what it has read is not cached."""
    return _work(partial(_DuckDb, keeps_files=False))


def duckdb_again() -> Work:
    """Return DuckDB asked a second time: it keeps in memory what it has read."""

    def opened() -> Reader:
        reader = _DuckDb(keeps_files=True)
        reader.history(["AAA"])
        return reader

    return _work(opened)


class _DuckDb:
    def __init__(self, *, keeps_files: bool) -> None:
        import duckdb  # noqa: PLC0415
        import duckdb_extension_httpfs  # noqa: PLC0415

        [extension] = Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
        endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"]).netloc
        self._connection = duckdb.connect()
        self._connection.execute(f"SET enable_external_file_cache = {keeps_files}")
        self._connection.execute(f"LOAD '{extension}'")
        self._connection.execute(f"""
            CREATE SECRET (
                TYPE s3, KEY_ID '{KEYS[0]}', SECRET '{KEYS[1]}', ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false
            )
        """)
        types = "hive_partitioning = true, hive_types = {'year': INTEGER, 'month': INTEGER}"
        self._files = f"read_parquet('s3://{BUCKET}/silver/{TABLE}/*/*/*.parquet', {types})"

    def history(self, names: Sequence[str]) -> Frame:
        columns = ", ".join(COLUMNS)
        sql = f"SELECT symbol, ts, {columns} FROM {self._files} WHERE symbol IN ? ORDER BY symbol, ts"
        return self._connection.execute(sql, [list(names)]).df().set_index("ts")

    def panel(self, names: Sequence[str] | None, first: date, last: date) -> Frame:
        months = [first.year * 12 + first.month, last.year * 12 + last.month]
        where = "year * 12 + month BETWEEN ? AND ? AND ts BETWEEN ? AND ?" + (" AND symbol IN ?" if names else "")
        sql = f"SELECT symbol, ts, close FROM {self._files} WHERE {where}"
        values = [*months, first, last, *([list(names)] if names else [])]
        rows = self._connection.execute(sql, values).df()
        return rows.pivot(index="ts", columns="symbol", values="close")


def delta() -> Work:
    """Return Delta Lake, by year, each file sorted by symbol."""
    return _work(_Delta)


class _Delta:
    def __init__(self) -> None:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415
        from deltalake import DeltaTable, write_deltalake  # noqa: PLC0415

        self._options = {
            "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL_S3"], "AWS_ALLOW_HTTP": "true", "conditional_put": "etag",
            "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_REGION": "us-east-1",
        }  # fmt: skip
        self._table, self._uri = DeltaTable, f"s3://{BUCKET}/delta-silver-{time.time_ns()}"
        rows = _rows().sort_by([("symbol", "ascending"), ("ts", "ascending")])
        rows = rows.append_column("year", pc.cast(pc.year(rows["ts"]), pa.int32()))
        write_deltalake(self._uri, rows, partition_by=["year"], storage_options=self._options)

    def history(self, names: Sequence[str]) -> Frame:
        return self._read(["symbol", "ts", *COLUMNS], [("symbol", "in", list(names))]).set_index("ts")

    def panel(self, names: Sequence[str] | None, first: date, last: date) -> Frame:
        years = [("year", ">=", first.year), ("year", "<=", last.year)]
        days = [("ts", ">=", first), ("ts", "<=", last)]
        wanted = [("symbol", "in", list(names))] if names else []
        rows = self._read(["symbol", "ts", "close"], [*years, *days, *wanted])
        return rows.pivot(index="ts", columns="symbol", values="close")

    def _read(self, columns: list[str], filters: list[tuple[str, str, Any]]) -> Frame:
        table = self._table(self._uri, storage_options=self._options)
        return table.to_pandas(columns=columns, filters=filters)


def arcticdb() -> Work:
    """Return ArcticDB: a frame for each symbol, and one frame of all closes for queries of all symbols."""
    return _work(_ArcticDb)


class _ArcticDb:
    def __init__(self) -> None:
        from arcticdb import Arctic, WritePayload  # noqa: PLC0415

        url = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
        keys = f"access={KEYS[0]}&secret={KEYS[1]}&region=us-east-1"
        place = f"port={url.port}&path_prefix=arctic-{time.time_ns()}&{keys}"
        store = Arctic(f"s3://{url.hostname}:{BUCKET}?{place}")
        self._bars, self._closes = (store.get_library(name, create_if_missing=True) for name in (TABLE, "closes"))
        frame = _rows().select(["symbol", "ts", *COLUMNS]).to_pandas()
        frame["ts"] = frame["ts"].astype("datetime64[ns]")
        frames = frame.set_index("ts").sort_index().groupby("symbol")
        payloads = [WritePayload(str(name), part.drop(columns="symbol")) for name, part in frames]
        self._bars.write_batch(payloads)
        self._closes.write("close", frame.pivot(index="ts", columns="symbol", values="close"))

    def history(self, names: Sequence[str]) -> Frame:
        import pandas as pd  # noqa: PLC0415

        parts = self._bars.read_batch(list(names))
        return pd.concat([part.data.assign(symbol=part.symbol) for part in parts])

    def panel(self, names: Sequence[str] | None, first: date, last: date) -> Frame:
        columns = list(names) if names else None
        return self._closes.read("close", date_range=(first, last), columns=columns).data


def _rows() -> Any:  # noqa: ANN401 (an Arrow table)
    """Return all rows of the table, for contestants that store a copy."""
    import fiblake  # noqa: PLC0415

    lake = fiblake.open(bucket=BUCKET, endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    return lake.bars(None, f"{INTERVAL}d").to_arrow()


OURS: Final = "fiblake"
CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {
    OURS: ours,
    "fiblake, asked again": ours_again,
    "DuckDB over silver": duckdb_over_silver,
    "DuckDB over silver, asked again": duckdb_again,
    "Delta Lake": delta,
    "ArcticDB": arcticdb,
}
IN_READERS: Final = {"DuckDB over silver", "DuckDB over silver, asked again", "ArcticDB"}
"""Contestants with their own environment (measure.READERS)."""
