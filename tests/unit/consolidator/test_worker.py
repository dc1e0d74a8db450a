import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fiblake.bars import BRONZE, MANIFEST, Consolidated, decode
from fiblake.calendar import nyse
from fiblake.errors import ContractError, UpstreamError
from fiblake.lake import CLEANUP_RECORD_KEY, MANIFEST_KEY, quarantine_key, splits_key
from fiblake.reference import splits_file
from services.consolidator.consolidate import Consolidator
from services.consolidator.worker import WAIT_SECONDS, Worker
from shared.events import ConsolidationComplete, ConsolidationRequest, SourceObject
from shared.outcomes import ExhaustedError
from shared.queues import Depth, ReceivedMessage
from shared.traces import Traces
from tests.fakes import (
    LAKE,
    NOON,
    FakeQueue,
    FakeTopic,
    Journal,
    MemoryObjectStore,
    bar,
    later,
    parquet,
    sample,
    splits,
)
from tests.unit.conftest import Metrics
from tests.unit.shared.bombs import rows_of, written

ROUND, MOST_RECEIVES, IDLE = 100, 6, 4
OLD = "2025-06-02"


class Lake:
    """A bucket, a queue and a topic with one journal, and workers over them."""

    def __init__(self) -> None:
        self.journal: Journal = []
        self.store = MemoryObjectStore(self.journal)
        self.queue = FakeQueue(journal=self.journal)
        self.complete = FakeTopic(self.journal)

    def worker(
        self, max_workers: int = 4, retention_days: int | None = 30, clock: Callable[[], datetime] = lambda: NOON
    ) -> Worker:
        consolidator = Consolidator(self.store, LAKE, nyse())
        return Worker(consolidator, self.complete, "run-1", clock, max_workers, retention_days)

    def worker_stopped_in_its_first_symbol(self) -> Worker:
        def stop_comes_with_the_first_look_at_the_clock() -> datetime:
            worker.stop.set()
            return NOON

        worker = self.worker(max_workers=1, clock=stop_comes_with_the_first_look_at_the_clock)
        return worker

    def drained(
        self, worker: Worker | None = None, round_size: int = ROUND, idle_seconds: int = IDLE,
        *, stays_for_others: bool = True,
    ) -> Worker:  # fmt: skip
        worker = worker or self.worker()
        worker.drain(self.queue, round_size, MOST_RECEIVES, idle_seconds, stays_for_others=stays_for_others)
        return worker

    def put(self, symbol: str, session: str, close: float = 10) -> str:
        key = LAKE.date_key(symbol, date.fromisoformat(session))
        self.store.lay(key, parquet(bar(session, close, symbol=symbol)))
        return key

    def request(self, symbol: str, session: str | None = None, correlation_id: str = "c", receives: int = 0) -> str:
        day = date.fromisoformat(session) if session else None
        body = ConsolidationRequest(symbol=symbol, changed_from=day, correlation_id=correlation_id).model_dump_json()
        return self.queue.put(body, receives=receives)

    def arrive(self, symbol: str, session: str = "2025-11-19", close: float = 10, receives: int = 0) -> str:
        self.put(symbol, session, close)
        return self.request(symbol, session, receives=receives)

    def request_named(self, symbol: str, session: str, key: str, receives: int = 0) -> str:
        """Put a request as the router sends it."""
        files = (SourceObject(name=key.rpartition("/")[2]),)
        request = ConsolidationRequest(symbol=symbol, changed_from=date.fromisoformat(session), files=files)
        return self.queue.put(request.model_dump_json(), receives=receives)

    def arrive_named(self, symbol: str, session: str, close: float = 10) -> str:
        return self.request_named(symbol, session, self.put(symbol, session, close))

    def split(self, symbol: str, data: bytes | None = None, session: str | None = None) -> str:
        """Put the symbol's splits and a request that names them."""
        file = splits_file(splits(("2025-11-19", 1, 2), symbol=symbol)) if data is None else data
        self.store.lay(splits_key(symbol), file)
        day = date.fromisoformat(session) if session else None
        request = ConsolidationRequest(symbol=symbol, changed_from=day, reference_changed=True)
        return self.queue.put(request.model_dump_json())

    def factors(self, symbol: str) -> list[float]:
        data = self.store.peek(LAKE.data_key(symbol))
        assert data is not None
        return [factor for _, factor in Consolidated.decode(data, symbol, NOON).reference.splits]

    @property
    def rounds(self) -> list[list[str]]:
        """The symbols whose events were published between two writes of the manifest."""
        rounds: list[list[str]] = [[]]
        for verb, what in self.journal:
            if verb == "publish":
                rounds[-1].append(what)
            elif (verb, what) == ("write", MANIFEST_KEY):
                rounds.append([])
        return rounds[:-1]

    def sessions(self, symbol: str) -> list[str]:
        data = self.store.peek(LAKE.data_key(symbol))
        bars = Consolidated.decode(data, symbol, NOON).bars if data else None
        return [str(day) for day in bars["timestamp"].to_pylist()] if bars else []

    @property
    def published(self) -> dict[str, ConsolidationComplete]:
        return {event.symbol: event for event in self.complete.published}

    @property
    def manifest(self) -> list[str]:
        data = self.store.peek(MANIFEST_KEY)
        return decode(data, MANIFEST, MANIFEST_KEY)["symbol"].to_pylist() if data else []

    def manifest_versions(self) -> list[datetime]:
        data = self.store.peek(MANIFEST_KEY)
        return decode(data, MANIFEST, MANIFEST_KEY)["last_updated"].to_pylist() if data else []


