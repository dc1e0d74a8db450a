"""The right content of the lake at the end, computed from the files that were put. It shares no code with the services.

Plain Python over rows and dates; Parquet is read with pyarrow alone.
"""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SESSIONS = [
    date.fromisoformat(line)
    for line in (Path(__file__).resolve().parents[2] / "fiblake/data/nyse_sessions.txt")
    .read_text(encoding="ascii")
    .split()
]
ORDINAL = {session: ordinal for ordinal, session in enumerate(SESSIONS)}
CLOSE_ENOUGH = 1e-9
BAR = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class Bar:
    """A daily bar as it was put."""

    session: date
    open: float
    high: float
    low: float
    close: float
    volume: float
    ingested_at: datetime

    @property
    def rank(self) -> tuple[Any, ...]:
        """Return the sort key of two bars of one session: the later write, then the greater row."""
        return (self.ingested_at, self.close, self.open, self.high, self.low, self.volume)


@dataclass
class Truth:
    """What was put, by symbol."""

    bars: dict[str, dict[date, Bar]] = field(default_factory=dict)
    splits: dict[str, dict[date, tuple[int, int]]] = field(default_factory=dict)
    """Shares before and after, by execution date: the last file put."""
    dividends: dict[str, dict[date, float]] = field(default_factory=dict)
    """Cash by ex-date: the last file put."""
    handovers: dict[str, list[date]] = field(default_factory=dict)
    poison: dict[str, str] = field(default_factory=dict)
    """Keys of files that cannot be read, and their ETags."""
    refused: dict[str, list[Bar]] = field(default_factory=dict)
    """The invalid bars, by the keys of the files as they were put last."""

    def note(self, _cloud: object, key: str, _before: object, after: Any) -> None:  # noqa: ANN401 (whatever holds bytes)
        """Record a file that was put, by any client."""
        symbol = key.partition("symbol=")[2].partition("/")[0].removesuffix(".parquet")
        if after is not None and key.startswith("silver/") and not is_parquet(after.data):
            self.poison[key] = after.etag
        if after is None or not symbol:
            return
        if key.startswith("bronze/raw_ohlcv/"):
            self._note_bars(symbol, key, after)
        elif key.startswith("bronze/splits/"):
            rows = read(after.data)[0]
            self.splits[symbol] = {row["execution_date"]: (row["split_from"], row["split_to"]) for row in rows}
        elif key.startswith("bronze/dividends/"):
            rows = read(after.data)[0]
            self.dividends[symbol] = {row["ex_dividend_date"]: row["cash_amount"] for row in rows}
        elif key.startswith("bronze/identities/"):
            self.handovers[symbol] = sorted(row["valid_from"] for row in read(after.data)[0])[1:]

    def _note_bars(self, symbol: str, key: str, after: Any) -> None:  # noqa: ANN401
        if not is_parquet(after.data):
            self.poison[key] = after.etag
            return
        ours = key.endswith("/data.parquet") and "fiblake.merged" in read(after.data)[1]
        good, self.refused[key] = ([], []) if ours else parted(after.data, after.last_modified)
        for bar in good:
            bars = self.bars.setdefault(symbol, {})
            if bar.session not in bars or bars[bar.session].rank < bar.rank:
                bars[bar.session] = bar


# -------------------------------------------------------------------------------------------------- what silver must be


def expected_silver(truth: Truth, interval: int) -> dict[tuple[str, date], dict[str, Any]]:
    """Return all rows of an interval's table, by (symbol, first session)."""
    rows = {}
    for symbol, bars in truth.bars.items():
        for row in _rows(symbol, bars, truth.splits.get(symbol, {}), truth.handovers.get(symbol, []), interval):
            rows[symbol, row["ts"]] = row
    return rows


