"""Merge new date files into each symbol's bars, through S3 and SQS: ours, and other tools. Symbols per second.

All of them work on one S3 server. Ours is the real worker: two children of an array job, one a core. Peers that do the
same work find a bar by symbol and session, and replace it: Delta Lake by MERGE, PyIceberg by upsert, on a table that is
partitioned by symbol and holds each symbol's whole history. They and the per-symbol loop do some symbols only, because
all of them would take minutes. Table formats that only append, by year, are measured as well: they do less.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from benchmarks.lake import BRONZE_LAKE, FOLDER, NEXT, SIZES, Size, generated, new_files, symbols
from benchmarks.measure import Work, settle_arrow, spent
from benchmarks.servers import BUCKET, KEYS, client, cpu_seconds, requests_served, requests_since

CHILDREN: Final = 2
SOME: Final = 200
"""The number of symbols for contestants that would take minutes for all."""
APPEND_ONLY: Final = "append only: no dedupe"
"""The suffix of contestants that do less than the others: a bar that comes twice is stored twice."""
QUEUE: Final = "bench-consolidation"
TOPIC: Final = "bench-consolidation-complete"


def lay_lake(size: Size) -> None:
    """Put the generated lake's bronze into the bucket."""
    from shared.objects import ObjectStore  # noqa: PLC0415 (only where the environment names a server)

    store, lake = ObjectStore.connect(BUCKET), generated(size)
    keys = [BRONZE_LAKE.data_key(symbol) for symbol in symbols(size)]
    store.put_many((key, (lake / key).read_bytes()) for key in keys)


def lay_new_files(size: Size, days: int) -> None:
    """Put the date files of the newest sessions into the bucket."""
    from shared.objects import ObjectStore  # noqa: PLC0415

    ObjectStore.connect(BUCKET).put_many(new_files(size, days))


def send_requests(size: Size, days: int) -> str:
    """Make the queue, send one request for each symbol like the router, and return the queue's URL."""
    from services.consolidator.arrivals import Arrivals, requests  # noqa: PLC0415
    from shared.queues import Queue  # noqa: PLC0415

    sqs = client("sqs", os.environ)
    url = ""
    for name in (f"{QUEUE}-dlq", QUEUE):
        url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "300"})["QueueUrl"]
    arrivals = Arrivals([BRONZE_LAKE.parse_source(key) for key, _ in new_files(size, days)])
    if Queue.connect(url).send([request.model_dump_json() for request in requests([arrivals])]):
        raise RuntimeError("the queue did not take all requests")
    return str(url)


def ours() -> Work:
    """Return the worker: two processes that drain the queue."""

    def work(size: str, days: int) -> Mapping[str, Any]:
        context = get_context("spawn")
        start, ends = context.Barrier(CHILDREN + 1), context.Queue()
        cores = sorted(os.sched_getaffinity(0))
        children = [
            context.Process(target=_drain, args=(start, ends, cores[number % len(cores)])) for number in range(CHILDREN)
        ]
        for child in children:
            child.start()
        served, server_cpu = requests_served(), cpu_seconds(os.environ)
        start.wait()
        started = time.time()
        measured = [ends.get() for _ in children]
        wall = max(end for end, _ in measured) - started
        for child in children:
            child.join()
        facts = {"wall": wall, "cpu": sum(cpu for _, cpu in measured), **requests_since(served)}
        facts["server_cpu"] = round(cpu_seconds(os.environ) - server_cpu, 1)
        return _facts(SIZES[size].symbols, days, facts)

    return work


