"""The console in a real browser, on the embedded stack: a broken file, its letter, the repair, the candle."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from playwright.sync_api import Page, expect

from fiblake.bars import BRONZE, ReportedBar, encode
from fiblake.calendar import nyse
from fiblake.lake import Bronze
from local.deploy import STACK
from tests.browser import opened_page
from tests.integration.conftest import Chain, bar, wait_until

SESSIONS = nyse().between(datetime(2011, 1, 3, tzinfo=UTC).date(), datetime(2011, 3, 30, tzinfo=UTC).date())
FIBLAKE = str(Path(sys.executable).with_name("fiblake"))
EVIL = "<img src=x onerror='document.title=1'>"
SECONDS = 60


@pytest.fixture
def address(chain: Chain, tmp_path: Path) -> Iterator[str]:
    """Run the console on the stack; yield the address that opens it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {**inherited, **chain.stack.environment(), "FIBLAKE_STACK": STACK}
    command = [FIBLAKE, "console", "--json", "--allow-actions"]
    child = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        yield json.loads(child.stdout.readline())["url"]
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(30)
        assert child.stdout
        child.stdout.close()


@pytest.fixture
def browser() -> Iterator[tuple[Page, list[str]]]:
    with opened_page() as opened:
        yield opened


def test_a_poisoned_file_is_seen_cured_and_its_candle_drawn(
    chain: Chain, address: str, browser: tuple[Page, list[str]]
) -> None:
    page, faults = browser
    good = [bar("CNSL", session, 50 + i) for i, session in enumerate(SESSIONS)]
    chain.put(good[:-1])
    chain.wait_for_silver(good[:-1])
    last = good[-1]
    row = ReportedBar(EVIL, last.session, 1.0, 1.0, 1.0, 1.0, 1.0).row(datetime.now(UTC))
    key = Bronze().date_key("CNSL", last.session)
    poison = encode(pa.Table.from_pylist([row], schema=BRONZE))
    chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=poison)
    chain.drained()

    page.goto(address)
    expect(page.get_by_role("status")).to_contain_text("in consolidation", timeout=SECONDS * 1_000)
    page.get_by_role("link", name="Show").first.click()
    letter = page.locator("article.letter", has_text=key)
    expect(letter).to_contain_text("CNSL", timeout=SECONDS * 1_000)
    expect(letter).to_contain_text(EVIL)
    assert page.locator("article.letter img").count() == 0

    chain.put([last])
    chain.wait_for_silver(good)
    letter.get_by_role("button", name="Replay …").click()
    letter.get_by_role("button", name="Replay", exact=True).click()
    expect(letter).to_contain_text("Replayed: 1 of 1.", timeout=SECONDS * 1_000)
    chain.drained()

    page.get_by_label("Symbol").fill("CNSL")
    page.get_by_label("Symbol").press("Enter")
    page.get_by_role("button", name="1d", exact=True).click()
    chart = page.locator("#chart")
    expect(chart).to_have_attribute("data-bars", str(len(good)), timeout=SECONDS * 1_000)
    expect(page.locator("#last")).to_have_text(f"{last.close:g} USD on {last.session}")
    assert chart.locator("canvas").count() > 0
    wait_until(lambda: page.locator("tr", has_text=f"date={last.session}.parquet").is_visible(), "the file is listed")
    assert faults == []


def test_every_page_opens_without_a_fault_also_when_narrow(chain: Chain, address: str) -> None:
    del chain
    with opened_page(width=380, height=700) as (page, faults):
        page.goto(address)
        expect(page.get_by_role("heading", name="Resample")).to_be_visible(timeout=SECONDS * 1_000)
        for name, heading in (
            ("Sessions", "Sessions by stage"),
            ("Letters", "Dead letters"),
            ("Quarantine", "Quarantine"),
        ):
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.get_by_role("heading", name=heading)).to_be_visible()
            expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=SECONDS * 1_000)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    assert faults == []
