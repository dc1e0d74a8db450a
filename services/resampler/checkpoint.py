"""The checkpoint of an interval: how far its table is."""

from datetime import date, datetime

from fiblake.decoding import write_json
from fiblake.lake import checkpoint_key
from shared.checkpoints import read_checkpoint
from shared.objects import ObjectStore


def advance(store: ObjectStore, interval: int, processed: date, rows: int, now: datetime) -> None:
    """Note a run that ended well: last session it saw (never going back), rows it computed (added up), and when."""
    store.update(checkpoint_key(interval), lambda data: with_run(data, interval, processed, rows, now))


def with_run(data: bytes | None, interval: int, processed: date, rows: int, now: datetime) -> bytes:
    """Return the checkpoint's bytes after a run (pure)."""
    stored = read_checkpoint(data, checkpoint_key(interval)) if data else None
    last = max(processed, stored.last_processed) if stored else processed
    total = rows + (stored.total_records if stored else 0)
    checkpoint = {
        "interval": f"{interval}d",
        "status": "success",
        "last_processed_date": last.isoformat(),
        "last_run_timestamp": now.isoformat(),
        "total_records_processed": total,
    }
    return write_json(checkpoint, checkpoint_key(interval), indent=1)
