"""The log of merged source files that data.parquet carries in its metadata (pure).

The log is JSON: source key → [ETag, LastModified, stamped]. Logs written before schema 1.1 hold the ETag alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceVersion:
    """A version of a source file. A file put again is another version, even with the same bytes (the same ETag)."""

    etag: str
    last_modified: datetime | None = None
    """None: unknown, because the log held the ETag alone."""
    stamped: bool = False
    """Whether all its bars carry `ingested_at`. Bars without it count as ingested at `last_modified`."""

    def is_version(self, etag: str, last_modified: datetime) -> bool:
        """Return whether an object with this ETag and LastModified is this version.

        S3 gives LastModified to the second in an answer to GET, and some servers more precisely in a listing.
        """
        if self.etag != etag:
            return False
        return self.last_modified is None or int(self.last_modified.timestamp()) == int(last_modified.timestamp())


SourceLog = Mapping[str, SourceVersion]
"""Source key → the version of it that is merged."""


def is_merged(log: SourceLog, key: str, etag: str, last_modified: datetime) -> bool:
    """Return whether this version of a source file is in the log."""
    version = log.get(key)
    return version is not None and version.is_version(etag, last_modified)


def log_to_json(log: SourceLog) -> dict[str, Any]:
    """Return the log as JSON can hold it."""
    return {
        key: [version.etag, version.last_modified and version.last_modified.isoformat(), version.stamped]
        for key, version in log.items()
    }


def log_of_json(value: Any) -> dict[str, SourceVersion]:  # noqa: ANN401 (whatever stands in the metadata)
    """Read what `log_to_json` returned, or an older log; raise ValueError or TypeError if it is neither."""
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} in the place of an object")
    return {key: _version_of_json(entry) for key, entry in value.items()}


def _version_of_json(entry: Any) -> SourceVersion:  # noqa: ANN401
    if isinstance(entry, str):
        return SourceVersion(entry)
    if not isinstance(entry, list):
        raise TypeError(f"{type(entry).__name__} in the place of a version")
    etag, text, stamped = entry
    if not (isinstance(etag, str) and isinstance(text, str | None) and isinstance(stamped, bool)):
        raise TypeError(f"{entry!r} in the place of [ETag, LastModified, stamped]")
    last_modified = datetime.fromisoformat(text) if text else None
    if last_modified and last_modified.tzinfo is None:
        last_modified = last_modified.replace(tzinfo=UTC)
    return SourceVersion(etag, last_modified, stamped)
