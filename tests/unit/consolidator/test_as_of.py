"""`as_of=T` is the lake as it was at T, with any restatements, splits, withdrawals and lost requests.

After each step a copy of data.parquet is kept. In the end the lake as of each of those instants must equal the copy.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake import Lake
from fiblake.bars import BRONZE, Consolidated, encode
from fiblake.calendar import nyse
from fiblake.errors import ContractError, FiblakeError, NotFoundError
from fiblake.lake import dividends_key, identities_key, revisions_key, splits_key, tag_key
from fiblake.reference import dividends_file, identities_file, splits_file
from fiblake.revisions import REVISIONS, read_revisions
from fiblake.tags import tag_file
from services.consolidator.consolidate import Consolidator, Task
from shared.cleanup import Proof, clean_up
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, companies, dividend, later, parquet, splits

DATA, REVISED = LAKE.data_key("AAPL"), revisions_key("AAPL")
SESSIONS = nyse().between(date(2025, 11, 3), date(2025, 11, 19))
EXAMPLES = settings().max_examples // 4
MICROSECOND = timedelta(microseconds=1)


class Killed(BaseException):
    """The worker is killed here."""


@dataclass
class Life:
    """A symbol's lake, step by step; each step takes ten minutes."""

    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    now: datetime = NOON
    copies: dict[datetime, bytes] = field(default_factory=dict)
    """Each data.parquet by its version."""

    def put(self, session: date, close: int, ingested_minute: int, *, killed: bool = False) -> None:
        """A bar arrives; the worker may be killed right before it writes data.parquet."""
        key = LAKE.date_key("AAPL", session)
        self.store.lay(key, parquet(bar(session, close, later(ingested_minute))), at=self.now)
        task = Task("AAPL", changed_from=session, keys=frozenset({key}), lists=False)
        if killed:
            self.store.fail("write", Killed(), of=lambda of: of == DATA)  # type: ignore[arg-type]
            with suppress(Killed):
                self.consolidate(task)
        self.consolidate(task)

    def put_beside_a_rival(self, session: date, close: int, ingested_minute: int) -> None:
        """A bar arrives, and right before data.parquet is written a rival writes it with another bar."""
        self.store.interfere(lambda: self.put(session, close + 1, ingested_minute), of=lambda key: key == DATA)
        self.put(session, close, ingested_minute)

    def split(self, *days: date) -> None:
        rows = [(day.isoformat(), 1, 2 + place) for place, day in enumerate(days)]
        self.store.lay(splits_key("AAPL"), splits_file(splits(*rows)))
        self.consolidate(Task("AAPL", lists=False, reference_changed=True))

    def pay(self, *days: date) -> None:
        rows = [dividend(day.isoformat(), 0.5 + place) for place, day in enumerate(days)]
        self.store.lay(dividends_key("AAPL"), dividends_file(rows))
        self.consolidate(Task("AAPL", lists=False, reference_changed=True))

    def hand_over(self, *days: date) -> None:
        first = [SESSIONS[0].isoformat(), *(day.isoformat() for day in sorted(days))]
        self.store.lay(identities_key("AAPL"), identities_file(companies(*first)))
        self.consolidate(Task("AAPL", lists=False, reference_changed=True))

    def withdraw(self, place: int) -> None:
        """One of the bars is withdrawn, unless it is the only one."""
        stored = self.stored()
        if stored is None or stored.bars.num_rows < 2:
            return
        row = stored.bars.slice(place % stored.bars.num_rows, 1).to_pylist()[0]
        session = row["timestamp"]
        self.consolidate(Task("AAPL", changed_from=session, lists=False, withdrawn={session: row["ingested_at"]}))

    def consolidate_all(self) -> None:
        self.consolidate(Task("AAPL", full=True))

    def consolidate(self, task: Task) -> None:
        self.now += timedelta(minutes=10)
        with suppress(NotFoundError):
            Consolidator(self.store, LAKE, nyse()).consolidate(task, self.now)
        stored = self.stored()
        if stored:
            self.copies[stored.last_updated] = self.store.peek(DATA) or b""

    def stored(self) -> Consolidated | None:
        data = self.store.peek(DATA)
        return Consolidated.decode(data, "AAPL", NOON) if data else None

    def lake(self) -> Lake:
        return Lake(self.store, clock=lambda: self.now + timedelta(days=1))


