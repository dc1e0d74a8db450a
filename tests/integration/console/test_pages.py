"""The console in a real browser over a lake in memory: hostile text stays text, and 5,350 symbols do not stop it.

It needs no stack, so it is not in `cli/`, whose tests share one and run one after another.
"""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import uvicorn
from playwright.sync_api import expect

from cli.console.server import Console, application
from fiblake.adjustment import Reference
from fiblake.bars import MANIFEST, Consolidated, ReportedBar, encode
from fiblake.calendar import nyse
from fiblake.errors import ContractError
from fiblake.lake import INTERVALS, MANIFEST_KEY, checkpoint_key, identities_key
from fiblake.reference import Identity, identities_file
from fiblake.source_log import SourceVersion
from local.sample_bars import read_sample_bars
from shared.jobs import JobRun
from shared.metrics import Latency
from shared.quarantine import quarantine
from shared.queues import ReceivedMessage
from tests.browser import opened_page
from tests.fakes import LAKE, NOON, FakeQueue, table
from tests.unit.cli.conftest import FakeTarget
from tests.unit.shared.test_dead_letters import Source

TOKEN = "a-token"  # noqa: S105 (of a test)
EVIL = "<img src=x onerror=\"document.title='taken'\">"
SYMBOLS = 5_350
CLOSED = nyse().last_closed(datetime.now(UTC))
PICTURES = os.environ.get("CONSOLE_PICTURES")
"""A folder for pictures of the pages, for reviewers and for docs/."""


@contextmanager
def served(stack: FakeTarget) -> Iterator[str]:
    """Serve the console as the command does; yield the address that opens it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        pages = application(Console(stack, TOKEN, port, allow_actions=True))  # type: ignore[arg-type]
        server = uvicorn.Server(uvicorn.Config(pages, log_level="warning", access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/?token={TOKEN}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """Return a stack at work, with AAPL's real bars."""
    names = ("history", "bronze-arrivals", "consolidation", *(f"resample-{n}d" for n in INTERVALS))
    stack = FakeTarget("prod-fiblake", queues={name: Source(f"prod-{name}") for name in names})
    jobs = [JobRun("i", f"drain-{number:032x}", "SUCCEEDED", 11, NOON, NOON) for number in (1 << 120, 1 << 121)]
    monkeypatch.setattr(stack.workers, "recent", lambda _most: jobs, raising=False)
    monkeypatch.setattr("cli.status.watermark", lambda _stack: CLOSED)
    for n in INTERVALS:
        point = {"interval": f"{n}d", "last_processed_date": str(CLOSED), "last_run_timestamp": NOON.isoformat()}
        stack.store.lay(checkpoint_key(n), json.dumps(point).encode())
    rows = [bar.row(NOON) for bar in read_sample_bars()["AAPL"]]
    del rows[1_200]
    key = LAKE.range_key("AAPL", rows[0]["timestamp"], rows[-1]["timestamp"])
    stack.store.lay(key, b"")
    log = {key: SourceVersion(stack.store.versions([key])[0] or "", stamped=True)}
    stored = Consolidated(table(*rows), log, NOON, Reference(((date(2000, 6, 21), 0.25), (date(2005, 2, 28), 0.5))))
    stack.store.lay(LAKE.data_key("AAPL"), stored.encode())
    companies = [Identity("AAPL", rows[0]["timestamp"], rows[-1]["timestamp"], None, "Apple")]
    stack.store.lay(identities_key("AAPL"), identities_file(companies))
    return stack


def test_hostile_text_stays_text_on_every_page(stack: FakeTarget) -> None:
    queue = stack.queues["consolidation"]
    reason = f"column {EVIL!r} of bronze/raw_ohlcv/symbol=AAPL/{EVIL}.parquet is missing"
    queue.dead_letter(ReceivedMessage("m", "r", f'{{"symbol": "{EVIL}"}}', 6), ContractError(reason))
    stack.store.lay(f"bronze/raw_ohlcv/symbol=AAPL/{EVIL}.parquet", b"x")
    nothing = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    for symbol in (EVIL, "AAPL"):
        quarantine(stack.store, [(ReportedBar(symbol, date(2013, 3, 1), **nothing), EVIL)], NOON)
    with served(stack) as address, opened_page() as (page, faults):
        page.goto(address)
        base = address.partition("/?")[0]
        for path, text in (
            ("/", "1 dead letter in consolidation"),
            ("/letters", "is missing"),
            ("/quarantine", "fiblake quarantine release"),
            ("/symbols/AAPL", "Source files"),
            ("/quality/AAPL", "Bars of each month"),
            (f"/symbols?q={EVIL}", "no symbol like it"),
        ):
            page.goto(base + path)
            expect(page.locator("main")).to_contain_text(text, timeout=60_000)
            assert page.locator("img").count() == 0, path
            assert "taken" not in page.title(), path
        page.goto(f"{base}/letters")
        expect(page.locator("article.letter")).to_contain_text(EVIL)
        page.goto(f"{base}/quarantine")
        expect(page.locator("main")).to_contain_text(EVIL)
    assert faults == []


