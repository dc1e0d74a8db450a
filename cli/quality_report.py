"""The quality of a symbol's bars: coverage by month, and findings that a person should check (pure)."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby, pairwise
from math import log
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import Consolidated
from fiblake.calendar import TradingCalendar
from fiblake.reference import Identity, Split
from fiblake.revisions import BAR as BAR_STATEMENT
from fiblake.rules import is_jump, positive
from fiblake.symbols import BEGINNING
from fiblake.wording import pluralize

JUMP_LIMIT: Final = 3.0
"""A close of more than this many times the one before, or less than one part in this many, needs an explanation."""
REPEATS: Final = 3
"""This many sessions in a row with the same prices and volume show a feed that stopped, not a market."""
SAME_SPLIT_DAYS: Final = 10
"""Two splits of one ratio within this many days are probably one."""
FLAT_FILE_DIFFERS: Final = "flat file differs"
_VISIBLE_SPLIT: Final = 1.4
"""A split with a smaller change of the price cannot be distinguished from an ordinary day."""
_NUMBERS: Final = ("open", "high", "low", "close", "volume")
BAR, NO_TRADE, QUARANTINED, WITHDRAWN, UNKNOWN, MISSING = STATES = (
    "bars", "no_trade", "quarantined", "withdrawn", "unknown", "missing",
)  # fmt: skip


_Bar = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """The facts besides the bars: the symbol's companies, its splits, and the reasons why a session may have no bar."""

    identities: Sequence[Identity] = ()
    splits: Sequence[Split] = ()
    quarantined: Collection[date] = ()
    asked: Collection[date] | None = None
    """Sessions that were requested from the vendor: one without a bar had no trade. None: unknown."""
    revisions: pa.Table | None = None
    """The superseded statements of data.parquet (schema REVISIONS)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact that a person should check."""

    kind: str
    session: date
    text: str


@dataclass(frozen=True, slots=True)
class Quality:
    """A symbol's sessions by month and state, and the findings."""

    symbol: str
    first: date
    last: date
    months: Mapping[str, Mapping[str, int]]
    """YYYY-MM -> state -> sessions, in order."""
    missing: Sequence[date]
    before_first: int
    """Sessions between the listing and the first bar, if the listing is known."""
    findings: Sequence[Finding] = field(default_factory=tuple)
    compared: int = 0
    """Sessions of which the lake has, or had, a bar of the API and one of a flat file."""

    @property
    def differing(self) -> int:
        """Of those that were compared, the sessions whose two bars differ."""
        return sum(finding.kind == FLAT_FILE_DIFFERS for finding in self.findings)

    @property
    def totals(self) -> dict[str, int]:
        """Sessions by state."""
        return {state: sum(month[state] for month in self.months.values()) for state in STATES}

    @property
    def is_good(self) -> bool:
        """Whether there is no finding."""
        return not (self.missing or self.findings or self.totals[QUARANTINED])

    def facts(self) -> dict[str, Any]:
        """Return the quality as values for JSON."""
        return {
            "symbol": self.symbol, "first": self.first, "last": self.last, "is_good": self.is_good,
            "totals": self.totals, "before_first_bar": self.before_first, "missing": list(self.missing),
            "months": [{"month": month, **states} for month, states in self.months.items()],
            "sources": {"compared": self.compared, "differ": self.differing},
            "findings": [{"kind": f.kind, "session": f.session, "text": f.text} for f in self.findings],
        }  # fmt: skip


def quality_of(
    symbol: str, stored: Consolidated, calendar: TradingCalendar, closed: date, sources: Sources = Sources()
) -> Quality:
    """Return a symbol's quality up to the session `closed`; `stored` must hold at least one bar."""
    sessions: list[date] = stored.bars["timestamp"].to_pylist()
    with_bar = set(sessions)
    months: dict[str, dict[str, int]] = {}
    missing = []
    for day in _expected(sources.identities, calendar, sessions[0], closed):
        state = BAR if day in with_bar else _state_without_bar(day, stored, sources)
        months.setdefault(f"{day:%Y-%m}", dict.fromkeys(STATES, 0))[state] += 1
        if state == MISSING:
            missing.append(day)
    findings = [*_jumps(stored, sessions), *_repeats(stored, sessions), *_repeated_splits(sources.splits)]
    findings += _doubtful_dividends(stored)
    pairs = _bars_of_both_sources(stored, sources.revisions) if sources.revisions is not None else {}
    findings += _differences(pairs)
    listed = min((identity.valid_from for identity in sources.identities), default=BEGINNING)
    known_from = max(listed, calendar.session(0)) if listed > BEGINNING else sessions[0]
    before = len(calendar.between(known_from, sessions[0])) - 1 if known_from < sessions[0] else 0
    ordered = sorted(findings, key=lambda finding: finding.session)
    return Quality(symbol, sessions[0], sessions[-1], months, missing, before, ordered, len(pairs))


def _expected(identities: Sequence[Identity], calendar: TradingCalendar, first: date, closed: date) -> list[date]:
    """Return the sessions of the companies that had the symbol, from its first bar on."""
    periods = [(max(identity.valid_from, first), identity.valid_to or closed) for identity in identities]
    days = (calendar.between(start, min(end, closed)) for start, end in periods or [(first, closed)] if start <= end)
    return sorted({day for some in days for day in some})


