"""Range files of bars: several writers may put one with the same first and last session before it is merged."""

import pyarrow as pa

from fiblake.bars import BRONZE, encode, latest_rows, read_bars
from fiblake.columns import check_years
from fiblake.errors import ContractError
from fiblake.objects import StoredObject
from shared.telemetry import logger


def with_stored(key: str, symbol: str, bars: pa.Table, stored: StoredObject | None) -> bytes | None:
    """Return a range file's bytes with these bars (schema BRONZE) added to its own; None if it has them all.

    A file with the same first and last session may hold other sessions in between, and wait to be merged. For a session
    of both, the result has the row that wins a merge.
    """
    if stored is None:
        return encode(bars)
    try:
        there = read_bars(stored.data, symbol, stored.last_modified)
        check_years(there)
    except ContractError as error:
        logger.warning("stored file replaced", extra={"key": key, "reason": str(error)})
        return encode(bars)
    if there.equals(bars):  # a run that was interrupted and continues: comparing rows takes fifty times as long
        return None
    rows_there = there.to_pylist()
    rows = latest_rows([*rows_there, *bars.to_pylist()])
    return None if rows == rows_there else encode(pa.Table.from_pylist(rows, schema=BRONZE))