def _rows(
    symbol: str, bars: Mapping[date, Bar], splits: Mapping[date, tuple[int, int]], handovers: list[date], interval: int
) -> list[dict[str, Any]]:
    last, parts = max(bars), dict[tuple[int, int], list[date]]()
    for session in sorted(bars):
        company = len([day for day in handovers if day <= session])
        parts.setdefault((ORDINAL[session] // interval, company), []).append(session)
    rows = []
    for (bucket, company), inside in parts.items():
        first = SESSIONS[bucket * interval]
        end = SESSIONS[bucket * interval + interval - 1]
        begins, ends = sorted(handovers)[:company], sorted(handovers)[company:]
        ts = max([first, *begins])
        end = min([end, *(SESSIONS[ORDINAL[day] - 1] for day in ends)])
        last_of_company = max(day for day in bars if all(day < handover for handover in ends))
        factors = [_factor(session, last_of_company, splits, handovers) for session in inside]
        values = [bars[session] for session in inside]
        rows.append({
            "symbol": symbol, "ts": ts, "bucket": first,
            "open": values[0].open * factors[0],
            "high": max(bar.high * factor for bar, factor in zip(values, factors, strict=True)),
            "low": min(bar.low * factor for bar, factor in zip(values, factors, strict=True)),
            "close": values[-1].close * factors[-1],
            "volume": sum(bar.volume / factor for bar, factor in zip(values, factors, strict=True)),
            "bars": len(inside), "last_date": inside[-1], "is_complete": last >= end, "adjusted": True,
        })  # fmt: skip
    return rows


def _factor(session: date, last: date, splits: Mapping[date, tuple[int, int]], handovers: list[date]) -> float:
    """Return the factor of a price: all later splits of its own company up to the company's last bar."""
    factor = 1.0
    for day, (before, after) in splits.items():
        if session < day <= last and not any(session < handover <= day for handover in handovers):
            factor *= before / after
    return factor


# ------------------------------------------------------------------------------------------------------ what is there


@lru_cache(maxsize=512)
def read(data: bytes) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a Parquet file's rows and its own key-value metadata; they must not be changed."""
    file = pq.ParquetFile(io.BytesIO(data))
    metadata = {
        key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items() if b"ARROW" not in key
    }
    return file.read(use_threads=False).to_pylist(), metadata


def parted(data: bytes, last_modified: datetime) -> tuple[list[Bar], list[Bar]]:
    """Return a file's bars: the valid (or released) ones, and those that must wait in quarantine."""
    bars = bars_in_file(data, last_modified)
    is_released = "fiblake.released" in read(data)[1]
    return [bar for bar in bars if is_released or _can_be(bar)], [
        bar for bar in bars if not (is_released or _can_be(bar))
    ]


def _can_be(bar: Bar) -> bool:
    return 0 < bar.low <= min(bar.open, bar.close) and bar.high >= max(bar.open, bar.close)


def unsettled(bars: Iterable[Bar], symbol: str, merged: Mapping[date, Bar], objects: Mapping[str, bytes]) -> list[Bar]:
    """Return the invalid bars that are neither in quarantine nor released, and have no later bar."""
    waiting = {
        (row["session"], row["close"])
        for key, data in objects.items()
        if key.startswith(f"bronze/quarantine/symbol={symbol}/")
        for row in read(data)[0]
    }
    # A release deletes the bar in quarantine before a worker merges the file that holds it now.
    waiting |= {
        (bar.session, bar.close)
        for key, data in objects.items()
        if key.startswith(f"bronze/raw_ohlcv/symbol={symbol}/") and is_parquet(data)
        if "fiblake.released" in read(data)[1]
        for bar in bars_in_file(data, None)
    }
    return [
        bar
        for bar in bars
        if (bar.session, bar.close) not in waiting
        and not (bar.session in merged and merged[bar.session].rank >= bar.rank)
    ]


def is_parquet(data: bytes) -> bool:
    """Return whether these bytes are a Parquet file at all."""
    return data[:4] == data[-4:] == b"PAR1"


def bars_of(data: bytes) -> dict[date, Bar]:
    """Return a data.parquet's bars by session; a session with two bars is an error."""
    rows = bars_in_file(data, None)
    bars = {bar.session: bar for bar in rows}
    assert len(bars) == len(rows), "a session stands twice in data.parquet"
    return bars


def bars_in_file(data: bytes, last_modified: datetime | None) -> list[Bar]:
    """Return a file's bars; a row without an instant is as old as the file."""
    return [
        Bar(row["timestamp"], *(float(row[name]) for name in BAR), row.get("ingested_at") or last_modified)  # type: ignore[arg-type]
        for row in read(data)[0]
    ]


def differences(truth: Truth, objects: Mapping[str, bytes], intervals: Iterable[int]) -> list[str]:
    """Compare the bucket with the truth; return all that is wrong, a sentence each."""
    sentences = []
    for symbol in truth.bars:
        sentences += _bronze_differences(symbol, truth, objects)
    for interval in intervals:
        sentences += _silver_differences(truth, objects, interval)
    return sentences + _manifest_differences(truth, objects)


def _bronze_differences(symbol: str, truth: Truth, objects: Mapping[str, bytes]) -> list[str]:
    data = objects.get(f"bronze/raw_ohlcv/symbol={symbol}/data.parquet")
    if data is None:
        return [f"{symbol} has no data.parquet, and {len(truth.bars[symbol])} bars were put"]
    there, wanted = bars_of(data), truth.bars[symbol]
    sentences = [f"{symbol} {day}: the bar is lost" for day in sorted(wanted.keys() - there.keys())]
    sentences += [f"{symbol} {day}: no such bar was put" for day in sorted(there.keys() - wanted.keys())]
    for day in sorted(wanted.keys() & there.keys()):
        if there[day] != wanted[day]:
            sentences.append(f"{symbol} {day}: bronze has {there[day]}, and the last write is {wanted[day]}")
    folder = f"bronze/raw_ohlcv/symbol={symbol}/"
    refused = [bar for key, bars in truth.refused.items() if key.startswith(folder) for bar in bars]
    sentences += [f"{symbol} {b.session}: is not in quarantine" for b in unsettled(refused, symbol, there, objects)]
    return sentences + _reference_differences(symbol, truth, read(data)[1])


def _reference_differences(symbol: str, truth: Truth, metadata: Mapping[str, str]) -> list[str]:
    text = metadata.get("fiblake.reference")
    stored = json.loads(text) if text else {"splits": [], "handovers": []}
    splits = truth.splits.get(symbol, {})
    days = [date.fromisoformat(day) for day, *_ in stored["splits"]]
    if days != sorted(splits):
        return [f"{symbol}: data.parquet carries the splits {days}, and the file put last has {sorted(splits)}"]
    handovers = [date.fromisoformat(day) for day in stored["handovers"]]
    if handovers != sorted(truth.handovers.get(symbol, [])):
        return [f"{symbol}: data.parquet carries the handovers {handovers}"]
    paid = {date.fromisoformat(day): cash for day, cash, *_ in stored.get("dividends", [])}
    if paid != truth.dividends.get(symbol, {}):
        return [f"{symbol}: data.parquet carries the dividends {paid}"]
    factor = 1.0
    for (day, told_factor, *_), place in zip(reversed(stored["splits"]), sorted(splits, reverse=True), strict=True):
        factor *= splits[place][0] / splits[place][1]
        if abs(told_factor - factor) > CLOSE_ENOUGH * factor:
            return [f"{symbol}: data.parquet carries factor {told_factor} of {day}, and it is {factor}"]
    return []


def _silver_differences(truth: Truth, objects: Mapping[str, bytes], interval: int) -> list[str]:
    wanted, sentences, there = expected_silver(truth, interval), [], dict[tuple[str, date], dict[str, Any]]()
    for key, data in sorted(objects.items()):
        if not key.startswith(f"silver/silver_{interval}d/"):
            continue
        for row in read(data)[0]:
            place = row["symbol"], row["ts"]
            if place in there:
                sentences.append(f"{interval}d {place[0]} {place[1]}: the bucket stands twice")
            there[place] = row
            if fault := _misplaced(key, row, interval):
                sentences.append(fault)
    names = [f"{interval}d {symbol} {ts}: the row is missing" for symbol, ts in sorted(wanted.keys() - there.keys())]
    names += [
        f"{interval}d {symbol} {ts}: there is no such bucket" for symbol, ts in sorted(there.keys() - wanted.keys())
    ]
    for place in sorted(wanted.keys() & there.keys()):
        wrong = [
            name for name in wanted[place] if name != "bucket" and not _same(wanted[place][name], there[place][name])
        ]
        values = ", ".join(f"{name} is {there[place][name]}, not {wanted[place][name]}" for name in wrong)
        if wrong:
            names.append(f"{interval}d {place[0]} {place[1]}: {values}")
    return sentences + names


def _misplaced(key: str, row: Mapping[str, Any], interval: int) -> str | None:
    bucket = SESSIONS[ORDINAL[row["ts"]] // interval * interval]
    return None if key[-14:-8] == f"{bucket:%Y%m}" else f"{interval}d {row['symbol']} {row['ts']} stands in {key}"


def _same(wanted: Any, there: Any) -> bool:  # noqa: ANN401
    if isinstance(wanted, float):
        return abs(wanted - there) <= CLOSE_ENOUGH * abs(wanted)
    return bool(wanted == there)


def _manifest_differences(truth: Truth, objects: Mapping[str, bytes]) -> list[str]:
    data = objects.get("processing_metadata/consolidation_manifest.parquet")
    rows = {row["symbol"]: row for row in read(data)[0]} if data else {}
    sentences = []
    for symbol, bars in truth.bars.items():
        row = rows.get(symbol)
        stored = (row["last_consolidated_date"], row["row_count"]) if row else None
        if stored != (max(bars), len(bars)):
            sentences.append(f"the manifest says {stored} of {symbol}, and it is {max(bars)}, {len(bars)} bars")
    return sentences


# --------------------------------------------------------------------------------------------- files, as others write


def bars_file(symbol: str, bars: Iterable[Bar], *, with_instants: bool = True) -> bytes:
    """Return bars as a Parquet file that any client might write."""
    rows = [{name: getattr(bar, name) for name in BAR} | {"timestamp": bar.session} for bar in bars]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("timestamp", *BAR)}
    columns |= {"symbol": [symbol] * len(rows), "interval": ["1d"] * len(rows)}
    if with_instants:
        columns["ingested_at"] = pa.array([bar.ingested_at for bar in bars], pa.timestamp("us", "UTC"))
    return _parquet(pa.table(columns))


def splits_file(symbol: str, splits: Mapping[date, tuple[int, int]]) -> bytes:
    """Return splits as the vendor reports them, with cumulative factors."""
    rows, factor = [], 1.0
    for day, (before, after) in sorted(splits.items(), reverse=True):
        factor *= before / after
        rows.append({
            "symbol": symbol, "execution_date": day, "split_from": float(before), "split_to": float(after),
            "adjustment_type": "forward_split" if after > before else "reverse_split",
            "historical_adjustment_factor": factor, "id": f"{symbol}-{day}",
        })  # fmt: skip
    schema = pa.schema([
        ("symbol", pa.string()), ("execution_date", pa.date32()), ("split_from", pa.float64()),
        ("split_to", pa.float64()), ("adjustment_type", pa.string()),
        ("historical_adjustment_factor", pa.float64()), ("id", pa.string()),
    ])  # fmt: skip
    return _parquet(pa.Table.from_pylist(rows[::-1], schema=schema))


def dividends_file(symbol: str, cash: Mapping[date, float]) -> bytes:
    """Return dividends as any client might write them, with the required columns only."""
    rows = [
        {"symbol": symbol, "ex_dividend_date": day, "cash_amount": amount, "id": f"{symbol}-{day}"}
        for day, amount in sorted(cash.items())
    ]
    schema = pa.schema([
        ("symbol", pa.string()), ("ex_dividend_date", pa.date32()), ("cash_amount", pa.float64()), ("id", pa.string()),
    ])  # fmt: skip
    return _parquet(pa.Table.from_pylist(rows, schema=schema))


def identities_file(symbol: str, handovers: Iterable[date]) -> bytes:
    """Return the companies that had a symbol, without sessions in between."""
    starts = [date(1980, 12, 12), *sorted(handovers)]
    ends = [day - timedelta(days=1) for day in starts[1:]]
    rows = [
        {
            "symbol": symbol,
            "valid_from": first,
            "valid_to": last,
            "composite_figi": f"BBG{n:09}",
            "name": f"Company {n}",
        }
        for n, (first, last) in enumerate(zip(starts, [*ends, None], strict=True))
    ]
    schema = pa.schema([
        ("symbol", pa.string()), ("valid_from", pa.date32()), ("valid_to", pa.date32()),
        ("composite_figi", pa.string()), ("name", pa.string()),
    ])  # fmt: skip
    return _parquet(pa.Table.from_pylist(rows, schema=schema))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
