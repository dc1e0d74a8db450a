"""Real bars of 524 symbols become silver; rows that break a rule wait in quarantine, each with its reason."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pytest

from fiblake.bars import Consolidated, ReportedBar
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from local.recompute import differences, expected_tables
from services.consolidator.consolidate import Consolidator
from services.consolidator.worker import Worker
from shared.quarantine import list_quarantined
from tests.fakes import LAKE, FakeQueue, FakeTopic
from tests.unit.real_bars import DIRT, PUBLISHED, Dirt, Row, file_of, published_rows
from tests.unit.resampler.daily import NOW, SESSIONS
from tests.unit.resampler.silver_lake import silver_frame
from tests.unit.test_put_to_silver import Lake

TOMORROW = next(session for session in SESSIONS if session > NOW.date())
BATCH_OF_EVENTS = 200
COLUMNS = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
Facts = tuple[str, date, float, float, float, float, float]
"""The values of COLUMNS of one bar."""


@dataclass(frozen=True)
class RangeFile:
    """A symbol's range file, and the expected result of its rows."""

    symbol: str
    dirt: Dirt
    rows: Sequence[Row]

    @property
    def key(self) -> str:
        sessions = [row.bar.session for row in self.rows]
        return LAKE.range_key(self.symbol, min(sessions), max(sessions))

    def corrected(self) -> "RangeFile":
        """Return the file as its symbol's bars were published."""
        return RangeFile(self.symbol, PUBLISHED, self.rows)


def loaded(lake: Lake, files: Iterable[RangeFile]) -> dict[str, str]:
    """Put the files and do all following work; return the reason of each symbol's dead letter."""
    for file in files:
        lake.put(file.key, file_of(file.rows, file.dirt, NOW))
    queue, topic = FakeQueue(), FakeTopic()
    for body in lake.open_requests:
        queue.put(body)
    lake.open_requests = []
    Worker(Consolidator(lake.store, LAKE, nyse()), topic, "run", lambda: NOW, 2, None).drain(queue, 100, 6, 0)
    events = [event.model_dump_json() for event in topic.published]
    for interval in INTERVALS:
        for start in range(0, len(events), BATCH_OF_EVENTS):
            lake.resample(interval, events[start : start + BATCH_OF_EVENTS])
    return {json.loads(letter.body)["symbol"]: letter.reason for letter in queue.dead}


def good_bars(files: Iterable[RangeFile]) -> list[ReportedBar]:
    return [row.bar for file in files for row in file.rows if not row.reason and not row.is_repeat]


def facts_of(bars: Iterable[ReportedBar]) -> list[Facts]:
    """Return what the files say of bars, in order."""
    return sorted((b.symbol, b.session, b.open, b.high, b.low, b.close, b.volume) for b in bars)


def stored_facts(lake: Lake, symbols: Iterable[str]) -> list[Facts]:
    """Return the bars in data.parquet of each symbol; none for a symbol without one."""
    facts: list[Facts] = []
    for symbol in symbols:
        if data := lake.store.peek(LAKE.data_key(symbol)):
            columns = Consolidated.decode(data, symbol, NOW).bars.select(COLUMNS).columns
            facts += zip(*(column.to_pylist() for column in columns), strict=True)
    return sorted(facts)


def expected_quarantine(files: Iterable[RangeFile]) -> Counter[tuple[str, ...]]:
    return Counter(
        _entry(row.bar, f"row {number}: {row.reason}", file.key)
        for file in files
        for number, row in enumerate(file.rows, start=1)
        if row.reason
    )


def actual_quarantine(lake: Lake) -> Counter[tuple[str, ...]]:
    return Counter(_entry(held.bar, held.reason, held.source) for held in list_quarantined(lake.store))


def _entry(bar: ReportedBar | object, reason: str, source: str | None) -> tuple[str, ...]:
    values = [getattr(bar, name) for name in ("symbol", "session", "open", "high", "low", "close", "volume")]
    return (*map(str, values), reason, str(source))  # as text, because NaN is not equal to itself


def silver_differences(lake: Lake, good: Sequence[ReportedBar]) -> dict[int, int]:
    """Count, for each interval, the rows of silver that differ from the buckets that pandas computes from the good
    bars.
    """
    expected = expected_tables(good, INTERVALS)
    return {n: differences(silver_frame(lake.store, n), expected[n]) for n in INTERVALS}


@pytest.fixture(scope="module")
def published() -> Mapping[str, Sequence[Row]]:
    return published_rows()


def test_bars_as_published_become_silver_and_those_that_contradict_themselves_wait_in_quarantine(
    published: Mapping[str, Sequence[Row]],
) -> None:
    lake = Lake()
    files = [RangeFile(symbol, PUBLISHED, rows) for symbol, rows in published.items()]
    assert loaded(lake, files) == {}
    good, broken = good_bars(files), expected_quarantine(files)
    assert (len(files), len(good), broken.total()) == (524, 122_496, 78)
    assert actual_quarantine(lake) == broken
    assert stored_facts(lake, published) == facts_of(good)
    assert silver_differences(lake, good) == dict.fromkeys(INTERVALS, 0)


def test_no_row_is_lost_or_stored_twice_with_any_error_in_the_files(
    published: Mapping[str, Sequence[Row]], caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake()
    files = [
        RangeFile(symbol, dirt, dirt.rows(rows, TOMORROW))
        for number, (symbol, rows) in enumerate(list(published.items())[::3])
        for dirt in [DIRT[number % len(DIRT)]]
    ]
    assert min(Counter(file.dirt.name for file in files).values()) == 175 // len(DIRT)
    refused, read = ([file for file in files if bool(file.dirt.refusal) is wanted] for wanted in (True, False))

    letters = loaded(lake, files)

    assert letters.keys() == {file.symbol for file in refused}
    for file in refused:
        assert file.key in letters[file.symbol]
        assert file.dirt.refusal in letters[file.symbol]
    good, held, stored = good_bars(read), actual_quarantine(lake), stored_facts(lake, published)
    repeats = sum(row.is_repeat for file in read for row in file.rows)
    assert held == expected_quarantine(read)
    assert stored == facts_of(good)
    assert sum(len(file.rows) for file in read) == len(stored) + held.total() + repeats
    assert silver_differences(lake, good) == dict.fromkeys(INTERVALS, 0)
    named = [vars(record)["key"] for record in caplog.records if record.message == "one session, two bars"]
    assert sorted(named) == sorted(file.key for file in read if file.dirt.name == "a session twice")

    # The remedy: the refused files are written again, under the same keys.
    assert loaded(lake, [file.corrected() for file in refused]) == {}

    everything = good_bars(files)
    assert actual_quarantine(lake) == expected_quarantine(files)
    assert stored_facts(lake, published) == facts_of(everything)
    assert silver_differences(lake, everything) == dict.fromkeys(INTERVALS, 0)
