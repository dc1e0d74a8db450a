"""Small corruptions of good files in every format, and the result of reading them.

Run as a program (arguments: a seed, how many of each) it writes, as JSON, the errors that escaped the readers, and the
peak of memory: it is a separate process, so that a crash in a library does not end the tests.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import MANIFEST, Consolidated, decode_manifest, encode, read_log, read_prices
from fiblake.calendar import nyse
from fiblake.errors import FiblakeError
from fiblake.reference import identities_file, read_identities, read_splits, splits_file
from shared.checkpoints import read_checkpoint
from shared.cleanup import with_run
from shared.events import ConsolidationComplete, ConsolidationRequest, parse
from shared.quarantine import encode_quarantined, read_quarantined
from shared.source_files import bars_of_adopted, bars_of_source
from tests.fakes import LAKE, NOON, bar, companies, parquet, sample, splits, table

DAYS = nyse().between(date(2025, 10, 1), date(2025, 11, 19))
SOURCE = LAKE.parse_source(LAKE.range_key("AAPL", DAYS[0], DAYS[-1]))
BARS = [bar(day, vwap=10.5, trades=7) for day in DAYS]
BROKEN = {
    "symbol": "AAPL", "session": DAYS[0], "open": -1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0,
    "vwap": None, "trades": 7, "reason": "why", "ingested_at": NOON, "source": "a file",
}  # fmt: skip
"""A row of a quarantine object."""


BUCKET = {
    "symbol": "AAPL", "ts": DAYS[0], "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0,
    "bars": 3, "last_date": DAYS[2], "is_complete": True, "adjusted": True, "version": NOON,
}  # fmt: skip
"""A row of silver."""


TODAY = NOON.date()
ODD = [None, 7, -1, 1e308, True, "x", "2025-13-45", [], {}, [[]], "\u00e9", 10**40]


def adopted(data: bytes) -> object:
    """Read a data.parquet as the worker does."""
    stored = Consolidated.decode(data, "AAPL", NOON)
    if stored.adopted:
        return bars_of_adopted(stored.bars, NOON, nyse(), NOON.date())
    return (stored.first_session, stored.last_session) if stored.bars.num_rows else None


def good_files() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """Return a good file of each format with its reader, by name."""
    manifest = pa.Table.from_pylist(
        [{"symbol": "AAPL", "last_consolidated_date": DAYS[-1], "row_count": 35, "last_updated": NOON}], schema=MANIFEST
    )
    checkpoint = {"interval": "3d", "last_processed_date": "2025-11-19", "total_records_processed": 7}
    record = with_run(None, "run", NOON, {"AAPL": {"files": 1, "bytes": 10}})
    consolidated = Consolidated(table(*BARS), {}, NOON, withdrawn={NOON.date(): NOON}).encode()
    completion = ConsolidationComplete(symbol="AAPL", changed_from=DAYS[0], last_session=DAYS[-1], version=NOON)
    silver = encode(pa.Table.from_pylist([BUCKET], schema=SILVER))
    identities = identities_file(companies("2001-01-02", "2025-11-03"))
    return {
        "source file": (
            parquet(*BARS),
            lambda data: bars_of_source(data, SOURCE, NOON, nyse(), NOON.date()).to_pylist(),
        ),
        "data.parquet": (consolidated, adopted),
        "prices": (consolidated, lambda data: read_prices(data, "AAPL", NOON)),
        "log": (consolidated, lambda data: read_log(data, "AAPL")),
        "month file": (
            silver,
            lambda data: decode_silver(data, "the month file").to_pylist(),
        ),
        "manifest": (encode(manifest), lambda data: decode_manifest(data).to_pylist()),
        "splits": (splits_file(splits(("2025-11-03", 1, 2))), lambda data: read_splits(data, "AAPL")),
        "identities": (
            identities,
            lambda data: read_identities(data, "AAPL"),
        ),
        "quarantine": (encode_quarantined("a key", [BROKEN]), lambda data: read_quarantined("a key", "", data)),
        "checkpoint": (json.dumps(checkpoint).encode(), lambda data: read_checkpoint(data, "a key")),
        "record": (record, lambda data: with_run(data, "run", NOON, {"AAPL": {"files": 1, "bytes": 1}})),
        "request": (
            json.dumps(sample("consolidation-request")).encode(),
            lambda data: parse(ConsolidationRequest, data.decode(errors="surrogateescape")),
        ),
        "completion": (
            completion.model_dump_json().encode(),
            lambda data: parse(ConsolidationComplete, data.decode(errors="surrogateescape")),
        ),
    }


def corrupted(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to four small corruptions; half of those of a Parquet file are in its footer."""
    bytes_ = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start = len(bytes_) // 2 if chance.random() < 0.5 else 0
        at = chance.randrange(start, len(bytes_)) if len(bytes_) > start else 0
        match chance.randrange(6):
            case 0:
                bytes_[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                bytes_[at : at + 1] = bytes([(bytes_[at] if bytes_ else 0) ^ 1 << chance.randrange(8)])
            case 2:
                del bytes_[at : at + chance.randint(1, 16)]
            case 3:
                bytes_[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
            case 4:
                bytes_[at : at + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7])
            case _:
                other = chance.randrange(len(bytes_) + 1)
                bytes_[at : at + 16] = bytes_[other : other + 16]
    return bytes(bytes_)


def retyped(data: bytes, chance: random.Random) -> bytes:
    """Return a JSON text with a value of another type somewhere."""
    value = json.loads(data)
    place: Any = value
    while isinstance(place, dict | list) and place:
        key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.3:
            place[key] = chance.choice(ODD)
            break
        place = place[key]
    return json.dumps(value).encode()


def leaks(seed: int, count: int) -> list[str]:
    """Read this many corruptions of each file; return those that ended with neither a result nor an error of ours."""
    chance = random.Random(seed)  # noqa: S311 (no secret)
    sentences = []
    for name, (data, reader) in good_files().items():
        reader(data)
        for number in range(count):
            is_json = data[:1] in b"{["
            bad = retyped(data, chance) if is_json and chance.random() < 0.7 else corrupted(data, chance)
            try:
                reader(bad)
            except FiblakeError:
                continue
            except Exception as error:  # noqa: BLE001 (what is looked for)
                sentences.append(f"{name}, seed {seed}, number {number}: {type(error).__name__}: {error}"[:400])
    return sentences


def main(arguments: Sequence[str]) -> None:
    """Write the foreign errors, and the peak of memory."""
    sentences = leaks(int(arguments[0]), int(arguments[1]))
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(json.dumps({"leaks": sentences, "megabytes": int(line.split()[1]) / 1_000}))


if __name__ == "__main__":
    main(sys.argv[1:])