def _state_without_bar(day: date, stored: Consolidated, sources: Sources) -> str:
    if day in stored.withdrawn:
        return WITHDRAWN
    if day in sources.quarantined:
        return QUARANTINED
    if sources.asked is None:
        return UNKNOWN
    return NO_TRADE if day in sources.asked else MISSING


def _ratios(stored: Consolidated) -> dict[date, float]:
    """Return the price ratio of each split, by its execution date."""
    factors = [factor for _, factor in stored.reference.splits]
    days = [day for day, _ in stored.reference.splits]
    later = [*factors[1:], 1.0][: len(factors)]
    return {day: factor / following for day, factor, following in zip(days, factors, later, strict=True)}


def _jumps(stored: Consolidated, sessions: Sequence[date]) -> Iterator[Finding]:
    """Yield the price jumps without a split or handover, and the splits that are not visible in the bars."""
    closes = stored.bars["close"].to_pylist()
    ratios, handovers = _ratios(stored), set(stored.reference.handovers)
    for (before, after), (previous, close) in zip(pairwise(sessions), pairwise(closes), strict=True):
        if any(before < day <= after for day in handovers) or not (positive(previous) and positive(close)):
            continue
        ratio = 1.0
        for day in (day for day in ratios if before < day <= after):
            ratio *= ratios[day]
        if is_jump(close, previous, ratio, JUMP_LIMIT):
            yield Finding("jump", after, f"the close goes from {previous:g} on {before} to {close:g}, without a split")
        elif abs(log(ratio)) > log(_VISIBLE_SPLIT) and abs(log(close / previous)) < abs(log(close / previous / ratio)):
            text = f"a split makes {ratio:g} of a price, and the close goes from {previous:g} to {close:g}"
            yield Finding("split not seen", after, text)


def _repeats(stored: Consolidated, sessions: Sequence[date]) -> Iterator[Finding]:
    rows = zip(*(stored.bars[name].to_pylist() for name in _NUMBERS), strict=True)
    for numbers, run in groupby(zip(sessions, rows, strict=True), key=lambda pair: pair[1]):
        days = [day for day, _ in run]
        if len(days) >= REPEATS and numbers[-1] > 0:
            which = f"{pluralize(len(days), 'session')} to {days[-1]}"
            text = f"{which} have the same prices and volume (close {numbers[3]:g})"
            yield Finding("stale repeat", days[0], text)


def _repeated_splits(splits: Iterable[Split]) -> Iterator[Finding]:
    usable = [split for split in splits if split.has_ratio]
    for earlier, other in pairwise(sorted(usable, key=lambda split: split.execution_date)):
        near = other.execution_date - earlier.execution_date <= timedelta(days=SAME_SPLIT_DAYS)
        if near and earlier.split_to * other.split_from == other.split_to * earlier.split_from:
            ratio = f"{earlier.split_to:g}-for-{earlier.split_from:g}"
            yield Finding("duplicate split", other.execution_date, f"{ratio} as well on {earlier.execution_date}")


def _doubtful_dividends(stored: Consolidated) -> Iterator[Finding]:
    """Yield the dividends whose vendor factor contradicts cash and close, or whose cash cannot be applied."""
    sessions = stored.bars["timestamp"].to_numpy().astype("datetime64[D]")
    for dispute in stored.reference.payout_disputes(sessions, stored.bars["close"].to_numpy()):
        yield Finding("doubtful dividend", dispute.ex_date, dispute.text)


def _bars_of_both_sources(stored: Consolidated, revisions: pa.Table) -> dict[date, tuple[_Bar, _Bar]]:
    """Return, by session, the last bar of the API and the last one of a flat file, if the lake has or had both.

    A bar of the API has a vwap, a row of a flat file has none.
    """
    superseded = revisions.filter(pc.equal(revisions["kind"], BAR_STATEMENT))
    current = stored.bars.filter(pc.is_in(stored.bars["timestamp"], superseded["timestamp"].combine_chunks()))
    columns = ["timestamp", *_NUMBERS, "vwap", "ingested_at"]
    rows = pa.concat_tables([superseded.select(columns), current.select(columns)], promote_options="permissive")
    last: dict[bool, dict[date, _Bar]] = {False: {}, True: {}}
    for row in rows.sort_by("ingested_at").to_pylist():
        last[row["vwap"] is not None][row["timestamp"]] = row
    flat_files, api = last[False], last[True]
    return {day: (api[day], flat_files[day]) for day in sorted(api.keys() & flat_files.keys())}


def _differences(pairs: Mapping[date, tuple[_Bar, _Bar]]) -> Iterator[Finding]:
    for day, (api, flat_file) in pairs.items():
        texts = [f"{name} {api[name]:g} and {flat_file[name]:g}" for name in _NUMBERS if api[name] != flat_file[name]]
        if texts:
            yield Finding(FLAT_FILE_DIFFERS, day, f"the API and a flat file have {', '.join(texts)}")


def by_year(months: Mapping[str, Mapping[str, int]]) -> Iterable[tuple[str, list[Mapping[str, int] | None]]]:
    """Yield each year with its twelve months; None: no session of that month is expected."""
    for year, _ in groupby(months, key=lambda month: month[:4]):
        yield year, [months.get(f"{year}-{number:02}") for number in range(1, 13)]
