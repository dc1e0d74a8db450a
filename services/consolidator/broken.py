"""Put the broken bars of source files into quarantine, before any log records that their files are merged."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shared.objects import ObjectStore
from shared.quarantine import quarantine
from shared.source_files import BrokenBar, SourceBars
from shared.telemetry import emit_metrics, logger


def quarantine_broken(store: ObjectStore, files: Mapping[str, SourceBars], merged: pa.Table, now: datetime) -> None:
    """Put the broken bars of files (by key) into quarantine, and emit the number of new ones as a metric.

    This is done before data.parquet's log names the files. After a crash in between, the next try puts the same bars
    under the same keys. A bar that would lose against the one in `merged` (all of the symbol's bars) is left out: a
    better bar has arrived since, or a person has released this one.
    """
    for key, content in files.items():
        for rivalry in content.rivals:
            logger.warning("one session, two bars", extra={"key": key, "reason": rivalry})
    broken = {key: content.broken for key, content in files.items() if content.broken}
    if not broken:
        return
    stored = _rows(merged, [bar.bar.session for bars in broken.values() for bar in bars])
    quarantined = 0
    for key, bars in broken.items():
        waiting = [bar for bar in bars if not _is_settled(bar, stored.get(bar.bar.session))]
        quarantined += quarantine(store, [(bar.bar, bar.reason) for bar in waiting], now, key)
    if quarantined:
        emit_metrics(BarsQuarantined=quarantined)


def _rows(bars: pa.Table, sessions: Sequence[date]) -> dict[date, dict[str, Any]]:
    rows = bars.filter(pc.is_in(bars["timestamp"], value_set=pa.array(sessions, pa.date32())))
    return {row["timestamp"]: row for row in rows.to_pylist()}


def _is_settled(broken: BrokenBar, stored: dict[str, Any] | None) -> bool:
    if stored is None:
        return False
    is_same = all(stored[name] == value for name, value in broken.bar.values().items())
    return is_same or bool(stored["ingested_at"] > broken.ingested_at)
