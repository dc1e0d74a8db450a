"""Range files of bars: several writers may put one of the same first and last session before it is merged."""

import pyarrow as pa

from fiblake.bars import BRONZE, encode, read_bars
from fiblake.errors import ContractError
from shared.telemetry import logger


def with_stored(key: str, symbol: str, bars: pa.Table, data: bytes | None) -> bytes | None:
    """Return a range file's bytes with these bars (schema BRONZE) added to those in it; None if it has them all.

    A file of the same first and last session may hold other sessions in between, and wait to be merged. Of a session
    that both hold, the row that was ingested later is kept, and both if that is the same instant: merging decides so.
    """
    if data is None:
        return encode(bars)
    try:
        stored = read_bars(data, symbol, bars["ingested_at"][0].as_py())
    except ContractError as error:
        logger.warning("stored file replaced", extra={"key": key, "reason": str(error)})
        return encode(bars)
    added = bars.to_pylist()
    latest = sorted(added, key=lambda row: row["ingested_at"])
    instants = {row["timestamp"]: row["ingested_at"] for row in latest}
    kept = [
        row for row in stored.to_pylist()
        if row["timestamp"] not in instants or row["ingested_at"] >= instants[row["timestamp"]]
    ]  # fmt: skip
    rows = {str(row): row for row in [*kept, *added]}
    if len(rows) == len(kept) == stored.num_rows:
        return None
    table = pa.Table.from_pylist(list(rows.values()), schema=BRONZE)
    return encode(table.sort_by([("timestamp", "ascending"), ("ingested_at", "ascending")]))