@pytest.fixture
def lake() -> Lake:
    return Lake()


def test_the_queue_is_drained_and_every_object_is_written(lake: Lake) -> None:
    for n in range(25):
        lake.arrive(f"S{n:02}", "2025-11-19")
    worker = lake.drained()
    symbols = [f"S{n:02}" for n in range(25)]
    assert all(lake.sessions(symbol) == ["2025-11-19"] for symbol in symbols)
    assert sorted(lake.published) == lake.manifest == symbols
    assert lake.queue.bodies() == []
    assert (worker.summary.symbols, worker.summary.files, worker.summary.failed) == (25, 25, [])


def test_rounds_are_taken_until_nothing_is_left(lake: Lake) -> None:
    for n in range(7):
        lake.arrive(f"S{n}", "2025-11-19")
    lake.drained(round_size=2)
    assert len(lake.published) == 7
    assert lake.queue.bodies() == []
    assert [len(symbols) for symbols in lake.rounds] == [2, 2, 2, 1]


@pytest.mark.parametrize("round_size", [7, 10, 12, 100])
def test_a_round_is_filled_from_short_answers_and_never_overfilled(lake: Lake, round_size: int) -> None:
    lake.queue.most_at_once = 3
    for n in range(25):
        lake.arrive(f"S{n:02}")
    lake.drained(round_size=round_size)
    full, rest = divmod(25, round_size)
    assert [len(symbols) for symbols in lake.rounds] == [round_size] * full + [rest] * bool(rest)
    assert lake.queue.bodies() == []


def test_what_is_in_hand_is_worked_on_although_a_later_receive_fails(lake: Lake) -> None:
    lake.queue.refuse_receives = lambda nth: nth == 2
    for n in range(12):
        lake.arrive(f"S{n:02}")
    worker = lake.drained()
    assert [len(symbols) for symbols in lake.rounds] == [10, 2]
    assert (worker.summary.symbols, worker.summary.retried, lake.queue.bodies()) == (12, 0, [])


def test_a_queue_that_gives_nothing_at_all_is_an_error(lake: Lake) -> None:
    lake.arrive("AAPL")
    lake.queue.refuse_receives = lambda _nth: True
    with pytest.raises(UpstreamError):
        lake.drained()


@pytest.mark.parametrize(("idle_seconds", "looks"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (60, 30)])
def test_a_run_ends_when_the_queue_looked_empty_for_so_long(lake: Lake, idle_seconds: int, looks: int) -> None:
    assert lake.drained(idle_seconds=idle_seconds).summary.symbols == 0
    assert (lake.queue.receives, lake.queue.now) == (looks, looks * WAIT_SECONDS)
    assert lake.journal == []


def test_a_message_that_the_counts_did_not_show_begins_the_wait_again(lake: Lake) -> None:
    lake.queue.looks_empty = True
    lake.put("AAPL", "2025-11-19")
    lake.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json(), delay=50)
    lake.drained(idle_seconds=60)
    assert list(lake.published) == ["AAPL"]
    assert lake.queue.now == 50 + 60


def test_a_message_that_another_worker_received_begins_the_wait_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([0, 0, 1, 0, 0, 0])
    monkeypatch.setattr(lake.queue, "depth", lambda: Depth(0, next(looks), 0))
    lake.drained(idle_seconds=6)
    assert lake.queue.now == 6 * WAIT_SECONDS


@pytest.mark.parametrize("failures", [1, 2, 3, 5])
@pytest.mark.parametrize("stays_for_others", [True, False])
def test_returned_messages_are_waited_for_although_the_counts_say_empty(
    lake: Lake, failures: int, *, stays_for_others: bool
) -> None:
    """The pause is 10 s and more; the queue's counts may not show a message that is hidden."""
    lake.queue.looks_empty = True
    lake.arrive("AAPL")
    lake.store.fail("list", times=failures)
    worker = lake.drained(idle_seconds=2, stays_for_others=stays_for_others)
    assert [seconds for _, seconds in lake.queue.hidden] == [10 * 2**n for n in range(failures)]
    assert list(lake.published) == ["AAPL"]
    assert (worker.summary.retried, worker.summary.symbols, lake.queue.bodies()) == (failures, 1, [])


def test_the_longest_pause_of_a_round_is_waited_for(lake: Lake) -> None:
    lake.queue.looks_empty = True
    first, often = lake.arrive("AAPL"), lake.arrive("MSFT", receives=3)
    lake.store.fail("list", times=2)
    lake.drained(idle_seconds=2)
    assert lake.queue.hidden == [(first, 10), (often, 80)]
    assert sorted(lake.published) == ["AAPL", "MSFT"]


