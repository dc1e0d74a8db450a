"""The generated lake of the benchmarks: always the same bars, with histories as US equities have them.

Many short histories and few long ones (up to 63 years), random walks for prices, a missing day here and there. Every
symbol is still traded, so a new session has bars of all of them.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fiblake.bars import BRONZE, DAILY, Consolidated, encode
from fiblake.calendar import nyse
from fiblake.lake import Bronze

FOLDER: Final = Path(__file__).resolve().parents[1] / ".local/bench"
LAST: Final = date(2025, 11, 18)
"""The last session of the generated lake."""
NEXT: Final = date(2025, 11, 19)
"""The session that is new in the benchmarks of one day."""
NOW: Final = datetime(2025, 11, 19, 22, tzinfo=UTC)
MISSING: Final = 0.01
"""Share of sessions without a bar."""
SHORTEST: Final = 60
SEED: Final = 19620102
BRONZE_LAKE: Final = Bronze()
_CLOSE_UTC: Final = 21


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a lake: the number of symbols, and the approximate number of bars in all."""

    name: str
    symbols: int
    bars: int


FULL: Final = Size("full", 5_350, 13_350_000)
TENFOLD: Final = Size("tenfold", 10 * FULL.symbols, 10 * FULL.bars)
SIZES: Final = {
    size.name: size
    for size in (
        Size("small", 200, 500_000),
        Size("quarter", FULL.symbols // 4, FULL.bars // 4),
        Size("half", FULL.symbols // 2, FULL.bars // 2),
        FULL,
        TENFOLD,
    )
}


def generated(size: Size) -> Path:
    """Return the folder of the lake of this size; make it unless it is there (the full one takes a minute)."""
    folder = FOLDER / f"lake-{size.name}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with ProcessPoolExecutor() as pool:
            tasks = [(folder, i, symbol, count) for i, (symbol, count) in enumerate(histories(size).items())]
            list(pool.map(_write, tasks, chunksize=16))
        (folder / "complete").touch()
    return folder


def symbols(size: Size) -> list[str]:
    """Return the lake's symbols, sorted."""
    names = ("".join(letters) for length in (3, 4) for letters in product(ascii_uppercase, repeat=length))
    return sorted(name for name, _ in zip(names, range(size.symbols), strict=False))


def histories(size: Size) -> dict[str, int]:
    """Return how many sessions back each symbol's history reaches; together they have about `size.bars` bars."""
    most = nyse().ordinal(LAST) + 1
    # The quantiles of a Weibull distribution: half of the symbols are younger than six years, a few are 63 years old.
    shape = (-np.log1p(-(np.arange(size.symbols) + 0.5) / size.symbols)) ** 1.35
    low, high = 1.0, float(most)
    for _ in range(60):
        scale = (low + high) / 2
        lengths = np.clip(shape * scale, SHORTEST, most).astype(int)
        low, high = (low, scale) if lengths.sum() * (1 - MISSING) > size.bars else (scale, high)
    np.random.default_rng(SEED).shuffle(lengths)
    return dict(zip(symbols(size), lengths.tolist(), strict=True))


def bars(symbol: str, sessions: Any, seed: int) -> pa.Table:  # noqa: ANN401 (datetime64[D], sorted)
    """Return made-up bars (schema BRONZE) of these sessions."""
    rng = np.random.default_rng([SEED, seed])
    count = sessions.size
    close = np.round(20 * np.exp(np.cumsum(rng.normal(0, 0.02, count)).clip(-3, 4)), 2).clip(0.01)
    open_ = np.round(close * np.exp(rng.normal(0, 0.005, count)), 2).clip(0.01)
    high = np.round(np.maximum(open_, close) * (1 + rng.random(count) * 0.01), 2).clip(np.maximum(open_, close))
    low = np.round(np.minimum(open_, close) * (1 - rng.random(count) * 0.01), 2).clip(0.01, np.minimum(open_, close))
    volume = np.round(rng.lognormal(12, 1, count))
    trades = (volume / 100).astype(np.int64)
    vwap = np.round((high + low + close) / 3, 4)
    ingested = sessions.astype("datetime64[us]") + np.timedelta64(_CLOSE_UTC, "h")
    columns = {
        "symbol": pa.repeat(pa.scalar(symbol), count), "timestamp": sessions, "open": open_, "high": high, "low": low,
        "close": close, "volume": volume, "vwap": vwap, "trades": trades,
        "interval": pa.repeat(pa.scalar(DAILY), count),
        "ingested_at": pa.array(ingested, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC")),
    }  # fmt: skip
    nulls = {field.name: pa.nulls(count, field.type) for field in BRONZE if field.nullable}
    return pa.table({field.name: pa.array((nulls | columns)[field.name], field.type) for field in BRONZE}, BRONZE)


def new_files(size: Size, days: int) -> Iterator[tuple[str, bytes]]:
    """Return the date files of the `days` sessions up to NEXT, by symbol and session, like a fetcher's."""
    calendar = nyse()
    sessions = calendar.between(NEXT - timedelta(days=2 * days + 7), NEXT)[-days:]
    for i, symbol in enumerate(symbols(size)):
        rows = bars(symbol, np.array(sessions, dtype="datetime64[D]"), size.symbols + i)
        # Later than the bars of the lake, so that each of them wins.
        stamps = pa.repeat(pa.scalar(NOW - timedelta(minutes=1), BRONZE.field("ingested_at").type), rows.num_rows)
        rows = rows.set_column(BRONZE.get_field_index("ingested_at"), BRONZE.field("ingested_at"), stamps)
        for k, session in enumerate(sessions):
            yield BRONZE_LAKE.date_key(symbol, session), encode(rows.slice(k, 1))


def _write(task: tuple[Path, int, str, int]) -> None:
    folder, seed, symbol, count = task
    last = nyse().ordinal(LAST)
    rng = np.random.default_rng([SEED, seed, 1])
    there = rng.random(count) >= MISSING
    there[0] = there[-1] = True
    sessions = nyse().sessions[last + 1 - count : last + 1][there]
    path = folder / BRONZE_LAKE.data_key(symbol)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = Consolidated(bars(symbol, sessions, seed), {}, NOW - timedelta(days=1))
    path.write_bytes(stored.encode())
