"""A folder on local disk instead of a bucket: only the methods that a full resample needs, with plain files."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from obstore.store import LocalStore

from shared.objects import ObjectInfo, ObjectStore, StoredObject


class Folder(ObjectStore):
    """An ObjectStore whose keys are paths in a folder, read and written by the thread that asks.

    obstore's own LocalStore hands each request to another thread, which costs more than the request where nothing has
    to be waited for. There is one writer, so an update is not conditional.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(LocalStore(str(root)), str(root))
        self.root = root

    def find(self, key: str) -> StoredObject | None:
        """Read a file, or return None if there is none."""
        try:
            with (self.root / key).open("rb") as file:
                data, written = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        return StoredObject(key, "", datetime.fromtimestamp(written, UTC), data)

    def get_many(self, keys: Sequence[str]) -> list[StoredObject | None]:
        """Read files, in the order of `keys`; None where there is no file."""
        return [self.find(key) for key in keys]

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        """List all files below `prefix`, in the order of their keys."""
        files = [(str(path.relative_to(self.root)), path.stat()) for path in (self.root / prefix).glob("**/*.parquet")]
        return [ObjectInfo(key, "", s.st_size, datetime.fromtimestamp(s.st_mtime, UTC)) for key, s in sorted(files)]

    def update(self, key: str, change: Callable[[bytes | None], bytes | None], *, absent: bool = False) -> bool:
        """Apply `change` to a file's bytes (None: no file); return whether the file was written."""
        stored = None if absent else self.find(key)
        data = change(stored.data if stored else None)
        if data is None:
            return False
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return True
