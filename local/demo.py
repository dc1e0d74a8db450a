"""The demo: flat files, histories, sessions, splits; then every row is computed again and compared.

`python -m local.demo [--sessions N]`: exits 0 if every silver row equals the independent recomputation.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from fiblake.aggregate import Bars
from fiblake.bars import ReportedBar
from fiblake.calendar import nyse
from fiblake.errors import FiblakeError, PermanentError
from fiblake.lake import INTERVALS, MANIFEST_KEY, Bronze
from fiblake.wording import pluralize
from local.demo_market import (
    DEAD_NAME,
    DEAD_SINCE,
    DEAD_SYMBOL,
    FIRST_FLAT_FILE,
    FLAT_FILES_BUCKET,
    publish_flat_files,
    read_market,
    write_market,
)
from local.deploy import STACK
from local.emulator import REPOSITORY
from local.environment import isolate, isolated_environment
from local.folders import folder_of_run
from local.market_data.control import Control
from local.market_data.replay import sample
from local.recompute import SampleSplit, differences, expected_tables, reinvested
from local.stack import API_KEY, Stack, run_stack
from local.watch import StuckError, View, Watcher

NEW_SYMBOL: Final = "IBM"
"""The symbol that the vendor lists only after half of the sessions."""
EARLY_SPLITS: Final = (
    SampleSplit("AAPL", date(2000, 6, 21), 1, 2),
    SampleSplit("AAPL", date(2005, 2, 28), 1, 2),
)
LATE_SPLIT: Final = SampleSplit("MSFT", date(2003, 2, 18), 1, 2)
"""The split that the vendor reports only after all sessions."""
SHOWN_SYMBOL: Final = "AAPL"
CHAIN_SECONDS: Final = 180
SESSION_SECONDS: Final = 60
SHOWN_BUCKETS: Final = 2
SAME_RETURN: Final = 1e-9
"""The accepted relative difference of two computations of one total return."""
_BUCKET_COLUMNS: Final = ("ts", "open", "high", "low", "close", "volume", "bars", "last_date", "is_complete")


class DemoError(PermanentError):
    """The demo found a wrong result."""


@dataclass
class Demo:
    """One run: the stack, the bars that it must hold in the end, and the measured times."""

    stack: Stack
    bars: dict[str, list[ReportedBar]]
    console: Console
    latencies: dict[date, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watcher = Watcher(self.stack)
        self.vendor = Control(self.stack.market_data_url, API_KEY)
        self._lambda = self.stack.client("lambda")

    def fill(self, session: date) -> None:
        """Fill the lake up to the session before `session`: companies of the past, flat files, then the API.

        At this time the vendor lists all symbols except one, and all splits except one.
        """
        sessions = sorted({bar.session for bars in self.bars.values() for bar in bars if bar.session < session})
        self.vendor.as_of(sessions[-1])
        self.vendor.hide([NEW_SYMBOL])
        self.vendor.splits([_id(split) for split in EARLY_SPLITS])
        environment = self.stack.environment()
        days = [day for day in sessions if day >= FIRST_FLAT_FILE]
        self.stack.client("s3").create_bucket(Bucket=FLAT_FILES_BUCKET)
        settings = publish_flat_files(environment, self.bars, days)
        first, last = str(days[0]), str(days[-1])
        companies = self._fiblake("load", "companies", "--from", first)
        loaded = self._fiblake("load", "flatfiles", "--from", first, "--to", last, **settings)
        self._wait()
        self.console.print(
            f"  {pluralize(loaded['files'], 'flat file')}: {pluralize(loaded['stored'], 'bar')} of "
            f"{pluralize(companies['companies'], 'company', 'companies')}, {companies['delisted']} of them delisted; "
            f"{pluralize(loaded['unclaimed'], 'bar')} that no company claims yet"
        )
        day = DEAD_SINCE
        there = [row["symbol"] for row in self._fiblake("universe", str(day))["companies"]]
        buckets = sum(len(self._silver(DEAD_SYMBOL, interval)) for interval in INTERVALS)
        if DEAD_SYMBOL not in there or not buckets:
            raise DemoError(f"{DEAD_SYMBOL} is not in the universe of {day} ({there}), or not in silver")
        self.console.print(
            f"  on {day} the universe was {', '.join(there)}\n"
            f"  {DEAD_NAME} ({DEAD_SYMBOL}) traded for the last time that day, and has {pluralize(buckets, 'row')} of "
            "silver"
        )
        result = self._refresh(sessions[-1])
        self._wait()
        self.console.print(
            f"  the API adds {pluralize(result['histories_requested'], 'history', 'histories')}, from before the flat "
            f"files too, and the splits of {pluralize(result['splits_changed'], 'symbol')}"
        )

    def play(self, session: date) -> None:
        """Fetch one session and wait until its bars are in all silver tables; record the time."""
        self.vendor.as_of(session)
        stored = self._invoke("OhlcvFetcher", {"as_of": session.isoformat()})["done"]
        if [session_done["what"] for session_done in stored] != [session.isoformat()]:
            raise DemoError(f"the fetcher stored {stored}, not just {session}")
        written = datetime.fromisoformat(stored[0]["written_at"])
        end = time.monotonic() + SESSION_SECONDS
        with Live(console=self.console, refresh_per_second=8, transient=True) as live:
            while not all(self._arrived(session, stored[0]["stored"], interval) for interval in INTERVALS):
                view = self.watcher.look()
                live.update(self._progress(view))
                if view.dead_letters or time.monotonic() > end:
                    raise StuckError(f"{session} does not arrive in silver: {view}; logs are in {self.stack.folder}")
        self.latencies[session] = (datetime.now(UTC) - written).total_seconds()
        self.console.print(
            f"  {session}: {pluralize(stored[0]['stored'], 'bar')}, in all tables after {self.latencies[session]:.1f} s"
        )

    def list_new_symbol(self, session: date) -> None:
        """Make the vendor list the new symbol, and wait until its whole history is in silver."""
        self.vendor.hide([])
        result = self._refresh(session)
        if (result["new"], result["histories_requested"]) != (1, 1):
            raise DemoError(f"the metadata fetcher found {result}, not just {NEW_SYMBOL}")
        self._wait()
        manifest = self.watcher.table(MANIFEST_KEY)
        bars = {row["symbol"]: row["row_count"] for row in manifest.to_pylist()} if manifest else {}
        rows = sum(len(self._silver(NEW_SYMBOL, interval)) for interval in INTERVALS)
        came = f"its {pluralize(bars[NEW_SYMBOL], 'bar')} came as one range file"
        self.console.print(f"  {NEW_SYMBOL} is new: {came}, {pluralize(rows, 'row')} of silver")

    def report_split(self, session: date) -> None:
        """Make the vendor report an old split, and wait until the symbol's silver is adjusted for it."""
        before = self._around_split()
        self.vendor.splits(None)
        result = self._refresh(session, splits_only=True)
        if result["splits_changed"] != 1:
            raise DemoError(f"the metadata fetcher found {result}, not just {LATE_SPLIT.symbol}'s split")
        self._wait()
        after = self._around_split()
        self.console.print(
            f"  {LATE_SPLIT.symbol} split 2-for-1 on {LATE_SPLIT.execution_date}: "
            f"the close of the 3d bucket before it was {before:.2f}, and is {after:.2f}"
        )

    def compare(self, splits: Sequence[SampleSplit]) -> dict[int, pd.DataFrame]:
        """Recompute all tables from the CSV and return the lake's; raise DemoError if one row differs."""
        everything = [bar for bars in self.bars.values() for bar in bars]
        tables: dict[int, pd.DataFrame] = {}
        for interval, expected in expected_tables(everything, INTERVALS, splits).items():
            tables[interval] = self._table(interval)
            wrong = differences(tables[interval], expected)
            if wrong:
                raise DemoError(f"silver_{interval}d: {pluralize(wrong, 'row')} unlike the recomputation")
        return tables

    def compare_total_return(self, splits: Sequence[SampleSplit]) -> None:
        """Reinvest each dividend of the sample; raise DemoError if a symbol's total return differs."""
        dividends = sample()[1].dividends
        worth: dict[str, npt.NDArray[np.float64]] = {}
        for symbol in sorted({dividend.ticker for dividend in dividends}):
            cash: dict[date, float] = {}
            for dividend in (dividend for dividend in dividends if dividend.ticker == symbol):
                cash[dividend.ex_dividend_date] = cash.get(dividend.ex_dividend_date, 0.0) + dividend.cash_amount
            own = [split for split in splits if split.symbol == symbol]
            worth[symbol] = np.array(reinvested(self.bars[symbol], own, cash))
            total = self._total_closes(symbol)
            if not np.allclose(total / total[-1], worth[symbol] / worth[symbol][-1], rtol=SAME_RETURN, atol=0):
                raise DemoError(f"{symbol}: total return is not what reinvesting its dividends makes")
        bars, grown = self.bars[NEW_SYMBOL], worth[NEW_SYMBOL][-1] / worth[NEW_SYMBOL][0]
        self.console.print(
            f"  {', '.join(worth)} paid {pluralize(len(dividends), 'dividend')}: a dollar in {NEW_SYMBOL} on "
            f"{bars[0].session} became {grown:.2f} with them, {bars[-1].close / bars[0].close:.2f} without"
        )

    def _total_closes(self, symbol: str) -> npt.NDArray[np.float64]:
        """Return the symbol's closes, adjusted for splits and dividends, read with `import fiblake`."""
        key = Bronze().data_key(symbol)
        data = self.watcher.read(key)
        if data is None:
            raise DemoError(f"there is no {key}")
        return Bars.read(data, symbol, datetime.now(UTC), nyse(), adjust="total").close

    def _fiblake(self, *arguments: str, **settings: str) -> dict[str, Any]:
        """Run the `fiblake` command on the stack and return its answer."""
        command = [str(Path(sys.executable).with_name("fiblake")), "--stack", STACK, "--json", *arguments]
        environment = {**isolated_environment(os.environ), **self.stack.environment(), **settings}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        if process.returncode:
            raise DemoError(f"fiblake {' '.join(arguments)} failed: {process.stderr.strip() or process.stdout.strip()}")
        answer: dict[str, Any] = json.loads(process.stdout)
        return answer

    def _refresh(self, session: date, **more: bool) -> dict[str, Any]:
        return self._invoke("MetadataFetcher", {"as_of": session.isoformat(), **more})

    def _invoke(self, function: str, event: dict[str, Any]) -> dict[str, Any]:
        name = self.stack.outputs[f"{function}FunctionName"]
        answer = self._lambda.invoke(FunctionName=name, Payload=json.dumps(event))
        payload: dict[str, Any] = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise DemoError(f"{function} failed on {event}: {payload.get('errorMessage')}; see {self.watcher.log}")
        return payload

    def _wait(self) -> None:
        with Live(console=self.console, refresh_per_second=8, transient=True) as live:
            self.watcher.wait_until_quiet(CHAIN_SECONDS, lambda view: live.update(self._progress(view)))

    def _table(self, interval: int) -> pd.DataFrame:
        table = self.watcher.silver(interval)
        if table is None:
            raise DemoError(f"silver_{interval}d has no file")
        rows: pd.DataFrame = table.to_pandas().sort_values(["symbol", "ts"], ignore_index=True)
        return rows

    def _silver(self, symbol: str, interval: int) -> pd.DataFrame:
        table = self._table(interval)
        rows: pd.DataFrame = table[table["symbol"] == symbol]
        return rows

    def _around_split(self) -> float:
        """Return the close of the last bucket before the split."""
        rows = self._silver(LATE_SPLIT.symbol, min(INTERVALS))
        return float(rows[rows["last_date"] < LATE_SPLIT.execution_date]["close"].iloc[-1])

    def _arrived(self, session: date, symbols: int, interval: int) -> bool:
        """Return whether this many symbols have a bucket that ends with `session`."""
        recent = sorted(self.watcher.keys(f"silver/silver_{interval}d/"))[-3:]
        tables = [table for key in recent if (table := self.watcher.table(key)) is not None]
        rows = [row for table in tables for row in table.select(["symbol", "last_date"]).to_pylist()]
        return len({row["symbol"] for row in rows if row["last_date"] == session}) == symbols

    def _progress(self, view: View) -> Table:
        _Interrupted.check()
        rows = sum(checkpoint["total_records_processed"] for checkpoint in self.watcher.checkpoints().values())
        symbols = len(self.watcher.consolidated())
        table = Table(title=f"symbols consolidated: {symbols}, silver rows computed: {rows:,}, jobs: {view.jobs}")
        table.add_column("queue")
        table.add_column("waiting", justify="right")
        table.add_column("in work", justify="right")
        for name, depth in view.depths.items():
            table.add_row(name, str(depth.visible + depth.delayed), str(depth.in_flight))
        return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    options = _options(arguments)
    isolate()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    with folder_of_run(REPOSITORY / ".local", "demo-") as folder:
        try:
            _run(folder, options.sessions, console, enforce_iam=options.enforce_iam)
        except (FiblakeError, KeyboardInterrupt) as error:
            reason = str(error) or "interrupted"
            where = f"What its parts wrote lies, until the next demo, in {folder}"
            console.print(f"[red]the demo failed:[/red] {escape(reason)}\n{escape(where)}", soft_wrap=True)
            return 1
        shutil.rmtree(folder)
    seconds = time.monotonic() - started
    console.print(f"[green]every row equals the independent recomputation[/green] ({seconds:.0f} s in all)")
    return 0


