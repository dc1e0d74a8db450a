"""One evening's fetch: a grouped response of all symbols into date files in S3 and rows in Postgres.

The vendor is a server in this process that answers in its shapes; S3 is the server that the environment names;
Postgres is the embedded stack's. The fetcher is the service's own, with its validation, ledger and watermark.
"""

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.lake import BRONZE_LAKE, NEXT, SIZES, bars, symbols
from benchmarks.measure import Work
from benchmarks.servers import requests_served, requests_since
from fiblake.calendar import close_of, nyse

NOW: Final = datetime(2025, 11, 19, 21, 5, tzinfo=UTC)


def ours() -> Work:
    """Return the fetcher."""
    from local.postgres import postgres  # noqa: PLC0415 (each process loads what its contestant needs)
    from migrations.schema import upgrade  # noqa: PLC0415
    from shared.database import DatabaseAddress, Tls  # noqa: PLC0415

    def work(size: str) -> Mapping[str, Any]:
        names = symbols(SIZES[size])
        with tempfile.TemporaryDirectory() as folder, postgres(Path(folder) / "postgres") as secret:
            address = DatabaseAddress.of_secret(json.dumps(secret))
            upgrade(address, Tls(verify=False))
            with _vendor(_response(names)) as url:
                return asyncio.run(_fetched(address, url, names))

    return work


async def _fetched(address: Any, url: str, names: list[str]) -> Mapping[str, Any]:  # noqa: ANN401
    from pydantic import SecretStr  # noqa: PLC0415

    from services.fetcher.intake import Intake  # noqa: PLC0415
    from services.fetcher.massive import massive  # noqa: PLC0415
    from services.fetcher.ohlcv import Fetcher, Universe  # noqa: PLC0415
    from services.fetcher.settings import FetchEvent  # noqa: PLC0415
    from shared.database import Tls, connected  # noqa: PLC0415
    from shared.objects import ObjectStore  # noqa: PLC0415

    store = ObjectStore.connect(os.environ["S3_BUCKET"])
    async with connected(address, Tls(verify=False)) as database, massive(url, SecretStr("bench")) as vendor:
        await database.save_metadata([_record(name) for name in names])
        intake = Intake(vendor, store, BRONZE_LAKE, database, nyse(), 3.0, lambda: NOW)
        fetcher = Fetcher(intake, Universe(frozenset({"CS"})), NEXT, 0)
        served, started, cpu = requests_served(), time.perf_counter(), time.process_time()
        fetched = await fetcher.fetch(FetchEvent())
        spent = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu, **requests_since(served)}
    (stored,) = fetched.done
    if stored.stored != len(names):
        raise RuntimeError(f"{stored.stored} of {len(names)} bars were stored: {stored}")
    return {**spent, "bars": stored.stored}


def _record(name: str) -> Any:  # noqa: ANN401 (asyncpg is not in the benchmarks' environment)
    from fiblake.symbols import BEGINNING  # noqa: PLC0415
    from shared.database import SymbolRecord  # noqa: PLC0415

    empty = dict.fromkeys(
        (
            "valid_to",
            "composite_figi",
            "share_class_figi",
            "industry",
            "sector",
            "sic_code",
            "list_date",
            "delisted_date",
        )
    )
    return SymbolRecord(
        symbol=name, valid_from=BEGINNING, name=name, exchange="XNAS", type="CS", currency="usd", active=True,
        first_seen=NOW, last_seen=NOW, **empty,
    )  # fmt: skip


def _response(names: list[str]) -> bytes:
    session = np.array([NEXT], dtype="datetime64[D]")
    stamp = int(close_of(NEXT).timestamp() * 1000)
    rows = []
    for seed, name in enumerate(names):
        bar = bars(name, session, seed).to_pylist()[0]
        rows.append({
            "T": name, "o": bar["open"], "h": bar["high"], "l": bar["low"], "c": bar["close"], "v": bar["volume"],
            "vw": bar["vwap"], "n": bar["trades"], "t": stamp,
        })  # fmt: skip
    body = {"status": "OK", "adjusted": False, "queryCount": len(rows), "resultsCount": len(rows), "results": rows}
    return json.dumps({**body, "count": len(rows), "request_id": "bench"}).encode()


def _vendor(body: bytes) -> Any:  # noqa: ANN401 (a context manager of the address)
    from contextlib import contextmanager  # noqa: PLC0415

    from local.processes import LoopbackServer  # noqa: PLC0415

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    @contextmanager
    def serving() -> Any:  # noqa: ANN401
        server = LoopbackServer(0, Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serving()


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {"fiblake": ours}
