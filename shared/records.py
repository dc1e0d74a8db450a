"""Records of what persons did, as JSON objects that never grow too large to be read.

If a record reaches half of the readers' limit, its entries move to an object of their own, and the record begins again.
No entry is ever removed.
"""

from hashlib import sha256
from typing import Any

from fiblake.decoding import decoding, json_limit, read_json, write_json
from shared.objects import ObjectStore

_REMEDY = "move it away and run again"


def add_entry(store: ObjectStore, key: str, name: str, entry: dict[str, Any]) -> None:
    """Add an entry to the list `name` of the record `key`.

    Raises ContractError if the record cannot be read, TooLargeError if the entry alone is too large.
    """

    def change(data: bytes | None) -> bytes:
        entries: list[dict[str, Any]] = []
        if data is not None:
            with decoding(f"{key} cannot be read", _REMEDY):
                entries = _entries(read_json(data, "it")[name])
        if data is None or len(data) <= json_limit() // 2:
            return write_json({name: [*entries, entry]}, key, indent=1)
        # The key follows from the content: a run that dies before it begins the record again puts the same object.
        store.put(full_record_key(key, data), data)
        return write_json({name: [entry]}, key, indent=1)

    store.update(key, change)


def _entries(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 (whatever the record holds)
    if not (isinstance(value, list) and all(isinstance(entry, dict) for entry in value)):
        raise TypeError(f"{type(value).__name__} in the place of a list of entries")
    return value


def full_record_key(key: str, data: bytes) -> str:
    """Return the key of the entries that moved out of the record `key`."""
    return f"{key.removesuffix('.json')}/{sha256(data).hexdigest()[:16]}.json"