def test_the_longest_pause_among_messages_worked_on_together_is_waited_for(lake: Lake) -> None:
    lake.queue.looks_empty = True
    lake.arrive("AAPL", receives=1)
    lake.arrive("MSFT")
    lake.store.fail("list", times=2)
    lake.drained(idle_seconds=2)
    assert sorted(seconds for _, seconds in lake.queue.hidden) == [10, 20]
    assert sorted(lake.published) == ["AAPL", "MSFT"]


# --------------------------------------------------------------------------------------------- what may kill a worker


def test_what_was_received_three_times_is_worked_on_alone_after_the_rest(lake: Lake) -> None:
    for symbol, receives in (("KILL", 2), ("AAPL", 0), ("WILD", 4), ("MSFT", 1)):
        lake.arrive(symbol, receives=receives)
    worker = lake.drained()
    assert lake.rounds == [["AAPL", "MSFT"], ["KILL"], ["WILD"]]
    assert lake.queue.bodies() == []
    assert worker.summary.symbols == 4


def test_a_message_that_kills_the_worker_is_processed_alone_at_the_third_receive(lake: Lake) -> None:
    lake.arrive("KILL", receives=2)
    for symbol in ("AAPL", "MSFT"):
        lake.arrive(symbol)

    def killed(event: ConsolidationComplete) -> bool:
        if event.symbol == "KILL":
            raise KeyboardInterrupt
        return False

    lake.complete.refuse = killed
    with pytest.raises(KeyboardInterrupt):
        lake.drained()
    assert sorted(lake.published) == ["AAPL", "MSFT"]
    assert [ConsolidationRequest.model_validate_json(body).symbol for body in lake.queue.bodies()] == ["KILL"]


def test_a_worker_stopped_meanwhile_returns_the_message_that_it_would_have_processed_alone(lake: Lake) -> None:
    lake.arrive("AAPL")
    suspects = [lake.arrive(symbol, receives=2) for symbol in ("MSFT", "GOOG")]

    worker = lake.worker_stopped_in_its_first_symbol()
    lake.drained(worker)
    assert list(lake.published) == ["AAPL"]
    assert lake.queue.hidden == [(message, 0) for message in suspects]
    assert (worker.summary.released, worker.summary.retried) == (2, 0)


def test_delayed_messages_and_those_that_others_received_are_waited_for(lake: Lake) -> None:
    """The other worker may die; if this one had ended, its message would stay."""
    lake.put("AAPL", "2025-11-19")
    lake.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json(), delay=30)
    lake.arrive("MSFT", "2025-11-19")
    lake.queue.receive(1)
    lake.drained()
    assert sorted(lake.published) == ["AAPL", "MSFT"]


def test_two_messages_of_one_symbol_are_one_consolidation_from_the_earlier_session(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert lake.store.done("write").count(LAKE.data_key("AAPL")) == 1
    (event,) = lake.complete.published
    assert (event.changed_from, event.last_session) == (date(2025, 11, 18), date(2025, 11, 19))
    assert lake.queue.bodies() == []


def test_a_request_with_a_version_floor_reports_all_of_the_history_whatever_session_it_names(lake: Lake) -> None:
    lake.arrive_named("AAPL", "2025-11-18")
    lake.drained()
    request = ConsolidationRequest(symbol="AAPL", changed_from=date(2025, 11, 19), version_floor=later(60))
    lake.queue.put(request.model_dump_json())
    lake.drained()
    event = lake.complete.published[-1]
    assert (event.changed_from, event.tail) == (date(2025, 11, 18), None)
    assert event.version > later(60)


def test_a_request_without_a_session_outweighs_one_that_names_some(lake: Lake) -> None:
    lake.arrive("AAPL", "2001-01-02")
    lake.drained()
    lake.arrive("AAPL", "2025-11-19")
    lake.request("AAPL")
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert lake.published["AAPL"].changed_from == date(2001, 1, 2)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("no JSON", "not a ConsolidationRequest"),
        ('{"symbol": "../x"}', "is not a symbol"),
        (
            str(sample("consolidation-request-unknown-version")).replace("'", '"'),
            "schema version 2.0 is not understood",
        ),
        ('{"symbol": "GHOST"}', "GHOST has no bars"),
    ],
    ids=["not JSON", "bad symbol", "unknown version", "unknown symbol"],
)
def test_a_poison_message_becomes_a_dead_letter_with_its_reason_while_the_others_succeed(
    lake: Lake, body: str, reason: str
) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.queue.put(body)
    lake.arrive("MSFT", "2025-11-19")
    worker = lake.drained()
    assert sorted(lake.published) == ["AAPL", "MSFT"]
    (letter,) = lake.queue.dead
    assert letter.body == body
    assert reason in letter.reason
    assert lake.queue.bodies() == []
    assert worker.summary.dead_lettered == 1


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (LAKE.date_key("BOMB", date(2025, 11, 19)), LAKE.date_key("BOMB", date(2025, 11, 19))),
        (LAKE.data_key("BOMB"), "data.parquet of BOMB"),
    ],
    ids=["source file", "data.parquet"],
)
def test_a_bomb_is_a_dead_letter_with_its_name_and_numbers_while_the_others_succeed(
    lake: Lake, place: str, name: str
) -> None:
    key = LAKE.date_key("BOMB", date(2025, 11, 19))
    lake.store.lay(place, written(rows_of(BRONZE, 1_200_000, "BOMB"), compression="zstd", write_statistics=False))
    lake.arrive("AAPL", "2025-11-19")
    lake.request_named("BOMB", "2025-11-19", key)
    lake.arrive("MSFT", "2025-11-19")
    lake.drained()
    assert sorted(lake.published) == ["AAPL", "MSFT"]
    (letter,) = lake.queue.dead
    assert name in letter.reason
    assert "1,200,000 rows" in letter.reason
    assert "READ_LIMIT_MB" in letter.reason


