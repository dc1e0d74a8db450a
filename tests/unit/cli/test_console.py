"""The console's pages without a browser: which requests are answered, the content, and that foreign text stays text."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from starlette.applications import Starlette

from cli.console.facts import bars_of, expected_session, letter_groups, problems, stages_of, symbols_like
from cli.console.server import COOKIE, Console, application
from fiblake.adjustment import Reference
from fiblake.bars import MANIFEST, Consolidated, ReportedBar, encode
from fiblake.errors import ContractError, NotFoundError
from fiblake.lake import MANIFEST_KEY, checkpoint_key
from shared.events import ConsolidationRequest
from shared.metrics import Latency
from shared.quarantine import quarantine
from shared.queues import ReceivedMessage
from tests.fakes import LAKE, NOON, bar, table
from tests.unit.cli.conftest import FakeTarget
from tests.unit.shared.test_dead_letters import Source

PORT = 8_765
TOKEN = "a-token"  # noqa: S105 (of a test)
HOST = f"127.0.0.1:{PORT}"
OURS = {"origin": f"http://{HOST}"}
EVIL = '<script>alert("x")</script>'
DAYS = [date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 4), date(2024, 1, 5)]


@dataclass
class Visitor:
    """Sends requests to the application without a socket, and keeps its cookies."""

    pages: Starlette
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self._ask("GET", path, headers)

    def post(self, path: str, data: dict[str, str], headers: dict[str, str]) -> httpx.Response:
        return self._ask("POST", path, headers, data)

    def _ask(
        self, method: str, path: str, headers: dict[str, str] | None, data: dict[str, str] | None = None
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.pages)
            async with httpx.AsyncClient(
                transport=transport, base_url=f"http://{HOST}", cookies=self.cookies
            ) as client:
                return await client.request(method, path, headers=headers, data=data)

        answer = asyncio.run(ask())
        self.cookies |= dict(answer.cookies)
        return answer


def client_of(stack: FakeTarget, *, allow_actions: bool = False, cookie: bool = True) -> Visitor:
    pages = application(Console(stack, TOKEN, PORT, allow_actions))  # type: ignore[arg-type]
    return Visitor(pages, {COOKIE: TOKEN} if cookie else {})


@pytest.fixture(autouse=True)
def queues(stack: FakeTarget) -> None:
    stack.queues = {"bronze-arrivals": Source("test-bronze-arrivals"), "consolidation": Source("test-consolidation")}


@pytest.fixture
def client(stack: FakeTarget) -> Visitor:
    return client_of(stack)


def bury(stack: FakeTarget, symbol: str, reason: str) -> None:
    queue = stack.queues["consolidation"]
    queue.dead_letter(
        ReceivedMessage("m", "r", ConsolidationRequest(symbol=symbol).model_dump_json(), 6), ContractError(reason)
    )


def lay_bars(stack: FakeTarget, reference: Reference | None = None) -> None:
    bars = table(*(bar(day, 100.0 + i) for i, day in enumerate(DAYS)))
    stored = Consolidated(bars, {}, NOON, reference or Reference())
    stack.store.lay(LAKE.data_key("AAPL"), stored.encode())


# ------------------------------------------------------------------------------------------------------ who is answered


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", ""])
def test_another_host_is_refused(client: Visitor, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 403


def test_without_the_key_nothing_is_shown(stack: FakeTarget) -> None:
    stranger = client_of(stack, cookie=False)
    for path in ("/", "/fragments/flow", "/data/bars/AAPL/1d", "/static/console.js"):
        assert stranger.get(path).status_code == 401
    assert stranger.get("/?token=wrong").status_code == 401


def test_the_printed_address_opens_the_pages(stack: FakeTarget) -> None:
    visitor = client_of(stack, cookie=False)
    answer = visitor.get(f"/letters?queue=consolidation&token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/letters?queue=consolidation")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", f"http://127.0.0.1:{PORT + 1}", "null", None])
def test_a_post_from_another_page_is_refused(stack: FakeTarget, origin: str | None) -> None:
    bury(stack, "AAPL", "broken")
    form = {"token": TOKEN, "queue": "consolidation", "reason": "broken", "sure": "yes"}
    allowed = client_of(stack, allow_actions=True)
    answer = allowed.post("/letters/replay", data=form, headers={"origin": origin} if origin else {})
    assert answer.status_code == 403
    assert len(letters(stack)) == 1


def test_every_answer_forbids_scripts_of_others(client: Visitor) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


# -------------------------------------------------------------------------------------------------------- what is shown


def letters(stack: FakeTarget) -> list[str]:
    return stack.queues["consolidation"].dead_letters.bodies()


def test_a_quiet_stack_is_well() -> None:
    state = {
        "dead_letters": {"consolidation": 0}, "queues": {"consolidation": {"oldest_seconds": 3}}, "lagging": [],
        "refused": [], "faults": {},
    }  # fmt: skip
    assert problems(state) == []


def test_what_is_wrong_is_named_with_a_command() -> None:
    state = {
        "dead_letters": {"consolidation": 2, "resample-5d": 0}, "queues": {"history": {"oldest_seconds": 7_200}},
        "lagging": ["AAPL"], "refused": [{"key": "bronze/x"}], "faults": {"jobs": "Batch refuses"},
    }  # fmt: skip
    assert [(p.what, p.remedy) for p in problems(state)] == [
        ("2 dead letters in consolidation", "fiblake dlq show --queue consolidation"),
        ("the oldest message in history has waited 120 minutes", "fiblake status"),
        ("1 symbol with files that are not merged: AAPL", "fiblake reconcile --fix"),
        ("1 refused file: bronze/x", "fiblake reconcile"),
        ("jobs cannot be seen: Batch refuses", "fiblake status"),
    ]


def test_a_lake_that_nothing_is_fetched_into_is_not_well(stack: FakeTarget) -> None:
    """No message waits and there is no dead letter, but the last sessions are missing."""
    state = {
        "dead_letters": {}, "queues": {}, "lagging": [], "refused": [], "faults": {}, "fetched": date(2025, 11, 18),
    }  # fmt: skip
    night = datetime(2025, 11, 20, 10, tzinfo=UTC)  # 13 hours after the close of the 19th
    assert expected_session(stack, night) is None  # type: ignore[arg-type] # a local stack replays the past
    stack.log_folder = None
    expected = expected_session(stack, night)  # type: ignore[arg-type]
    assert expected == date(2025, 11, 19)
    [problem] = problems(state, expected)
    assert problem.what == "fetched only up to 2025-11-18: session 2025-11-19 closed more than 12 hours ago"
    assert problem.remedy == "fiblake fetch"
    assert problems(state | {"fetched": expected}, expected) == []
    assert expected_session(stack, night - timedelta(hours=2)) == date(2025, 11, 18)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last_day", "waiting", "minutes", "is_problem"),
    [
        ("2025-11-18", 0, 16, True),
        (None, 0, 16, True),
        ("2025-11-19", 0, 16, False),
        ("2025-11-18", 3, 16, False),  # it is on its way
        ("2025-11-18", 0, 14, False),  # counts of a queue may be old
    ],
)
def test_a_table_without_the_last_session_is_a_problem_if_nothing_waits_for_it(
    last_day: str | None, waiting: int, minutes: int, *, is_problem: bool
) -> None:
    point = {"last_processed_date": last_day} if last_day else None
    state = {
        "dead_letters": {}, "queues": {"resample-5d": {"visible": waiting, "in_flight": 0}}, "lagging": [],
        "faults": {}, "fetched": date(2025, 11, 19), "intervals": {"5d": point},
        "consolidated": {"last_session": date(2025, 11, 19), "last_updated": NOON},
    }  # fmt: skip
    named = [(p.what, p.remedy) for p in problems(state, now=NOON + timedelta(minutes=minutes))]
    text = "without session 2025-11-19, and nothing waits for it: silver_5d"
    assert named == ([(text, "fiblake reconcile --fix")] if is_problem else [])


def test_the_sessions_of_a_local_stack_end_with_its_lake(
    client: Visitor, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It replays the past: all sessions of this year would seem to be missing."""
    monkeypatch.setattr("cli.console.facts._ledger", lambda *_: {DAYS[3]: 1})
    lay_bars(stack)
    rows = [{"symbol": "AAPL", "last_consolidated_date": DAYS[3], "row_count": 4, "last_updated": NOON}]
    stack.store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, schema=MANIFEST)))
    sessions = [row["session"] for row in stages_of(stack)["sessions"]]  # type: ignore[arg-type]
    assert sessions[:2] == [DAYS[3], DAYS[2]]
    stack.log_folder = None
    sessions = [row["session"] for row in stages_of(stack)["sessions"]]  # type: ignore[arg-type]
    assert sessions[0] > date(2026, 1, 1)
    assert client.get("/sessions").status_code == 200