def answers(lake: Lake, **options: Any) -> list[pa.Table]:  # noqa: ANN401 (those of `bars`)
    """Return the lake's answers to several queries, or that it has no bar."""
    ways: list[dict[str, Any]] = [
        {"adjust": "raw"}, {}, {"interval": "3d", "adjust": "total"}, {"interval": "5d", "complete": True},
    ]  # fmt: skip
    return [lake.bars("AAPL", **way, **options).table.replace_schema_metadata(None) for way in ways]


sessions, minutes = st.sampled_from(SESSIONS), st.integers(0, 60)
some_sessions = st.lists(sessions, max_size=2, unique=True)
steps = st.one_of(
    st.tuples(st.just("put"), sessions, st.integers(10, 20), minutes),
    st.tuples(st.just("put_and_be_killed"), sessions, st.integers(10, 20), minutes),
    st.tuples(st.just("put_beside_a_rival"), sessions, st.integers(10, 20), minutes),
    st.tuples(st.just("split"), some_sessions),
    st.tuples(st.just("hand_over"), some_sessions),
    st.tuples(st.just("pay"), some_sessions),
    st.tuples(st.just("withdraw"), st.integers(0, 20)),
    st.tuples(st.just("consolidate_all")),
)


@settings(max_examples=EXAMPLES)
@given(life_steps=st.lists(steps, min_size=2, max_size=14))
def test_as_of_an_instant_the_lake_is_what_a_copy_of_it_at_that_instant_is(life_steps: list[tuple[Any, ...]]) -> None:
    life = Life()
    for name, *arguments in life_steps:
        match name:
            case "put_and_be_killed":
                life.put(*arguments, killed=True)
            case "split" | "hand_over" | "pay":
                getattr(life, name)(*arguments[0])
            case _:
                getattr(life, name)(*arguments)
    versions = sorted(life.copies)
    for version, following in zip_longest(versions, versions[1:]):
        copy = MemoryObjectStore()
        copy.lay(DATA, life.copies[version])
        expected = answers(Lake(copy))
        assert answers(life.lake(), as_of=version) == expected
        if following:
            assert answers(life.lake(), as_of=following - MICROSECOND) == expected
    if versions:
        with pytest.raises(NotFoundError, match="the lake had no bars of AAPL at"):
            life.lake().bars("AAPL", as_of=versions[0] - MICROSECOND)
        assert answers(life.lake()) == answers(life.lake(), as_of=life.now)


# ------------------------------------------------------------------------------------------- what is kept, and what not


@pytest.fixture
def life() -> Life:
    life = Life()
    for session in SESSIONS[:3]:
        life.put(session, 10, 0)
    life.store.journal.clear()
    return life


def test_a_new_bar_and_one_with_the_same_values_cost_no_request_for_revisions(life: Life) -> None:
    life.put(SESSIONS[3], 10, 5)
    assert [key for _, key in life.store.journal] == [DATA, LAKE.date_key("AAPL", SESSIONS[3]), DATA]
    life.put(SESSIONS[3], 10, 9)  # ingested again
    life.put(SESSIONS[3], 11, 3)  # an older one
    assert life.store.peek(REVISED) is None


def test_a_superseded_bar_is_in_the_revisions_before_data_parquet_loses_it(life: Life) -> None:
    stored = life.stored()
    life.put(SESSIONS[1], 11, 5)
    assert [entry for entry in life.store.journal if entry[0] == "write"] == [("write", REVISED), ("write", DATA)]
    (row,) = read_revisions(life.store.peek(REVISED), "AAPL").to_pylist()
    assert stored
    assert stored.known
    assert row["known_at"] == stored.known.bars[1].as_py()
    assert (row["kind"], row["timestamp"], row["close"], row["reference"]) == ("bar", SESSIONS[1], 10, None)