def test_an_unmergeable_file_is_a_dead_letter_although_its_symbol_was_consolidated(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-18")
    bad = LAKE.date_key("AAPL", date(2025, 11, 19))
    lake.store.lay(bad, b"no Parquet")
    worker = lake.drained()
    assert lake.sessions("AAPL") == ["2025-11-18"]
    assert "AAPL" in lake.published
    assert isinstance(lake.queue.dead[0].error, ContractError)
    assert lake.queue.dead[0].reason.startswith(bad)
    assert worker.summary.symbols == 1


def test_a_message_whose_file_has_a_broken_bar_is_done_and_the_bar_is_counted(lake: Lake, metrics: Metrics) -> None:
    lake.arrive("AAPL", "2025-11-18")
    week = LAKE.range_key("AAPL", date(2025, 11, 17), date(2025, 11, 21))
    lake.store.lay(week, parquet(bar("2025-11-17"), bar("2025-11-19", -1)))
    only = LAKE.date_key("MSFT", date(2025, 11, 19))
    lake.store.lay(only, parquet(bar("2025-11-19", -1, symbol="MSFT")))
    lake.queue.put(ConsolidationRequest(symbol="MSFT", changed_from=date(2025, 11, 19)).model_dump_json())
    worker = lake.drained()
    assert (worker.summary.dead_lettered, lake.queue.dead, lake.queue.bodies()) == (0, [], [])
    assert lake.sessions("AAPL") == ["2025-11-17", "2025-11-18"]
    assert sum(values.get("BarsQuarantined", 0) for values in metrics()) == 2
    assert lake.store.keys("bronze/quarantine/") == [
        quarantine_key(symbol, date(2025, 11, 19)) for symbol in ("AAPL", "MSFT")
    ]


def test_later_messages_of_a_symbol_with_an_unmergeable_file_are_done_while_the_file_stays(lake: Lake) -> None:
    bad = LAKE.date_key("AAPL", date(2025, 11, 17))
    lake.store.lay(bad, b"no Parquet")
    lake.arrive("AAPL", "2025-11-14")
    lake.drained()
    assert [letter.reason.partition(": ")[0] for letter in lake.queue.dead] == [bad]
    for session in ("2025-11-18", "2025-11-19"):
        lake.arrive("AAPL", session)
        assert lake.drained().summary.dead_lettered == 0
    assert len(lake.queue.dead) == 1
    assert lake.sessions("AAPL") == ["2025-11-14", "2025-11-18", "2025-11-19"]
    assert lake.store.peek(bad) == b"no Parquet"


def test_a_message_that_names_its_files_answers_for_those_alone(lake: Lake) -> None:
    """Messages of an earlier, the same and a later session than the bad file's: only the one that names the file is a
    dead letter.
    """
    bad = LAKE.date_key("AAPL", date(2025, 11, 18))
    lake.store.lay(bad, b"no Parquet")
    lake.arrive_named("AAPL", "2025-11-17")
    lake.drained()
    same = LAKE.range_key("AAPL", date(2025, 11, 18), date(2025, 11, 18))
    lake.store.lay(same, parquet(bar("2025-11-18")))
    lake.request_named("AAPL", "2025-11-18", same, receives=0)
    lake.request_named("AAPL", "2025-11-18", bad, receives=0)
    lake.arrive_named("AAPL", "2025-11-14")
    lake.arrive_named("AAPL", "2025-11-19")
    worker = lake.drained()
    (letter,) = lake.queue.dead
    assert letter.reason.startswith(f"{bad}: ")
    assert bad.rpartition("/")[2] in letter.body
    assert worker.summary.dead_lettered == 1
    lake.arrive_named("AAPL", "2025-11-13")
    assert lake.drained().summary.dead_lettered == 0
    assert lake.sessions("AAPL") == ["2025-11-13", "2025-11-14", "2025-11-17", "2025-11-18", "2025-11-19"]


@pytest.mark.parametrize(
    "name", ["../symbol=MSFT/date=2025-11-19.parquet", "data.parquet", "", "date=2025-02-30.parquet"]
)
def test_a_message_that_names_what_is_no_source_file_of_its_symbol_is_a_dead_letter(lake: Lake, name: str) -> None:
    lake.put("AAPL", "2025-11-19")
    lake.queue.put(ConsolidationRequest(symbol="AAPL", files=(SourceObject(name=name),)).model_dump_json())
    lake.drained()
    (letter,) = lake.queue.dead
    assert isinstance(letter.error, ContractError)
    assert (lake.store.done("get"), lake.published) == ([], {})


def test_the_event_carries_the_version_and_a_tail_of_what_is_in_s3(lake: Lake) -> None:
    lake.arrive_named("AAPL", "2025-11-18", close=8)
    lake.drained()
    lake.arrive_named("AAPL", "2025-11-19", close=9)
    lake.drained(lake.worker(clock=lambda: later(5)))
    event = lake.published["AAPL"]
    assert event.version == later(5)
    assert event.tail
    assert (event.tail.timestamp, event.tail.close) == ((date(2025, 11, 18), date(2025, 11, 19)), (8, 9))


def test_a_worker_that_dies_after_it_wrote_what_it_had_announced_is_repaired_by_the_announcement(lake: Lake) -> None:
    """The older file's own message was lost."""
    lake.arrive_named("AAPL", "2025-11-17")
    lake.drained()
    lake.put("AAPL", "2025-11-14")
    lake.put("AAPL", "2025-11-18")
    message = lake.request("AAPL", "2025-11-18")
    lake.complete.published.clear()

    def killed(_event: object) -> bool:
        raise KeyboardInterrupt

    lake.complete.refuse = killed
    with pytest.raises(KeyboardInterrupt):
        lake.drained()
    assert lake.sessions("AAPL") == ["2025-11-14", "2025-11-17", "2025-11-18"]
    lake.complete.refuse = lambda _event: False
    lake.queue.delete([m for m in lake.queue.receive() if m.id == message])
    lake.drained()
    assert min(event.changed_from for event in lake.complete.published) == date(2025, 11, 14)


BAD_FILES = [(date(2025, 11, 18), date(2025, 11, 18)), (date(2025, 11, 14), date(2025, 11, 18))]


@pytest.mark.parametrize("sessions", BAD_FILES)
@pytest.mark.parametrize(
    ("session", "reported"),
    [(None, True), ("2025-11-13", True), ("2025-11-18", True), ("2025-11-19", False), ("2025-11-20", False)],
)
def test_a_message_without_names_is_about_the_files_from_its_session_on(
    lake: Lake,
    sessions: tuple[date, date],
    session: str | None,
    reported: bool,  # noqa: FBT001
) -> None:
    first, last = sessions
    bad = LAKE.date_key("AAPL", first) if first == last else LAKE.range_key("AAPL", first, last)
    lake.store.lay(bad, b"no Parquet")
    lake.put("AAPL", "2025-11-19")
    lake.request("AAPL", session)
    lake.drained()
    assert [letter.reason.partition(": ")[0] for letter in lake.queue.dead] == ([bad] if reported else [])
    assert lake.sessions("AAPL") == ["2025-11-19"]


def test_data_then_event_then_manifest_then_deletion_then_the_messages_end(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.drained()
    steps = [step for step in lake.journal if step[0] not in {"list", "get"}]
    assert [(verb, key) for verb, key in steps if verb != "delete message"] == [
        ("write", LAKE.data_key("AAPL")),
        ("publish", "AAPL"),
        ("write", MANIFEST_KEY),
        ("write", CLEANUP_RECORD_KEY),
        ("head", LAKE.data_key("AAPL")),
        ("delete", source),
    ]
    assert steps[-1][0] == "delete message"


def test_an_event_that_sns_does_not_take_keeps_message_and_files(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    message = lake.request("AAPL", OLD)
    lake.arrive("MSFT", OLD)
    outage = iter([True, False])
    lake.complete.refuse = lambda event: event.symbol == "AAPL" and next(outage)
    worker = lake.worker()
    lake.drained(worker)
    assert (worker.summary.retried, worker.summary.symbols) == (1, 2)
    assert (message, 10) in lake.queue.hidden
    published, deleted = lake.journal.index(("publish", "AAPL")), lake.journal.index(("delete", source))
    assert published < deleted
    assert lake.published["AAPL"].changed_from == date.fromisoformat(OLD)


def test_a_manifest_that_cannot_be_written_is_retried_and_nothing_is_deleted_meanwhile(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.store.fail("write", times=1, of=lambda key: key == MANIFEST_KEY)
    lake.drained()
    assert lake.manifest == ["AAPL"]
    assert lake.journal.index(("write", MANIFEST_KEY)) < lake.journal.index(("delete", source))
    assert len(lake.complete.published) == 2


def test_a_damaged_manifest_makes_no_dead_letter_at_once_and_is_made_again_when_moved_away(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    message = lake.request("AAPL", OLD)
    lake.store.lay(MANIFEST_KEY, b"damaged")

    def moved_away_while_the_message_waits() -> Depth:
        assert lake.store.peek(source), "nothing is deleted before the manifest is written"
        if lake.queue.hidden and lake.store.peek(MANIFEST_KEY) == b"damaged":
            lake.store.take_away(MANIFEST_KEY)
        return Depth(0, len(lake.queue.bodies()), 0)

    lake.queue.depth = moved_away_while_the_message_waits  # type: ignore[method-assign]
    worker = lake.drained(lake.worker(retention_days=None))
    assert lake.queue.hidden == [(message, 10)]
    assert (lake.queue.dead, lake.queue.bodies(), lake.manifest) == ([], [], ["AAPL"])
    assert (worker.summary.retried, worker.summary.dead_lettered) == (1, 0)


def test_a_manifest_that_stays_damaged_is_named_when_the_message_is_given_up(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.store.lay(MANIFEST_KEY, b"damaged")
    worker = lake.drained()
    (letter,) = lake.queue.dead
    assert isinstance(letter.error, ExhaustedError)
    assert letter.reason.startswith(f"gave up after 6 receives: the manifest was not written: {MANIFEST_KEY}")
    assert (worker.summary.retried, worker.summary.dead_lettered) == (MOST_RECEIVES - 1, 1)
    assert lake.store.peek(MANIFEST_KEY) == b"damaged"
    assert lake.store.peek(source)


def test_what_fails_for_a_while_is_retried_and_succeeds(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.store.fail("list", times=2)
    worker = lake.drained()
    assert [seconds for _, seconds in lake.queue.hidden] == [10, 20]
    assert (worker.summary.retried, worker.summary.symbols) == (2, 1)


def test_what_never_succeeds_is_given_up_with_its_last_reason(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.store.fail("list", UpstreamError("S3 is away"), times=99)
    worker = lake.drained()
    (letter,) = lake.queue.dead
    assert isinstance(letter.error, ExhaustedError)
    assert letter.reason == "gave up after 6 receives: S3 is away"
    assert (worker.summary.retried, worker.summary.dead_lettered) == (MOST_RECEIVES - 1, 1)


def test_a_clean_up_that_fails_fails_no_message_and_is_done_next_time(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.store.fail("delete")
    assert lake.drained().summary.deleted == 0
    assert lake.queue.bodies() == []
    lake.request("AAPL", OLD)
    assert lake.drained().summary.deleted == 1
    assert lake.store.peek(source) is None


def test_without_a_retention_nothing_is_deleted(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.drained(lake.worker(retention_days=None))
    assert lake.store.peek(source)


def test_a_stopped_worker_finishes_what_it_began_and_gives_the_rest_back_at_once(lake: Lake) -> None:
    begun = lake.arrive("AAPL", "2025-11-19")
    waiting = [lake.arrive(symbol, "2025-11-19") for symbol in ("MSFT", "GOOG")]

    worker = lake.worker_stopped_in_its_first_symbol()
    lake.drained(worker)
    assert list(lake.published) == ["AAPL"]
    assert lake.queue.hidden == [(message, 0) for message in waiting]
    assert (worker.summary.symbols, worker.summary.released, worker.summary.retried) == (1, 2, 0)
    assert {message.id for message in lake.queue.receive()} == set(waiting)
    assert begun not in waiting


def test_a_worker_stopped_before_it_began_takes_nothing(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    worker = lake.worker()
    worker.stop.set()
    lake.drained(worker)
    assert lake.queue.depth().visible == 1


@pytest.mark.parametrize("hint", ["2025-11-19", None])
def test_a_worker_that_died_between_data_and_event_is_repaired_by_the_redelivery(lake: Lake, hint: str | None) -> None:
    lake.put("AAPL", "2025-11-18")
    lake.put("AAPL", "2025-11-19")
    lake.request("AAPL", hint)

    def killed(_event: object) -> bool:
        raise KeyboardInterrupt

    lake.complete.refuse = killed
    with pytest.raises(KeyboardInterrupt):
        lake.drained()
    assert lake.sessions("AAPL") == ["2025-11-18", "2025-11-19"]
    assert lake.complete.published == []
    lake.complete.refuse = lambda _event: False
    lake.drained()
    assert min(event.changed_from for event in lake.complete.published) == date(2025, 11, 18)
    assert lake.store.done("write").count(LAKE.data_key("AAPL")) == 1
    assert lake.queue.bodies() == []


@pytest.mark.parametrize("full", [False, True])
def test_a_run_without_the_queue_that_died_between_data_and_event_is_repaired_by_the_next_one(
    lake: Lake,
    full: bool,  # noqa: FBT001
) -> None:
    def killed(_event: object) -> bool:
        raise KeyboardInterrupt

    lake.put("AAPL", "2025-11-18")
    lake.put("AAPL", "2025-11-19")
    lake.complete.refuse = killed
    with pytest.raises(KeyboardInterrupt):
        lake.worker().consolidate(["AAPL"], ROUND, full=full)
    assert (lake.sessions("AAPL"), lake.queue.bodies()) == (["2025-11-18", "2025-11-19"], [])
    lake.complete.refuse = lambda _event: False
    lake.worker().consolidate(["AAPL"], ROUND, full=full)
    assert (lake.published["AAPL"].changed_from, lake.published["AAPL"].tail) == (date(2025, 11, 18), None)


def test_the_correlation_id_travels_from_request_to_event(lake: Lake) -> None:
    lake.put("AAPL", "2025-11-19")
    lake.request("AAPL", "2025-11-19", correlation_id="from the put")
    lake.drained()
    assert lake.published["AAPL"].correlation_id == "from the put"


def test_named_symbols_are_consolidated_without_the_queue(lake: Lake) -> None:
    for symbol in ("AAPL", "MSFT", "GOOG"):
        lake.put(symbol, "2025-11-19")
    worker = lake.worker()
    worker.consolidate(["AAPL", "GHOST", "MSFT"], 2, full=False)
    assert sorted(lake.published) == lake.manifest == ["AAPL", "MSFT"]
    assert (worker.summary.failed, worker.summary.symbols) == (["GHOST"], 2)
    assert lake.published["AAPL"].correlation_id == "run-1"


def test_a_full_run_merges_logged_files_again(lake: Lake) -> None:
    lake.put("AAPL", "2025-11-19")
    lake.worker().consolidate(["AAPL"], ROUND, full=False)
    again = lake.worker()
    again.consolidate(["AAPL"], ROUND, full=True)
    assert again.summary.files == 1
    assert lake.sessions("AAPL") == ["2025-11-19"]


# ----------------------------------------------------------------------------------------------- splits and identities


def test_splits_and_bars_in_one_round_are_one_consolidation_of_all_of_the_history(lake: Lake) -> None:
    lake.arrive("AAPL", "2001-01-02")
    lake.drained()
    lake.arrive("AAPL", "2025-11-19")
    lake.split("AAPL")
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert lake.factors("AAPL") == [0.5]
    assert [event.changed_from for event in lake.complete.published] == [date(2001, 1, 2)] * 2
    assert lake.store.done("write").count(LAKE.data_key("AAPL")) == 2
    assert (lake.queue.bodies(), lake.queue.dead) == ([], [])


def test_a_request_about_splits_is_about_all_of_the_history_even_if_it_names_a_session(lake: Lake) -> None:
    lake.arrive("AAPL", "2001-01-02")
    lake.arrive("AAPL", "2025-11-19")
    lake.drained()
    lake.split("AAPL", session="2025-11-19")
    lake.drained()
    assert lake.factors("AAPL") == [0.5]
    assert lake.published["AAPL"].changed_from == date(2001, 1, 2)


def test_splits_that_come_before_the_first_bar_are_no_failure_and_are_there_when_it_comes(lake: Lake) -> None:
    lake.split("AAPL")
    lake.arrive("MSFT")
    worker = lake.drained()
    assert (lake.queue.bodies(), lake.queue.dead, list(lake.published)) == ([], [], ["MSFT"])
    assert (worker.summary.dead_lettered, worker.summary.retried) == (0, 0)
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert lake.factors("AAPL") == [0.5]


def test_bars_that_are_not_there_are_a_failure_although_splits_are(lake: Lake) -> None:
    lake.split("AAPL")
    lake.request("AAPL", "2025-11-19")
    lake.drained()
    (letter,) = lake.queue.dead
    assert "AAPL has no bars" in letter.reason
    assert "2025-11-19" in letter.body


def test_splits_that_cannot_be_read_are_a_dead_letter_that_names_the_file_and_take_no_other_message_along(
    lake: Lake,
) -> None:
    lake.arrive("AAPL", "2025-11-17")
    lake.split("AAPL")
    lake.drained()
    lake.split("AAPL", b"no Parquet")
    lake.arrive("AAPL", "2025-11-18")
    worker = lake.drained()
    (letter,) = lake.queue.dead
    assert letter.reason.startswith(f"{splits_key('AAPL')}: the splits of AAPL cannot be read")
    assert ConsolidationRequest.model_validate_json(letter.body).reference_changed
    assert worker.summary.dead_lettered == 1
    lake.arrive("AAPL", "2025-11-19")
    assert lake.drained().summary.dead_lettered == 0
    assert lake.sessions("AAPL") == ["2025-11-17", "2025-11-18", "2025-11-19"]
    assert lake.factors("AAPL") == [0.5]
    assert (lake.queue.bodies(), len(lake.queue.dead)) == ([], 1)


def test_splits_that_cannot_be_read_and_come_before_the_first_bar_are_a_dead_letter(lake: Lake) -> None:
    lake.split("AAPL", b"no Parquet")
    lake.drained()
    (letter,) = lake.queue.dead
    assert splits_key("AAPL") in letter.reason
    lake.arrive("AAPL", "2025-11-19")
    assert lake.drained().summary.dead_lettered == 0


def test_the_redelivery_repairs_a_worker_that_died_after_it_stored_the_splits(lake: Lake) -> None:
    lake.arrive("AAPL", "2001-01-02")
    lake.arrive("AAPL", "2025-11-19")
    lake.drained()
    lake.split("AAPL")

    def killed(_event: object) -> bool:
        raise KeyboardInterrupt

    lake.complete.refuse = killed
    with pytest.raises(KeyboardInterrupt):
        lake.drained()
    assert lake.factors("AAPL") == [0.5]
    published_before = len(lake.complete.published)
    lake.complete.refuse = lambda _event: False
    lake.drained()
    assert [event.changed_from for event in lake.complete.published[published_before:]] == [date(2001, 1, 2)]
    assert lake.store.done("write").count(LAKE.data_key("AAPL")) == 3, "a message about splits always writes"
    assert lake.queue.bodies() == []


def test_what_a_round_did_is_metrics(lake: Lake, metrics: Metrics) -> None:
    lake.arrive("AAPL")
    lake.put("AAPL", "2025-11-18")
    lake.arrive("MSFT")
    lake.request("NONE", "2025-11-19", receives=MOST_RECEIVES - 1)
    lake.drained()
    written = metrics()
    assert {"SymbolsConsolidated": 2, "FilesMerged": 3, "SymbolsFailed": 0} in written
    assert {"MessagesDeadLettered": 1, "MessagesRetried": 0} in written


def test_the_event_carries_the_first_requests_id_and_the_oldest_put(lake: Lake) -> None:
    lake.put("AAPL", "2025-11-19")
    for name, put_at in (("one", later(5)), ("two", NOON), ("three", None)):
        request = ConsolidationRequest(symbol="AAPL", correlation_id=name, put_at=put_at)
        lake.queue.put(request.model_dump_json())
    lake.drained()
    assert (lake.published["AAPL"].correlation_id, lake.published["AAPL"].put_at) == ("one", NOON)


# -------------------------------------------------------------------------------------------------------------- traces


@contextmanager
def traced(worker: Worker) -> Iterator[tuple[Worker, list[dict[str, Any]]]]:
    """Yield the worker with tracing, and, after the block, the segments that it has sent."""
    sent: list[str] = []
    segments: list[dict[str, Any]] = []
    traces = Traces("dev-worker", sent.extend)
    yield replace(worker, traces=traces), segments
    traces._sender.shutdown()  # noqa: SLF001 (what the end of the process does)
    segments += map(json.loads, sent)


def test_a_round_is_one_segment_of_its_senders_trace_however_many_its_symbols(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, parent = "1-6924f3a0-0123456789abcdef01234567", "89abcdef01234567"
    for symbol in ("AAPL", "MSFT", "GOOG"):
        lake.put(symbol, "2025-11-19")
        lake.request(symbol, correlation_id=f"put-of-{symbol}")
    lake.request("GHOST", correlation_id="put-of-GHOST")
    receive = lake.queue.receive

    def of_a_traced_sender(most: int, wait_seconds: int = 0) -> list[ReceivedMessage]:
        return [replace(m, trace=f"Root={root};Parent={parent};Sampled=1") for m in receive(most, wait_seconds)]

    monkeypatch.setattr(lake.queue, "receive", of_a_traced_sender)
    with traced(lake.worker()) as (worker, segments):
        lake.drained(worker)
    [segment] = segments
    assert (segment["trace_id"], segment["parent_id"]) == (root, parent)
    assert segment["annotations"] == {"run": "run-1", "symbols": 3, "files": 3, "failed": 1}
    assert segment["metadata"]["default"]["correlation_ids"] == [
        "put-of-AAPL", "put-of-MSFT", "put-of-GOOG", "put-of-GHOST",
    ]  # fmt: skip


def test_what_is_worked_on_alone_is_a_segment_of_its_own(lake: Lake) -> None:
    lake.arrive("AAPL", receives=5)
    lake.arrive("MSFT", receives=5)
    with traced(lake.worker()) as (worker, segments):
        lake.drained(worker)
    assert [segment["annotations"]["symbols"] for segment in segments] == [1, 1]


def test_named_symbols_are_traced_by_round_as_well(lake: Lake) -> None:
    for symbol in ("AAPL", "MSFT", "GOOG"):
        lake.put(symbol, "2025-11-19")
    with traced(lake.worker()) as (worker, segments):
        worker.consolidate(["AAPL", "MSFT", "GOOG"], 2, full=False)
    assert [segment["annotations"]["symbols"] for segment in segments] == [2, 1]


def test_a_trace_that_cannot_be_sent_changes_nothing(lake: Lake) -> None:
    def refuse(_documents: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "PutTraceSegments")

    lake.arrive("AAPL")
    worker = lake.drained(replace(lake.worker(), traces=Traces("dev-worker", refuse)))
    assert (worker.summary.symbols, worker.summary.dead_lettered, lake.queue.bodies()) == (1, 0, [])