def test_every_page_fits_a_narrow_window(stack: FakeTarget, tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S},000+0000"
    record = {"message": "resampled", "timestamp": now, "correlation_id": "one", "symbol": "AAPL", "bars": "x" * 200}
    (tmp_path / "aws/emulator.log").write_text(json.dumps(record))
    stack.log_folder = tmp_path
    with served(stack) as address, opened_page(width=380, height=700) as (page, faults):
        page.goto(address)
        for path in ("/", "/letters", "/quarantine", "/symbols/AAPL", "/quality/AAPL", "/trace?id=AAPL"):
            page.goto(address.partition("/?")[0] + path)
            expect(page.locator("main [aria-busy=true]")).to_have_count(0, timeout=60_000)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), path
        expect(page.locator("main")).to_contain_text("resampled")
        _picture(page, "console-narrow.png")
    assert faults == []


def test_a_console_answers_on_one_address_only(stack: FakeTarget) -> None:
    with served(stack) as address, socket.socket() as elsewhere:
        elsewhere.settimeout(5)
        port = int(address.partition("/?")[0].rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            elsewhere.connect(("127.0.0.2", port))


def test_a_lake_of_5350_symbols_is_shown_at_once(stack: FakeTarget) -> None:
    """The time is only printed, because the machine may have other work."""
    names = ["AAPL", *(f"S{number:04}" for number in range(SYMBOLS - 1))]
    rows = [{"symbol": name, "last_consolidated_date": CLOSED, "row_count": 1, "last_updated": NOON} for name in names]
    stack.store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, schema=MANIFEST)))
    stack.measured = {n: Latency(CLOSED, 14.0 + n, 41.5 + 2 * n) for n in INTERVALS}
    for name in names[1:]:
        stack.store.lay(LAKE.date_key(name, CLOSED), b"")
        stack.store.lay(LAKE.data_key(name), b"")
    reason = "bronze/raw_ohlcv/symbol=S0001/date=2026-11-25.parquet holds another symbol's bars: 'S0002'"
    stack.queues["consolidation"].dead_letter(
        ReceivedMessage("m", "r", '{"symbol": "S0001"}', 6), ContractError(reason)
    )
    with served(stack) as address, opened_page() as (page, faults):
        page.goto(address)
        paint = page.evaluate(
            "() => new Promise(done => new PerformanceObserver(seen => done(seen.getEntries()[0].startTime))"
            ".observe({type: 'paint', buffered: true}))"
        )
        expect(page.get_by_role("status")).to_be_visible(timeout=60_000)
        whole = page.evaluate("performance.now()")
        expect(page.get_by_text("5,350 of 5,350 symbols there")).to_be_visible()
        print(f"first paint after {paint:.0f} ms, the whole flow after {whole:.0f} ms")  # noqa: T201 (the measurement)
        expect(page.locator("#latency")).to_contain_text("silver_34d", timeout=60_000)
        _picture(page, "console-flow.png")
        stack.queues["consolidation"].dead_letters = FakeQueue("prod-consolidation-dlq")  # type: ignore[attr-defined]
        expect(page.get_by_role("status")).to_contain_text(
            "All is well.", timeout=60_000
        )  # the page looks again by itself
        _picture(page, "console-well.png")
        page.get_by_label("Symbol").fill("S12")
        page.get_by_label("Symbol").press("Enter")
        expect(page.get_by_role("link", name="S1200")).to_be_visible()
        page.goto(address.partition("/?")[0] + "/symbols/AAPL")
        expect(page.locator("#chart")).to_have_attribute("data-bars", re.compile("1[0-9]{2}"), timeout=60_000)
        volume_top = page.evaluate("chart.priceScale('volume').options().scaleMargins.top")
        assert page.evaluate("candles.priceScale().options().scaleMargins.bottom") >= 1 - volume_top
        _picture(page, "console-symbol.png")
        page.goto(address.partition("/?")[0] + "/quality/AAPL")
        expect(page.locator("main")).to_contain_text("Bars of each month", timeout=60_000)
        _picture(page, "console-quality.png")
    assert faults == []


def _picture(page: object, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES, name))  # type: ignore[attr-defined]
