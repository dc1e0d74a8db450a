"""Where a reader's copies of the lake's files lie: below the user's cache, one a version (ETag) of an object.

Bytes come through our own object reader, not through an extension of DuckDB's that would be downloaded at run time: so
DuckDB reads S3 with the same credentials and endpoint as everything else, and needs no other way out of a network.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Final, TypeVar

from fiblake.errors import ConfigurationError, ContractError

if TYPE_CHECKING:
    from fiblake.objects import ObjectReader, StoredObject

ResultT = TypeVar("ResultT")

AT_ONCE: Final = 64


def folder() -> Path:
    """Return the user's cache folder for fiblake."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fiblake"


def copies(
    store: "ObjectReader", versions: Mapping[str, str], advance: Callable[[int], None], root: Path | None = None,
    accept: "Callable[[StoredObject], bool]" = lambda _stored: True,
) -> dict[str, Path]:  # fmt: skip
    """Return a local file for each object (key → ETag), in the order of the keys; fetch those that are not there yet.

    An object that was rewritten meanwhile is taken as it is now; one that is gone is left out, and one that `accept`
    refuses: for readers that know no limit of their own. Copies of older versions of these objects are removed.
    """
    places = {key: _place(root or folder(), store.bucket, key, etag) for key, etag in sorted(versions.items())}
    missing = [key for key, place in places.items() if not place.exists()]
    advance(len(places) - len(missing))
    for start in range(0, len(missing), AT_ONCE):
        part = missing[start : start + AT_ONCE]
        fetched = fetch(store, part, root, accept)
        for key in part:
            del places[key]
        places |= fetched
        advance(len(part))
    return {key: places[key] for key in sorted(places)}


def fetch(
    store: "ObjectReader", keys: Sequence[str], root: Path | None = None,
    accept: "Callable[[StoredObject], bool]" = lambda _stored: True,
) -> dict[str, Path]:  # fmt: skip
    """Read objects as they are now, keep copies, and return these; without objects that are gone or not accepted."""
    places = {}
    for key, stored in zip(keys, store.get_many(keys), strict=True):
        if stored is not None and accept(stored):
            places[key] = _place(root or folder(), store.bucket, key, stored.etag)
            _keep(places[key], stored.data)
    return places


def read_copy(
    store: "ObjectReader", key: str, place: Path, decode: Callable[[bytes], ResultT], root: Path | None = None
) -> ResultT | None:
    """Return what `decode` makes of a copy; None: it was gone, and the object is gone from the lake, too.

    Another reader may have removed the copy, for a newer version, and a disk may have damaged it. So what cannot be
    read or decoded is fetched again, and only the lake's own bytes are to blame for an error.
    """
    try:
        return decode(place.read_bytes())
    except (OSError, ContractError):
        stored = store.find(key)
    if stored is None:
        return None
    _keep(_place(root or folder(), store.bucket, key, stored.etag), stored.data)
    return decode(stored.data)


def _place(root: Path, bucket: str, key: str, etag: str) -> Path:
    return root / bucket / key / f"{''.join(c for c in etag if c.isalnum() or c == '-')}.parquet"


def _keep(place: Path, data: bytes) -> None:
    """Write a copy so that nobody ever sees half of it, and drop those of other versions."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as draft:
            draft.write(data)
        Path(draft.name).rename(place)
    except OSError as error:
        fault = f"{error.strerror or error}: {place.parent}"
        raise ConfigurationError(f"copies of the lake cannot be kept ({fault}): set XDG_CACHE_HOME") from error
    for other in place.parent.glob("*.parquet"):
        if other != place:
            other.unlink(missing_ok=True)
