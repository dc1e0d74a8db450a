"""One simulated lake: the files that are put, the actors, and the check at the end."""

import copy
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial

from tests.faults import actors, oracle
from tests.faults.actors import MESSAGES_AT_ONCE, Process, Work
from tests.faults.cloud import ARRIVALS, CONSOLIDATION, START, TICK, Cloud, Job, NoFaults, Stored
from tests.faults.oracle import ORDINAL, SESSIONS, Bar, Truth

INTERVALS = (3, 8)
BARS_PREFIX = "bronze/raw_ohlcv/symbol="
LAST = ORDINAL[START.date()] - 1
PAUSE_SECONDS = 150
"""Before a command is run again; by then the letters that a killed command received are visible again."""
MOST_ROUNDS = 400
"""The number of repairs after which the work will never end."""


def session(back: int) -> date:
    """Return the session this many sessions before the last one."""
    return SESSIONS[LAST - back]


@dataclass
class World:
    """A lake, and its right content."""

    cloud: Cloud = field(default_factory=lambda: Cloud(INTERVALS))
    truth: Truth = field(default_factory=Truth)
    retention_days: int | None = None
    lost_events: bool = False
    """Whether events may have been lost, so that the audit must find what lags."""
    foreign: bool = False
    """Whether the lake has files of another program, which a person must adopt."""
    processes: int = 0
    unfinished: list[tuple[str, Work]] = field(default_factory=list)
    """Commands that have not succeeded yet."""
    sent_again: set[str] = field(default_factory=set)
    """Requests that were delivered once more: no job was submitted for them."""

    def __post_init__(self) -> None:
        self.cloud.guards = [self.truth.note, versions_grow, no_bar_vanishes, no_bucket_twice, only_merged_files_go]

    def fork(self) -> "World":
        """Return an independent copy."""
        twin = copy.deepcopy(self)
        twin.cloud.guards[0] = twin.truth.note
        return twin

    # What others put.

    def put_bars(
        self,
        symbol: str,
        prices: Mapping[int, float],
        *,
        with_instants: bool = True,
        as_range: bool = False,
        at_once: bool = False,
        bad: Container[int] = (),
        named_since: int | None = None,
    ) -> None:
        """Put bars (close by sessions back from the last): one file, of a session or a range.

        A file is written at the instant it is put, a second after the one before it unless `at_once`. The high of the
        `bad` ones is below their close. A range's name may begin before its bars (`named_since`).
        """
        if not at_once:
            self.cloud.now += timedelta(seconds=1)
        bars = [
            replace(bar, high=bar.low) if back in bad else bar
            for back, close in sorted(prices.items(), reverse=True)
            for bar in [flat(session(back), close, self)]
        ]
        first, last = bars[0].session if named_since is None else session(named_since), bars[-1].session
        name = f"range={first}_{last}" if as_range or first != last else f"date={first}"
        self.put(f"{BARS_PREFIX}{symbol}/{name}.parquet", oracle.bars_file(symbol, bars, with_instants=with_instants))

    def put_splits(self, symbol: str, splits: Mapping[int, tuple[int, int]]) -> None:
        """Put a symbol's splits: shares before and after, by sessions back."""
        data = oracle.splits_file(symbol, {session(back): ratio for back, ratio in splits.items()})
        self.put(f"bronze/splits/symbol={symbol}.parquet", data)

    def put_dividends(self, symbol: str, cash: Mapping[int, float]) -> None:
        """Put a symbol's dividends: cash by sessions back."""
        data = oracle.dividends_file(symbol, {session(back): amount for back, amount in cash.items()})
        self.put(f"bronze/dividends/symbol={symbol}.parquet", data)

    def put_handovers(self, symbol: str, backs: Iterable[int]) -> None:
        """Put the companies that had a symbol, each from this session on."""
        self.put(f"bronze/identities/symbol={symbol}.parquet", oracle.identities_file(symbol, map(session, backs)))

    def put_foreign_data(self, symbol: str, prices: Mapping[int, float]) -> None:
        """Put a data.parquet of another program."""
        self.foreign = True
        bars = [flat(session(back), close, self) for back, close in sorted(prices.items(), reverse=True)]
        self.put(f"{BARS_PREFIX}{symbol}/data.parquet", oracle.bars_file(symbol, bars))

    def put_poison(self, symbol: str, back: int) -> None:
        """Put a file that cannot be read. It replaces no file: bars that no worker has read would be lost."""
        key = f"{BARS_PREFIX}{symbol}/range={session(back)}_{session(0)}.parquet"
        if key not in self.cloud.objects:
            self.put(key, b"no Parquet")

    def put(self, key: str, data: bytes) -> None:
        """Put any file, as a client outside of the stack."""
        self.cloud.note(None, f"PUT {key}")
        self.cloud.put(key, data)

    # Who works on it.

    def run(self, name: str, work: Work, *, hasty: bool = False) -> Process:
        """Let a process run to its end; a hasty one ends when it sees no messages, even if others hold some."""
        process = self.process(name, hasty=hasty)
        process.run(work)
        return process

    def process(self, name: str, *, hasty: bool = False) -> Process:
        """Return a process that has yet to run."""
        self.processes += 1
        slow = timedelta(minutes=-10) if self.processes % 2 else timedelta()
        return Process(f"{name}-{self.processes}", hasty=hasty, cloud=self.cloud, clock_is_off_by=slow)

    def command(self, name: str, work: Work) -> Work:
        """Return a command's work: if it has not succeeded, it is run again at the end."""

        def until_it_succeeds(process: Process) -> None:
            self.unfinished.append((name, work))
            work(process)
            self.unfinished.remove((name, work))

        return until_it_succeeds

    def work_available(self) -> list[tuple[str, Callable[[], Work]]]:
        """Return the waiting work; a call of it receives the messages, or starts the job."""
        choices: list[tuple[str, Callable[[], Work]]] = []
        if self.visible(ARRIVALS):
            choices.append(("router", lambda: actors.route(self.cloud.receive(ARRIVALS, MESSAGES_AT_ONCE))))
        choices += [("worker", partial(self._start, job)) for job in self.cloud.jobs if job.status == "RUNNABLE"]
        waiting = [n for n in self.cloud.intervals if self.visible(f"faults-resample-{n}d")]
        return choices + [(f"resampler-{n}d", partial(self._resample, n)) for n in waiting]

    def _start(self, job: Job) -> Work:
        job.status = "STARTING"
        return actors.drain(job, self.retention_days)

    def _resample(self, interval: int) -> Work:
        return actors.resample(interval, self.cloud.receive(f"faults-resample-{interval}d", MESSAGES_AT_ONCE))

    def work_off(self) -> None:
        """Do all work that is due now; time does not pass, so messages that others have received stay with them."""
        while work := self.work_available():
            for name, begin in work:
                self.run(name, begin(), hasty=True)

    def settle(self) -> None:
        """Do all waiting work, until none is left."""
        for _ in range(MOST_ROUNDS):
            work = self.work_available()
            for name, begin in work:
                self.run(name, begin())
            if work:
                continue
            due = self.cloud.next_visible()
            if due:
                self.cloud.now = due + TICK
            elif self.visible(CONSOLIDATION) and not self.unfinished:
                if self._waiting_requests() - self.sent_again:
                    self.cloud.violations.append("requests lie in the queue, and no job will drain them")
                self.run("worker", actors.drain(None, self.retention_days))
            else:
                return
        self.cloud.violations.append(f"the lake does not come to rest in {MOST_ROUNDS} rounds")

    def _waiting_requests(self) -> set[str]:
        """Return the bodies of the requests that may be received now."""
        messages = self.cloud.queues[CONSOLIDATION].messages.values()
        return {message.body for message in messages if message.visible_at <= self.cloud.now}

    def visible(self, queue: str) -> int:
        """Count the messages that may be received now."""
        return sum(message.visible_at <= self.cloud.now for message in self.cloud.queues[queue].messages.values())

    # Whether all is well.

    def heal(self) -> list[str]:
        """End all faults, do all work, and return what is wrong then."""
        self.cloud.plan = NoFaults()
        self.cloud.note(None, "END OF FAULTS")
        commands = [
            *self.unfinished,
            *([("adopt", actors.adopt_all), ("replay", actors.replay_letters)] * self.foreign),
        ]
        commands += [("audit", actors.audit)] * 2 * self.lost_events
        self.settle()
        self.unfinished = []
        for name, work in commands:
            actors.advance(self.cloud, PAUSE_SECONDS)
            self.run(name, work)
            self.settle()
        wrong = [*self.cloud.violations, *self._letters()]
        objects = {key: stored.data for key, stored in self.cloud.objects.items()}
        wrong += oracle.differences(self.truth, objects, self.cloud.intervals)
        return wrong + ([] if wrong else self._lagging())

    def _letters(self) -> list[str]:
        """Return the wrong letters, and the invalid messages without a letter."""
        wrong, reasons = [], list[str]()
        for queue, letter in self.cloud.letters():
            reason = letter.attributes.get("reason", {}).get("StringValue", "")
            reasons.append(reason)
            if not any(key in reason for key in self.truth.poison):
                wrong.append(f"a dead letter in {queue}: {reason or 'without a reason'}: {letter.body}")
        for key, etag in self.truth.poison.items():
            is_there = key in self.cloud.objects and self.cloud.objects[key].etag == etag
            if is_there and not self.lost_events and not any(key in reason for reason in reasons):
                wrong.append(f"{key} cannot be read, and no dead letter says so")
        return wrong

    def _lagging(self) -> list[str]:
        """Return the result of the audit, without files that cannot be read."""
        wrong: list[str] = []

        def look(process: Process) -> None:
            lags = actors.audit_of(process).audit((), None, intervals=self.cloud.intervals).lags
            theirs = [*self.truth.poison, *(key for key, bars in self.truth.refused.items() if bars)]
            wrong.extend(f"the audit finds {lag}" for lag in lags if not any(key in lag.detail for key in theirs))

        self.run("audit", look)
        return wrong