def test_the_flow_of_an_empty_lake_says_how_it_is_filled(
    client: Visitor, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.workers, "recent", lambda _most: [], raising=False)
    monkeypatch.setattr("cli.status.watermark", lambda _stack: None)
    shown = client.get("/fragments/flow").text
    assert "The lake is empty." in shown
    assert "fiblake fetch" in shown
    assert "All is well" not in shown


def test_a_stage_that_is_behind_the_others_is_marked(
    client: Visitor, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.workers, "recent", lambda _most: [], raising=False)
    monkeypatch.setattr("cli.status.watermark", lambda _stack: date(2025, 11, 19))
    for interval, day in ((3, "2025-11-19"), (5, "2025-11-18")):
        point = {"interval": f"{interval}d", "last_processed_date": day, "last_run_timestamp": NOON.isoformat()}
        stack.store.lay(checkpoint_key(interval), json.dumps(point).encode())
    shown = " ".join(client.get("/fragments/flow").text.split())
    marks = re.findall(r'<div class="fact (late|there)"[^>]*> <b>([^<]+)</b><span>([^<\s]+)', shown)
    assert ("there", "2025-11-19", "fetched") in marks
    assert {mark for mark in marks if "silver" in mark[2]} >= {
        ("there", "2025-11-19", "silver_3d"), ("late", "2025-11-18", "silver_5d"),
    }  # fmt: skip
    assert "The newest session is 2025-11-19." in shown


