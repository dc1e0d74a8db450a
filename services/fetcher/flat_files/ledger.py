"""The ledger of loaded day files: one JSON object in the lake, with the loaded version of each session's file."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final, cast

from fiblake.decoding import decoding, read_json, write_json
from services.fetcher.flat_files.days import DayFile
from shared.objects import ObjectStore

LEDGER_KEY: Final = "processing_metadata/flat_files.json"


def loaded_versions(store: ObjectStore) -> dict[date, str]:
    """Return the version (ETag) of each session's day file in the last load."""
    stored = store.find(LEDGER_KEY)
    return _decode(stored.data if stored else None)


def record_loaded(store: ObjectStore, files: Sequence[DayFile]) -> None:
    """Add these files to the ledger."""
    new = {file.session: file.etag for file in files}
    store.update(LEDGER_KEY, lambda data: _encode(_decode(data) | new))


def _decode(data: bytes | None) -> dict[date, str]:
    if data is None:
        return {}
    remedy = "move it away and run again (every day file is then read again, which changes no bar)"
    with decoding(f"{LEDGER_KEY} cannot be read", remedy):
        sessions = cast("dict[str, str]", read_json(data, "it")["sessions"])
        return {date.fromisoformat(session): str(etag) for session, etag in sessions.items()}


def _encode(versions: Mapping[date, str]) -> bytes:
    sessions = {str(session): versions[session] for session in sorted(versions)}
    return write_json({"sessions": sessions}, LEDGER_KEY, indent=0)