def flat(day: date, close: float, world: World) -> Bar:
    """Return a bar around `close`, written now."""
    return Bar(day, close - 0.5, close + 1, close - 0.75, close, 1_000 + close, world.cloud.now)


# --------------------------------------------------------------------------------------- what must hold at every moment


def versions_grow(_cloud: Cloud, key: str, before: Stored | None, after: Stored | None) -> str | None:
    """Check that each version of data.parquet is later than the one before it."""
    if not _is_data(key) or before is None or after is None:
        return None
    old, new = (oracle.read(stored.data)[1].get("fiblake.last_updated") for stored in (before, after))
    if old and (new is None or new <= old):
        return f"{key}: last_updated {new} follows {old}"
    return None


def no_bar_vanishes(_cloud: Cloud, key: str, before: Stored | None, after: Stored | None) -> str | None:
    """Check that no version of data.parquet has lost a bar, or a later writing of one."""
    if not _is_data(key) or before is None:
        return None
    old, new = oracle.bars_of(before.data), oracle.bars_of(after.data) if after else {}
    worse = [day for day, bar in old.items() if "fiblake.merged" in oracle.read(before.data)[1]
             and (day not in new or new[day].rank < bar.rank)]  # fmt: skip
    return f"{key}: the bars of {', '.join(map(str, worse))} are lost or older" if worse else None