def test_bars_are_cut_by_the_services_own_code_and_adjusted(stack: FakeTarget) -> None:
    lay_bars(stack, Reference(splits=((DAYS[2], 0.5),)))
    raw = bars_of(stack, "AAPL", "1d", "raw")  # type: ignore[arg-type]
    adjusted = bars_of(stack, "AAPL", "1d", "splits")  # type: ignore[arg-type]
    assert [row["close"] for row in raw["bars"]] == [100, 101, 102, 103]
    assert [row["close"] for row in adjusted["bars"]] == [50, 50.5, 102, 103]
    assert [row["volume"] for row in adjusted["bars"]] == [2_000, 2_000, 1_000, 1_000]
    assert adjusted["splits"] == [str(DAYS[2])]
    assert adjusted["last"] == {"session": str(DAYS[3]), "close": 103}
    buckets = bars_of(stack, "AAPL", "3d", "splits")["bars"]  # type: ignore[arg-type]
    assert sum(row["volume"] for row in buckets) == 6_000
    assert [row["complete"] for row in buckets][-1] is False


def test_a_symbol_that_is_not_there_is_not_found(client: Visitor) -> None:
    answer = client.get("/data/bars/ZZZZ/1d")
    assert (answer.status_code, answer.json()) == (404, {"error": "the lake has no bars of ZZZZ"})
    assert client.get("/data/bars/AAPL/4d").status_code == 404
    assert "is not a symbol" in client.get("/symbols/..%2F..").text or client.get("/symbols/..%2F..").status_code == 404


