"""New date files into each symbol's bars, through S3 and SQS: ours, and the ways others do it. Symbols a second.

All of them work on one S3 server. Ours is the real worker: two children of an array job, one a core. Of the
per-symbol loop only some symbols are done, because all of them would take minutes. A table format does not rewrite a
file a symbol: its files are those of the year that the new rows belong to.
"""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from benchmarks.lake import BRONZE_LAKE, FOLDER, NEXT, SIZES, Size, generated, new_files, symbols
from benchmarks.measure import Work, count_requests, settle_arrow
from benchmarks.servers import BUCKET, KEYS, client

CHILDREN: Final = 2
LOOPED: Final = 200
"""Symbols that the per-symbol loop does."""
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
    """Make the queue, send one request a symbol as the router would, and return the queue's URL."""
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
        children = [context.Process(target=_drain, args=(start, ends)) for _ in range(CHILDREN)]
        for child in children:
            child.start()
        start.wait()
        started = time.time()
        measured = [ends.get() for _ in children]
        last, cpu = max(end for end, _, _ in measured), sum(spent for _, spent, _ in measured)
        requests = sum((counts for _, _, counts in measured), Counter[str]())
        for child in children:
            child.join()
        count = SIZES[size].symbols
        wall = last - started
        facts = {"symbols": count, "new_files": days * count, **_rate(count, wall), **_per_symbol(requests, count)}
        return {"wall": wall, "cpu": cpu, **facts}

    return work


def _per_symbol(requests: Mapping[str, int], symbols: int) -> dict[str, float]:
    """Return how many S3 requests a symbol took, each page of a listing being one, and which."""
    kinds = {f"{name}_requests": count for name, count in sorted(requests.items())}
    return {"requests_per_symbol": round(sum(requests.values()) / symbols, 2), **kinds}


def _drain(start: Barrier, ends: Any) -> None:  # noqa: ANN401 (a multiprocessing queue)
    """Run the worker until the queue is empty; tell when its last message was done, its CPU, and its S3 requests."""
    from services.consolidator.__main__ import main  # noqa: PLC0415
    from shared.queues import Queue, ReceivedMessage  # noqa: PLC0415

    settle_arrow()
    asked = [0.0]
    receive = Queue.receive

    def watched(queue: Queue, *arguments: Any, **options: Any) -> list[ReceivedMessage]:  # noqa: ANN401
        # The worker waits for more before it ends. What it waits in vain for is not work.
        asked[0] = time.time()
        found = receive(queue, *arguments, **options)
        idle_since.append(asked[0]) if not found else idle_since.clear()
        return found

    idle_since: list[float] = []
    Queue.receive = watched  # type: ignore[method-assign, assignment]
    requests = count_requests()
    start.wait()
    cpu = time.process_time()
    code = main(["--idle-seconds", "0", "--skip-cleanup", "--max-workers", "4"])
    if code:
        raise SystemExit(code)
    ends.put((idle_since[0], time.process_time() - cpu, requests))


def published() -> Work:
    """Return the published loop: a listing, downloads, a DuckDB connection and an upload for each symbol."""
    import duckdb  # noqa: PLC0415

    def work(size: str, days: int) -> Mapping[str, Any]:
        s3 = client("s3", os.environ)
        some = symbols(SIZES[size])[:LOOPED]
        started, cpu = time.perf_counter(), time.process_time()
        for symbol in some:
            with tempfile.TemporaryDirectory() as name:
                _loop_once(duckdb, s3, symbol, Path(name))
        wall = time.perf_counter() - started
        return {
            "wall": wall,
            "cpu": time.process_time() - cpu,
            "symbols": len(some),
            "new_files": days * len(some),
            **_rate(len(some), wall),
        }

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
                FROM read_parquet('{folder}/*.parquet', hive_partitioning = false)
            ) WHERE place = 1 ORDER BY timestamp
        ) TO '{folder}/data.out' (FORMAT parquet)
    """)
    connection.close()
    s3.upload_file(str(folder / "data.out"), BUCKET, f"published/symbol={symbol}/data.parquet")


def delta() -> Work:
    """Return Delta Lake, by year: one append of all new rows, then the compaction of their year."""
    from deltalake import DeltaTable, write_deltalake  # noqa: PLC0415

    options = {
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL_S3"], "AWS_ALLOW_HTTP": "true", "conditional_put": "etag",
        "AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1], "AWS_REGION": "us-east-1",
    }  # fmt: skip

    def work(size: str, days: int) -> Mapping[str, Any]:
        lake, new = _tables(SIZES[size], days)
        uri = f"s3://{BUCKET}/delta-{size}-{days}-{time.time_ns()}"
        write_deltalake(uri, lake, partition_by=["year"], storage_options=options)
        started, cpu = time.perf_counter(), time.process_time()
        write_deltalake(uri, new, mode="append", partition_by=["year"], storage_options=options)
        year = str(NEXT.year)
        DeltaTable(uri, storage_options=options).optimize.compact(partition_filters=[("year", "=", year)])
        wall = time.perf_counter() - started
        return {
            "wall": wall,
            "cpu": time.process_time() - cpu,
            "symbols": SIZES[size].symbols,
            "new_files": 1,
            **_rate(SIZES[size].symbols, wall),
        }

    return work


def iceberg() -> Work:
    """Return PyIceberg, by year: one append of all new rows. It has no compaction."""
    from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
    from pyiceberg.transforms import IdentityTransform  # noqa: PLC0415

    def work(size: str, days: int) -> Mapping[str, Any]:
        lake, new = _tables(SIZES[size], days)
        with tempfile.TemporaryDirectory() as folder:
            catalog = SqlCatalog(
                "bench", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"s3://{BUCKET}/iceberg-{time.time_ns()}",
                **{
                    "s3.endpoint": os.environ["AWS_ENDPOINT_URL_S3"], "s3.access-key-id": KEYS[0],
                    "s3.secret-access-key": KEYS[1], "s3.region": "us-east-1",
                },
            )  # fmt: skip
            catalog.create_namespace("bronze")
            table = catalog.create_table("bronze.bars", schema=lake.schema)
            with table.update_spec() as spec:
                spec.add_field("year", IdentityTransform(), "year")
            table.append(lake)
            started, cpu = time.perf_counter(), time.process_time()
            table.append(new)
            wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        return {
            "wall": wall,
            "cpu": cpu,
            "symbols": SIZES[size].symbols,
            "new_files": 1,
            **_rate(SIZES[size].symbols, wall),
        }

    return work


def _tables(size: Size, days: int) -> tuple[Any, Any]:
    """Return the last year of the lake and the new rows as tables: older years are files that nothing touches."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    paths = [FOLDER / f"lake-{size.name}" / BRONZE_LAKE.data_key(symbol) for symbol in symbols(size)]
    first = pa.scalar(NEXT.replace(month=1, day=1))
    parts = [pq.ParquetFile(path).read() for path in paths]
    lake = pa.concat_tables([part.filter(pc.greater_equal(part["timestamp"], first)) for part in parts])
    new = pa.concat_tables([pq.ParquetFile(pa.BufferReader(data)).read() for _, data in new_files(size, days)])
    return tuple(t.append_column("year", pc.cast(pc.year(t["timestamp"]), pa.string())) for t in (lake, new))


def _rate(count: int, wall: float) -> dict[str, float]:
    return {"symbols_per_second": round(count / wall, 1)}


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {
    "fiblake": ours,
    "Delta Lake (append, compact)": delta,
    "PyIceberg (append, no compaction)": iceberg,
    "published (DuckDB a symbol)": published,
}