def test_a_split_a_dividend_and_a_handover_are_known_since_they_came(life: Life) -> None:
    def closes(adjust: str, as_of: datetime) -> list[float]:
        return life.lake().bars("AAPL", as_of=as_of, adjust=adjust).table["close"].to_pylist()  # type: ignore[arg-type]

    bars_only = life.now
    life.split(SESSIONS[1])
    with_split = life.now
    life.pay(SESSIONS[2])
    with_dividend = life.now
    life.hand_over(SESSIONS[2])
    assert [row["kind"] for row in read_revisions(life.store.peek(REVISED), "AAPL").to_pylist()] == ["reference"] * 3
    assert closes("total", bars_only) == [10, 10, 10]
    assert closes("total", with_split) == closes("splits", with_dividend) == [5, 10, 10]
    assert closes("total", with_dividend) == pytest.approx([5 * 0.95, 10 * 0.95, 10])
    assert closes("total", life.now) == [5, 10, 10]


def test_a_writer_that_died_after_the_revisions_writes_them_once(life: Life) -> None:
    life.put(SESSIONS[1], 11, 5, killed=True)
    assert life.store.done("write") == [REVISED, DATA]
    assert len(read_revisions(life.store.peek(REVISED), "AAPL")) == 1
    first = life.lake().bars("AAPL", as_of=life.now - timedelta(minutes=15))
    assert first.table["close"].to_pylist() == [10, 10, 10]


def test_revisions_survive_a_full_consolidation_and_the_clean_up_of_source_files(life: Life) -> None:
    life.put(SESSIONS[1], 11, 5)
    then, revisions = life.now - timedelta(minutes=1), life.store.peek(REVISED)
    life.consolidate_all()
    log = life.stored()
    assert log
    proof = Proof("AAPL", life.store.etag(DATA) or "", log.log, life.store.list_objects(LAKE.symbol_prefix("AAPL")))
    deleted = clean_up(life.store, LAKE, [proof], "run", life.now + timedelta(days=365), 30)
    assert deleted["AAPL"]["files"] == 3
    assert life.store.peek(REVISED) == revisions
    assert life.lake().bars("AAPL", as_of=then).table["close"].to_pylist() == [10, 10, 10]


def test_revisions_that_cannot_be_read_keep_data_parquet_as_it_is(life: Life) -> None:
    life.store.lay(REVISED, b"damaged")
    before = life.store.peek(DATA)
    with pytest.raises(ContractError, match=r"the revisions of AAPL cannot be read: .*restore its last version"):
        life.put(SESSIONS[1], 11, 5)
    assert life.store.peek(DATA) == before
    with pytest.raises(ContractError, match="the revisions of AAPL cannot be read"):
        life.lake().bars("AAPL", as_of=NOON + timedelta(minutes=15))


def test_what_has_not_changed_since_is_one_get_and_what_has_is_two(life: Life) -> None:
    life.put(SESSIONS[1], 11, 5)
    now, life.store.journal[:] = life.now, []
    life.lake().bars("AAPL", as_of=now)
    assert life.store.journal == [("get", DATA)]
    life.lake().bars("AAPL", as_of=now - timedelta(minutes=1))
    assert life.store.journal == [("get", DATA), ("get", DATA), ("get", REVISED)]


def test_bars_of_an_older_file_count_as_known_since_they_were_ingested() -> None:
    life = Life(now=later(100))
    rows = [bar(SESSIONS[0], 10, later(1)), bar(SESSIONS[1], 10, later(5))]
    stored = Consolidated(pa.Table.from_pylist(rows, schema=BRONZE), {}, later(90))
    life.store.lay(DATA, stored.encode())
    assert life.lake().bars("AAPL", as_of=later(3)).table["ts"].to_pylist() == SESSIONS[:1]
    life.put(SESSIONS[0], 12, 50)
    assert life.lake().bars("AAPL", as_of=later(3)).table["close"].to_pylist() == [10]
    assert life.lake().bars("AAPL", as_of=later(100)).table["close"].to_pylist() == [10, 10]
    assert life.lake().bars("AAPL").table["close"].to_pylist() == [12, 10]