def test_a_damaged_file_is_a_sentence(stack: FakeTarget, client: Visitor) -> None:
    stack.store.lay(LAKE.data_key("AAPL"), b"no parquet")
    answer = client.get("/data/bars/AAPL/1d")
    assert answer.status_code == 400
    assert "AAPL" in answer.json()["error"]


def test_a_symbol_that_is_typed_whole_is_shown_at_once(stack: FakeTarget, client: Visitor) -> None:
    rows = [
        {"symbol": name, "last_consolidated_date": DAYS[0], "row_count": 1, "last_updated": NOON}
        for name in ("AAPL", "APA", "TEAAP", "aa")
    ]
    stack.store.lay(MANIFEST_KEY, encode(table_of(rows)))
    assert client.get("/symbols?q=AAPL").headers["location"] == "/symbols/AAPL"
    assert symbols_like(stack, "aa") == ["AAPL", "aa", "TEAAP"]  # type: ignore[arg-type]
    assert "no symbol like it" in client.get("/symbols?q=ZZ").text


def table_of(rows: list[dict[str, object]]) -> object:
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def test_letters_are_grouped_by_reason(stack: FakeTarget, client: Visitor) -> None:
    for symbol, reason in (("AAPL", "broken"), ("MSFT", "broken"), ("IBM", "lost")):
        bury(stack, symbol, reason)
    facts = [
        {"queue": "q", "error": "E", "reason": r, "symbols": [s], "died_at": "2024", "body": s}
        for s, r in (("AAPL", "broken"), ("MSFT", "broken"), ("IBM", "lost"))
    ]
    assert [(group["reason"], group["count"], group["symbols"]) for group in letter_groups(facts)] == [
        ("broken", 2, ["AAPL", "MSFT"]),
        ("lost", 1, ["IBM"]),
    ]
    page = client.get("/fragments/letters?queue=consolidation").text
    assert "broken" in page
    assert "fiblake dlq replay" in page
    assert "<form" not in page


@pytest.mark.parametrize("place", ["reason", "body", "query"])
def test_text_of_others_stays_text(stack: FakeTarget, client: Visitor, place: str) -> None:
    queue = stack.queues["consolidation"]
    body = EVIL if place == "body" else "{}"
    queue.dead_letter(ReceivedMessage("m", "r", body, 6), ContractError(EVIL if place == "reason" else "x"))
    page = client.get(f"/symbols?q={EVIL}" if place == "query" else "/fragments/letters").text
    assert "&lt;script&gt;" in page
    assert EVIL not in page


def test_a_reason_from_quarantine_stays_text(stack: FakeTarget, client: Visitor) -> None:
    nothing = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0, "vwap": None, "trades": None}
    quarantine(stack.store, [(ReportedBar(EVIL, DAYS[0], **nothing), EVIL)], NOON)  # type: ignore[arg-type]
    page = client.get("/fragments/quarantine").text
    assert "&lt;script&gt;" in page
    assert EVIL not in page


# --------------------------------------------------------------------------------------------------------- what is done


def test_actions_are_off_by_default(stack: FakeTarget, client: Visitor) -> None:
    bury(stack, "AAPL", "broken")
    form = {"token": TOKEN, "queue": "consolidation", "reason": "broken", "sure": "yes"}
    assert client.post("/letters/replay", data=form, headers=OURS).status_code == 403
    assert len(letters(stack)) == 1


def test_an_action_needs_the_pages_token(stack: FakeTarget) -> None:
    bury(stack, "AAPL", "broken")
    allowed = client_of(stack, allow_actions=True)
    form = {"token": "wrong", "queue": "consolidation", "reason": "broken", "sure": "yes"}
    assert allowed.post("/letters/replay", data=form, headers=OURS).status_code == 403
    assert len(letters(stack)) == 1