def _facts(symbols: int, days: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reported facts about `days` new sessions of this many symbols."""
    rate = {"symbols_per_second": round(symbols / measured["wall"], 1)}
    per_symbol = {"requests_per_symbol": round(measured["requests"] / symbols, 2)} if "requests" in measured else {}
    return {"symbols": symbols, "new_bars": days * symbols, **rate, **per_symbol, **measured}


def _drain(start: Barrier, ends: Any, core: int) -> None:  # noqa: ANN401 (a multiprocessing queue)
    """Run the worker on one core until the queue is empty; return when its last message was finished, and its CPU."""
    from services.consolidator.__main__ import main  # noqa: PLC0415
    from shared.queues import Queue, ReceivedMessage  # noqa: PLC0415

    os.sched_setaffinity(0, {core})  # on AWS, children do not share cores either
    settle_arrow()
    waited = [0.0]
    receive = Queue.receive

    def watched(queue: Queue, *arguments: Any, **options: Any) -> list[ReceivedMessage]:  # noqa: ANN401
        # The worker waits for more messages before it ends. This wait is not part of the work.
        waited[0] = time.time()
        messages = receive(queue, *arguments, **options)
        idle_since.append(waited[0]) if not messages else idle_since.clear()
        return messages

    idle_since: list[float] = []
    Queue.receive = watched  # type: ignore[method-assign, assignment]
    start.wait()
    cpu = time.process_time()
    code = main(["--idle-seconds", "0", "--skip-cleanup", "--max-workers", "16"])
    if code:
        raise SystemExit(code)
    ends.put((idle_since[0], time.process_time() - cpu))


def published() -> Work:
    """Return the published loop: a listing, downloads, a DuckDB connection and an upload for each symbol."""
    import duckdb  # noqa: PLC0415

    def work(size: str, days: int) -> Mapping[str, Any]:
        s3 = client("s3", os.environ)
        some = symbols(SIZES[size])[:SOME]

        def loop() -> None:
            for symbol in some:
                with tempfile.TemporaryDirectory() as name:
                    _loop_once(duckdb, s3, symbol, Path(name))

        _, measured = spent(loop)
        return _facts(len(some), days, measured)

    return work


def _loop_once(duckdb: Any, s3: Any, symbol: str, folder: Path) -> None:  # noqa: ANN401
    listing = s3.list_objects_v2(Bucket=BUCKET, Prefix=BRONZE_LAKE.symbol_prefix(symbol))["Contents"]
    for number, entry in enumerate(listing):
        s3.download_file(BUCKET, entry["Key"], str(folder / f"{number}.parquet"))
    connection = duckdb.connect()
    connection.execute(f"""
        COPY (
            SELECT * EXCLUDE (place) FROM (
                SELECT *, ROW_NUMBER() OVER (PARTITION BY timestamp ORDER BY ingested_at DESC) AS place
                FROM read_parquet('{folder}/*.parquet', hive_partitioning = false, union_by_name = true)
            ) WHERE place = 1 ORDER BY timestamp
        ) TO '{folder}/data.out' (FORMAT parquet)
    """)
    connection.close()
    s3.upload_file(str(folder / "data.out"), BUCKET, f"published/symbol={symbol}/data.parquet")


def _delta_options() -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL_S3"], "AWS_ALLOW_HTTP": "true", "conditional_put": "etag",
        "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_REGION": "us-east-1",
    }  # fmt: skip


def delta_append() -> Work:
    """Return Delta Lake, by year: one append of all new rows, then the compaction of their year."""
    from deltalake import DeltaTable, write_deltalake  # noqa: PLC0415

    def work(size: str, days: int) -> Mapping[str, Any]:
        names, options = symbols(SIZES[size]), _delta_options()
        lake, new = _bars(size, names, of_this_year=True), _new_bars(size, days, names)
        uri = f"s3://{BUCKET}/delta-append-{time.time_ns()}"
        write_deltalake(uri, _with_year(lake), partition_by=["year"], storage_options=options)

        def append() -> None:
            write_deltalake(uri, _with_year(new), mode="append", partition_by=["year"], storage_options=options)
            compacted = [("year", "=", str(NEXT.year))]
            DeltaTable(uri, storage_options=options).optimize.compact(partition_filters=compacted)

        return _facts(len(names), days, spent(append)[1])

    return work


def delta_merge() -> Work:
    """Return Delta Lake, by symbol: a MERGE of all new rows by symbol and session, in which the later bar wins."""
    from deltalake import DeltaTable, write_deltalake  # noqa: PLC0415

    def work(size: str, days: int) -> Mapping[str, Any]:
        names, options = symbols(SIZES[size])[:SOME], _delta_options()
        bars, new = _bars(size, names), _new_bars(size, days, names)
        uri = f"s3://{BUCKET}/delta-merge-{time.time_ns()}"
        write_deltalake(uri, bars, partition_by=["symbol"], storage_options=options)

        def merge() -> None:
            table = DeltaTable(uri, storage_options=options)
            same = "old.symbol = new.symbol AND old.timestamp = new.timestamp"
            merging = table.merge(new, same, source_alias="new", target_alias="old")
            merging = merging.when_matched_update_all("new.ingested_at >= old.ingested_at")
            merging.when_not_matched_insert_all().execute()

        _, measured = spent(merge)
        _check_rows(DeltaTable(uri, storage_options=options).count(), bars, new)
        return _facts(len(names), days, measured)

    return work


def iceberg_append() -> Work:
    """Return PyIceberg, by year: one append of all new rows. It has no compaction."""

    def work(size: str, days: int) -> Mapping[str, Any]:
        names = symbols(SIZES[size])
        lake, new = _bars(size, names, of_this_year=True), _new_bars(size, days, names)
        with _iceberg_table(_with_year(lake), "year") as table:
            _, measured = spent(lambda: table.append(_with_year(new)))
        return _facts(len(names), days, measured)

    return work


def iceberg_upsert() -> Work:
    """Return PyIceberg, by symbol: an upsert of all new rows by symbol and session."""

    def work(size: str, days: int) -> Mapping[str, Any]:
        names = symbols(SIZES[size])[:SOME]
        bars, new = _bars(size, names), _new_bars(size, days, names)
        with _iceberg_table(bars, "symbol") as table:
            _, measured = spent(lambda: table.upsert(new, join_cols=["symbol", "timestamp"]))
            _check_rows(table.scan().count(), bars, new)
        return _facts(len(names), days, measured)

    return work


@contextmanager
def _iceberg_table(rows: Any, partition: str) -> Iterator[Any]:  # noqa: ANN401 (Arrow's and PyIceberg's tables)
    """Make a table of these rows, partitioned by a column, in the bucket; its catalog is a file of this machine."""
    from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
    from pyiceberg.transforms import IdentityTransform  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        catalog = SqlCatalog(
            "bench", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"s3://{BUCKET}/iceberg-{time.time_ns()}",
            **{
                "s3.endpoint": os.environ["AWS_ENDPOINT_URL_S3"], "s3.access-key-id": KEYS[0],
                "s3.secret-access-key": KEYS[1], "s3.region": "us-east-1",
            },
        )  # fmt: skip
        catalog.create_namespace("bronze")
        table = catalog.create_table("bronze.bars", schema=rows.schema)
        with table.update_spec() as spec:
            spec.add_field(partition, IdentityTransform(), f"by_{partition}")
        table.append(rows)
        yield table


def _bars(size: str, names: Sequence[str], *, of_this_year: bool = False) -> Any:  # noqa: ANN401 (an Arrow table)
    """Return the lake's bars of these symbols; of the new sessions' year only for a table that is partitioned by it."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    paths = [FOLDER / f"lake-{size}" / BRONZE_LAKE.data_key(symbol) for symbol in names]
    parts = (pq.ParquetFile(path).read() for path in paths)
    if of_this_year:
        parts = (part.filter(pc.equal(pc.year(part["timestamp"]), NEXT.year)) for part in parts)
    return pa.concat_tables(parts)


def _new_bars(size: str, days: int, names: Sequence[str]) -> Any:  # noqa: ANN401 (an Arrow table)
    """Return the newest sessions' bars of these symbols."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    wanted = {BRONZE_LAKE.symbol_prefix(symbol) for symbol in names}
    files = [data for key, data in new_files(SIZES[size], days) if key.rpartition("/")[0] + "/" in wanted]
    return pa.concat_tables([pq.ParquetFile(pa.BufferReader(data)).read() for data in files])


def _check_rows(count: int, bars: Any, new: Any) -> None:  # noqa: ANN401 (Arrow tables)
    if count != bars.num_rows + new.num_rows:
        raise RuntimeError(f"{count:,} rows after {new.num_rows:,} new ones came to {bars.num_rows:,}")


def _with_year(bars: Any) -> Any:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    return bars.append_column("year", pc.cast(pc.year(bars["timestamp"]), pa.string()))


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {
    "fiblake": ours,
    "Delta Lake (MERGE by symbol and session)": delta_merge,
    "PyIceberg (upsert by symbol and session)": iceberg_upsert,
    "published (DuckDB a symbol)": published,
    f"Delta Lake ({APPEND_ONLY})": delta_append,
    f"PyIceberg ({APPEND_ONLY})": iceberg_append,
}
