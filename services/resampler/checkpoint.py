"""How far an interval's table is: its checkpoint."""

import json
from datetime import date, datetime

from shared.errors import unreadable
from shared.lake import checkpoint_key
from shared.objects import ObjectStore


def advance(store: ObjectStore, interval: int, processed: date, rows: int, now: datetime) -> None:
    """Note a run that ended well: last session it saw (never going back), rows it computed (added up), and when."""
    store.update(checkpoint_key(interval), lambda data: advanced(data, interval, processed, rows, now))


def advanced(data: bytes | None, interval: int, processed: date, rows: int, now: datetime) -> bytes:
    """Give the checkpoint's bytes after a run (pure)."""
    try:
        known = json.loads(data) if data else {}
        last = max(processed.isoformat(), known.get("last_processed_date", ""))
        total = rows + int(known.get("total_records_processed", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise unreadable(checkpoint_key(interval), error) from error
    checkpoint = {
        "interval": f"{interval}d",
        "status": "success",
        "last_processed_date": last,
        "last_run_timestamp": now.isoformat(),
        "total_records_processed": total,
    }
    return json.dumps(checkpoint, indent=1).encode()
