"""Read an interval's checkpoint (pure)."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from fiblake.decoding import MAKE_ANEW, decoding, read_json
from fiblake.errors import ContractError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of an interval's table."""

    last_processed: date
    """The last session that is in silver."""
    total_records: int
    """Silver rows computed, added up over all runs."""
    fields: dict[str, Any]
    """All fields of the object."""


def read_checkpoint(data: bytes, key: str) -> Checkpoint:
    """Read a checkpoint's bytes; raise ContractError, which names `key`, if they are not a checkpoint."""
    with decoding(f"{key} cannot be read", MAKE_ANEW):
        fields = read_json(data, "it")
        if not isinstance(fields, dict):
            raise ContractError("it is no JSON object")
        last = date.fromisoformat(fields["last_processed_date"])
        return Checkpoint(last, int(fields.get("total_records_processed", 0)), fields)