def test_a_file_that_was_put_back_says_again_what_it_says_and_later_versions_keep_their_time() -> None:
    life = Life()
    life.put(SESSIONS[0], 10, 1)
    first, old = life.now, life.store.peek(DATA) or b""
    life.put(SESSIONS[0], 12, 2)
    second = life.now
    life.put(SESSIONS[0], 13, 3)
    lost = life.stored()
    assert lost
    life.store.lay(DATA, old)
    life.consolidate(Task("AAPL", lists=False, version_floor=lost.last_updated))
    restored = life.now
    life.put(SESSIONS[1], 20, 60)
    answers = [life.lake().bars("AAPL", as_of=at).table["close"].to_pylist() for at in (first, second, restored)]
    assert answers == [[10], [12], [10]]


def test_a_file_of_another_program_is_known_since_it_was_put_and_leaves_no_revisions() -> None:
    life = Life(now=later(100))
    rows = pa.Table.from_pylist([bar(SESSIONS[0], 10), bar(SESSIONS[1], 10)], schema=BRONZE)
    life.store.lay(DATA, encode(rows), at=later(50))
    life.put(SESSIONS[1], 12, 60)
    assert life.store.peek(REVISED) is None
    assert life.lake().bars("AAPL", as_of=later(70)).table["ts"].to_pylist() == SESSIONS[:1]
    assert life.lake().bars("AAPL", as_of=life.now).table["close"].to_pylist() == [10, 12]


def test_of_all_symbols_those_are_left_out_that_had_no_bars_then(life: Life) -> None:
    life.store.lay(LAKE.data_key("NEW"), Consolidated(_new(), {}, later(500)).encode())
    assert life.lake().panel("close", as_of=life.now).table.column_names == ["ts", "AAPL"]


def _new() -> pa.Table:
    return pa.Table.from_pylist([bar(SESSIONS[0], 10, later(400), symbol="NEW")], schema=BRONZE)


def test_a_tag_is_a_name_for_an_instant(life: Life) -> None:
    before = answers(life.lake())
    then = life.now
    life.store.lay(tag_key("paper-2026"), tag_file(then, "jane", then))
    life.put(SESSIONS[1], 11, 5)
    assert answers(life.lake(), as_of="paper-2026") == before
    assert life.lake().bars("AAPL", as_of="paper-2026").metadata["as_of"] == then.isoformat()
    with pytest.raises(NotFoundError, match="there is no tag paper-2027: make one with `fiblake tag paper-2027`"):
        life.lake().bars("AAPL", as_of="paper-2027")
    life.store.lay(tag_key("broken"), b"{}")
    with pytest.raises(ContractError, match=r"tags/broken\.json cannot be read: .*make the tag again"):
        life.lake().bars("AAPL", as_of="broken")


@pytest.mark.parametrize("as_of", ["2025-13-01", "2999-01-01", 7])
def test_what_is_no_instant_of_the_past_is_refused(life: Life, as_of: Any) -> None:  # noqa: ANN401 (anything)
    with pytest.raises(FiblakeError, match=r"as_of=.* is no instant: .*write it as 2026-03-01T12:00Z, or name a tag"):
        life.lake().bars("AAPL", as_of=as_of)


def test_an_instant_may_be_written_without_a_zone(life: Life) -> None:
    instant = life.now.replace(tzinfo=None)
    for as_of in (instant, instant.isoformat(), f"{instant.isoformat()}Z"):
        assert answers(life.lake(), as_of=as_of) == answers(life.lake())


def test_silver_is_of_the_present_only(life: Life) -> None:
    with pytest.raises(ContractError, match="silver has no 3d bars with adjust='splits' as of then"):
        life.lake().bars("AAPL", "3d", as_of=life.now, source="silver")


def test_revisions_are_no_stray_and_have_the_columns_of_a_bar() -> None:
    assert LAKE.remedy_for_stray(REVISED) is None
    assert "not of the form symbol=SYMBOL.parquet" in (LAKE.remedy_for_stray("bronze/revisions/AAPL.parquet") or "")
    assert set(BRONZE.names) - set(REVISIONS.names) == {"symbol", "interval"}