def test_a_replay_is_counted_first_and_done_when_sure(stack: FakeTarget) -> None:
    bury(stack, "AAPL", "broken")
    bury(stack, "MSFT", "other")
    form = {"token": TOKEN, "queue": "consolidation", "reason": "broken"}
    allowed = client_of(stack, allow_actions=True)
    assert "1 letter would be replayed" in allowed.post("/letters/replay", data=form, headers=OURS).text
    assert len(letters(stack)) == 2
    answer = allowed.post("/letters/replay", data={**form, "sure": "yes"}, headers=OURS)
    assert "Replayed: 1 of 1." in answer.text
    assert len(letters(stack)) == 1
    assert stack.queues["consolidation"].bodies() == [ConsolidationRequest(symbol="AAPL").model_dump_json()]
    assert stack.workers.submitted == [("run", 1)]


def test_discarded_letters_are_in_a_file(stack: FakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bury(stack, "AAPL", "broken")
    form = {"token": TOKEN, "queue": "consolidation", "reason": "broken", "sure": "yes"}
    allowed = client_of(stack, allow_actions=True)
    assert "discarded" in allowed.post("/letters/discard", data=form, headers=OURS).text
    assert letters(stack) == []
    (file,) = tmp_path.glob("dead-letters-*.jsonl")
    assert "AAPL" in file.read_text(encoding="utf-8")


def test_an_action_without_a_reason_is_refused(stack: FakeTarget) -> None:
    bury(stack, "AAPL", "broken")
    allowed = client_of(stack, allow_actions=True)
    form = {"token": TOKEN, "queue": "consolidation", "reason": "", "sure": "yes"}
    assert "name a queue, a reason" in allowed.post("/letters/discard", data=form, headers=OURS).text
    assert len(letters(stack)) == 1


def test_the_clock_of_a_page_is_utc(client: Visitor) -> None:
    assert datetime.now(UTC).strftime("%Y") in client.get("/fragments/flow").text


def test_not_found_errors_are_errors_of_ours() -> None:
    with pytest.raises(NotFoundError):
        bars_of(FakeTarget(), "ZZZZ", "1d", "raw")  # type: ignore[arg-type]


def test_the_quality_of_a_symbol_is_a_page(client: Visitor, stack: FakeTarget) -> None:
    lay_bars(stack)
    assert "/quality/AAPL" in client.get("/symbols/AAPL").text
    assert "/fragments/quality/AAPL" in client.get("/quality/AAPL").text
    text = client.get("/fragments/quality/AAPL").text
    assert "AAPL</strong>, 2024-01-02 to 2024-01-05" in text
    assert "Postgres does not say why" in text
    assert client.get("/fragments/quality/APPL").status_code == 404


def test_the_way_of_a_put_is_a_page(client: Visitor, stack: FakeTarget, tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S},000+0000"
    record = {"message": "resampled", "timestamp": now, "correlation_id": "one", "symbol": EVIL, "interval": 3}
    (tmp_path / "aws/emulator.log").write_text(json.dumps(record))
    stack.log_folder = tmp_path
    assert "/fragments/trace?id=one" in client.get("/trace?id=one").text
    text = client.get("/fragments/trace?id=one").text
    assert "<td>resampled</td>" in text
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert client.get("/fragments/trace?id=nobody").status_code == 404
    assert client.get("/fragments/trace?id=%22x").status_code == 404


def test_the_flow_shows_how_long_puts_took_to_silver(client: Visitor, stack: FakeTarget) -> None:
    assert 'hx-get="/fragments/latency"' in client.get("/").text
    assert "No put has reached silver" in client.get("/fragments/latency").text
    stack.measured = {3: Latency(date(2025, 11, 19), 12.34, 7_300.0), 34: Latency(date(2025, 11, 18), 119.9, 600.0)}
    shown = " ".join(client.get("/fragments/latency").text.split())
    for text in ("silver_3d</td><td>12.3 s</td><td>2.0 h", "silver_34d</td><td>119.9 s</td><td>10 min", "2025-11-18"):
        assert text in shown