def no_bucket_twice(_cloud: Cloud, key: str, _before: Stored | None, after: Stored | None) -> str | None:
    """Check that no month file has a bucket twice."""
    if not key.startswith("silver/") or after is None:
        return None
    if not oracle.is_parquet(after.data):  # of another make
        return None
    places = [(row["symbol"], row["ts"]) for row in oracle.read(after.data)[0]]
    return None if len(set(places)) == len(places) else f"{key} holds a bucket twice"


def only_merged_files_go(cloud: Cloud, key: str, before: Stored | None, after: Stored | None) -> str | None:
    """Check that a source file is deleted only if data.parquet holds its bars, or later writings of them."""
    if after is not None or before is None or not key.startswith(BARS_PREFIX):
        return None
    data = cloud.objects.get(f"{key.rpartition('/')[0]}/data.parquet")
    merged = oracle.bars_of(data.data) if data else {}
    good, refused = oracle.parted(before.data, before.last_modified)
    lost = [str(bar.session) for bar in good if bar.session not in merged or merged[bar.session].rank < bar.rank]
    symbol, objects = key.removeprefix(BARS_PREFIX).partition("/")[0], {k: o.data for k, o in cloud.objects.items()}
    lost += [str(bar.session) for bar in oracle.unsettled(refused, symbol, merged, objects)]
    return f"{key} is deleted, and its bars of {', '.join(lost)} are not merged" if lost else None


def _is_data(key: str) -> bool:
    return key.startswith(BARS_PREFIX) and key.endswith("/data.parquet")