def _run(folder: Path, sessions: int, console: Console, *, enforce_iam: bool) -> None:
    bars = read_market()
    last = sorted({bar.session for some in bars.values() for bar in some})[-sessions:]

    def say(step: str) -> None:
        console.print(f"- {step}")

    market = write_market(folder / "market", bars)
    with run_stack(folder / "stack", first_session=last[0], bars=market, say=say, enforce_iam=enforce_iam) as stack:
        demo = Demo(stack, bars, console)
        console.print(f"- filling the lake up to {last[0]}: companies and flat files first, then the API")
        demo.fill(last[0])
        console.print(f"- playing {pluralize(len(last), 'session')}, one by one")
        for number, session in enumerate(last):
            demo.play(session)
            if number == (len(last) - 1) // 2:
                demo.list_new_symbol(session)
        demo.report_split(last[-1])
        console.print("- recomputing all silver tables with pandas, straight from the CSV")
        tables = demo.compare([*EARLY_SPLITS, LATE_SPLIT])
        console.print("- reinvesting all dividends day by day, straight from the CSV")
        demo.compare_total_return([*EARLY_SPLITS, LATE_SPLIT])
        console.print("- stopping everything")
    _print_result(console, tables, demo.latencies)


def _print_result(console: Console, tables: dict[int, pd.DataFrame], latencies: dict[date, float]) -> None:
    overview = Table("table", "rows", "first bucket", "last bucket", "rows that differ", title="Silver")
    buckets = Table("table", *_BUCKET_COLUMNS, title=f"{SHOWN_SYMBOL}: the last buckets")
    for interval, table in tables.items():
        name, first, last = f"silver_{interval}d", table["ts"].min(), table["ts"].max()
        overview.add_row(name, f"{len(table):,}", str(first), str(last), "0")
        for row in table[table["symbol"] == SHOWN_SYMBOL].tail(SHOWN_BUCKETS).to_dict("records"):
            buckets.add_row(name, *(_shown(row[column]) for column in _BUCKET_COLUMNS))
    console.print(overview, buckets)
    seconds = sorted(latencies.values())
    median, worst = seconds[len(seconds) // 2], seconds[-1]
    console.print(f"from a session's last S3 put to all silver tables: median {median:.1f} s, worst {worst:.1f} s")


def _id(split: SampleSplit) -> str:
    return f"{split.symbol}-{split.execution_date}"


def _shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.demo", description="Run the whole chain on real bars.")
    parser.add_argument("--sessions", type=int, default=10, choices=range(1, 100), metavar="N", help="sessions to play")
    parser.add_argument("--enforce-iam", action="store_true", help="refuse functions what their roles do not allow")
    return parser.parse_args(arguments)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _Interrupted.seen = True
    raise KeyboardInterrupt


class _Interrupted:
    """Whether a signal came: Python drops what a handler raises while it runs a weak reference's callback."""

    seen = False

    @classmethod
    def check(cls) -> None:
        """Raise KeyboardInterrupt if a signal came, also repeatedly."""
        if cls.seen:
            raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
